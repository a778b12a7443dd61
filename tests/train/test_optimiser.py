"""AdamW against its algorithm written out with 50 digits, and what is decayed."""

from decimal import Decimal, localcontext

import pytest
import torch

from heed.errors import UserError
from heed.train import optimiser as optimiser_module
from heed.train.optimiser import adamw, set_learning_rate


def slow_adamw(weight, gradients, rates, decay):
    """Algorithm 2 of Loshchilov and Hutter 2019 for one number, with beta 0.9 and 0.999, epsilon 1e-8."""
    with localcontext(prec=50):
        w, m, v, decay = Decimal(weight), Decimal(0), Decimal(0), Decimal(decay)
        for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
            g, lr = Decimal(g), Decimal(lr)
            m = Decimal("0.9") * m + Decimal("0.1") * g
            v = Decimal("0.999") * v + Decimal("0.001") * g * g
            m_hat, v_hat = m / (1 - Decimal("0.9") ** t), v / (1 - Decimal("0.999") ** t)
            w -= lr * (m_hat / (v_hat.sqrt() + Decimal("1e-8")) + decay * w)
        return float(w)


def test_matches_the_algorithm_over_several_steps_with_changing_rates():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))
    start = matrix.detach().clone()
    gradients = [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(5)]
    rates = [0.01, 0.1, 0.05, 0.001, 0.2]
    optimiser = adamw([("matrix", matrix)], weight_decay=0.1)
    for gradient, rate in zip(gradients, rates, strict=True):
        matrix.grad = gradient.clone()
        set_learning_rate(optimiser, rate)
        optimiser.step()
    expected = [
        slow_adamw(float(w), [float(g.flatten()[i]) for g in gradients], rates, 0.1)
        for i, w in enumerate(start.flatten())
    ]
    torch.testing.assert_close(
        matrix.detach().flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_matrices_are_decayed_and_norms_and_biases_are_not():
    shapes = {"matrix": (2, 2), "norm": (2,), "table": (3, 2), "bias": (2,), "stack": (2, 2, 2)}
    named = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    optimiser = adamw(named.items(), weight_decay=0.5)
    set_learning_rate(optimiser, 0.1)
    for parameter in named.values():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    after = {name: float(p.detach().flatten()[0]) for name, p in named.items()}
    assert after == pytest.approx({"matrix": 0.95, "table": 0.95, "stack": 0.95, "norm": 1.0, "bias": 1.0})


def test_frozen_parameters_are_left_out_and_the_rest_is_there_once():
    trained, frozen = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    groups = adamw([("a", trained), ("b", frozen)], weight_decay=0.1).param_groups
    assert [p for group in groups for p in group["params"]] == [trained]


def test_no_step_is_taken_before_a_rate_is_set():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimiser = adamw([("weight", weight)], weight_decay=0.1)
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))


def test_every_group_gets_the_rate():
    optimiser = adamw([("a", torch.nn.Parameter(torch.ones(2, 2))), ("b", torch.nn.Parameter(torch.ones(2)))],
                      weight_decay=0.0)  # fmt: skip
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]


# -- states in 8 bits ------------------------------------------------------------------------------------------------


def two_of(bits, shapes, **how):
    generator = torch.Generator().manual_seed(0)
    named = [(f"{shape}", torch.nn.Parameter(torch.randn(shape, generator=generator))) for shape in shapes]
    return [parameter for _, parameter in named], adamw(named, weight_decay=0.1, bits=bits, **how)


def take_steps(parameters, optimiser, count, first=0):
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(100 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 10.0 ** -(step % 3)
        set_learning_rate(optimiser, 1e-2 / (1 + step))
        optimiser.step()


SHAPES = [(64, 80), (30, 30), (5000,), (7,)]


def test_the_first_step_in_8_bits_is_that_of_32_and_later_ones_stay_near():
    (exact, by_32), (ours, by_8) = two_of(32, SHAPES), two_of(8, SHAPES)
    take_steps(exact, by_32, 1)
    take_steps(ours, by_8, 1)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    take_steps(exact, by_32, 9, first=1)
    take_steps(ours, by_8, 9, first=1)
    moved = [1e-2 * sum(1 / (1 + step) for step in range(10))] * len(SHAPES)
    apart = [float((a - b).detach().abs().mean()) for a, b in zip(ours, exact, strict=True)]
    assert all(gap < 0.05 * path for gap, path in zip(apart, moved, strict=True))
    assert apart[0] > 0  # it is another optimiser


def test_large_tensors_take_two_bytes_a_number_and_small_ones_and_tables_keep_32_bits():
    told = []
    table = torch.nn.Parameter(torch.ones(100, 50))
    small, large = torch.nn.Parameter(torch.ones(4095)), torch.nn.Parameter(torch.ones(64, 64))
    named = [("table", table), ("small", small), ("large", large)]
    optimiser = adamw(named, weight_decay=0.0, bits=8, in_32=[table], say=told.append)
    take_steps([table, small, large], optimiser, 1)
    dtypes = [optimiser.state[p]["state1"].dtype for p in (table, small, large)]
    assert dtypes == [torch.float32, torch.float32, torch.uint8]
    own = {"state1", "state2", "absmax1", "absmax2"}
    num_bytes = sum(x.numel() * x.element_size() for name, x in optimiser.state[large].items() if name in own)
    assert num_bytes == large.numel() * (2 + 2 * 4 / 256)
    assert told == [
        "AdamW's states of 4,096 of 13,191 trained numbers in 8 bits; "
        "1 tensors of fewer than 4,096 and 1 tables keep 32"
    ]


def test_states_in_8_bits_go_on_after_a_stop_with_the_same_bits(tmp_path):
    whole, optimiser = two_of(8, SHAPES)
    take_steps(whole, optimiser, 6)
    begun, first = two_of(8, SHAPES)
    take_steps(begun, first, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed, second = two_of(8, SHAPES)
    with torch.no_grad():
        for new, old in zip(resumed, begun, strict=True):
            new.copy_(old)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    take_steps(resumed, second, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))
    for a, b in zip(resumed, whole, strict=True):
        ours, theirs = second.state[a], optimiser.state[b]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in ours)


def test_what_8_bits_do_not_support_is_told(monkeypatch):
    class Divided(torch.nn.Parameter):
        device_mesh = None

    with pytest.raises(UserError, match=r"divided among processes") as caught:
        adamw([("a", Divided(torch.ones(80, 80)))], weight_decay=0.0, bits=8)
    assert caught.value.fix == "--optim.bits 32"
    monkeypatch.setattr(optimiser_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed") as caught:
        two_of(8, SHAPES)
    assert caught.value.fix == "pip install 'heed-lm[quantise]'"
