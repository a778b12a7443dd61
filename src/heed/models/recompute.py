"""Activations that are dropped after the forward and computed again in the backward, with what the forward had."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from heed.models.adapters.switch import State, Switchable, adapters_as, state_of, switchable_layers
from heed.models.attention.forest_attention import attention_named


def as_in_the_forward(
    model: PreTrainedModel,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the forward nothing; for the backward the attention and the adapters that are on now: by then the model has
    its own back.
    """
    layers = switchable_layers(model)
    name = model.config._attn_implementation_internal
    return nullcontext(), _recomputed(model, name, layers, state_of(layers))


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
