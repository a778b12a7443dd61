"""Forest in, log-probabilities out: the one forward that training and evaluation share.

The forest's way computes every distinct prefix once and the head on trained rows alone. Where a model's attention
cannot be replaced, its own forward makes the hidden states, one sequence per row, and the head follows as before. The
plain way lets the model do everything itself, its head included: the reference for the self-check, and the way for
models whose head does more than heed knows. Each gives four things: a weighted loss, log-probabilities that carry a
gradient, hidden states, and, for measuring, log-probabilities without a gradient.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from heed.models.attention.forest_attention import NAME, attention_named
from heed.models.attention.layout import ForestLayout
from heed.models.heads.language import (
    Head,
    Part,
    adjusted,
    adjustment,
    at_least_float32,
    parts,
    rows_of_chunk,
    weighted_nll,
)
from heed.models.heads.likelihood import Likely, likely, likely_of_logits
from heed.models.heads.token_logp import TokenScores, dense_logp, token_logp
from heed.models.padded_rows import PaddedRows, put_in_order, rows_of_sequences
from heed.models.recompute import recomputed
from heed.types import Forest

Score = tuple[Float[Tensor, ""], Float[Tensor, " N"]]
"""sum_n weight[n] * NLL[n] with its gradient, and the detached log p of each trained token, in nats"""


@dataclass(frozen=True, eq=False)
class Way:
    """One of the ways from a model and a forest to everything that training and evaluation read."""

    nll: Callable[..., Score]
    logp: Callable[..., TokenScores]
    """takes what `forest_logp` takes"""
    states: Callable[..., Float[Tensor, "T width"]]
    likely: Callable[..., Likely]
    """log p without a gradient, and whether each token is the likeliest at its place"""


def forest_score(model: PreTrainedModel, forest: Forest, layout: ForestLayout | None = None) -> Score:
    """Score the forest's trained tokens, each distinct prefix computed once.

    loss = - sum_n weight[n] * log p(target[n] | the tokens above it in its sequence)

    `layout` is the forest's own, for a caller who wants to see how often attention was reached.
    """
    return nll_of(model, forest_states(model, forest, layout), forest)


def forest_logp(
    model: PreTrainedModel, forest: Forest, *, temperature: float = 1.0, with_entropy: bool = False
) -> TokenScores:
    """log p of the forest's trained tokens with their gradient, each distinct prefix computed once.

    For losses whose weights depend on the log-probabilities themselves; where weights are known before the forward,
    `forest_score` is cheaper. See `token_logp` for the formula and the temperature.
    """
    return logp_of(model, forest_states(model, forest), forest, temperature=temperature, with_entropy=with_entropy)


def nll_of(model: PreTrainedModel, states: Float[Tensor, "T width"], forest: Forest) -> Score:
    """The head on the states that predict a trained token, each once, and the weighted loss."""
    source, row = torch.unique(forest.source.to(states.device), return_inverse=True)
    rows, target, weight = states[source], forest.target.to(states.device), forest.weight.to(states.device)
    if (head := Head.of(model)) is not None:
        return weighted_nll(rows, head, row, target, weight)
    logp, _ = dense_parts(model, rows, row, target)
    return -(weight.to(logp.dtype) * logp).sum(), logp.detach()


def logp_of(
    model: PreTrainedModel,
    states: Float[Tensor, "T width"],
    forest: Forest,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> TokenScores:
    """The head on the states that predict a trained token, each once, and log p of each token."""
    source, row = torch.unique(forest.source.to(states.device), return_inverse=True)
    rows, target = states[source], forest.target.to(states.device)
    if (head := Head.of(model)) is not None:
        scored = token_logp(rows, head, row, target, temperature=temperature, with_entropy=with_entropy)
    else:
        scored = dense_parts(model, rows, row, target, temperature=temperature, with_entropy=with_entropy)
    return TokenScores(*scored)


def likely_of(model: PreTrainedModel, states: Float[Tensor, "T width"], forest: Forest) -> Likely:
    """The head on the states that predict a token asked for, each once: how likely the tokens are; see `likely`."""
    source, row = torch.unique(forest.source.to(states.device), return_inverse=True)
    return likely(model, states[source], row, forest.target.to(states.device))


def dense_parts(
    model: PreTrainedModel,
    rows: Float[Tensor, "rows width"],
    row: Int[Tensor, " N"],
    target: Int[Tensor, " N"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """log p and entropy by the model's own head, for one that is more than a linear layer, in chunks of rows."""

    def of_chunk(rows: Tensor, row: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = adjusted(model.get_output_embeddings()(rows), *adjustment(model))
        return dense_logp(logits, row, target, temperature=temperature, with_entropy=with_entropy)

    found, places = [], []
    vocabulary = model.config.get_text_config().vocab_size
    # A process that shares a forest may have no trained token, and its backward must meet the others' all the same.
    none = Part(slice(0, 0), torch.arange(0, device=row.device), row, target)
    for part in list(parts(row, target, num_rows=len(rows), vocabulary=vocabulary)) or [none]:
        found.append(recomputed(model, of_chunk, rows[part.rows], part.row, part.token))
        places.append(part.entries)
    logp = put_in_order([each for each, _ in found], places)
    return logp, put_in_order([each for _, each in found if each is not None], places) if with_entropy else None


def forest_likely(model: PreTrainedModel, forest: Forest) -> Likely:
    """How likely the forest's trained tokens are, without a gradient, each distinct prefix computed once."""
    return likely_of(model, forest_states(model, forest), forest)


def forest_states(
    model: PreTrainedModel, forest: Forest, layout: ForestLayout | None = None
) -> Float[Tensor, "T width"]:
    """The final hidden state of every buffer token, as the head reads it: after the last norm.

    Of this process's tokens where the layout says that several share them.
    """
    layout = layout or ForestLayout.of(forest, model.device)
    ids, position = forest.ids[layout.own].to(layout.position.device), layout.position[layout.own]
    with attention_named(model, NAME):
        output = trunk_of(model)(input_ids=ids[None], position_ids=position[None], use_cache=False, forest=layout)
    states: Tensor = output.last_hidden_state[0]
    return states


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    if model.base_model is not model:
        return model.base_model
    # A few (Llama 4) name their trunk otherwise than their family does; it is the model inside.
    return next(module for module in model.children() if isinstance(module, PreTrainedModel))


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a model's trunk, which follow one another; none where they cannot be told."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in trunk_of(model).modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return list(next(lists, ()))


def rows_states(model: PreTrainedModel, forest: Forest, *, max_tokens: int | None = None) -> Float[Tensor, "T width"]:
    """The final hidden state of every buffer token by the model's own forward and attention, one sequence per row.

    Args:
        forest: built without sharing.
        max_tokens: see `rows_of_sequences`. It is 1 for models that look at the longest row of a forward (dynamic and
            long RoPE), where padding would change the result.
    """
    batches = rows_of_sequences(forest, max_tokens)
    states = [some.real(some.run(model, trunk_of(model)).last_hidden_state) for some in batches]
    return put_in_order(states, [some.token for some in batches])


def rows_score(model: PreTrainedModel, forest: Forest, *, max_tokens: int | None = None) -> Score:
    """`forest_score` with states by `rows_states`."""
    return nll_of(model, rows_states(model, forest, max_tokens=max_tokens), forest)


def rows_logp(
    model: PreTrainedModel,
    forest: Forest,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    max_tokens: int | None = None,
) -> TokenScores:
    """`forest_logp` with states by `rows_states`."""
    states = rows_states(model, forest, max_tokens=max_tokens)
    return logp_of(model, states, forest, temperature=temperature, with_entropy=with_entropy)


def rows_likely(model: PreTrainedModel, forest: Forest, *, max_tokens: int | None = None) -> Likely:
    """`forest_likely` with states by `rows_states`."""
    return likely_of(model, rows_states(model, forest, max_tokens=max_tokens), forest)


def plain_score(model: PreTrainedModel, forest: Forest, *, max_tokens: int | None = None) -> Score:
    """`forest_score` by the model's own forward, attention and head: what everything else is compared with."""
    logp = plain_logp(model, forest, max_tokens=max_tokens).logp
    return -(forest.weight.to(logp) * logp).sum(), logp.detach()


def plain_logp(
    model: PreTrainedModel,
    forest: Forest,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    max_tokens: int | None = None,
) -> TokenScores:
    """`forest_logp` by the model's own forward, attention and head.

    Logits of every token would be the most that a step holds. Where they are more than one chunk of them, a forward
    takes few rows and the backward computes it again. See `rows_states` for the arguments.
    """
    device = model.device
    few = rows_of_chunk(model.config.get_text_config().vocab_size)
    batches = rows_of_sequences(forest, min(few, max_tokens or few))

    def of_batch(some: PaddedRows, row: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = some.real(some.run(model).logits)
        return dense_logp(logits, row, target, temperature=temperature, with_entropy=with_entropy)

    found, places = [], []
    for some in batches:
        chosen, row = some.trained(forest, device)
        inputs = (some, row, forest.target[chosen].to(device))
        found.append(of_batch(*inputs) if forest.num_tokens <= few else recomputed(model, of_batch, *inputs))
        places.append(chosen)
    return TokenScores(
        put_in_order([logp for logp, _ in found], places),
        put_in_order([entropy for _, entropy in found if entropy is not None], places) if with_entropy else None,
    )


def plain_likely(model: PreTrainedModel, forest: Forest, *, max_tokens: int | None = None) -> Likely:
    """`forest_likely` by the model's own forward, attention and head."""
    few = rows_of_chunk(model.config.get_text_config().vocab_size)
    found, places = [], []
    for some in rows_of_sequences(forest, min(few, max_tokens or few)):
        chosen, row = some.trained(forest, model.device)
        logits = some.real(some.run(model).logits)
        target = forest.target[chosen].to(model.device)
        found.append(likely_of_logits(logits.to(at_least_float32(logits.dtype)), row, target))
        places.append(chosen)
    return put_in_order([logp for logp, _ in found], places), put_in_order([each for _, each in found], places)


BY_FOREST = Way(forest_score, forest_logp, forest_states, forest_likely)
BY_ROWS = Way(rows_score, rows_logp, rows_states, rows_likely)
"""every sequence a row of its own, by the model's own forward up to the head"""
BY_OWN_HEAD = Way(plain_score, plain_logp, rows_states, plain_likely)
"""the same and by its own head, for families that do more with their logits than heed knows"""


def within(way: Way, max_tokens: int | None) -> Way:
    """The same way with batches of rows of at most so many places; the forest's has none."""
    if way is BY_FOREST or max_tokens is None:
        return way
    limit = {"max_tokens": max_tokens}
    return Way(
        partial(way.nll, **limit),
        partial(way.logp, **limit),
        partial(way.states, **limit),
        partial(way.likely, **limit),
    )


ONE_BY_ONE = within(BY_ROWS, 1)
"""every sequence a forward of its own"""
ONE_BY_OWN_HEAD = within(BY_OWN_HEAD, 1)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Lower-precision products with float32 weights for `bfloat16`; nothing for the rest."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
