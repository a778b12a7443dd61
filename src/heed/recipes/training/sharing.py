"""Whether processes take forwards of their own or share each in groups, settled before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from heed.dist.world import World
from heed.errors import UserError
from heed.models.attention.exchange import heads_do_not_divide
from heed.models.score import BY_FOREST
from heed.models.self_check import ChosenScore
from heed.models.shared_score import by_forest_of


def in_groups(settings: Any, world: World) -> World:
    """The processes in the groups that the settings ask for.

    Raises:
        UserError: there is one process, or they do not make whole groups.
    """
    size: int = getattr(settings, "sequence_parallel", 1)
    if world.size % size == 0:
        return world.in_groups(size)
    if world.size == 1:
        raise UserError(
            "processes are to share sequences, and there is one process",
            where=f"--sequence-parallel {size}",
            found="one process: RANK and WORLD_SIZE are not set, or say so",
            expected=f"{size} processes or a multiple of it, as torchrun starts them",
            fix=f"torchrun --nproc-per-node {size} --no-python heed ..., or leave it out: --sequence-parallel 1",
        )
    fitting = max(n for n in range(1, min(size, world.size) + 1) if world.size % n == 0)
    raise UserError(
        "processes that share sequences make groups of one size, and some would be left over",
        where=f"--sequence-parallel {size}",
        found=f"{world.size} processes",
        expected=f"a number that divides {world.size}",
        fix=f"--sequence-parallel {fitting}",
    )


def shared(chosen: ChosenScore, world: World, say: Callable[[str], None], name: str) -> ChosenScore:
    """The way of scoring a model by groups of processes that share each forest, where there are groups.

    Raises:
        UserError: the model's attention cannot be replaced, or its heads not be divided among a group.
    """
    if world.together is None:
        return chosen
    size = world.group_size
    if chosen.way is not BY_FOREST:
        raise UserError(
            "processes can share the sequences of a model only where heed computes its attention",
            where=f"--sequence-parallel {size}, {name}",
            found=chosen.note,
            expected="a model whose attention can be replaced, as those of Llama, Qwen, Mistral or GPT-2",
            fix="--sequence-parallel 1",
        )
    num_heads = int(chosen.model.config.get_text_config().num_attention_heads)
    if num_heads % size:
        raise heads_do_not_divide(num_heads, size, name)
    say(f"{name}: groups of {size} processes share each forward's tokens, {world.num_groups} groups in all")
    return replace(chosen, way=by_forest_of(world.together))
