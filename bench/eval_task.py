"""The task of `eval.py`: questions with four options of several tokens behind examples, in files of JSON lines."""

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

NUM_SHOTS = 5
QUESTION_TOKENS = range(75, 126)
"""of a question with its options: about 100"""
EXAMPLE_TOKENS = range(95, 131)
"""of an example, so that five and a separator each are about 600"""
OPTION_TOKENS = range(3, 25)
"""several"""
TEXT = (
    "{{query}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\n"
    "Write the right answer out in full.\nAnswer:"
)


def task_of(folder: Path, shots: str) -> dict[str, Any]:
    """What lm-eval is asked.

    Args:
        shots: `fixed`, the same five examples before every question; `per-item`, five drawn anew for each as lm-eval
            does unless told otherwise; `none`.
    """
    task: dict[str, Any] = {
        "task": "questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {name: str(folder / f"{name}.jsonl") for name in ("test", "dev")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": TEXT,
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
    }
    if shots == "none":
        return task | {"num_fewshot": 0}
    sampler = {"fixed": "first_n", "per-item": "default"}[shots]
    return task | {"fewshot_split": "dev", "num_fewshot": NUM_SHOTS, "fewshot_config": {"sampler": sampler}}


def rendered(record: dict[str, Any]) -> str:
    """The question as the task writes it."""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", record["choices"], strict=True))
    return f"{record['query']}\n{listed}\nWrite the right answer out in full.\nAnswer:"


def make_files(folder: Path, data: Path, tokenizer_folder: Path, num_questions: int, seed: int) -> dict[str, Any]:
    """Write questions and examples taken from ARC; return their sizes in tokens."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    records = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    records = [
        record
        for record in records
        if len(record["choices"]) == 4 and all(count(" " + choice) in OPTION_TOKENS for choice in record["choices"])
    ]
    random.Random(seed).shuffle(records)
    sizes = [count(rendered(record)) for record in records]
    questions = [record for record, size in zip(records, sizes, strict=True) if size in QUESTION_TOKENS][:num_questions]
    asked = {record["query"] for record in questions}
    examples = [
        record
        for record, size in zip(records, sizes, strict=True)
        if size in EXAMPLE_TOKENS and record["query"] not in asked
    ][:40]
    for name, some in (("test", questions), ("dev", examples)):
        lines = "".join(json.dumps(record) + "\n" for record in some)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    shots = "\n\n".join(f"{rendered(each)} {each['choices'][each['gold']]}" for each in examples[:NUM_SHOTS])
    return {
        "questions": len(questions),
        "prefix_tokens": count(shots + "\n\n"),
        "question_tokens": round(sum(count(rendered(each)) for each in questions) / len(questions), 1),
        "option_tokens": round(
            sum(count(" " + choice) for each in questions for choice in each["choices"]) / len(questions) / 4, 1
        ),
    }
