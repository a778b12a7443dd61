"""Many families: the forest's loss and gradient of every parameter against transformers' own eager loss."""

from functools import cache

import pytest
import torch
from families import FALLBACK, FOREST, branching_sequences, difference, reference, scored, tiny

from heed.forest.build import build
from heed.models.check import choose_score
from heed.models.score import forest_score, plain_score
from heed.models.speed import speed_up

ITEMS = branching_sequences()


@cache
def expected(family):
    """In float64, with the family's own casts widened: the exact answer, to rounding."""
    return reference(family, ITEMS)


@pytest.mark.parametrize("family", FOREST)
def test_the_forest_computes_transformers_own_gradient(family):
    expected_loss, expected_gradient = expected(family)
    model = tiny(family)
    speed_up(model)
    for share in (True, False):
        loss, gradient = scored(model, forest_score, build(ITEMS, share=share))
        assert loss == pytest.approx(expected_loss, rel=1e-10)
        assert difference(gradient, expected_gradient) < 1e-9


@pytest.mark.parametrize("family", FOREST)
def test_the_forest_computes_the_same_in_float32(family):
    expected_loss, expected_gradient = expected(family)
    model = tiny(family, dtype=torch.float32)
    speed_up(model)
    loss, gradient = scored(model, forest_score, build(ITEMS))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert difference(gradient, expected_gradient) < 1e-5
