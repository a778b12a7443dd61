"""AdamW against its algorithm written out with 50 digits, and what is decayed."""

from decimal import Decimal, localcontext

import pytest
import torch

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
