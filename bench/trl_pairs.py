"""One measured TRL run on pairs in a process of its own: `python trl_pairs.py SPEC.json`. Only public interfaces."""

import sys
import warnings
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from measure import Clock, peak_memory_bytes, read_json, versions, write_json
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from trl_side import Stopwatch, Watched, configuration, per_step


class WatchedDPOTrainer(Watched, DPOTrainer):
    """DPOTrainer that also times what it computes before training, where the reference is asked beforehand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.reference_clocks: list[Clock] = []
        super().__init__(*args, **kwargs)

    def compute_ref_log_probs(self, *args: Any, **kwargs: Any) -> Any:
        clock = Clock()
        clock.start()
        found = super().compute_ref_log_probs(*args, **kwargs)
        clock.stop()
        self.reference_clocks.append(clock)
        return found


class WatchedRewardTrainer(Watched, RewardTrainer):
    """RewardTrainer, watched; it asks no reference."""

    reference_clocks: tuple[Clock, ...] = ()


def pair_configuration(spec: dict[str, Any], rows: int) -> dict[str, Any]:
    """Of pairs; the log is read for what the first step found."""
    return configuration(spec, rows) | {
        "gradient_checkpointing": False,
        "max_length": spec["max_length"],
        "logging_strategy": "steps",
        "logging_steps": 1,
    }


def dpo_trainer(spec: dict[str, Any], rows: int, is_precomputed: bool, given: dict[str, Any]) -> Any:
    """DPO against a second model in memory, or against log-probabilities that are computed first."""
    config = DPOConfig(**pair_configuration(spec, rows), beta=0.1, precompute_ref_log_probs=is_precomputed)
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    return WatchedDPOTrainer(model=spec["model"], args=config, processing_class=tokenizer, **given)


def reward_trainer(spec: dict[str, Any], rows: int, given: dict[str, Any]) -> Any:
    """A sequence classifier with the given head.

    It reads the last token that is not padding. So the padding must be another token than the one that ends an answer,
    or its reward would be read before the end.
    """
    model = AutoModelForSequenceClassification.from_pretrained(spec["model"], num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor(read_json(spec["score"]))[None])
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    config = RewardConfig(**pair_configuration(spec, rows))
    return WatchedRewardTrainer(model=model, args=config, processing_class=tokenizer, **given)


def main(spec: dict[str, Any]) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(spec["threads"])
    name, *switches = spec["setting"].split("-")
    rows = int(name.removeprefix("b"))
    steps = read_json(spec["steps"])
    pairs = [{name: pair[name] for name in ("prompt", "chosen", "rejected")} for step in steps for pair in step]
    stopwatch = Stopwatch(spec["warmup"], spec["steps_measured"])
    given = {"train_dataset": Dataset.from_list(pairs), "callbacks": [stopwatch]}
    if spec["kind"] == "dpo":
        trainer = dpo_trainer(spec, rows, "precomputed" in switches, given)
    else:
        trainer = reward_trainer(spec, rows, given)
    trainer.train()
    forwards = trainer.args.gradient_accumulation_steps
    counted = trainer.reference_clocks[spec["warmup"] * forwards :]
    reference = sum(clock.cpu_seconds for clock in counted)
    first = trainer.state.log_history[0]
    result = {
        "cpu_seconds": stopwatch.clock.cpu_seconds + reference,
        "wall_seconds": stopwatch.clock.wall_seconds + sum(clock.wall_seconds for clock in counted),
        "peak_memory_bytes": peak_memory_bytes(),
        "reference_cpu_seconds": reference,
        "losses": [sum(trainer.losses[i : i + forwards]) / forwards for i in range(0, len(trainer.losses), forwards)],
        "grad_norm": first["grad_norm"],
        "logp": first["logps/chosen"] + first["logps/rejected"] if "logps/chosen" in first else None,
        "positions_per_step": per_step(trainer.positions, forwards),
        "optimizer": type(trainer.optimizer).__name__,
        "versions": versions(["torch", "transformers", "trl", "accelerate", "datasets"]),
    }
    write_json(spec["result"], result)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
