"""What a user is told whose command is refused, and what such a command leaves behind."""

from pathlib import Path

import pytest

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "adapter_config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "reward.json",
    "state.json",
)
"""of which none may be in the folder of a run that did not end"""

BEGINNINGS = ("error: ", "  where:    ", "  found:    ", "  expected: ", "  fix:      ")


def parts_of_refusal(capsys: pytest.CaptureFixture[str], out: Path, *, leaves: bool) -> dict[str, str]:
    """The five parts of the error that was told last and alone, once it is seen that nothing half-written stays.

    Args:
        out: the folder of the run that was refused.
        leaves: whether it had begun, so that its folder stays, without a model.
    """
    printed, told = capsys.readouterr()
    assert printed == ""
    assert "Traceback" not in told
    *before, problem, where, found, expected, fix = told.splitlines()
    assert not [line for line in before if line.startswith(("error", "  where"))]
    parts = {}
    for begins, line in zip(BEGINNINGS, (problem, where, found, expected, fix), strict=True):
        assert line.startswith(begins)
        assert len(line) > len(begins)
        parts[begins.strip(" :")] = line.removeprefix(begins)
    if leaves:
        assert not [name for name in MODEL_FILES if (out / name).exists()]
        assert not list(out.rglob(".tmp-*"))
    else:
        assert not out.exists()
    return parts
