"""One switch takes every kernel out, and what is computed stays."""

import pytest
import torch
from families import branching_sequences, difference, scored, tiny
from torch import nn

from heed.forest.build import build
from heed.models.attention import forest_attention
from heed.models.heads.language import Head
from heed.models.kernels.speed import speed_up
from heed.models.score import forest_score

FOREST = build(branching_sequences())


def learned(family):
    model = tiny(family)
    speed_up(model)
    return model, *scored(model, forest_score, FOREST)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "mistral with a window"])
def test_without_kernels_the_gradient_is_the_same(family, monkeypatch):
    _, loss, gradient = learned(family)
    monkeypatch.setenv("HEED_PLAIN", "1")
    for kernel in ("tree_attention", "row_attention"):
        monkeypatch.setattr(forest_attention, kernel, None)  # it would be noticed if it were called
    model, plain_loss, plain_gradient = learned(family)
    assert not any("forward" in vars(module) for module in model.modules() if type(module) is nn.Linear)
    assert not any("forward" in vars(module) for module in model.modules() if type(module) is nn.Embedding)
    assert Head.of(model) is None
    assert plain_loss == pytest.approx(loss, rel=1e-12)
    assert difference(plain_gradient, gradient) < 1e-10
    assert all(g.dtype == torch.float64 for g in plain_gradient.values())
