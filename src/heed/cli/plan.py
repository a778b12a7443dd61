"""`heed plan` on the terminal: one screen of what each device holds, and what takes less."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from heed.plan_config import PlanSettings
from heed.recipes import plan as recipe
from heed.recipes.plan import Cure, Plan
from heed.recipes.planning.device import KEPT_FREE, LAYOUTS

PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True, "emoji": False, "markup": False}


def run(settings: PlanSettings) -> None:
    """Plan, and print."""
    plan, cures = recipe.run(settings, say=lambda line: print(line, file=sys.stderr, flush=True))
    if settings.print_json:
        print(json.dumps(recipe.as_json(plan, cures)))
        return
    console = Console(highlight=False)
    for line in heading(plan):
        console.print(line, **PLAIN)
    console.print(table(plan))
    for line in told(plan, cures):
        console.print(line, **PLAIN)


def heading(plan: Plan) -> list[str]:
    """What is planned."""
    settings, forward = plan.settings, plan.forward
    lies = "; ".join(f"{name}: {way}, {LAYOUTS[way]}" for name, way in plan.ways.items())
    sequences = f"{len(forward.lengths):,} sequence{'s' * (len(forward.lengths) > 1)} of {forward.lengths[0]:,} tokens"
    return [
        f"heed {settings.recipe} of {settings.model}: {plan.num_parameters:,} parameters, {plan.num_trained:,} trained",
        f"{settings.world:,} x {settings.memory} ({settings.device}); {lies}",
        f"largest forward: {sequences}, {settings.dtype}"
        + (", activations computed twice" if settings.activations == "recompute" else ""),
    ]


def table(plan: Plan) -> Table:
    """The rows."""
    drawn = Table(title="memory of a device", title_justify="left")
    drawn.add_column("")
    drawn.add_column("GB", justify="right")
    for name in ("", ""):
        drawn.add_column(name)
    for row in plan.rows:
        if row.num_bytes or row.name in ("parameters", "gradients", "optimiser state"):
            drawn.add_row(row.name, gigabytes(row.num_bytes), "" if row.is_exact else "estimate", row.note)
    drawn.add_section()
    drawn.add_row("most at once", gigabytes(plan.total), "", plan.fullest)
    drawn.add_row(
        "room", gigabytes(plan.budget), "", f"{plan.settings.memory} less {KEPT_FREE:.0%}, kept free: estimate"
    )
    return drawn


def told(plan: Plan, cures: list[Cure]) -> list[str]:
    """The verdict, and lines below it."""
    spare = plan.budget - plan.total
    if not plan.fits:
        lines = [f"it does not fit: {gigabytes(-spare)} GB too much"]
    elif plan.is_whole:
        lines = [f"it fits, with {gigabytes(spare)} GB to spare"]
    else:
        lines = [f"activations are not known; {gigabytes(spare)} GB are left for them"]
    if not plan.fits:
        lines.append("these fit, planned in the same way:" if cures else "nothing that was tried fits")
        lines += [f"  {gigabytes(cure.total):>7} GB  {cure.turned}\n    {cure.command}" for cure in cures]
    return lines + [f"note: {note}" for note in plan.notes]


def gigabytes(num_bytes: int) -> str:
    """Bytes in units of 10^9, to what can be read."""
    return f"{num_bytes / 1e9:,.2f}" if num_bytes >= 1e8 or not num_bytes else f"{num_bytes / 1e9:.6f}"
