"""The one division: hand values, and the same gradient however a step is cut and dealt to processes."""

import math
import os
from dataclasses import dataclass, replace

import pytest
import torch

from heed.dist.world import World
from heed.errors import UserError
from heed.train.step import Term, evaluate, likelihood, optimiser_step


@dataclass(frozen=True)
class Points:
    """The smallest micro-batch there is: points x with targets y, and a weight for each."""

    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor

    @property
    def total_weight(self):
        return float(self.weight.sum())

    def divided_by(self, count):
        return replace(self, weight=self.weight / count)


def squares_of(model):
    """Weighted sum of squared errors, with minus each error standing in for log p."""

    def loss_of(points):
        error = (model(points.x)[:, 0] - points.y).square()
        return (points.weight * error).sum(), -error.detach()

    return loss_of


def a_model():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def all_points(count=12):
    generator = torch.Generator().manual_seed(1)
    x, y, w = (torch.randn(count, n, generator=generator, dtype=torch.float64) for n in (3, 1, 1))
    return Points(x, y[:, 0], w[:, 0].abs())


def cut(points, sizes):
    """The same points in micro-batches of these sizes."""
    parts = [torch.split(x, sizes) for x in (points.x, points.y, points.weight)]
    return [Points(*part) for part in zip(*parts, strict=True)]


def step_of(batches, *, max_norm=math.inf, lr=0.1, world=None, model=None):
    """One step of plain gradient descent, which moves weights by lr times the gradient: (metrics, weights after)."""
    model = model or a_model()
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    numbers = optimiser_step(
        list(model.parameters()),
        optimiser,
        [Term(batches, likelihood(squares_of(model)))],
        max_norm=max_norm,
        world=world or World(),
    )
    assert all(p.grad is None for p in model.parameters()), "no gradient is left for the next step"
    return numbers, [p.detach().clone() for p in model.parameters()]


def test_hand_worked_step():
    # y = w x with w = 1; errors (2 - 1, 3 - 1, 4 - 7) = (1, 2, -3); weights (1, 2, 1) in two micro-batches.
    # loss = (1 * 1 + 2 * 4 + 1 * 9) / 4 = 4.5; gradient = 2 (1 * 1 * 2 + 2 * 2 * 3 - 1 * 3 * 4) / 4 = 1.
    model = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.ones_(model.weight)
    column = torch.tensor([[2.0], [3.0], [4.0]], dtype=torch.float64)
    points = Points(column, torch.tensor([1.0, 1.0, 7.0]).double(), torch.tensor([1.0, 2.0, 1.0]).double())
    numbers, weights = step_of(cut(points, [2, 1]), model=model)
    assert numbers == {"loss": 4.5, "nll_per_token": 14 / 3, "num_trained_tokens": 3, "grad_norm": 1.0}
    assert weights[0].item() == pytest.approx(0.9, rel=1e-15)


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [1, 11], [5, 4, 3]])
def test_no_cut_into_micro_batches_changes_the_step(sizes):
    expected_numbers, expected = step_of([all_points()])
    numbers, weights = step_of(cut(all_points(), sizes))
    torch.testing.assert_close(weights, expected, rtol=1e-13, atol=1e-14)
    assert numbers == pytest.approx(expected_numbers, rel=1e-13)


def test_the_mean_is_over_weights_not_over_micro_batches():
    points = all_points()
    model = a_model()
    loss, _ = squares_of(model)(points)
    gradient = torch.autograd.grad(loss / points.weight.sum(), list(model.parameters()))
    expected = [p - 0.1 * g for p, g in zip(model.parameters(), gradient, strict=True)]
    _, weights = step_of(cut(points, [1, 11]))
    torch.testing.assert_close(weights, expected, rtol=1e-13, atol=1e-14)


def test_a_factor_on_all_weights_changes_nothing():
    points = all_points()
    expected_numbers, expected = step_of(cut(points, [5, 7]))
    numbers, weights = step_of(cut(replace(points, weight=1_000 * points.weight), [5, 7]))
    torch.testing.assert_close(weights, expected, rtol=1e-13, atol=1e-14)
    assert numbers == pytest.approx(expected_numbers, rel=1e-12)


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e9])
def test_a_gradient_above_the_largest_norm_is_scaled_down_to_it(max_norm):
    numbers, free = step_of([all_points()])
    clipped_numbers, clipped = step_of([all_points()], max_norm=max_norm)
    assert clipped_numbers["grad_norm"] == numbers["grad_norm"] > 1.0, "the norm is the one before clipping"
    start = [p.detach() for p in a_model().parameters()]

    def moved(weights):
        return torch.cat([(a - b).reshape(-1) for a, b in zip(start, weights, strict=True)])

    factor = min(1.0, max_norm / numbers["grad_norm"])
    torch.testing.assert_close(moved(clipped), factor * moved(free), rtol=1e-5, atol=1e-12)
    assert float(moved(clipped).norm()) == pytest.approx(0.1 * min(max_norm, numbers["grad_norm"]), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient alone"])
def test_what_is_not_finite_is_refused_before_a_weight_moves(bad, where):
    model = a_model()
    before = [p.detach().clone() for p in model.parameters()]
    inner = squares_of(model)

    def loss_of(points):
        loss, logp = inner(points)
        if where == "loss":
            return loss * bad, logp
        loss.register_hook(lambda grad: grad * bad)
        return loss, logp

    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="not finite") as caught:
        optimiser_step(
            list(model.parameters()),
            optimiser,
            [Term([all_points()], likelihood(loss_of))],
            max_norm=1.0,
            world=World(),
        )
    assert "no weight has moved" in caught.value.where
    assert "--optim.lr" in caught.value.fix
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not optimiser.state


def test_measuring_reports_what_a_step_would_and_learns_nothing():
    model = a_model()
    batches = cut(all_points(), [5, 7])
    before = [p.detach().clone() for p in model.parameters()]
    numbers = evaluate(batches, likelihood(squares_of(model)), world=World())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    expected, _ = step_of(batches)
    assert expected == pytest.approx({**numbers, "grad_norm": expected["grad_norm"]}, rel=1e-15)


def test_nothing_left_from_before_is_not_added_twice():
    once, _ = step_of([all_points()])
    model = a_model()
    step_of([all_points()], lr=0.0, model=model)
    again, _ = step_of([all_points()], lr=0.0, model=model)
    assert again == once


SHARES = {"unequal": ([[0, 1], [2]], [1, 7, 4]), "one has none": ([[0, 1], []], [5, 7])}
"""which of the micro-batches of these sizes each of two processes holds"""


def work(rank, folder):
    """Both processes' side of every case, so that they are started once."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    world = World.from_environment("cpu", init_method=f"file://{folder}/meeting")
    seen = {}
    for name, (shares, sizes) in SHARES.items():
        batches = cut(all_points(), sizes)
        mine = [batches[i] for i in shares[rank]]
        seen[name] = step_of(mine, world=world, max_norm=1.0)
        seen[f"{name}, measured"] = evaluate(mine, likelihood(squares_of(a_model())), world=world)
    torch.save(seen, f"{folder}/seen-{rank}.pt")
    world.close()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"seen-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", SHARES)
def test_two_processes_with_unequal_shares_take_the_step_of_one(seen, name):
    expected_numbers, expected = step_of([all_points()], max_norm=1.0)
    for process in seen:
        numbers, weights = process[name]
        torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-13)
        assert numbers == pytest.approx(expected_numbers, rel=1e-12)
        measured = process[f"{name}, measured"]
        assert measured == pytest.approx({k: expected_numbers[k] for k in measured}, rel=1e-12)


@pytest.mark.parametrize("name", SHARES)
def test_both_processes_end_with_the_same_bits(seen, name):
    assert all(torch.equal(a, b) for a, b in zip(seen[0][name][1], seen[1][name][1], strict=True))
    assert seen[0][name][0] == seen[1][name][0]


def test_a_loss_of_two_terms_is_each_mean_times_its_coefficient():
    # Terms of 3 and 9 points with weights of their own: neither's count changes what the other weighs.
    points, model = all_points(), a_model()
    first, second = cut(points, [3, 9])
    squares = squares_of(model)
    means = [squares(part)[0] / part.weight.sum() for part in (first, second)]
    gradient = torch.autograd.grad(means[0] + 0.25 * means[1], list(model.parameters()))
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    terms = [Term([first], likelihood(squares)), Term(cut(second, [2, 7]), likelihood(squares), coefficient=0.25)]
    numbers = optimiser_step(list(model.parameters()), optimiser, terms, max_norm=math.inf, world=World())
    assert numbers["loss"] == pytest.approx((means[0] + 0.25 * means[1]).item(), rel=1e-13)
    after = [b - g for b, g in zip(before, gradient, strict=True)]
    torch.testing.assert_close([p.detach() for p in model.parameters()], after, rtol=1e-13, atol=1e-14)


def test_statistics_are_means_over_the_step_and_counts_are_added_up():
    reported = iter([{"rate": (1.0, 4), "seen": 2, "nowhere": (0.0, 0)}, {"rate": (5.0, 2), "seen": 3}])

    def loss_of(points):
        return points.weight.sum(), next(reported)

    numbers = evaluate(cut(all_points(), [5, 7]), loss_of, world=World())
    assert numbers == {"loss": pytest.approx(1.0), "rate": 1.0, "seen": 5}
