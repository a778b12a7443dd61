"""Which adapter of a model is on: switched without touching what is trained.

peft's own switches set `requires_grad` as they go, and a policy whose adapter was switched off between its forward and
its backward learns nothing, silently. Here a switch sets what the layers look up when they run, and that alone, so a
graph that is recorded keeps its gradient whatever is on by the time of its backward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

Switchable: TypeAlias = BaseTunerLayer | AuxiliaryTrainingWrapper

State = list[tuple[str | list[str], bool]]
"""of each layer: the adapters that are on, and whether all are off"""


def switchable_layers(model: nn.Module) -> list[Switchable]:
    """The layers of a model that look up which adapter is on."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]


@contextmanager
def adapter_on(layers: Sequence[Switchable], name: str | None) -> Iterator[None]:
    """Run with one adapter on, or with none; what was on comes back afterwards, whatever happens."""
    before = state_of(layers)
    try:
        for layer in layers:
            # A layer that this adapter has no weights for runs as the base, and must not be told to look for any.
            names = [name] if name is not None and name in layer._get_available_adapters() else []
            layer._active_adapter, layer._disable_adapters = names, False
        yield
    finally:
        _put(layers, before)


@contextmanager
def adapters_as(layers: Sequence[Switchable], state: State) -> Iterator[None]:
    """Run with the adapters on that `state_of` saw; what was on comes back afterwards, whatever happens."""
    before = state_of(layers)
    try:
        _put(layers, state)
        yield
    finally:
        _put(layers, before)


def state_of(layers: Sequence[Switchable]) -> State:
    """What is on now."""
    return [(layer._active_adapter, layer._disable_adapters) for layer in layers]


def _put(layers: Sequence[Switchable], state: State) -> None:
    for layer, (names, off) in zip(layers, state, strict=True):
        layer._active_adapter, layer._disable_adapters = names, off
