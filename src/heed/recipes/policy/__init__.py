"""What PPO and GRPO share: the roles, the answers drawn, the phases and the clipped step."""
