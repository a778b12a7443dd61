"""Forest in, log-probabilities out: the one forward that training and evaluation share.

Two ways lead there. The forest's computes every distinct prefix once and the head on trained rows alone. The plain one
lets the model do everything itself, one sequence per row: the reference for the self-check, and the way for models
whose attention cannot be replaced. Either gives three things: a weighted loss, log-probabilities that carry a gradient,
and hidden states.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from heed.models.attention.forest_attention import NAME, attention_named, plain_attention_of
from heed.models.attention.layout import ForestLayout
from heed.models.heads.language import Head, adjusted, adjustment, at_least_float32, weighted_nll
from heed.models.heads.token_logp import TokenScores, dense_logp, token_logp
from heed.types import Forest

Score = tuple[Float[Tensor, ""], Float[Tensor, " N"]]
"""sum_n weight[n] * NLL[n] with its gradient, and the detached log p of each trained token, in nats"""


@dataclass(frozen=True, eq=False)
class Way:
    """One of the ways from a model and a forest to everything that training and evaluation read."""

    nll: Callable[[PreTrainedModel, Forest], Score]
    logp: Callable[..., TokenScores]
    """takes what `forest_logp` takes"""
    states: Callable[[PreTrainedModel, Forest], Float[Tensor, "T width"]]


def forest_score(model: PreTrainedModel, forest: Forest, layout: ForestLayout | None = None) -> Score:
    """Score the forest's trained tokens, each distinct prefix computed once.

    loss = - sum_n weight[n] * log p(target[n] | the tokens above it in its sequence)

    `layout` is the forest's own, for a caller who wants to see how often attention was reached.
    """
    states = forest_states(model, forest, layout)
    source, row = torch.unique(forest.source.to(states.device), return_inverse=True)
    rows, target, weight = states[source], forest.target.to(states.device), forest.weight.to(states.device)
    if (head := Head.of(model)) is not None:
        return weighted_nll(rows, head, row, target, weight)
    return dense_nll(dense_logits(model, rows)[row], target, weight)


def forest_logp(
    model: PreTrainedModel, forest: Forest, *, temperature: float = 1.0, with_entropy: bool = False
) -> TokenScores:
    """log p of the forest's trained tokens with their gradient, each distinct prefix computed once.

    For losses whose weights depend on the log-probabilities themselves; where weights are known before the forward,
    `forest_score` is cheaper. See `token_logp` for the formula and the temperature.
    """
    states = forest_states(model, forest)
    source, row = torch.unique(forest.source.to(states.device), return_inverse=True)
    rows, target = states[source], forest.target.to(states.device)
    if (head := Head.of(model)) is not None:
        logp, entropy = token_logp(rows, head, row, target, temperature=temperature, with_entropy=with_entropy)
    else:
        logits = dense_logits(model, rows)
        logp, entropy = dense_logp(logits, row, target, temperature=temperature, with_entropy=with_entropy)
    return TokenScores(logp, entropy, states)


def dense_logits(model: PreTrainedModel, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocabulary"]:
    """Logits of gathered rows by the model's own head, for one that is more than a linear layer."""
    return adjusted(model.get_output_embeddings()(rows), *adjustment(model))


def forest_states(
    model: PreTrainedModel, forest: Forest, layout: ForestLayout | None = None
) -> Float[Tensor, "T width"]:
    """The final hidden state of every buffer token, as the head reads it: after the last norm."""
    layout = layout or ForestLayout.of(forest, model.get_input_embeddings().weight.device)
    device = layout.position.device
    with attention_named(model, NAME):
        output = trunk_of(model)(
            input_ids=forest.ids.to(device)[None], position_ids=layout.position[None], use_cache=False, forest=layout
        )
    states: Tensor = output.last_hidden_state[0]
    return states


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    if model.base_model is not model:
        return model.base_model
    # A few (Llama 4) name their trunk otherwise than their family does; it is the model inside.
    return next(module for module in model.children() if isinstance(module, PreTrainedModel))


def plain_score(model: PreTrainedModel, forest: Forest, *, rows_per_forward: int | None = None) -> Score:
    """The same by the model's own forward, attention and head, one sequence per row, padded on the right.

    The forest must have been built without sharing. `rows_per_forward=1` is for models that look at
    the longest row of a forward (dynamic and long RoPE), where padding would change the result.
    """
    device = model.get_input_embeddings().weight.device
    total = torch.zeros((), device=device)
    every_logp = []
    for some in rows_of_sequences(forest, rows_per_forward):
        logits = some.real(some.run(model).logits)
        chosen, row = some.trained(forest, device)
        loss, logp = dense_nll(logits[row], forest.target[chosen].to(device), forest.weight[chosen].to(device))
        total = total.to(loss.dtype) + loss
        every_logp.append(logp)
    return total, torch.cat(every_logp)


def plain_logp(
    model: PreTrainedModel,
    forest: Forest,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    rows_per_forward: int | None = None,
) -> TokenScores:
    """`forest_logp` by the model's own forward, attention and head; see `plain_score`."""
    device = model.get_input_embeddings().weight.device
    every_logp, every_entropy, every_state = [], [], []
    for some in rows_of_sequences(forest, rows_per_forward):
        with states_recorded(model) as recorded:
            logits = some.real(some.run(model).logits)
        chosen, row = some.trained(forest, device)
        target = forest.target[chosen].to(device)
        logp, entropy = dense_logp(logits, row, target, temperature=temperature, with_entropy=with_entropy)
        every_logp.append(logp)
        every_entropy.append(entropy)
        every_state.append(some.real(recorded[0]))
    entropies = [each for each in every_entropy if each is not None]
    return TokenScores(torch.cat(every_logp), torch.cat(entropies) if with_entropy else None, torch.cat(every_state))


def plain_states(
    model: PreTrainedModel, forest: Forest, *, rows_per_forward: int | None = None
) -> Float[Tensor, "T width"]:
    """The final hidden state of every buffer token by the model's own forward; see `plain_score`."""
    return torch.cat(
        [
            some.real(some.run(model, trunk_of(model)).last_hidden_state)
            for some in rows_of_sequences(forest, rows_per_forward)
        ]
    )


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """Neighbouring sequences of an unshared forest as a batch that is padded on the right."""

    start: int
    """buffer index of the first token"""
    stop: int
    ids: Int[Tensor, "rows longest"]
    mask: Int[Tensor, "rows longest"]
    """1 for tokens, 0 for padding"""

    def run(self, model: PreTrainedModel, part: nn.Module | None = None) -> Any:
        """The output of the model, or of a part of it, with attention of its own."""
        device = model.get_input_embeddings().weight.device
        with attention_named(model, plain_attention_of(model)):
            return (part or model)(input_ids=self.ids.to(device), attention_mask=self.mask.to(device), use_cache=False)

    def real(self, output: Float[Tensor, "rows longest n"]) -> Float[Tensor, "tokens n"]:
        """The output at every token in buffer order, without padding."""
        return output.masked_select(self.mask.to(output.device).bool()[..., None]).view(-1, output.shape[-1])

    def trained(self, forest: Forest, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Which trained tokens these rows predict, and the row of `real` that predicts each."""
        chosen = torch.nonzero((forest.source >= self.start) & (forest.source < self.stop))[:, 0]
        return chosen, (forest.source[chosen] - self.start).to(device)


def rows_of_sequences(forest: Forest, rows_per_forward: int | None) -> list[PaddedRows]:
    """The sequences of a forest that was built without sharing, in batches, in their order."""
    starts = torch.nonzero(forest.position == 0)[:, 0].tolist()
    stops = [*starts[1:], forest.num_tokens]
    if [at + 1 for at in forest.last.tolist()] != stops:
        raise ValueError("a forest that shares prefixes has no sequences one after another: build it with share=False")
    step = rows_per_forward or len(starts)
    batches = []
    for first in range(0, len(starts), step):
        spans = list(zip(starts, stops, strict=True))[first : first + step]
        ids = pad_sequence([forest.ids[a:b] for a, b in spans], batch_first=True)
        mask = pad_sequence([torch.ones(b - a, dtype=torch.long) for a, b in spans], batch_first=True)
        batches.append(PaddedRows(spans[0][0], spans[-1][1], ids, mask))
    return batches


@contextmanager
def states_recorded(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Catch the final hidden states that the model hands to its head."""
    recorded: list[Tensor] = []
    hook = trunk_of(model).register_forward_hook(lambda _, __, output: recorded.append(output.last_hidden_state))
    try:
        yield recorded
    finally:
        hook.remove()


def dense_nll(logits: Float[Tensor, "N vocabulary"], target: Tensor, weight: Float[Tensor, " N"]) -> Score:
    """Weighted NLL of logits that are there in full."""
    logits = logits.to(at_least_float32(logits.dtype))
    logp = torch.log_softmax(logits, dim=-1).gather(1, target[:, None])[:, 0]
    return -(weight.to(logp.dtype) * logp).sum(), logp.detach()


BY_FOREST = Way(forest_score, forest_logp, forest_states)
BY_ROWS = Way(plain_score, plain_logp, plain_states)
"""every sequence a row of its own"""
ONE_BY_ONE = Way(
    partial(plain_score, rows_per_forward=1),
    partial(plain_logp, rows_per_forward=1),
    partial(plain_states, rows_per_forward=1),
)
"""every sequence a forward of its own"""


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Lower-precision products with float32 weights for `bfloat16`; nothing for the rest."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
