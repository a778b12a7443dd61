"""One measured TRL run in a process of its own: `python trl_side.py SPEC.json`. Only public interfaces are used."""

import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from measure import Clock, peak_memory_bytes, read_json, versions, write_json
from transformers import AutoTokenizer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer


@dataclass(frozen=True)
class Setting:
    """What of TRL is varied. Written as `b4-grouped`: rows per forward, then what is switched on."""

    rows: int
    grouped: bool = False
    checkpointed: bool = False
    unpadded: bool = False

    @classmethod
    def parse(cls, name: str) -> "Setting":
        rows, *switches = name.split("-")
        return cls(int(rows.removeprefix("b")), **dict.fromkeys(switches, True))


class Stopwatch(TrainerCallback):
    """Starts the clock at the end of the last warm-up step and stops it at the end of the last step."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps, self.clock = warmup, steps, Clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == self.warmup:
            self.clock.start()
        if state.global_step == self.warmup + self.steps:
            self.clock.stop()


class Watched:
    """Notes what each forward of a trainer was given, and its loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.positions: list[int] = []
        self.losses: list[float] = []
        super().__init__(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.positions.append(inputs["input_ids"].numel())
        loss = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self.losses.append(loss.item())
        return loss


class WatchedTrainer(Watched, SFTTrainer):
    """SFTTrainer that also counts the tokens each forward trains."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.trained_tokens: list[int] = []
        super().__init__(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.trained_tokens.append(int((inputs["labels"][:, 1:] != -100).sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)


def configuration(spec: dict[str, Any], rows: int) -> dict[str, Any]:
    """TRL's own defaults, less what costs time and trains nothing, in float32 on the processor; for every trainer.

    The order of the records is given, so `sequential` is the sampler.
    """
    return {
        "output_dir": spec["scratch"],
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": spec["batch_size"] // rows,
        "max_steps": spec["warmup"] + spec["steps_measured"],
        "train_sampling_strategy": "sequential",
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": spec["max_norm"],
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "bf16": spec.get("dtype") == "bfloat16",
        "use_cpu": spec.get("device", "cpu") == "cpu",
        "dataloader_pin_memory": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": spec["seed"],
    }


def sft_configuration(spec: dict[str, Any], setting: Setting) -> SFTConfig:
    """Of supervised tuning; the given order is the one of `group_by_length` where the setting says so."""
    return SFTConfig(
        **configuration(spec, setting.rows),
        gradient_checkpointing=setting.checkpointed,
        padding_free=setting.unpadded,
        completion_only_loss=True,
        pad_token=spec.get("pad_token"),
        max_length=None if setting.unpadded else spec["max_length"],
        logging_strategy="no",
    )


def as_texts(record: dict[str, Any]) -> dict[str, Any]:
    """A record for TRL to cut into tokens."""
    return {name: record[name] for name in ("prompt", "completion")}


def as_tokens(record: dict[str, Any]) -> dict[str, Any]:
    """A record as TRL keeps it once it has cut it."""
    prompt, response = record["prompt_ids"], record["response_ids"]
    return {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}


def per_step(values: list[int], forwards_per_step: int) -> list[int]:
    return [sum(values[i : i + forwards_per_step]) for i in range(0, len(values), forwards_per_step)]


def main(spec: dict[str, Any]) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(spec["threads"])
    setting = Setting.parse(spec["setting"])
    records = read_json(spec["records"])
    order = read_json(spec["orders"])["grouped" if setting.grouped else "shuffled"]
    row_of = as_tokens if spec.get("as_tokens") else as_texts
    rows = [row_of(records[i]) for step in order for i in step]
    del records
    stopwatch = Stopwatch(spec["warmup"], spec["steps_measured"])
    trainer = WatchedTrainer(
        model=spec["model"],
        args=sft_configuration(spec, setting),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        callbacks=[stopwatch],
    )
    trainer.train()
    forwards_per_step = trainer.args.gradient_accumulation_steps
    result = {
        "cpu_seconds": stopwatch.clock.cpu_seconds,
        "wall_seconds": stopwatch.clock.wall_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "first_loss": sum(trainer.losses[:forwards_per_step]),
        "trained_tokens_per_step": per_step(trainer.trained_tokens, forwards_per_step),
        "positions_per_step": per_step(trainer.positions, forwards_per_step),
        "optimizer": type(trainer.optimizer).__name__,
        "loss_type": trainer.args.loss_type,
        "versions": versions(["torch", "transformers", "trl", "accelerate", "datasets"]),
    }
    write_json(spec["result"], result)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
