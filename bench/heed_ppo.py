"""One `heed ppo` in a process of its own, its peak memory noted when its last batch is learnt: `heed_ppo.py SPEC.json`.

With `"make"` in the spec it makes the reward models instead, one as an adapter of the base and one of its own.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from measure import Clock, peak_memory_bytes, read_json, versions, write_json

from heed.cli.main import main as heed
from heed.data.rendering.render import ChatTemplate
from heed.models.adapters.lora import add_adapter
from heed.models.heads.scalar import new_reward_model, save_reward_model
from heed.models.load import LoadedModel, load_model, load_tokenizer
from heed.recipes import ppo

RANK = 16
TEMPLATE = ChatTemplate.load("plain").source


def make_reward_models(spec: dict[str, Any]) -> None:
    """Reward models that have learnt nothing: what they say does not matter here."""
    for name, rank in (("adapter", RANK), ("full", 0)):
        loaded = LoadedModel(load_model(spec["model"], torch.device("cpu")), load_tokenizer(spec["model"]))
        if rank:
            loaded = add_adapter(loaded, rank=rank, alpha=2.0 * rank, new_token_ids=(), seed=0)
        folder = Path(spec["make"]) / name
        folder.mkdir()
        stops = [loaded.tokenizer.eos_token]
        save_reward_model(
            new_reward_model(loaded, 0), folder, template=TEMPLATE, template_name="plain", stop_tokens=stops
        )


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """The command, with the peak of its batches apart from that of saving the result."""
    torch.set_num_threads(spec["threads"])
    peaks: list[int] = []
    take_phase = ppo.take_phase

    def watched(*arguments: Any) -> dict[str, float]:
        numbers = take_phase(*arguments)
        peaks.append(peak_memory_bytes())
        return numbers

    ppo.take_phase = watched
    clock = Clock()
    clock.start()
    status = heed(spec["command"])
    clock.stop()
    if status:
        raise SystemExit(status)
    return {
        "peak_memory_bytes": peaks[-1],
        "peak_memory_bytes_with_saving": peak_memory_bytes(),
        "cpu_seconds": clock.cpu_seconds,
        "wall_seconds": clock.wall_seconds,
        "versions": versions(["torch", "transformers", "peft", "heed-lm"]),
    }


def main(spec: dict[str, Any]) -> None:
    if "make" in spec:
        make_reward_models(spec)
    else:
        write_json(spec["result"], run(spec))


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
