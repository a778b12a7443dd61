"""One measured point of scaling.py in a process of its own: `python scaling_side.py SPEC.json`."""

import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from measure import Clock, peak_memory_bytes, read_json, versions, write_json

# Everything large is imported where it is used: the processes that prepare data import this file anew, as those of
# the command import no more than `heed.__main__`.


def make(spec: dict[str, Any]) -> dict[str, Any]:
    """A GPT-2 of the shape, and steps of conversations of which the first `shared` share of `length` is the same.

    All have the length, or are spread evenly from a quarter of it up to it. The later half is trained, of what is not
    shared at most.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, length, batch = Path(spec["folder"]), spec["length"], spec["batch"]
    torch.manual_seed(0)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**spec["shape"], **dropout))
    model.save_pretrained(folder / "model")
    for file in Path(spec["tokenizer"]).iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    draw, num_shared = random.Random(0), round(length * spec["shared"])
    same = [draw.randrange(1_000, 20_000) for _ in range(num_shared)]
    records: list[dict[str, list[int]]] = []
    for _ in range(spec["steps"]):
        lengths = [length] * batch
        if spec["spread"]:
            lengths = [round(length - i * 0.75 * length / max(1, batch - 1)) for i in range(batch)]
            draw.shuffle(lengths)
        for own in lengths:
            ids = same + [draw.randrange(1_000, 20_000) for _ in range(own - num_shared)]
            num_prompt = max(num_shared, own // 2)
            records.append({"prompt_ids": ids[:num_prompt], "response_ids": ids[num_prompt:]})
    sizes = [len(record["prompt_ids"]) + len(record["response_ids"]) for record in records]
    steps = [list(range(i, i + batch)) for i in range(0, len(records), batch)]
    by_length = [sorted(step, key=lambda i: -sizes[i]) for step in steps]
    write_json(folder / "records.json", records)
    write_json(folder / "orders.json", {"shuffled": steps, "grouped": by_length})
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_step": [sum(sizes[i] for i in step) for step in steps],
        "trained_tokens_per_step": [sum(len(records[i]["response_ids"]) for i in step) for step in steps],
    }


def write_records(path: Path, data: Path, count: int) -> None:
    """So many records of Alpaca, over and over, each with its number, so that no two are the same."""
    alpaca = [record for record in read_json(data) if record["output"].strip()]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            record = alpaca[number % len(alpaca)]
            question = f"{record['instruction']} {record['input']} ({number})"
            file.write(json.dumps({"prompt": question, "response": record["output"]}) + "\n")


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Everything that `heed sft` does with its records before the first step, and the first step's records."""
    from heed.config import DataSource
    from heed.data.prepare import Preparation
    from heed.data.rendering.choice import choose_template
    from heed.data.tokens import Tokenizer, fit_template
    from heed.dist.world import World
    from heed.recipes.sft import prepare_data

    folder, path = Path(spec["scratch"]), Path(spec["scratch"]) / "records.jsonl"
    write_records(path, Path(spec["data"]), spec["records"])
    tokenizer = Tokenizer.from_folder(spec["tokenizer"])
    template, _ = choose_template(None if tokenizer.template else "alpaca", tokenizer, print)
    preparation = Preparation(fit_template(template, tokenizer), tokenizer, 2_048, "drop", 0.01, 0.01)
    watch = Watch()
    clock = Clock()
    clock.start()

    def read() -> Any:
        sources = (DataSource(path=str(path)),)
        return prepare_data(
            sources, (), folder / "run", preparation, seed=0, eval_limit=256, settings="", world=World()
        )

    data = read()
    clock.stop()
    end = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)  # their processor seconds are known once they have ended
    children = os.times()
    peak = watch.stop()
    start = time.perf_counter()
    read().training.batch(1, 16, spec["records"])  # as a run that is started again
    again = time.perf_counter() - start
    for step in range(2, min(2_000, spec["records"] // 16)):
        data.training.batch(step, 16, spec["records"])
    return {
        "cpu_seconds": clock.cpu_seconds + children.children_user + children.children_system,
        "wall_seconds": clock.wall_seconds,
        "again_seconds": again,
        "resident_of_all_bytes": max(peak, peak_memory_bytes()),
    }


class Watch:
    """The most resident memory that this process and those it started held at one time, looked at twice a second."""

    def __init__(self) -> None:
        self._peak, self._is_on = 0, True
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes; 0 where there is no /proc."""
        self._is_on = False
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        while self._is_on and children.exists():
            self._peak = max(self._peak, sum(map(resident, [str(os.getpid()), *children.read_text().split()])))
            time.sleep(0.5)


def resident(process: str) -> int:
    """Resident bytes of a process; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def checkpoint(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a checkpoint of the model and AdamW's states after one step, by a run's own calls, and read it back."""
    import torch

    from heed.models.load import load_model
    from heed.train.optimiser import adamw
    from heed.train.run import open_run

    folder, scratch = Path(spec["folder"]), Path(spec["scratch"])
    model = load_model(str(folder / "model"), torch.device("cpu"))
    optimiser = adamw(model.named_parameters(), weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    optimiser.zero_grad()
    saving, resuming = Clock(), Clock()
    with open_run(scratch / "run", "seed: 0\n", {}) as run:
        saving.start()
        run.checkpoint(1, model.save_pretrained, {"optimiser": optimiser.state_dict()})
        saving.stop()
        resuming.start()
        latest = run.latest()
        assert latest is not None
        model = load_model(str(latest.folder), torch.device("cpu"))
        optimiser.load_state_dict(latest.state()["optimiser"])
        resuming.stop()
    return {
        "cpu_seconds": saving.cpu_seconds,
        "wall_seconds": saving.wall_seconds,
        "resume_cpu_seconds": resuming.cpu_seconds,
        "resume_wall_seconds": resuming.wall_seconds,
    }


def main(spec: dict[str, Any]) -> None:
    result = {"make": make, "prepare": prepare, "checkpoint": checkpoint}[spec["kind"]](spec)
    result |= {"peak_memory_bytes": peak_memory_bytes(), "versions": versions(["torch", "transformers", "heed-lm"])}
    write_json(spec["result"], result)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
