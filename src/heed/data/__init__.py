"""Text only: read, check, render, tokenise, mix. Never imports torch.

What `heed data` does is here for programs, too: `heed.data.check(data="answers.jsonl")`; docs/api.md has them all.
The functions are loaded where one is first used, so that no module here depends on what they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heed.api_data import card, check, decontaminate, dedupe, mend, mix, select

__all__ = ["card", "check", "decontaminate", "dedupe", "mend", "mix", "select"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'heed.data' has no attribute {name!r}")
    return getattr(importlib.import_module("heed.api_data"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
