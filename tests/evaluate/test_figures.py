"""Figures and differences of scored items: what each row says, and what it says where there is nothing to say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.clustered import clustered_mean, clustered_share
from heed.evaluate.exact import clopper_pearson, mcnemar
from heed.evaluate.figures import differences, figures
from heed.evaluate.intervals import mean
from heed.evaluate.items import Scored


def scored(name, cluster=None, groups=None, answer=None, extracted=None, **verdict):
    return Scored(str(name), verdict, {}, cluster=cluster, groups=groups or {}, answer=answer, extracted=extracted)


def column(values, **kind):
    return [scored(i, acc=value, **kind) for i, value in enumerate(values)]


def only(found, measure, group=None):
    (figure,) = [one for one in found if (one.measure, one.group) == (measure, group)]
    return figure


def test_a_mean_of_right_and_wrong_has_clopper_and_pearsons_interval():
    (found,) = figures(column([True] * 17 + [False] * 5), ["acc"])
    assert (found.value, found.count, found.unit, found.why) == (17 / 22, 22, "share", "")
    assert (found.low, found.high) == pytest.approx(clopper_pearson(17, 22), abs=1e-10)


def test_numbers_1_and_0_and_truth_values_are_one_thing():
    assert figures(column([1.0, 0.0, 1.0]), ["acc"]) == figures(column([True, False, True]), ["acc"])


def test_a_mean_of_real_values_has_students_interval_in_the_range_of_a_share():
    values = [0.3, 0.5, 0.6, 0.25]
    (found,) = figures(column(values), ["acc"])
    expected = mean(values)
    assert (found.value, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    (wide,) = figures(column([0.0, 0.5]), ["acc"])
    assert (wide.low, wide.high, wide.unit) == (0.0, 1.0, "share")
    (scores,) = figures(column([-1.0, 3.5, 2.0]), ["acc"])
    assert (scores.unit, scores.low < -1) == ("score", True)


def test_items_of_a_cluster_go_together():
    items = [scored(i, cluster=f"paragraph {i // 4}", acc=i // 4 < 5) for i in range(40)]
    (found,) = figures(items, ["acc"])
    expected = clustered_share([[True] * 4] * 5 + [[False] * 4] * 5)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.low < clopper_pearson(20, 40)[0] - 0.1


def test_real_values_of_a_cluster_go_together():
    values = [0.1, 0.2, 0.6, 0.7, 0.3, 0.4]
    (found,) = figures([scored(i, cluster=str(i // 2), f1=value) for i, value in enumerate(values)], ["f1"])
    expected = clustered_mean([values[:2], values[2:4], values[4:]])
    assert (found.low, found.high) == pytest.approx((max(expected.low, 0), min(expected.high, 1)))
    assert found.high - found.low > 1.5 * (mean(values).high - mean(values).low)


def test_every_group_has_its_row_after_that_of_all():
    items = [scored(i, groups={"topic": "law" if i < 4 else "art", "length": "short"}, acc=i < 3) for i in range(6)]
    found = figures(items, ["acc"])
    assert [one.group for one in found] == [None, "length=short", "topic=art", "topic=law"]
    assert only(found, "acc", "topic=law").value == 0.75
    assert only(found, "acc", "topic=art").value == 0.0
    assert only(found, "acc", "topic=art").count == 2


def test_no_items_and_a_name_that_no_verdict_has_are_undefined_and_say_why():
    (found,) = figures([], ["acc"])
    assert (found.value, found.why) == (None, "there are no items")
    (found,) = figures([], ["bits_per_byte"])
    assert (found.value, found.why) == (None, "there are no items")
    (found,) = figures(column([True]), ["accuracy"])
    assert (found.value, found.why) == (None, "no item has a value for accuracy")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_makes_the_figure_undefined_and_not_the_mean_of_the_others(value):
    (found,) = figures(column([0.5, value, 1.0]), ["acc"])
    assert (found.value, found.why) == (None, "1 of 3 items have a value that is not finite")


def test_items_without_a_value_take_no_part_and_are_counted():
    (found,) = figures(column([True, None, False, True]), ["acc"])
    assert (found.value, found.count, found.why) == (2 / 3, 3, "1 of 4 items have no value")


def test_one_cluster_of_real_values_has_a_value_and_no_interval():
    (found,) = figures([scored(0, cluster="a", f1=0.5), scored(1, cluster="a", f1=0.25)], ["f1"])
    assert (found.value, found.low, found.high) == (0.375, None, None)
    assert "one cluster has no spread" in found.why
    (found,) = figures(column([0.5, 0.5, 0.5]), ["acc"])
    assert (found.value, found.low) == (0.5, None)


def test_answers_that_could_not_be_read_are_a_row_of_their_own():
    items = [scored(i, answer="so", extracted="4" if i else None, acc=bool(i)) for i in range(4)]
    found = figures(items, ["acc"])
    assert [one.measure for one in found] == ["acc", "unparsed"]
    assert (found[1].value, found[1].count) == (0.25, 4)


def test_a_checker_that_says_what_it_could_read_is_believed():
    items = [scored(i, answer="so", acc=False, is_parsed=i > 0) for i in range(4)]
    assert figures(items, ["acc"])[1].value == 0.25
    assert [one.measure for one in figures([scored(0, answer="so", acc=True)], ["acc"])] == ["acc"]
    assert [one.measure for one in figures(column([True]), ["acc"])] == ["acc"]


# Differences ---------------------------------------------------------------------------------------------------------


def test_models_are_paired_by_the_items_id_and_not_by_place():
    first = column([True, True, False, True])
    second = list(reversed(column([True, False, False, False])))
    found = differences(first, second, "acc")
    assert (found.difference, found.only_first_right, found.only_second_right) == (0.5, 2, 0)
    assert found.p == mcnemar(2, 0)
    assert (found.count, found.only_in_first, found.only_in_second) == (4, 0, 0)


def test_items_that_one_model_has_alone_and_those_without_a_value_are_counted():
    first = [scored("a", acc=True), scored("b", acc=None), scored("c", acc=True), scored("d", acc=False)]
    second = [scored("a", acc=True), scored("b", acc=True), scored("e", acc=True)]
    found = differences(first, second, "acc")
    assert (found.count, found.only_in_first, found.only_in_second, found.without_value) == (1, 2, 1, 1)


def test_differences_that_cannot_be_made_say_why():
    found = differences(column([True]), [scored("x", acc=True)], "acc")
    assert (found.difference, found.why) == (None, "the two models have no items in common")
    found = differences(column([math.nan, 0.5]), column([0.5, 0.5]), "acc")
    assert (found.difference, found.p, found.why) == (None, None, "1 of 2 items have a value that is not finite")
    found = differences(column([None]), column([True]), "acc")
    assert (found.difference, found.why) == (None, "no item has a value for both models")
    documents = [scored(i, log_likelihood=-math.inf, num_bytes=5) for i in range(3)]
    found = differences(documents, documents, "bits_per_byte")
    assert (found.difference, "not finite" in found.why) == (None, True)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_the_order_of_items_changes_no_figure_and_no_difference(pairs, random):
    first, second = column([x for x, _ in pairs]), column([y for _, y in pairs])
    shuffled = random.sample(first, len(first))
    assert figures(shuffled, ["acc"]) == figures(first, ["acc"])
    assert differences(shuffled, second, "acc") == differences(first, second, "acc")


def test_clusters_widen_a_difference():
    rng = np.random.default_rng(0)
    better = rng.random(20) < 0.7
    first = [scored(i, cluster=str(i // 5), acc=bool(better[i // 5])) for i in range(100)]
    second = [scored(i, cluster=str(i // 5), acc=not better[i // 5]) for i in range(100)]
    clustered = differences(first, second, "acc")
    independent = differences(*([scored(o.id, **o.verdict) for o in side] for side in (first, second)), "acc")
    assert clustered.num_clusters == 20
    assert clustered.difference == independent.difference
    assert clustered.p > 5 * independent.p
    assert clustered.high - clustered.low > 1.5 * (independent.high - independent.low)


def test_a_measure_that_is_no_mean_is_compared_by_leaving_out_documents():
    rng = np.random.default_rng(3)
    first, second = [], []
    for i in range(60):
        num_bytes = int(rng.integers(20, 200))
        nats = num_bytes * rng.normal(1.5, 0.1)
        first.append(scored(i, log_likelihood=-nats, num_bytes=num_bytes))
        second.append(scored(i, log_likelihood=-nats - 0.05 * num_bytes * rng.normal(1, 0.5), num_bytes=num_bytes))
    found = differences(first, second, "bits_per_byte")
    value_first, value_second = (figures(side, ["bits_per_byte"])[0] for side in (first, second))
    assert found.difference == pytest.approx(value_first.value - value_second.value)
    assert found.low < found.difference < found.high < 0
    assert found.p < 0.001
    # Paired, so that what makes documents hard for both is no noise.
    assert found.high - found.low < 0.5 * (value_first.high - value_first.low)
