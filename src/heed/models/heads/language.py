"""The language model head on gathered rows: logits for the whole batch never exist.

Rows are taken in chunks; for each, logits, their softmax and their gradient are made, used and dropped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from heed.models.adapters.new_rows import NewRows, table_and_new_rows
from heed.models.frozen import HALF
from heed.models.kernels.matmul import add_transposed_product, multiply, multiply_rows
from heed.models.kernels.plain import plain

CHUNK_ELEMENTS = 16 * 1024 * 1024
"""logits of one chunk: 64 MiB in float32"""


@dataclass(frozen=True, eq=False)
class Head:
    """logits = softcap * tanh(scale * (hidden W^T + bias) / softcap), the softcap where there is one."""

    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None
    scale: float = 1.0
    """Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`"""
    softcap: float | None = None
    """Gemma 2's `final_logit_softcapping`"""
    new: NewRows | None = None
    """rows that an adapter trains in place of the weight's own"""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Head | None":
        """The model's head, or None where its layer is more than a linear one with rows for new tokens."""
        layer = model.get_output_embeddings()
        if plain():
            return None
        if type(layer) is torch.nn.Linear:
            return cls(layer.weight, layer.bias, *adjustment(model))
        found = table_and_new_rows(layer)
        return None if found is None else cls(found[0], None, *adjustment(model), new=found[1])

    def logits(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocabulary"]:
        """Logits of a few rows, in a buffer of their own."""
        logits = multiply_rows(rows, self.weight, self.bias)
        if self.new is not None:
            logits[:, self.new.ids] = rows @ self.new.rows.to(rows.dtype).t()
        return adjusted(logits, self.scale, self.softcap)

    def undo(
        self, grad: Float[Tensor, "rows vocabulary"], logits: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Turn a gradient of the logits into one of hidden W^T + bias, in place."""
        if self.softcap is not None:  # d tanh(x)/dx = 1 - tanh(x)^2, and logits / softcap is tanh(x)
            grad.mul_(1 - (logits / self.softcap).square_())
        return grad.mul_(self.scale) if self.scale != 1.0 else grad


def adjustment(model: PreTrainedModel) -> tuple[float, float | None]:
    """The factor and the soft-cap that the model's family puts on its logits after the head."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= divisor
    return float(scale), getattr(config, "final_logit_softcapping", None)


def adjusted(logits: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Put factor and soft-cap on logits, in place where no gradient is recorded."""
    if scale != 1.0:
        logits = logits * scale if logits.requires_grad else logits.mul_(scale)
    if softcap is not None:
        logits = (
            (logits / softcap).tanh() * softcap if logits.requires_grad else logits.div_(softcap).tanh_().mul_(softcap)
        )
    return logits


def rows_of_chunk(vocabulary: int) -> int:
    """Rows whose logits stay within `CHUNK_ELEMENTS`."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


def chunks(num_rows: int, vocabulary: int) -> list[slice]:
    """Equal chunks of rows whose logits stay within `CHUNK_ELEMENTS`."""
    count = max(1, -(-num_rows // rows_of_chunk(vocabulary)))
    size = max(1, -(-num_rows // count))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


@dataclass(frozen=True, eq=False)
class Part:
    """One chunk of rows, and the trained tokens that they predict."""

    rows: slice
    entries: Int[Tensor, " n"]
    """which of the N trained tokens"""
    row: Int[Tensor, " n"]
    """row of each in the chunk"""
    token: Int[Tensor, " n"]
    """id of each"""


def parts(row: Int[Tensor, " N"], target: Int[Tensor, " N"], *, num_rows: int, vocabulary: int) -> Iterator[Part]:
    """The chunks of all rows, each with its trained tokens."""
    order = torch.argsort(row, stable=True)
    bounds = torch.searchsorted(row[order], torch.arange(num_rows + 1, device=row.device)).tolist()
    for chunk in chunks(num_rows, vocabulary):
        entries = order[bounds[chunk.start] : bounds[chunk.stop]]
        yield Part(chunk, entries, row[entries] - chunk.start, target[entries])


def gradient_of_logits(
    exponentials: Float[Tensor, "rows vocabulary"], total: Float[Tensor, " rows"], part: Part, weight: Tensor
) -> Float[Tensor, "rows vocabulary"]:
    """d (sum_n weight[n] * NLL[n]) / d logits, written over the softmax's numerators.

    With p = exponentials / total and W_r the sum of the weights of row r's targets, entry (r, v) is
    W_r p[v] - sum of the weights of the targets equal to v.
    """
    row_weight = torch.zeros_like(total).index_add_(0, part.row, weight)
    grad = exponentials.mul_((row_weight / total)[:, None])
    return grad.index_put_((part.row, part.token), -weight, accumulate=True)


@dataclass(eq=False)
class Gradients:
    """Gradients of the head's inputs, added up chunk by chunk; None where nothing asks for one."""

    rows: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    new: Tensor | None

    @classmethod
    def needed(
        cls,
        needs: Sequence[bool],
        states: Tensor,
        head_weight: Tensor,
        head_bias: Tensor | None,
        new_rows: Tensor | None,
    ) -> "Gradients":
        """Room for those that are needed; the rows' are set chunk by chunk, the head's start at 0."""
        return cls(
            torch.empty_like(states) if needs[0] else None,
            torch.zeros_like(head_weight) if needs[1] else None,
            torch.zeros_like(head_bias) if needs[2] and head_bias is not None else None,
            torch.zeros_like(new_rows) if needs[3] and new_rows is not None else None,
        )

    def add(self, part: Part, grad: Float[Tensor, "rows vocabulary"], states: Tensor, head: Head) -> None:
        """Take in one chunk: `grad` is the gradient of states W^T + bias there; it is used up."""
        to_new = None
        if head.new is not None:  # the weight's own rows took no part
            to_new = grad[:, head.new.ids]
            grad[:, head.new.ids] = 0
        if self.rows is not None:
            self.rows[part.rows] = multiply(grad, head.weight)
            if head.new is not None and to_new is not None:
                self.rows[part.rows] += to_new @ head.new.rows.to(to_new.dtype)
        if self.new is not None and to_new is not None:
            self.new.add_(to_new.to(self.new.dtype).t() @ states[part.rows].to(self.new.dtype))
        if self.weight is not None:
            dtype = self.weight.dtype
            add_transposed_product(self.weight, grad.to(dtype), states[part.rows].to(dtype))
        if self.bias is not None:
            self.bias.add_(grad.sum(0))


class WeightedNLL(torch.autograd.Function):
    """sum_n weight[n] * NLL[n], its gradient formed in the forward while each chunk's softmax is at hand.

    Three matrix products in all: logits, and the gradients of rows and of the head. A frozen head costs two.
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
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `weighted_nll`. The head's own tensors come before it, so that autograd sees them."""
        needs_gradient = any(ctx.needs_input_grad[:4])
        states = rows.to(head.weight.dtype)
        gradients = Gradients.needed(ctx.needs_input_grad, states, head_weight, head_bias, new_rows)
        logp = torch.empty(len(target), dtype=at_least_float32(head_weight.dtype), device=rows.device)
        for part in parts(row, target, num_rows=len(rows), vocabulary=len(head.weight)):
            logits = head.logits(states[part.rows]).to(logp.dtype)
            kept = logits.clone() if head.softcap is not None and needs_gradient else logits
            # In place throughout: logits - max, its exponential, and the softmax's gradient share one buffer.
            shifted = logits.sub_(logits.amax(dim=-1, keepdim=True))
            chosen = shifted[part.row, part.token]
            total = shifted.exp_().sum(dim=-1)
            logp[part.entries] = chosen - total.log()[part.row]
            if needs_gradient:
                grad = gradient_of_logits(shifted, total, part, weight[part.entries])
                gradients.add(part, head.undo(grad, kept).to(states.dtype), states, head)
        grad_rows = gradients.rows
        to_rows = None if grad_rows is None else grad_rows.to(rows.dtype)
        ctx.grads = (to_rows, gradients.weight, gradients.bias, gradients.new)
        ctx.mark_non_differentiable(logp)
        return -(weight * logp).sum(), logp

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, grad_logp: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Hand out the gradients; scaling them is skipped where the loss is differentiated as it is."""
        grads, ctx.grads = ctx.grads, None
        if grad_loss.item() != 1.0:
            grads = tuple(None if grad is None else grad * grad_loss.to(grad.dtype) for grad in grads)
        return *grads, None, None, None, None


def weighted_nll(
    rows: Float[Tensor, "rows width"],
    head: Head,
    row: Int[Tensor, " N"],
    target: Int[Tensor, " N"],
    weight: Float[Tensor, " N"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """The weighted sum of negative log-likelihoods, for weights that are known before the forward.

    loss = - sum_n weight[n] * log p(target[n] | rows[row[n]])

    Args:
        rows: final hidden states, one for each distinct source of the forest.
        head: turns rows into logits.
        row: index into `rows` of the state that predicts token n; a row may predict several.
        target: ids of the trained tokens.
        weight: loss weights with the step's divisor already in them, so that the gradient needs no second pass.

    Returns:
        loss: in nats, differentiable once.
        logp: log p of each trained token, detached, for statistics.
    """
    weight = weight.to(at_least_float32(head.weight.dtype))
    inputs = inputs_of(rows, head)
    with torch.autocast(rows.device.type, enabled=False):
        loss, logp = WeightedNLL.apply(*inputs, row, target, weight)  # type: ignore[no-untyped-call]
    return loss, logp


def as_multiplied(weight: Tensor) -> Tensor:
    """A weight in the dtype that products take it in: autocast's, where it is on, so that it is cast once."""
    device = weight.device.type
    is_low = torch.is_autocast_enabled(device) and weight.dtype == torch.float32
    return weight.detach().to(torch.get_autocast_dtype(device)) if is_low else weight


def inputs_of(rows: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Head]:
    """Rows, the head's weight, bias and new rows as autograd is to see them, and the head to compute with."""
    parameter, bias = head.weight, head.bias
    new = None if head.new is None else head.new.rows
    device = rows.device.type
    if torch.is_autocast_enabled(device):  # one cast of the head for all chunks; sums stay in float32
        low = torch.get_autocast_dtype(device)
        head = replace(head, weight=parameter.detach().to(low), bias=None if bias is None else bias.detach().to(low))
    elif rows.dtype == torch.float32 and parameter.dtype in HALF:  # a frozen one in its checkpoint's dtype
        head = replace(head, weight=parameter.detach().float())
    if not torch.is_grad_enabled():  # what needs a gradient is asked of the inputs alone, whatever the mode
        rows, parameter = rows.detach(), parameter.detach()
        bias, new = (None if x is None else x.detach() for x in (bias, new))
    return rows, parameter, bias, new, head


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type in which softmaxes and sums are taken."""
    return dtype if dtype == torch.float64 else torch.float32
