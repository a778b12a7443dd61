"""What the bits of a run depend on besides its settings: versions, machine, and the states of random generators."""

from __future__ import annotations

import platform
import random
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heed.dist.world import World

PACKAGES = ("heed-lm", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "bitsandbytes")


def environment(device: str | torch.device = "cpu", world: World | None = None) -> dict[str, str | int]:
    """Versions and facts about the machine, for `environment.json`.

    Args:
        device: the one that trains.
        world: of which the number of processes is noted.
    """
    device = torch.device(device)
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        # not the kernel's version, on which no result depends; the C library has the mathematics
        "platform": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "cpu": _cpu_model(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": world.size if world is not None else 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def random_states() -> dict[str, Any]:
    """The states of the random generators of python, numpy, torch and GPUs in use, as plain values and tensors."""
    kind, keys, position, has_gauss, cached_gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached_gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put the generators where `random_states` found them. GPUs that were not there then keep their own."""
    version_, internal, gauss = states["python"]
    random.setstate((version_, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached_gauss = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached_gauss))
    torch.set_rng_state(states["torch"])
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)
