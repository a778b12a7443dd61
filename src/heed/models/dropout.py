"""Nothing is left to chance in a forward: dropout, layer drop and router noise are off, checkpointing or not.

A forest computes a token's hidden state once for all sequences that hold it, and checkpointing computes it twice:
either way it must be one function of its inputs. Models drop in three ways: by `nn.Dropout`, by functions that are
given a number kept on a module, and by numbers read from the config, each only where a module is in training mode. So
the numbers on modules become 0, and no module is in training mode while it computes, which takes care of the config's
numbers and of routers' noise too. The config stays as it came, because it is written beside the tuned weights; a
router's jitter stays a number, because PhiMoE's router reads it as a threshold whatever the mode.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers.modeling_layers import GradientCheckpointingLayer

Checkpoint = Callable[..., Any]
"""(function, *its inputs) -> its output, computed again in the backward"""
Around = Callable[..., AbstractContextManager[Any]]


def nothing_around(*inputs: Any) -> AbstractContextManager[Any]:
    """Where a layer's inputs are kept as they are."""
    return nullcontext()


def dropout_off(model: nn.Module) -> None:
    """Put the model in evaluation mode, and every probability of dropping on its modules to 0."""
    model.eval()
    for module in model.modules():
        names = ["p"] if isinstance(module, _DropoutNd) else []
        names += [name for name, value in vars(module).items() if _is_probability(name, value)]
        for name in names:
            setattr(module, name, 0.0)


def _is_probability(name: str, value: object) -> bool:
    """`attention_dropout`, `resid_pdrop`, `layerdrop` and the like."""
    return isinstance(value, float) and "drop" in name.lower()


def recompute_in_evaluation(model: nn.Module, around: Around) -> None:
    """Let the layers be recomputed in the backward, which transformers does in training mode alone, and compute in
    evaluation mode nevertheless, both times.

    Args:
        around: of a layer's inputs, entered where they are kept.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and hasattr(module, "_gradient_checkpointing_func"):
            checkpoint = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = partial(_in_evaluation, module, checkpoint, around)
            module.training = True  # of the layer alone, not of what is inside


def _in_evaluation(
    layer: nn.Module, checkpoint: Checkpoint, around: Around, forward: Callable[..., Any], *inputs: Any
) -> Any:
    def evaluated(*inputs: Any) -> Any:
        layer.training = False
        try:
            return forward(*inputs)
        finally:
            layer.training = True

    with around(*inputs):
        return checkpoint(evaluated, *inputs)
