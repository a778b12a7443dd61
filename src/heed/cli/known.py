"""`heed known` on the terminal: what the model knows, what was written, and where to go from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heed.errors import typed
from heed.eval_config import KnownSettings
from heed.recipes import known as recipe

MEANING = {
    "highly known": "every likeliest answer is right",
    "maybe known": "some likeliest answers are right",
    "weakly known": "only drawn answers are right",
    "unknown": "no answer is right",
}


def run(settings: KnownSettings) -> None:
    """Ask, and print what came of it."""
    results = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    if settings.print_json:
        print(json.dumps(results, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(table(results, settings))
    for line in told(results, settings):
        console.print(line, soft_wrap=True, markup=False)


def table(results: Mapping[str, Any], settings: KnownSettings) -> Table:
    """The categories with their shares."""
    prompts, samples = settings.num_prompts, settings.num_samples
    drawn = Table(
        title=f"what {settings.model} knows, under {prompts:,} prompts with {samples:,} drawn answers each",
        title_justify="left",
    )
    for name in ("category", "% of questions [95% interval]", "meaning"):
        drawn.add_column(name)
    for figure in results["figures"]:
        if figure["measure"] in MEANING:
            value, low, high = (100 * figure[name] for name in ("value", "low", "high"))
            drawn.add_row(figure["measure"], f"{value:.1f} [{low:.1f}, {high:.1f}]", MEANING[figure["measure"]])
    return drawn


def told(results: Mapping[str, Any], settings: KnownSettings) -> list[str]:
    """Lines below the table."""
    records, out = results["records"], Path(settings.out)
    lines = [f"{out / recipe.RECORDS}: {records['answers']:,} answers and {records['refusals']:,} refusals"]
    if results["num_unanswerable"]:
        lines.append(f"{results['num_unanswerable']:,} questions have no answer by the data, and are refused")
    lines += [f"left out: {count:,} {why}" for why, count in records["left_out"].items()]
    if not records["answers"]:
        lines.append("nothing that was asked is known: data of refusals alone would teach to refuse everything")
    run = typed(out / "tuned")
    if not records["answers"] + records["refusals"]:
        return lines
    lines.append(
        f"tune on them: heed sft --model {typed(settings.model)} --data {typed(out / recipe.RECORDS)} --out {run}"
    )
    lines.append(
        f"what it declines then: heed known on other questions, --out other; heed eval --model {run} --task "
        f"known=other/{recipe.CATEGORIES_FILE}"
    )
    return lines
