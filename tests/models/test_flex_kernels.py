"""PyTorch's own Triton kernels of attention over a forest, which a GPU runs: interpreted, and compiled for an H100."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "flex_kernels.py"
SOURCES = Path(__file__).parents[2] / "src"
SHARED_MEMORY = 227 * 1024
"""bytes that one block may take on an H100 or H200 (CUDA C++ Programming Guide, compute capability 9.0)"""
REGISTERS = 255
"""most of a thread"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux"),
]


def kernels(way: str, *cases: str) -> dict[str, dict[str, Any]]:
    """What the program says of each case."""
    pytest.importorskip("triton", reason="triton is not installed")
    environment = os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), way, *cases], env=environment, capture_output=True, text=True, errors="replace"
    )
    if "written for torch" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-3000:]
    return {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_interpreted_kernels_agree_with_plain_attention_forward_and_backward():
    """Grouped heads in each; window, soft-cap and sinks in one."""
    found = kernels("interpreted", "tree", "all")
    assert set(found) == {"tree", "all"}
    for of_case in found.values():
        assert of_case["forward"] < 2e-6
        assert all(apart < 2e-6 for apart in of_case["gradients"])
        ran = " ".join(of_case["kernels"])
        assert "flex_attention_backward" in ran
        assert "InterpretedFunction" in ran, "another kernel ran than Triton's"
    assert len(found["all"]["gradients"]) == 4, "the sinks have a gradient, too"


def test_kernels_with_the_tiles_of_an_h100_compile_and_fit_it():
    """In float32 and bfloat16, with heads of 16, 64 and 128."""
    found = kernels("compiled", "tree", "gpt2 bfloat16", "llama bfloat16")
    for of_case in found.values():
        names = [kernel["name"] for kernel in of_case["kernels"]]
        assert len(names) == 2, names
        assert "backward" in names[1]
        for kernel in of_case["kernels"]:
            assert kernel["cubin"] > 10_000
            assert kernel["shared"] <= SHARED_MEMORY
            assert kernel["reg"] <= REGISTERS
            assert kernel["local"] == 0
    assert all(kernel["stack"] == 0 for kernel in found["tree"]["kernels"]), "nothing is spilt from registers"
    assert found["llama bfloat16"]["kernels"][0]["stack"] == 0
