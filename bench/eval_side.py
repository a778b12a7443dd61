"""One measured run of lm-eval, by its own `hf` backend or by heed's: `python eval_side.py spec.json`."""

import json
import sys
from pathlib import Path
from typing import Any

from measure import Clock, peak_memory_bytes, read_json, versions, write_json


def make(spec: dict[str, Any]) -> None:
    """The model, and the questions and examples of the tasks."""
    from eval_task import make_files
    from workload import make_model

    folder = Path(spec["folder"])
    num_parameters = make_model(folder / "model", Path(spec["tokenizer"]), spec["shape"], spec["seed"])
    facts = make_files(folder, Path(spec["data"]), Path(spec["tokenizer"]), spec["questions"], spec["seed"])
    write_json(folder / "facts.json", {"parameters": num_parameters} | facts)


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Load the backend, start the clock, evaluate."""
    import torch

    torch.set_num_threads(spec["threads"])
    import lm_eval
    from eval_task import task_of
    from lm_eval.tasks import TaskManager

    arguments = {"pretrained": spec["model"], "dtype": "float32", "device": spec.get("device", "cpu")}
    if spec["backend"] == "hf":
        from lm_eval.models.huggingface import HFLM

        model: Any = HFLM(**arguments, batch_size=spec["batch_size"], logits_cache=True)
    else:
        from heed.cli.main import keep_freed_memory
        from heed.lm_eval import HeedLM

        keep_freed_memory()
        model = HeedLM(**arguments)
    tasks = [task_of(Path(spec["folder"]), spec["shots"])]
    manager = TaskManager(include_defaults=False)
    clock = Clock()
    clock.start()
    found: Any = lm_eval.simple_evaluate(
        model=model, tasks=tasks, limit=spec["limit"], bootstrap_iters=0, task_manager=manager
    )
    clock.stop()
    samples = found["samples"]["questions"]
    return {
        "cpu_seconds": clock.cpu_seconds,
        "wall_seconds": clock.wall_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "metrics": {name: value for name, value in found["results"]["questions"].items() if name.startswith("acc")},
        "resps": [[resp[0] for resp in sample["resps"]] for sample in samples],
        "versions": versions(["heed-lm", "lm_eval", "torch", "transformers"]),
    }


if __name__ == "__main__":
    given = read_json(sys.argv[1])
    if "folder" in given and "backend" not in given:
        make(given)
    else:
        Path(given["result"]).write_text(json.dumps(run(given)), encoding="utf-8")
