"""Before training: prove on this model and this data that the forest computes what the model computes.

Some families accept an attention function and never call it; hybrid models have layers that are not attention; scales
and soft-caps sit where a shortcut may miss them. So a forest is scored both ways, and a model that disagrees with
itself is trained one sequence per row, by its own forward.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from heed.dist.divided import Sharded
from heed.dist.world import World
from heed.errors import is_out_of_memory
from heed.forest.build import build
from heed.models.attention.layout import ForestLayout
from heed.models.heads.likelihood import Likely
from heed.models.heads.token_logp import TokenScores
from heed.models.score import (
    BY_FOREST,
    BY_OWN_HEAD,
    BY_ROWS,
    ONE_BY_ONE,
    ONE_BY_OWN_HEAD,
    Score,
    Way,
    forest_score,
    plain_score,
    within,
)
from heed.types import Forest, Tokens

Result = TypeVar("Result")

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""largest difference of a log-probability in nats; some families cast to float32 inside, so float64 gains little"""

WORST_LAST = (BY_FOREST, BY_ROWS, BY_OWN_HEAD, ONE_BY_ONE, ONE_BY_OWN_HEAD)
"""a later one serves wherever an earlier one does; whether it is one by one, the config says to all processes alike"""

REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)
"""what models raise at a forward that they are not made for"""

ALONE = World()

LONGEST_DECIDES = ("longrope", "dynamic")
"""kinds of RoPE whose frequencies depend on the longest position of a forward"""


@dataclass(frozen=True, eq=False)
class ChosenScore:
    """How this model's log-probabilities are computed, and why."""

    model: PreTrainedModel
    way: Way
    shares_prefixes: bool
    """how forests for it are to be built"""
    note: str
    """one line for the user"""
    sharded: Sharded | None = None
    """the model, where its parameters are divided among processes"""

    def _call(self, function: Callable[..., Result], *given: Any, **named: Any) -> Result:
        if self.sharded is None:
            return function(self.model, *given, **named)
        return self.sharded.call(function, *given, **named)

    def whole(self) -> AbstractContextManager[None]:
        """Around what reads the model by itself: every process has all of it meanwhile. No gradient comes of it."""
        return nullcontext() if self.sharded is None else self.sharded.whole()

    def nll(self, forest: Forest) -> Score:
        """sum_n weight[n] * NLL[n] with its gradient, and the detached log p of each trained token."""
        return self._call(self.way.nll, forest)

    def logp(self, forest: Forest, temperature: float = 1.0, *, with_entropy: bool = False) -> TokenScores:
        """log p of each trained token with its gradient; see `token_logp`."""
        return self._call(self.way.logp, forest, temperature=temperature, with_entropy=with_entropy)

    def states(self, forest: Forest) -> Float[Tensor, "T width"]:
        """The final hidden state of every buffer token, with its gradient."""
        return self._call(self.way.states, forest)

    def likely(self, forest: Forest) -> Likely:
        """log p of each trained token without a gradient, and whether it is the likeliest at its place."""
        with torch.no_grad():
            return self._call(self.way.likely, forest)


def choose_score(
    model: PreTrainedModel,
    longest: Tokens,
    *,
    longest_in_data: int,
    num_positions: int | None,
    share: bool,
    max_tokens: int | None = None,
    world: World = ALONE,
) -> ChosenScore:
    """Compare the forest with the model's own forward on a probe made of the data; fall back where they differ.

    Processes may find differently, by their machines' rounding or memory. What one of them cannot do none does: they
    plan a step together, and would deal it in different ways.

    Args:
        longest: the longest sequence of the first step.
        longest_in_data: tokens of the longest sequence there is: a sliding window that none outgrows needs no probing.
        share: whether the user wants prefixes shared; the forest serves either way.
        max_tokens: of a forward, for a model that is trained one sequence per row.
        world: all processes choose together.
    """
    found = own_choice(model, longest, longest_in_data=longest_in_data, num_positions=num_positions, share=share)
    verdicts = world.gather_objects((WORST_LAST.index(found.way), not found.shares_prefixes, found.note))
    way, shares_not, note = max(verdicts, key=lambda verdict: verdict[:2])
    return ChosenScore(model, within(WORST_LAST[way], max_tokens), not shares_not, note)


def own_choice(
    model: PreTrainedModel, longest: Tokens, *, longest_in_data: int, num_positions: int | None, share: bool
) -> ChosenScore:
    """What this process finds; see `choose_score`."""
    config = model.config.get_text_config()
    if (kind := rope_kind(config)) is not None:
        probe = probe_sequences(longest, None, longest_in_data, num_positions)
        way = by_own_forward(model, probe, ONE_BY_ONE, ONE_BY_OWN_HEAD)
        return ChosenScore(model, way, False, f"{kind} RoPE depends on the longest row: one sequence per forward")
    probe = probe_sequences(longest, sliding_window(config), longest_in_data, num_positions)
    if getattr(config, "attention_chunk_size", None):
        reason: str | None = "chunked attention cannot be replaced"
    else:
        reason = disagreement(model, probe)
    if reason is None:
        return ChosenScore(model, BY_FOREST, share, "the forest computes what the model computes")
    way = by_own_forward(model, probe, BY_ROWS, BY_OWN_HEAD)
    return ChosenScore(model, way, False, f"{reason}: one sequence per row, by the model's own forward")


@torch.no_grad()
def by_own_forward(model: PreTrainedModel, probe: Sequence[Tokens], way: Way, with_own_head: Way) -> Way:
    """`way`, if heed's head on the states of the model's own forward gives the model's log-probs."""
    forest = build(probe, share=False)
    _, expected = plain_score(model, forest, max_tokens=1)
    try:
        _, logp = way.nll(model, forest)
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return with_own_head
    return way if differing(logp, expected) is None else with_own_head


@torch.no_grad()
def disagreement(model: PreTrainedModel, probe: Sequence[Tokens]) -> str | None:
    """Why the forest must not be used with this model, or None if it may.

    Too little memory is no reason: the model's own forward takes more.
    """
    forest = build(probe)
    layout = ForestLayout.of(forest, model.device)
    try:
        _, logp = forest_score(model, forest, layout)
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return f"the model's forward does not take a forest ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
    num_layers = model.config.get_text_config().num_hidden_layers
    if layout.num_attention_calls != num_layers:
        return f"attention was reached {layout.num_attention_calls} times in {num_layers} layers"
    _, expected = plain_score(model, build(probe, share=False), max_tokens=1)
    return differing(logp, expected)


def differing(logp: Tensor, expected: Tensor) -> str | None:
    """By how much log-probabilities differ, where that is more than rounding."""
    difference = float((logp - expected).abs().max())
    if difference <= TOLERANCE.get(logp.dtype, 1e-3):
        return None
    return f"log-probs differ by {difference:.1e} nats from the model's own"


def probe_sequences(
    longest: Tokens, window: int | None, longest_in_data: int, num_positions: int | None
) -> tuple[Tokens, ...]:
    """Three sequences that branch at two levels: the longest of the first step, and two that leave it half-way.

    If some sequence of the data outgrows the sliding window, the first is repeated until it does too.
    """
    ids = longest.ids
    if window is not None and longest_in_data > window:
        length = min(longest_in_data, window + max(16, len(ids)), num_positions or longest_in_data)
        ids = np.resize(ids, max(length, len(ids)))
    half = max(1, len(ids) // 2)
    second = np.concatenate([ids[:half], ids[half - 1 :: -1][:32]])
    third = np.concatenate([second[: half + (len(second) - half) // 2], ids[:32]])
    limit = num_positions or max(len(ids), len(second), len(third))
    return tuple(everything_trained(x[:limit]) for x in (ids, second, third))


def everything_trained(ids: np.ndarray) -> Tokens:
    """A sequence in which every token but the first is predicted."""
    weight = np.ones(len(ids), dtype=np.float32)
    weight[0] = 0
    return Tokens(ids.astype(np.int32), weight)


def sliding_window(config: Any) -> int | None:
    """The model's sliding window where some layer uses one."""
    window = getattr(config, "sliding_window", None)
    unused = getattr(config, "use_sliding_window", True) is False
    return None if unused or not isinstance(window, int) else window


def rope_kind(config: Any) -> str | None:
    """The kind of rotary position embedding, where it is one that looks at a forward's longest row; else None."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    kinds = {each.get("rope_type") for each in by_layer_type}
    return next((kind for kind in LONGEST_DECIDES if kind in kinds), None)
