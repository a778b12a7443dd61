"""Whether a settings file is one of `heed eval`, which `heed show` draws otherwise than data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def is_eval(path: str) -> bool:
    """Whether a settings file is one of `heed eval`."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False  # whoever reads it next tells
    return isinstance(values, Mapping) and bool({"task", "tasks", "tax"} & values.keys())
