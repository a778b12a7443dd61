"""What a base model knows: questions out of records, answers under few-shot prompts."""
