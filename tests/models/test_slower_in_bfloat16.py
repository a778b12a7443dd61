"""Where products in bfloat16 are slower than in float32, a run says so, and nowhere else."""

from pathlib import Path

import pytest
import torch

from heed.models.intake.dtypes import slower_in_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "is_slower"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", False),
        ("flags\t\t: fpu avx2 amx_bf16", False),
        ("Features\t: fp asimd bf16 i8mm", False),
        ("flags\t\t: fpu avx2 avx512f", True),
        ("Features\t: fp asimd", True),
        ("model name\t: one that says nothing of its instructions", False),
    ],
)
def test_it_is_said_where_the_processor_has_no_such_instructions(tmp_path: Path, line: str, is_slower: bool) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\n{line}\n", encoding="utf-8")
    assert (slower_in_bfloat16(CPU, "bfloat16", cpu_info) is not None) == is_slower
    assert slower_in_bfloat16(CPU, "float32", cpu_info) is None
    assert slower_in_bfloat16(torch.device("meta"), "bfloat16", cpu_info) is None


def test_a_system_that_does_not_tell_is_told_nothing(tmp_path: Path) -> None:
    assert slower_in_bfloat16(CPU, "bfloat16", tmp_path / "absent") is None
