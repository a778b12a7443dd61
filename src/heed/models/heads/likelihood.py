"""How likely tokens are and whether each is the likeliest, without a gradient: for measuring, not for training."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from heed.models.heads.language import Head, adjusted, adjustment, at_least_float32, inputs_of, parts

Likely = tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]
"""log p of each token asked for, in nats, and whether it is the likeliest of the vocabulary at its place"""


def likely(
    model: PreTrainedModel, rows: Float[Tensor, "rows width"], row: Int[Tensor, " N"], target: Int[Tensor, " N"]
) -> Likely:
    """log p(target[n] | rows[row[n]]) and whether target[n] is the argmax there, in chunks of rows.

    Args:
        rows: final hidden states, one for each place at which a token is asked for.
        row: index into `rows` of the state that predicts token n; a row may predict several.
        target: ids of the tokens.
    """
    rows = rows.detach()
    logits_of, vocabulary, dtype = _logits_of(model, rows)
    logp = torch.empty(len(target), dtype=dtype, device=rows.device)
    is_greedy = torch.empty(len(target), dtype=torch.bool, device=rows.device)
    for part in parts(row, target, num_rows=len(rows), vocabulary=vocabulary):
        found = likely_of_logits(logits_of(rows[part.rows]).to(dtype), part.row, part.token)
        logp[part.entries], is_greedy[part.entries] = found
    return logp, is_greedy


def _logits_of(model: PreTrainedModel, rows: Tensor) -> tuple[Callable[[Tensor], Tensor], int, torch.dtype]:
    """What turns rows into logits of their own, for how many tokens, and the dtype to take their softmax in."""
    if (head := Head.of(model)) is None:
        factors = adjustment(model)
        layer = model.get_output_embeddings()
        vocabulary = int(model.config.get_text_config().vocab_size)
        return lambda some: adjusted(layer(some), *factors), vocabulary, at_least_float32(rows.dtype)
    *_, head = inputs_of(rows, head)
    low = head.weight.dtype

    def logits_of(some: Tensor) -> Tensor:
        with torch.autocast(some.device.type, enabled=False):
            return head.logits(some.to(low))

    return logits_of, len(head.weight), at_least_float32(low)


def likely_of_logits(
    logits: Float[Tensor, "rows vocabulary"], row: Int[Tensor, " N"], target: Int[Tensor, " N"]
) -> Likely:
    """The same of logits that are there in full, in at least float32; they are used up.

    log p = z[target] - max z - log sum_v exp(z[v] - max z)

    Of tokens that are equally likely the first in the vocabulary counts as the likeliest, as `torch.argmax` has it.
    """
    likeliest = logits.argmax(dim=-1)
    shifted = logits.sub_(logits.gather(1, likeliest[:, None]))
    chosen = shifted[row, target]
    return chosen - shifted.exp_().sum(dim=-1).log()[row], likeliest[row] == target
