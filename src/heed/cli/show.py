"""Print what `heed show` found: in colour, as JSON lines, or as a page."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from heed.cli.page import counts, page, visible
from heed.config import ShowSettings
from heed.errors import UserError
from heed.recipes import show as recipe
from heed.recipes.show import Piece, Shown
from heed.types import Finding

TRAINED = ("black on #a6e3a1", "black on #7fce86")
CONTEXT = ("#6e6e6e", "#959595")
"""two shades each, in turn, so that the edges of tokens can be seen; readable on light and dark terminals"""
OPEN, CLOSE = "⟦", "⟧"
"""around trained text where there is no colour"""
PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True, "emoji": False, "markup": False}
"""a console that prints what it is given and nothing of its own"""
SHARED = "underline "
"""what another answer begins with, too"""


def run(settings: ShowSettings) -> None:
    """Run the recipe and print what it yields, where and how the settings say."""
    items = recipe.run(settings, say=lambda line: print(line, file=sys.stderr))
    if settings.print_json:
        _print_json(items)
    elif settings.html is not None:
        _write_page(items, Path(settings.html))
    else:
        _print(items, Console(**PLAIN))


def _print_json(items: Iterable[Shown | Finding]) -> None:
    for item in items:
        if isinstance(item, Finding):
            parts = dataclasses.asdict(item)
            origin = parts.pop("origin")
            record = {"dataset": origin["path"], "record": origin["record"], "finding": parts}
        else:
            record = {
                "dataset": item.dataset,
                "record": item.rendered.origin.record,
                "sequence": item.sequence,
                "template": item.template,
                "text": item.rendered.text,
                "ids": item.tokens.ids.tolist(),
                "weight": item.tokens.weight.tolist(),
                "spans": [[span.start, span.stop] for span in item.rendered.spans],
            }
            if item.standing is not None:
                record |= dataclasses.asdict(item.standing)
            if item.is_desirable is not None:
                record["is_desirable"] = item.is_desirable
        print(json.dumps(record, ensure_ascii=False))


def _write_page(items: Iterable[Shown | Finding], path: Path) -> None:
    shown = list(items)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(shown), encoding="utf-8")
    except OSError as error:
        raise UserError(
            "the page cannot be written",
            where=str(path),
            found=error.strerror or str(error),
            expected="the name of a file in a folder that may be written to",
            fix="--html masks.html",
        ) from None
    num_findings = sum(isinstance(item, Finding) for item in shown)
    print(f"{path}: sequences {len(shown) - num_findings:,}, unusable records {num_findings:,}", file=sys.stderr)


def as_text(items: Iterable[Shown | Finding]) -> str:
    """What is printed where there is no colour."""
    text = io.StringIO()
    _print(items, Console(file=text, color_system=None, **PLAIN))
    return text.getvalue()


def _print(items: Iterable[Shown | Finding], console: Console) -> None:
    coloured = console.color_system is not None and not console.no_color
    dataset = None
    for item in items:
        path = item.origin.path if isinstance(item, Finding) else item.dataset
        if path != dataset:
            dataset = path
            console.print(Text(path, style="underline"))
        if isinstance(item, Finding):
            console.print(Text(f"record {item.origin.record:,} cannot be used: {item.problem}", style="bold red"))
            for name in ("found", "expected", "fix"):
                console.print(Text(f"  {name + ':':<10}{getattr(item, name)}"))
        else:
            console.print(Text(counts(item), style="bold"))
            console.print(drawn(item, coloured=coloured))
        console.print()


def drawn(item: Shown, *, coloured: bool) -> Text:
    """The text, trained pieces set off from context, every piece from the next."""
    return drawn_pieces(item.pieces, coloured=coloured)


def drawn_pieces(pieces: Iterable[Piece], *, coloured: bool) -> Text:
    """Pieces of text, those with a weight set off from context, every piece from the next."""
    text = Text()
    inside = False
    for number, piece in enumerate(pieces):
        trained = piece.weight != 0
        if trained is not inside and not coloured:
            text.append(OPEN if trained else CLOSE)
        inside = trained
        style = (SHARED if piece.is_shared else "") + (TRAINED if trained else CONTEXT)[number % 2] if coloured else ""
        text.append("".join(map(visible, piece.text)), style=style)
    if inside and not coloured:
        text.append(CLOSE)
    return text
