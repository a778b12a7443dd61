"""Log-probabilities of trained tokens that carry a gradient, for losses whose weights depend on them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from heed.models.heads.language import Gradients, Head, Part, at_least_float32, gradient_of_logits, inputs_of, parts


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What one forward says of the N trained tokens of a forest."""

    logp: Float[Tensor, " N"]
    """log p of each trained token given those before it, in nats, at the temperature asked for; differentiable once"""
    entropy: Float[Tensor, " N"] | None
    """entropy of the distribution that each was drawn from, in nats, detached; None where it was not asked for"""


@dataclass(eq=False)
class Kept:
    """One chunk's softmax, which the forward leaves to the backward or the backward makes again."""

    part: Part
    exponentials: Tensor
    total: Tensor
    logits: Tensor
    """before the temperature; the same as `exponentials` where there is no soft-cap to undo"""


class TokenLogp(torch.autograd.Function):
    """log p of each target, chunk by chunk; the backward takes any gradient of them.

    With p = softmax(logits / temperature) of a row and g_n the gradient of token n's log p,
    d loss / d logits[r, v] = sum over the targets n of row r of g_n (1[v = target n] - p[v]) / temperature.

    The last chunk's softmax is kept; the backward makes the logits of those before it again. So rows that fit one
    chunk cost three matrix products in all, as many as a loss whose weights are known before the forward, and many
    rows cost four.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        rows: Tensor,
        head_weight: Tensor,
        head_bias: Tensor | None,
        new_rows: Tensor | None,
        head: Head,
        row: Tensor,
        target: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """See `token_logp`. The head's own tensors come before it, so that autograd sees them."""
        states = rows.to(head.weight.dtype)
        logp = torch.empty(len(target), dtype=at_least_float32(head_weight.dtype), device=rows.device)
        entropy = torch.empty_like(logp) if with_entropy else None
        ctx.kept = None
        for part in parts(row, target, num_rows=len(rows), vocabulary=len(head.weight)):
            logits, shifted = tempered(head, states[part.rows], logp.dtype, temperature)
            chosen = shifted[part.row, part.token]
            exponentials = shifted.exp() if with_entropy else shifted.exp_()
            total = exponentials.sum(dim=-1)
            log_total = total.log()
            logp[part.entries] = chosen - log_total[part.row]
            if entropy is not None:  # H = log sum exp z - sum p z
                entropy[part.entries] = (log_total - shifted.mul_(exponentials).sum(dim=-1) / total)[part.row]
            if part.rows.stop == len(rows) and any(ctx.needs_input_grad):
                ctx.kept = Kept(part, exponentials, total, logits)
        ctx.save_for_backward(rows, head_weight, head_bias, new_rows, row, target)
        ctx.head, ctx.temperature = head, temperature
        if entropy is not None:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_logp: Tensor, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of rows, weight, bias and new rows. A second backward of one graph makes the logits again."""
        rows, head_weight, head_bias, new_rows, row, target = ctx.saved_tensors
        head: Head = ctx.head
        kept, ctx.kept = ctx.kept, None
        states = rows.to(head.weight.dtype)
        adds_in_place = adds_to_grad(head_weight) and ctx.needs_input_grad[1]
        needs = list(ctx.needs_input_grad[:4])
        needs[1] = needs[1] and not adds_in_place
        gradients = Gradients.needed(needs, states, head_weight, head_bias, new_rows)
        if adds_in_place:
            gradients.weight = head_weight.grad
        weight = grad_logp / -ctx.temperature  # of each token's NLL
        with torch.autocast(rows.device.type, enabled=False):  # a backward may be run inside the forward's autocast
            for part in reversed(list(parts(row, target, num_rows=len(rows), vocabulary=len(head.weight)))):
                each = kept or softmax_of(part, head, states, grad_logp.dtype, ctx.temperature)
                kept = None  # the last chunk's alone
                grad = gradient_of_logits(each.exponentials, each.total, each.part, weight[each.part.entries])
                gradients.add(each.part, head.undo(grad, each.logits).to(states.dtype), states, head)
                del each, grad  # or two chunks would be in memory while the next is made
        grad_rows = None if gradients.rows is None else gradients.rows.to(rows.dtype)
        to_weight = None if adds_in_place else gradients.weight
        return grad_rows, to_weight, gradients.bias, gradients.new, None, None, None, None, None


def adds_to_grad(head_weight: Tensor) -> bool:
    """Whether a head's gradient is added to the one that earlier micro-batches left, without a buffer between.

    For a vocabulary of 50,000 that buffer is 150 MB, at the very moment at which a step needs the most memory.
    """
    return head_weight.is_leaf and head_weight.grad is not None and head_weight.grad.dtype == head_weight.dtype


def tempered(head: Head, states: Tensor, dtype: torch.dtype, temperature: float) -> tuple[Tensor, Tensor]:
    """Logits, and logits / temperature less their largest; one buffer, unless a soft-cap needs the first later."""
    logits = head.logits(states).to(dtype)
    divided = logits.clone() if head.softcap is not None else logits
    if temperature != 1.0:
        divided.div_(temperature)
    return logits, divided.sub_(divided.amax(dim=-1, keepdim=True))


def softmax_of(part: Part, head: Head, states: Tensor, dtype: torch.dtype, temperature: float) -> Kept:
    """One chunk's softmax, made again."""
    logits, shifted = tempered(head, states[part.rows], dtype, temperature)
    exponentials = shifted.exp_()
    return Kept(part, exponentials, exponentials.sum(dim=-1), logits)


def token_logp(
    rows: Float[Tensor, "rows width"],
    head: Head,
    row: Int[Tensor, " N"],
    target: Int[Tensor, " N"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """log p(target[n] | rows[row[n]]) at a temperature, with its gradient, and the entropies if asked.

    log p = z[target] - log sum_v exp z[v],    H = log sum_v exp z[v] - sum_v p[v] z[v],    z = logits / temperature

    Args:
        rows: final hidden states, one for each distinct source of the forest.
        head: turns rows into logits.
        row: index into `rows` of the state that predicts token n; a row may predict several.
        target: ids of the trained tokens.
        temperature: above 0; the one that the tokens were sampled at, or ratios to the sampler are not 1.

    Returns:
        logp: in nats, differentiable once, at least float32.
        entropy: in nats, detached; None where it was not asked for.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature must be above 0, and this one is {temperature}")
    inputs = inputs_of(rows, head)
    with torch.autocast(rows.device.type, enabled=False):
        logp, entropy = TokenLogp.apply(*inputs, row, target, temperature, with_entropy)  # type: ignore[no-untyped-call]
    return logp, entropy


def dense_logp(
    logits: Float[Tensor, "rows vocabulary"],
    row: Int[Tensor, " N"],
    target: Int[Tensor, " N"],
    *,
    temperature: float,
    with_entropy: bool,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """The same of logits that are there in full, by PyTorch's own operations."""
    logits = logits.to(at_least_float32(logits.dtype))
    if temperature != 1.0:
        logits = logits / temperature
    log_sum = torch.logsumexp(logits, dim=-1)
    logp = logits[row, target] - log_sum[row]
    if not with_entropy:
        return logp, None
    logits, log_sum = logits.detach(), log_sum.detach()
    probability = (logits - log_sum[:, None]).exp_()
    return logp, (log_sum - probability.mul_(logits).sum(dim=-1))[row]
