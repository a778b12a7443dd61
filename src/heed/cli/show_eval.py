"""Print what `heed eval` would ask: `heed show EVAL.yaml --record 3`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from heed.cli.show import PLAIN, drawn_pieces
from heed.errors import UserError
from heed.eval_config import EvalSettings
from heed.recipes.evaluation import shown as recipe
from heed.recipes.evaluation.shown import ShownRequest
from heed.settings import load_settings
from heed.types import Finding

OF_SHOW = ("record", "limit")
"""options of `heed show` that mean the same here"""


def show_eval(path: str, overrides: Mapping[str, object]) -> None:
    """Draw every request of the chosen records, as each model reads it, what is scored in colour."""
    settings = load_settings(EvalSettings, path, {k: v for k, v in overrides.items() if k not in OF_SHOW})
    console = Console(**PLAIN)
    record = _number(overrides, "record")
    items = recipe.run(
        settings, record=record, limit=_number(overrides, "limit") or 3, say=lambda line: print(line, file=sys.stderr)
    )
    for item in items:
        if isinstance(item, Finding):
            console.print(Text(f"record {item.origin.record:,} cannot be asked: {item.problem}", style="bold red"))
            console.print(Text(f"  found:    {item.found}\n  expected: {item.expected}\n  fix:      {item.fix}\n"))
        else:
            console.print(Text(heading(item), style="bold"))
            console.print(drawn_pieces(item.pieces, coloured=console.is_terminal))
            console.print()


def heading(item: ShownRequest) -> str:
    """What is known of a request, in two lines."""
    what = f"request {item.request} of {item.num_requests}" + (", the right one" if item.is_right else "")
    bos = {0: "no BOS", 1: "BOS once"}.get(item.num_bos, f"BOS {item.num_bos} times: a mistake")
    scored = f"{item.num_scored:,} scored" if item.num_scored else "answered from there"
    shots = f", {len(item.examples)} example{'s' * (len(item.examples) > 1)}" if item.examples else ""
    return (
        f"{item.task}, record {item.item.origin.record:,}, {what}: {item.num_tokens:,} tokens, {scored}, {bos}{shots}\n"
        f"{item.words}"
    )


def _number(overrides: Mapping[str, object], key: str) -> int | None:
    value = overrides.get(key)
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise UserError(
            f"{key} has a value it cannot have",
            where=f"command line, --{key}",
            found=repr(value),
            expected="a whole number",
            fix=f"--{key} 1",
        )
    return number
