"""Forest in, log-probabilities out: the one forward that training and evaluation share.

Two ways lead there. `forest_score` computes every distinct prefix once and the head on trained rows alone.
`plain_score` lets the model do everything itself, one sequence per row: the reference for the self-check, and the way
for models whose attention cannot be replaced.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from heed.models.attention import NAME, attention_named, plain_attention_of
from heed.models.head import Head, adjusted, adjustment, at_least_float32, weighted_nll
from heed.models.layout import ForestLayout
from heed.types import Forest

Score = tuple[Float[Tensor, ""], Float[Tensor, " N"]]
"""sum_n weight[n] * NLL[n] with its gradient, and the detached log p of each trained token, in nats"""

ScoreOf = Callable[[Forest], Score]


def forest_score(model: PreTrainedModel, forest: Forest, layout: ForestLayout | None = None) -> Score:
    """Score the forest's trained tokens, each distinct prefix computed once.

    loss = - sum_n weight[n] * log p(target[n] | the tokens above it in its sequence)

    `layout` is the forest's own, for a caller who wants to see how often attention was reached.
    """
    device = model.get_input_embeddings().weight.device
    layout = layout or ForestLayout.of(forest, device)
    states = forest_states(model, forest, layout)
    source, row = torch.unique(forest.source.to(device), return_inverse=True)
    rows, target, weight = states[source], forest.target.to(device), forest.weight.to(device)
    if (head := Head.of(model)) is not None:
        return weighted_nll(rows, head, row, target, weight)
    logits = model.get_output_embeddings()(rows)
    return dense_nll(adjusted(logits, *adjustment(model))[row], target, weight)


def forest_states(model: PreTrainedModel, forest: Forest, layout: ForestLayout) -> Float[Tensor, "T width"]:
    """The final hidden state of every buffer token."""
    device = layout.position.device
    with attention_named(model, NAME):
        output = model.base_model(
            input_ids=forest.ids.to(device)[None], position_ids=layout.position[None], use_cache=False, forest=layout
        )
    states: Tensor = output.last_hidden_state[0]
    return states


def plain_score(model: PreTrainedModel, forest: Forest, *, rows_per_forward: int | None = None) -> Score:
    """The same by the model's own forward, attention and head, one sequence per row, padded on the right.

    The forest must have been built without sharing. `rows_per_forward=1` is for models that look at
    the longest row of a forward (dynamic and long RoPE), where padding would change the result.
    """
    device = model.get_input_embeddings().weight.device
    starts = torch.nonzero(forest.position == 0)[:, 0].tolist()
    spans = list(zip(starts, [*starts[1:], forest.num_tokens], strict=True))
    step = rows_per_forward or len(spans)
    total = torch.zeros((), device=device)
    logp = torch.empty(forest.num_trained_tokens, device=device)
    for first in range(0, len(spans), step):
        some = spans[first : first + step]
        ids = pad_sequence([forest.ids[a:b] for a, b in some], batch_first=True).to(device)
        mask = pad_sequence([torch.ones(b - a, dtype=torch.long) for a, b in some], batch_first=True).to(device)
        with attention_named(model, plain_attention_of(model)):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        flat = logits.masked_select(mask.bool()[..., None]).view(-1, logits.shape[-1])
        low, high = some[0][0], some[-1][1]
        chosen = torch.nonzero((forest.source >= low) & (forest.source < high))[:, 0]
        rows = flat[(forest.source[chosen] - low).to(device)]
        loss, part = dense_nll(rows, forest.target[chosen].to(device), forest.weight[chosen].to(device))
        total = total.to(loss.dtype) + loss
        logp = logp.to(part.dtype)
        logp[chosen.to(device)] = part
    return total, logp


def dense_nll(logits: Float[Tensor, "N vocabulary"], target: Tensor, weight: Float[Tensor, " N"]) -> Score:
    """Weighted NLL of logits that are there in full."""
    logits = logits.to(at_least_float32(logits.dtype))
    logp = torch.log_softmax(logits, dim=-1).gather(1, target[:, None])[:, 0]
    return -(weight.to(logp.dtype) * logp).sum(), logp.detach()


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Lower-precision products with float32 weights for `bfloat16`; nothing for the rest."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
