import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.workshop.choosing import at_random, farthest_first, highest_first, unlike_first


def unit(count: int, width: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, width))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_the_highest_come_first_equal_ones_as_they_stand_and_nan_and_what_is_above_never():
    values = np.array([0.5, 1.2, np.nan, 0.9, 0.5, 1.0])
    assert highest_first(values, at_most=1.0).tolist() == [5, 3, 0, 4]


def test_chance_is_fixed_by_its_seed_and_a_smaller_budget_is_part_of_a_greater_one():
    assert at_random(50, 1).tolist() == at_random(50, 1).tolist()
    assert at_random(50, 1).tolist() != at_random(50, 2).tolist()
    assert sorted(at_random(50, 1).tolist()) == list(range(50))


def farthest_by_hand(points: list[list[float]], count: int) -> list[int]:
    """The same by all distances, in words of the paper."""

    def distance(a: int, b: int) -> float:
        return sum((x - y) ** 2 for x, y in zip(points[a], points[b], strict=True)) ** 0.5

    mean = [sum(column) / len(points) for column in zip(*points, strict=True)]
    chosen = [max(range(len(points)), key=lambda i: sum(x * m for x, m in zip(points[i], mean, strict=True)))]
    while len(chosen) < count:
        rest = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance(i, s) for s in chosen)))
    return chosen


@given(st.integers(3, 25), st.integers(2, 6), st.integers(0, 10**6))
def test_farthest_first_is_the_greedy_k_center_of_the_paper(count, width, seed):
    points = unit(count, width, seed)
    assert farthest_first(points, count).tolist() == farthest_by_hand(points.tolist(), count)


def test_farthest_first_reaches_at_most_twice_the_radius_of_the_best_centres():
    points = np.concatenate([unit(4, 5, 0) for _ in range(10)])  # four places, ten times each
    assert sorted(np.unique(farthest_first(points, 4) % 4).tolist()) == [0, 1, 2, 3]
    assert len(set(farthest_first(points, 40).tolist())) == 40


def test_records_too_much_like_a_better_one_are_passed_over():
    points = np.array([[1, 0], [0.995, 0.0999], [0, 1], [0.6, 0.8]], dtype=np.float64)
    order = np.array([1, 0, 3, 2])
    assert unlike_first(order, points, 4, 0.9).tolist() == [1, 3, 2]
    assert unlike_first(order, points, 4, 0.7).tolist() == [1, 3]
    assert unlike_first(order, points, 1, 0.9).tolist() == [1]
    assert unlike_first(order, points, 4, 1.0).tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_no_two_that_are_kept_are_more_alike_than_the_threshold_and_every_other_has_such_a_neighbour(threshold):
    points = unit(200, 4, 3)
    kept = unlike_first(np.arange(200), points, 200, threshold)
    cosines = points @ points.T
    of_kept = cosines[np.ix_(kept, kept)] - 2 * np.eye(len(kept))
    assert of_kept.max() <= threshold
    for record in set(range(200)) - set(kept.tolist()):
        assert cosines[record, kept[kept < record]].max() > threshold
