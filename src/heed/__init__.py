"""heed: exact, fast instruction and preference tuning of language models, measured.

    import heed

    run = heed.sft(model="path/to/base", data="answers.jsonl", out="runs/first", epochs=2)
    heed.load(run).answers(["Name a fruit."])

The names in `__all__` are what heed promises to keep; they are documented in docs/api.md. Nothing heavy is loaded
before one of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heed import data as data
    from heed.api import (
        Run,
        ShownRecords,
        calibrate,
        dpo,
        eval,
        export,
        grpo,
        known,
        load,
        merge,
        plan,
        ppo,
        read,
        reward,
        sft,
        show,
        write_report,
    )
    from heed.errors import UserError
    from heed.recipes.library.model import Model
    from heed.types import Conversation, Document, Finding, Forest, Judged, Message, Prompt, Ranking, Tokens

_PLACES = {
    **dict.fromkeys(("sft", "reward", "dpo", "ppo", "grpo", "eval", "merge", "export", "write_report"), "heed.api"),
    **dict.fromkeys(("known", "calibrate", "plan"), "heed.api"),
    **dict.fromkeys(("read", "show", "load", "Run", "ShownRecords"), "heed.api"),
    "Model": "heed.recipes.library.model",
    "UserError": "heed.errors",
    **dict.fromkeys(
        ("Conversation", "Ranking", "Judged", "Document", "Prompt", "Message", "Finding", "Tokens", "Forest"),
        "heed.types",
    ),
}
"""where each name is defined"""

__all__ = [
    "Conversation",
    "Document",
    "Finding",
    "Forest",
    "Judged",
    "Message",
    "Model",
    "Prompt",
    "Ranking",
    "Run",
    "ShownRecords",
    "Tokens",
    "UserError",
    "calibrate",
    "dpo",
    "eval",
    "export",
    "grpo",
    "known",
    "load",
    "merge",
    "plan",
    "ppo",
    "read",
    "reward",
    "sft",
    "show",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "data":
        return importlib.import_module("heed.data")  # the functions of `heed data`
    if name not in _PLACES:
        raise AttributeError(f"module 'heed' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "data"})
