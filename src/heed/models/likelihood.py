"""How likely many sequences are, for measuring: no prefix is computed twice, whatever the number of forwards.

In the order of their ids the sequences are one forest, too large for one forward. It is cut where a forward is full,
and each forward hands the next the keys and values of what the two have in common: the few-shot prefix of a task, the
words of a question that a cut divides from its options. So a cut costs nothing, and logits are made for the tokens
asked for alone. A model that cannot hang a forest below tokens computed before, which is tried, computes them again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from heed.errors import is_out_of_memory
from heed.forest.build import build, common_prefix, sort_key
from heed.forest.plan import cut
from heed.models.attention.forest_attention import attention_named, forest_attention, no_mask
from heed.models.attention.layout import ForestLayout
from heed.models.decode.self_check import is_autocast, probe_of, tolerance_of
from heed.models.heads.likelihood import Likely
from heed.models.score import BY_FOREST, likely_of, trunk_of
from heed.models.self_check import REFUSALS, ChosenScore, sliding_window
from heed.types import Forest, Tokens

NAME = "heed_forest_below"

SHORTEST_BEGINNING = 32
"""tokens in common with the forward before: to compute fewer again costs less than to hand them over"""

LayerKept = tuple[Float[Tensor, "1 heads n size"], Float[Tensor, "1 heads n value_size"]]
"""a layer's keys and values"""

_carries: WeakKeyDictionary[PreTrainedModel, dict[tuple[bool, bool], bool]] = WeakKeyDictionary()
"""whether a model may hang a forest below tokens computed before, with its sliding window outgrown or not, under
autocast or not"""


@dataclass(eq=False, slots=True)
class Beginning:
    """The first tokens of a forest's buffer, which an earlier forward computed, and what to keep for the next one."""

    states: Float[Tensor, "n width"]
    """their final hidden states"""
    layers: list[LayerKept]
    """their keys and values"""
    keep: Int[Tensor, " m"] | None = None
    """buffer indices of what the next forward begins with, unless this one's beginning holds all of it"""
    kept: list[LayerKept] = field(default_factory=list)

    @property
    def length(self) -> int:
        """n, its tokens."""
        return len(self.states)


def likelihoods(
    score: ChosenScore, sequences: Sequence[Tokens], *, max_tokens: int
) -> Iterator[tuple[int, np.ndarray, bool]]:
    """log p of the tokens of each sequence that have a weight, and whether every one is the likeliest at its place.

    Args:
        score: how this model is scored; all of it runs under the autocast that is on while the answers are fetched.
        sequences: a weight that is not 0 marks a token as asked for; what the weight is does not matter. The last token
            asked for is predicted and not read, so it may be one more than the model has positions.
        max_tokens: new forest tokens of a forward; bounds memory and changes results by rounding alone.

    Yields:
        the number of a sequence, log p (n,) float64 of its tokens asked for, in nats, and whether greedy decoding would
        have written all of them; forward by forward, so not in the order given. Where nothing is asked for, n is 0.
        Log-probabilities of a model that is not well are what they are, NaN included.

    Raises:
        ValueError: the first token of a sequence is asked for.
    """
    asked, numbers = [], []
    for number, tokens in enumerate(sequences):
        at = np.flatnonzero(tokens.weight)
        if not len(at):
            yield number, np.zeros(0), True
            continue
        if at[0] == 0:
            raise ValueError(f"nothing stands before the first token of sequence {number} that could predict it")
        asked.append(Tokens(tokens.ids[: at[-1] + 1], tokens.weight[: at[-1] + 1]))
        numbers.append(number)
    for indices, (logp, is_greedy) in forwards(score, asked, max_tokens):
        counts = [int(np.count_nonzero(asked[index].weight)) for index in indices]
        every = logp.double().cpu().split(counts), is_greedy.cpu().split(counts)
        for index, of_sequence, greedy in zip(indices, *every, strict=True):
            yield numbers[index], of_sequence.numpy(), bool(greedy.all())


def forwards(score: ChosenScore, asked: Sequence[Tokens], max_tokens: int) -> Iterator[tuple[Sequence[int], Likely]]:
    """The sequences of each forward by number, and their tokens' likelihoods one after the other.

    Args:
        asked: sequences that end with a token asked for.
    """
    if not asked:
        return
    if not score.shares_prefixes:
        order = sorted(range(len(asked)), key=lambda i: -len(asked[i]))  # rows of like length need no padding
        none = [0] * len(order)
        for part in cut([len(asked[i]) - 1 for i in order], none, max_tokens, carried=none):
            indices = [order[at] for at in part]
            yield indices, score.likely(build([asked[i] for i in indices], share=False, reads_last=False))
        return
    longest = max(asked, key=len).ids[:-1]
    yield from in_order(score, asked, max_tokens, SHORTEST_BEGINNING if carries(score, longest) else None)


def in_order(
    score: ChosenScore, asked: Sequence[Tokens], max_tokens: int, shortest: int | None
) -> Iterator[tuple[Sequence[int], Likely]]:
    """`forwards` in the order of ids, each beginning with what it has in common with the one before.

    Args:
        shortest: tokens in common that are handed over; fewer are computed again. None hands nothing over.
    """
    order = sorted(range(len(asked)), key=lambda i: sort_key(asked[i].ids[:-1]))
    reads = [asked[i].ids[:-1] for i in order]
    shared = [0, *(common_prefix(a, b) for a, b in pairwise(reads))]
    carried = [n if shortest is not None and n >= shortest else 0 for n in shared]
    parts = cut([len(read) for read in reads], shared, max_tokens, carried=carried)
    beginning: Beginning | None = None
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        indices = [order[at] for at in part]
        forest = build([asked[i] for i in indices], reads_last=False)
        length = 0 if following is None else carried[following.start]
        if beginning is None and not length:
            yield indices, score.likely(forest)
            continue
        found, beginning = continued(score.model, forest, beginning, length)
        yield indices, found


@torch.no_grad()
def continued(
    model: PreTrainedModel, forest: Forest, beginning: Beginning | None, length: int
) -> tuple[Likely, Beginning | None]:
    """The likelihoods of a forest's tokens, and the first `length` tokens of its last path for the next forward.

    Args:
        forest: its buffer begins with the tokens of `beginning`, which are not computed again.
    """
    device = model.device
    beginning = beginning or Beginning(torch.empty(0, 0, device=device), [])
    known = beginning.length
    layout = ForestLayout.of(forest, device)
    # Sequences that follow this forest's begin as its last in order does, which ends the buffer.
    path = torch.nonzero(forest.subtree_end == forest.num_tokens)[:length, 0].to(device)
    is_known = length <= known and bool((path < known).all())
    beginning.keep = None if is_known else path
    with attention_named(model, NAME):
        output = trunk_of(model)(
            input_ids=forest.ids[known:].to(device)[None],
            position_ids=layout.position[None, known:],
            use_cache=False,
            forest=layout,
            beginning=beginning,
        )
    states: Tensor = output.last_hidden_state[0]
    if known:
        states = torch.cat([beginning.states, states])
    layers = [(k[:, :, :length], v[:, :, :length]) for k, v in beginning.layers] if is_known else beginning.kept
    return likely_of(model, states, forest), Beginning(states[path], layers) if length else None


def attention_below(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    beginning: Beginning,
    forest: ForestLayout,
    **others: Any,
) -> tuple[Tensor, None]:
    """`forest_attention` of a forest whose first tokens have their keys and values already, and need no answer.

    Args:
        query, key, value: of the tokens behind the beginning.
        forest: all tokens, those of the beginning included.
    """
    layer, known = forest.num_attention_calls, beginning.length
    key = key.to(value.dtype)
    if known:
        of_beginning = beginning.layers[layer]
        key, value = (torch.cat([old, new], dim=2) for old, new in zip(of_beginning, (key, value), strict=True))
        query = nn.functional.pad(query, (0, 0, known, 0))
    if beginning.keep is not None:
        beginning.kept.append((key.index_select(2, beginning.keep), value.index_select(2, beginning.keep)))
    out, _ = forest_attention(module, query, key, value, attention_mask, forest=forest, **others)
    return out[:, known:], None


AttentionInterface.register(NAME, attention_below)
AttentionMaskInterface.register(NAME, no_mask)


def carries(score: ChosenScore, longest: np.ndarray) -> bool:
    """Whether a forest of this model may hang below tokens that an earlier forward computed: it is tried once.

    Args:
        longest: the longest sequence that is read: a sliding window that it does not outgrow needs no probing.
    """
    if score.way is not BY_FOREST:
        return False
    model = score.model
    window = sliding_window(model.config.get_text_config())
    outgrown = window is not None and len(longest) > window
    known, situation = _carries.setdefault(model, {}), (outgrown, is_autocast(model))
    if situation not in known:
        known[situation] = _agrees(score, probe_of(model, longest.tolist(), len(longest), window))
    return known[situation]


def _agrees(score: ChosenScore, asked: Sequence[Tokens]) -> bool:
    """Whether likelihoods are the same with a forward for each sequence, which hands all it can to the next."""
    by_number: dict[int, Tensor] = {}
    try:
        for indices, (logp, _) in in_order(score, asked, 1, 1):
            by_number |= dict(zip(indices, logp.split([len(asked[i]) - 1 for i in indices]), strict=True))
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return False
    expected, _ = score.likely(build(asked, reads_last=False))
    found = torch.cat([by_number[number] for number in range(len(asked))])
    return bool((found - expected).abs().max() <= tolerance_of(score.model))
