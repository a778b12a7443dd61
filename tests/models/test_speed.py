"""Swapped forwards compute what the families' own did, in value, gradient and parameters' names."""

import copy

import pytest
import torch
from families import FOREST, tiny
from torch import nn
from transformers.activations import NewGELUActivation

from heed.models.kernels.speed import speed_up, use_fused_rms_norm

EXPECTED_NORMS = {
    "llama": 7,
    "mistral": 7,
    "qwen3": 13,
    "gemma2": 13,
    "gemma3": 37,
    "phi3 with a window": 7,
    "smollm3": 7,
    "olmo2": 13,
    "granite": 7,
    "gpt-oss": 7,
}


def norms_of(model):
    return {name: m for name, m in model.named_modules() if type(m).__name__.endswith("RMSNorm")}


def is_swapped(module):
    return "forward" in vars(module)


@pytest.mark.parametrize("family", EXPECTED_NORMS)
def test_every_rms_norm_of_a_family_is_swapped_for_an_equal_one(family):
    own, swapped = tiny(family, dtype=torch.float32), tiny(family, dtype=torch.float32)
    speed_up(swapped)
    pairs = list(zip(norms_of(own).values(), norms_of(swapped).values(), strict=True))
    assert len(pairs) == EXPECTED_NORMS[family]
    generator = torch.Generator().manual_seed(0)
    for before, after in pairs:
        assert is_swapped(after)
        assert torch.equal(before.weight, after.weight)
        for scale in (1e-4, 1.0, 1e3):  # eps counts in the first
            inputs = [scale * torch.randn(2, 5, len(before.weight), generator=generator) for _ in range(2)]
            outputs, gradients = [], []
            for module in (before, after):
                x = inputs[0].clone().requires_grad_()
                out = module(x)
                outputs.append(out)
                gradients.append(torch.autograd.grad(out, (x, module.weight), inputs[1]))
            torch.testing.assert_close(outputs[1], outputs[0], rtol=2e-6, atol=1e-6)
            for got, right in zip(gradients[1], gradients[0], strict=True):
                assert float((got - right).abs().max()) <= 1e-5 * float(right.abs().max())


def rounded_otherwise(actual, norm, x):
    """The share of an RMSNorm's output that is not the exact value, rounded once."""
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight
    return float((actual != exact.to(actual.dtype)).double().mean())


@pytest.mark.parametrize("family", ["olmo2", "gpt-oss"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_statistics_in_float32_and_is_rounded_once(family, dtype):
    model = tiny(family, dtype=dtype)
    speed_up(model)
    norm = model.model.norm
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0)).to(dtype) * 300  # squares overflow float16
    actual = norm(x)
    assert is_swapped(norm)
    assert actual.dtype == dtype
    assert rounded_otherwise(actual, norm, x) < 0.01  # what lies half-way between two values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_that_also_rounds_before_its_weight_is_left_alone(dtype):
    model = tiny("llama", dtype=dtype)
    speed_up(model)
    assert [name for name, norm in norms_of(model).items() if is_swapped(norm)] == []
    norm = model.model.norm
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert rounded_otherwise(norm(x), norm, x) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_float32_are_not_rounded_to_the_inputs_precision(dtype):
    model = tiny("llama", dtype=torch.float32)  # as under autocast, where weights stay in float32
    speed_up(model)
    norm = model.model.norm
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    actual = norm(x)
    assert is_swapped(norm)
    assert actual.dtype == dtype
    # Rounded once: all but the rare value half-way between two. Rounded weights would move half of them.
    assert rounded_otherwise(actual, norm, x) < 0.01


def test_gpt2s_gelu_is_the_same_function():
    model = tiny("gpt2", dtype=torch.float32)
    speed_up(model)
    swapped = [module for module in model.modules() if isinstance(module, NewGELUActivation)]
    assert len(swapped) == 3
    x = torch.linspace(-12, 12, 4_001).requires_grad_()
    for module in swapped:
        assert is_swapped(module)
        actual, expected = module(x), NewGELUActivation()(x)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
        got, right = (torch.autograd.grad(y.sum(), x)[0] for y in (actual, expected))
        torch.testing.assert_close(got, right, rtol=1e-5, atol=2e-6)


class StrangeRMSNorm(nn.Module):
    """Named like one, and not one."""

    def __init__(self, how):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.full((16,), 1.5)), how
        self.variance_epsilon = 1e-6

    def forward(self, x):
        return self.how(x) * self.weight


def test_a_norm_that_computes_something_else_is_left_alone():
    # The median is none of the two forms; the mean of absolutes is near enough to fool a rough look.
    for how in (lambda x: x, lambda x: x / x.abs().mean(-1, keepdim=True), lambda x: x - x.mean(-1, keepdim=True)):
        module = StrangeRMSNorm(how)
        use_fused_rms_norm(module)
        assert not is_swapped(module)
        assert torch.equal(module.weight, torch.full((16,), 1.5))


def test_a_norm_that_raises_is_left_alone_with_its_weights():
    def refuses(x):
        raise TypeError("a second argument is missing")

    module = StrangeRMSNorm(refuses)
    use_fused_rms_norm(module)
    assert not is_swapped(module)
    assert torch.equal(module.weight, torch.full((16,), 1.5))


def test_a_swap_that_is_interrupted_leaves_the_weights():
    def interrupted(x):
        raise KeyboardInterrupt

    module = StrangeRMSNorm(interrupted)
    with pytest.raises(KeyboardInterrupt):
        use_fused_rms_norm(module)
    assert not is_swapped(module)
    assert torch.equal(module.weight, torch.full((16,), 1.5))


def test_a_norm_without_weight_or_epsilon_is_left_alone():
    module = StrangeRMSNorm(lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
    del module.variance_epsilon
    use_fused_rms_norm(module)
    assert not is_swapped(module)


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_a_table_learns_what_pytorchs_own_would_and_adds_to_what_is_there(padding_idx):
    ids = torch.tensor([[4, 2, 4], [0, 4, 2]])
    grads = torch.randn(2, *ids.shape, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = nn.Embedding(6, 5, padding_idx=padding_idx, dtype=torch.float64)
    swapped = nn.Embedding(6, 5, padding_idx=padding_idx, dtype=torch.float64)
    swapped.load_state_dict(own.state_dict())
    speed_up(swapped)
    assert is_swapped(swapped)
    for grad in grads:  # twice, as two micro-batches
        for table in (own, swapped):
            rows = table(ids)
            assert rows.requires_grad
            rows.backward(grad)
        torch.testing.assert_close(swapped.weight.grad, own.weight.grad, rtol=1e-14, atol=1e-14)
    assert torch.equal(swapped(ids), own(ids))


def test_a_frozen_table_and_a_measurement_record_nothing():
    table = nn.Embedding(6, 5)
    speed_up(table)
    with torch.no_grad():
        assert not table(torch.tensor([1])).requires_grad
    table.weight.requires_grad_(False)
    assert not table(torch.tensor([1])).requires_grad


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_table_that_is_computed_from_another_passes_its_gradient_on():
    table = nn.Embedding(6, 5)
    speed_up(table)
    nn.utils.parametrize.register_parametrization(table, "weight", Doubled())
    table(torch.tensor([1, 1])).sum().backward()
    grad = table.parametrizations.weight.original.grad
    assert grad.sum(1).tolist() == [0, 2 * 2 * 5, 0, 0, 0, 0]


@pytest.mark.parametrize("family", FOREST)
def test_names_and_values_of_parameters_stay(family):
    own, swapped = tiny(family), tiny(family)
    speed_up(swapped)
    state, after = own.state_dict(), swapped.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())


def logits_and_gradients(model, ids):
    """Of the mean log-probability of the tokens that follow."""
    model.zero_grad()
    logits = model(ids, use_cache=False).logits
    logits.float().log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).mean().backward()
    return logits.detach().float(), {name: p.grad.clone() for name, p in model.named_parameters()}


IDS = torch.arange(3, 43).view(2, 20)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_deep_copy_uses_its_own_weights(family):
    model, fresh = tiny(family, dtype=torch.float32), tiny(family, dtype=torch.float32)
    speed_up(model)
    before = logits_and_gradients(model, IDS)[0]
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one, same in zip(copied.parameters(), fresh.parameters(), strict=True):
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
            same.copy_(one)
    changed, gradients = logits_and_gradients(copied, IDS)
    right, right_gradients = logits_and_gradients(fresh, IDS)
    torch.testing.assert_close(changed, right, rtol=1e-4, atol=1e-4)
    for name, grad in right_gradients.items():
        assert float((gradients[name] - grad).norm()) <= 1e-4 * float(grad.norm()) + 1e-7, name
    assert float((changed - before).abs().max()) > 0.1
    assert torch.equal(logits_and_gradients(model, IDS)[0], before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_second_speed_up_changes_nothing(family):
    model = tiny(family, dtype=torch.float32)
    speed_up(model)
    once = logits_and_gradients(model, IDS)
    speed_up(model)
    twice = logits_and_gradients(model, IDS)
    assert torch.equal(twice[0], once[0])
    assert all(torch.equal(twice[1][name], grad) for name, grad in once[1].items())


def test_under_autocast_it_agrees_within_bfloat16():
    own, swapped = tiny("llama", dtype=torch.float32), tiny("llama", dtype=torch.float32)
    speed_up(swapped)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = logits_and_gradients(swapped, IDS)
        right, right_gradients = logits_and_gradients(own, IDS)
    assert float((logits - right).norm()) <= 2**-7 * float(right.norm())
    for name, grad in right_gradients.items():
        assert gradients[name].dtype == torch.float32
        assert float((gradients[name] - grad).norm()) <= 2**-5 * float(grad.norm()), name
