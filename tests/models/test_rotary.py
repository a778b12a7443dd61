"""The rotation in few passes is the families' own, in value and gradient, and only where it is that function."""

import copy
import math

import pytest
import torch
from families import tiny
from transformers.models.llama import modeling_llama

from heed.models.kernels.rotary import Rotated, rotated_pair, rotates_halves, use_fused_rotation
from heed.models.kernels.speed import speed_up

ROTATING_HALVES = ["llama", "mistral", "qwen2 with a window", "qwen3", "gemma2", "gemma3", "smollm3", "granite", "phi"]
ROTATING_OTHERWISE = ["gpt-oss", "cohere"]


def refuses(*_, **__):
    raise AssertionError("the family's own rotation was asked")


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attentions_of(model):
    return [module for name, module in model.named_modules() if name.endswith(("self_attn", "attention"))]


def test_a_quarter_turn_by_hand():
    # (a, b) turned by 90 degrees is (-b, a); by 0 degrees it stays.
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]], dtype=torch.float64)
    angle = torch.tensor([math.pi / 2, 0.0, math.pi / 2, 0.0], dtype=torch.float64)
    query, key = rotated_pair(refuses, x, 10 * x, angle.cos()[None, None], angle.sin()[None, None])
    assert query.flatten().tolist() == pytest.approx([-3.0, 2.0, 1.0, 4.0], abs=1e-12)
    assert key.flatten().tolist() == pytest.approx([-30.0, 20.0, 10.0, 40.0], abs=1e-12)


def test_it_and_its_gradient_are_transformers_own():
    cos, sin = drawn(2, 5, 8, seed=1), drawn(2, 5, 8, seed=2)
    results = []
    for rotate in (modeling_llama.apply_rotary_pos_emb, lambda *given: rotated_pair(refuses, *given)):
        query, key = drawn(2, 3, 5, 8, seed=3).requires_grad_(), drawn(2, 1, 5, 8, seed=4).requires_grad_()
        turned = rotate(query, key, cos, sin)
        (turned[0] * drawn(2, 3, 5, 8, seed=5)).sum().backward()
        (turned[1] * drawn(2, 1, 5, 8, seed=6)).sum().backward()
        results.append([*turned, query.grad, key.grad])
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_in_float32_it_is_transformers_own_to_the_bit():
    query, key = drawn(1, 4, 37, 24, dtype=torch.float32), drawn(1, 2, 37, 24, seed=1, dtype=torch.float32)
    angle = 6 * drawn(1, 37, 24, seed=2, dtype=torch.float32)
    ours = rotated_pair(refuses, query, key, angle.cos(), angle.sin())
    theirs = modeling_llama.apply_rotary_pos_emb(query, key, angle.cos(), angle.sin())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_its_gradient_is_that_of_differences():
    x, cos, sin = drawn(1, 2, 3, 6).requires_grad_(), drawn(1, 1, 3, 6, seed=1), drawn(1, 1, 3, 6, seed=2)
    assert torch.autograd.gradcheck(lambda x: Rotated.apply(x, cos, sin), (x,))


@pytest.mark.parametrize("family", ROTATING_HALVES)
def test_every_attention_of_a_family_that_rotates_halves_is_swapped(family):
    model = tiny(family)
    speed_up(model)
    swapped = [module for module in attentions_of(model) if "forward" in vars(module)]
    assert len(swapped) == len(attentions_of(model)) == model.config.num_hidden_layers


@pytest.mark.parametrize("family", ROTATING_OTHERWISE)
def test_a_family_that_rotates_otherwise_keeps_its_own(family):
    model = tiny(family)
    speed_up(model)
    assert [module for module in attentions_of(model) if "forward" in vars(module)] == []


@pytest.mark.parametrize("family", [*ROTATING_HALVES, *ROTATING_OTHERWISE, "phi3 with a window", "gpt-neox", "olmo2"])
def test_the_whole_model_says_the_same(family):
    own, swapped = tiny(family, dtype=torch.float32), tiny(family, dtype=torch.float32)
    speed_up(swapped)
    ids = torch.arange(3, 43)[None]
    found = []
    for model in (own, swapped):
        logits = model(ids, use_cache=False).logits
        logits.log_softmax(-1)[0, torch.arange(39), ids[0, 1:]].sum().backward()
        found.append((logits.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)
    for name, right in found[0][1].items():
        assert float((found[1][1][name] - right).norm()) <= 1e-4 * float(right.norm()), name


def test_a_model_that_was_not_sped_up_is_as_before():
    before = modeling_llama.apply_rotary_pos_emb
    speed_up(tiny("llama"))
    assert modeling_llama.apply_rotary_pos_emb is before
    assert [module for module in attentions_of(tiny("llama")) if "forward" in vars(module)] == []


def test_layers_share_one_copy_of_their_class_forward():
    model = tiny("llama")
    speed_up(model)
    assert len({module.forward.__func__ for module in attentions_of(model)}) == 1
    assert all(module.forward.__self__ is module for module in attentions_of(model))


def test_a_model_that_is_not_on_the_cpu_keeps_its_own():
    attention = copy.deepcopy(attentions_of(tiny("llama"))[0]).to("meta")
    use_fused_rotation(attention)
    assert "forward" not in vars(attention)


def by_head(query, key, cos, sin):
    """Makes no room for the heads, so that the angles of a lone sequence broadcast to the right numbers."""
    halves = modeling_llama.rotate_half
    return query * cos + halves(query) * sin, key * cos + halves(key) * sin


def the_same_for_every_sequence(query, key, cos, sin):
    return modeling_llama.apply_rotary_pos_emb(query, key, cos[:1], sin[:1])


def with_cosines_alone(query, key, cos, sin):
    return query * cos.unsqueeze(1), key * cos.unsqueeze(1)


def test_a_rotation_is_asked_about_more_than_one_sequence():
    assert rotates_halves(modeling_llama.apply_rotary_pos_emb)
    for other in (by_head, the_same_for_every_sequence, with_cosines_alone, refuses):
        assert not rotates_halves(other)


HEADS, ANGLES = drawn(2, 2, 2, 8), drawn(2, 2, 8)


@pytest.mark.parametrize(
    ("query", "key", "cos", "sin", "further"),
    [
        (HEADS.bfloat16(), HEADS.bfloat16(), ANGLES.bfloat16(), ANGLES.bfloat16(), ()),
        (HEADS, HEADS.float(), ANGLES, ANGLES, ()),
        (HEADS, HEADS, ANGLES, ANGLES.float(), ()),
        (HEADS, HEADS, ANGLES[..., :4], ANGLES[..., :4], ()),
        (HEADS, HEADS, ANGLES[0], ANGLES[0], ()),
        (HEADS, HEADS, ANGLES[:, None], ANGLES[:, None], ()),
        (HEADS[0], HEADS[0], ANGLES, ANGLES, ()),
        (HEADS, HEADS[0], ANGLES, ANGLES, ()),
        (HEADS, HEADS, ANGLES, ANGLES[:1], ()),
        (HEADS, HEADS, ANGLES.clone().requires_grad_(), ANGLES, ()),
        (HEADS, HEADS, ANGLES, ANGLES.clone().requires_grad_(), ()),
        (HEADS, HEADS, ANGLES, ANGLES, (1,)),
    ],
    ids=[
        "in low precision",
        "a key of another precision",
        "sines of another precision",
        "a part of each head",
        "angles without a batch",
        "angles with room for heads",
        "one sequence without a batch",
        "a key without a batch",
        "sines of another shape",
        "cosines that learn",
        "sines that learn",
        "with another argument",
    ],
)
def test_what_it_does_not_know_is_left_to_the_familys_own(query, key, cos, sin, further):
    asked = []

    def own(*given):
        asked.append(given)
        return query, key

    found = rotated_pair(own, query, key, cos, sin, *further)
    assert found[0] is query
    assert found[1] is key
    assert [tuple(map(id, given)) for given in asked] == [tuple(map(id, (query, key, cos, sin, *further)))]
