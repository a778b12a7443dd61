"""What a run will hold in the memory of each device, added up before any device is rented.

    config.json -> blank model -> tensors and their parts -> one step without numbers -> rows -> what takes less

Parameters, gradients and moments are exact. Activations and logits are those of a step of full-length sequences that
share nothing, followed operation by operation; what an allocator and communication add is an estimate, and is called
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from heed.plan_config import PlanSettings
from heed.recipes.planning.cures import Cure, cures_of
from heed.recipes.planning.device import Followed, Plan, planned

__all__ = ["Cure", "Plan", "as_json", "run"]


def run(settings: PlanSettings, *, say: Callable[[str], None] = lambda line: None) -> tuple[Plan, list[Cure]]:
    """The plan, and where it does not fit what takes less memory, each planned and found to fit.

    Raises:
        UserError: the settings contradict each other, or there is no config of a known language model.
    """
    followed = Followed(say)
    plan = planned(settings, followed)
    return plan, [] if plan.fits else cures_of(settings, followed)


def as_json(plan: Plan, cures: list[Cure]) -> dict[str, Any]:
    """The plan as plain values, sizes in bytes."""
    return {
        "settings": plan.settings.model_dump(mode="json", exclude={"print_json"}),
        "num_parameters": plan.num_parameters,
        "num_trained": plan.num_trained,
        "parallel": plan.ways,
        "largest_forward": list(plan.forward.lengths),
        "rows": [asdict(row) for row in plan.rows],
        "at_once": plan.at_once,
        "total": plan.total,
        "room": plan.budget,
        "fits": plan.fits if plan.is_whole or not plan.fits else None,
        "cures": [asdict(cure) for cure in cures],
        "notes": list(plan.notes),
    }
