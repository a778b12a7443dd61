"""What both sides are measured with: processor seconds, wall seconds, peak memory, and where it all ran."""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Clock:
    """Processor seconds (user and system, all threads of this process) and wall seconds between two moments."""

    def __init__(self) -> None:
        self.cpu_seconds = self.wall_seconds = float("nan")

    def start(self) -> None:
        wait_for_device()
        self.cpu_start, self.wall_start = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        wait_for_device()
        self.cpu_seconds = time.process_time() - self.cpu_start
        self.wall_seconds = time.perf_counter() - self.wall_start


def uses_gpu() -> bool:
    """Whether this process has given a GPU something to do."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def wait_for_device() -> None:
    """Let a GPU finish what it was given: calls return before it has."""
    if uses_gpu():
        sys.modules["torch"].cuda.synchronize()


def peak_memory_bytes() -> int:
    """The most resident memory this process has held since it began; of a GPU, where one is used, what tensors took.

    Where there is one, the kernel's high-water mark of this address space: `ru_maxrss` on Linux also counts
    what the parent held at the moment it started the process.
    """
    if uses_gpu():
        return int(sys.modules["torch"].cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def process_environment(threads: int, device: str = "cpu") -> dict[str, str]:
    """The environment of every measured process, the same for both sides: threads, no network, a GPU if asked for."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return (
        os.environ
        | hidden
        | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "RAYON_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "PYTHONHASHSEED": "0",
        }
    )


def versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of the installed packages among `names`."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor as the operating system names it, and how much of it there is."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name", platform.processor()),
        "instruction_sets": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if name in flags],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def median(runs: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    Path(path).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def say(text: str) -> None:
    """Progress, to stderr: stdout has the result and nothing else."""
    print(text, file=sys.stderr, flush=True)
