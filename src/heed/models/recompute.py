"""Activations that are dropped after the forward and computed again in the backward, with what the forward had.

    keep        nothing is dropped
    recompute   of a layer its input is kept, and the layer computed again
    selective   of a layer its input and what products and attention gave are kept, the rest is computed again: about
                the time of `keep`, for norms, activation functions and rotations cost little beside products
    offload     as recompute, the inputs in the CPU's memory: a device holds one layer's activations, whatever the depth

Sources: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174; Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", arXiv:2205.05198, section 5, which recomputes attention
and keeps the rest: where attention keeps no scores, as here, it is the other way round.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from heed.memory_config import Activations
from heed.models.adapters.switch import State, Switchable, adapters_as, state_of, switchable_layers
from heed.models.attention.forest_attention import attention_named

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
"""around a layer's forward, and around its computation in the backward"""
COSTLY = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::linear",
    "aten::_grouped_mm",
    "mkldnn::_linear_pointwise",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
)
"""operations whose results `selective` keeps; FlexAttention, compiled on its own, is computed again"""


def contexts_of(model: PreTrainedModel, activations: Activations) -> Callable[[], Contexts]:
    """What `checkpoint` is to enter around each layer of the model."""
    return partial(products_kept if activations == "selective" else as_in_the_forward, model)


def as_in_the_forward(model: PreTrainedModel) -> Contexts:
    """For the forward nothing; for the backward the attention and the adapters that are on now: by then the model has
    its own back.
    """
    layers = switchable_layers(model)
    name = model.config._attn_implementation_internal
    return nullcontext(), _recomputed(model, name, layers, state_of(layers))


def products_kept(model: PreTrainedModel) -> Contexts:
    """The same, and costly operations give in the backward what they gave in the forward, without computing it."""
    _, as_it_was = as_in_the_forward(model)
    keeping, giving = create_selective_checkpoint_contexts(_is_kept)
    return keeping, _both(as_it_was, giving)


def _is_kept(context: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    return (
        CheckpointPolicy.MUST_SAVE
        if operation.name().partition(".")[0] in COSTLY
        else CheckpointPolicy.PREFER_RECOMPUTE
    )


@contextmanager
def _both(one: AbstractContextManager[Any], other: AbstractContextManager[Any]) -> Iterator[None]:
    with one, other:
        yield


def inputs_on_cpu(*inputs: Any) -> AbstractContextManager[Any]:
    """What is entered where a layer's inputs are kept, for the way to the CPU's memory and back.

    On a CPU they are there already, and a copy would only take more.
    """
    devices = {each.device.type for each in inputs if isinstance(each, torch.Tensor)} - {"cpu"}
    return save_on_cpu(pin_memory="cuda" in devices) if devices else nullcontext()


@contextmanager
def _recomputed(model: PreTrainedModel, attention: str, layers: Sequence[Switchable], state: State) -> Iterator[None]:
    with attention_named(model, attention), adapters_as(layers, state):
        yield


def recomputed(model: PreTrainedModel, function: Callable[..., Any], *inputs: Any) -> Any:
    """What `function` of the inputs gives; where a gradient is recorded, its inside is not kept for it."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is drawn in a forward
        context_fn=partial(as_in_the_forward, model),
    )
