"""Perplexities against hand values, and their intervals against the documents they were drawn from."""

import math

import numpy as np
import pytest

from heed.evaluate.figures import figures
from heed.evaluate.intervals import mean
from heed.evaluate.items import Scored


def document(name, nats, words=None, size=None, tokens=None, cluster=None, groups=None):
    verdict = {"log_likelihood": nats, "num_words": words, "num_bytes": size, "num_tokens": tokens}
    return Scored(str(name), verdict, {}, cluster=cluster, groups=groups or {})


TWO = [document(0, -12.0, words=3, size=16, tokens=4), document(1, -8.0, words=2, size=9, tokens=6)]


@pytest.mark.parametrize(
    ("measure", "value", "unit"),
    [
        ("word_perplexity", math.exp(20 / 5), "perplexity"),
        ("byte_perplexity", math.exp(20 / 25), "perplexity"),
        ("token_perplexity", math.exp(20 / 10), "perplexity"),
        ("perplexity", math.exp(20 / 2), "perplexity"),
        ("bits_per_byte", 20 / 25 / math.log(2), "bits"),
    ],
)
def test_each_perplexity_divides_all_nats_by_all_units(measure, value, unit):
    (found,) = figures(TWO, [measure])
    assert found.value == pytest.approx(value, rel=1e-14)
    assert (found.unit, found.count, found.why) == (unit, 2, "")
    assert found.low <= found.value <= found.high


def test_documents_of_equal_length_have_students_interval_of_nats_per_byte():
    nats = [12.0, 8.0, 9.5, 14.0]
    (found,) = figures([document(i, -each, size=10) for i, each in enumerate(nats)], ["byte_perplexity"])
    expected = mean([each / 10 for each in nats])
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_the_interval_covers_the_truth_where_long_documents_are_easier():
    rng = np.random.default_rng(0)

    def drawn(count):
        sizes = rng.integers(20, 400, size=count)
        return sizes, sizes * (2 - sizes / 400 + 0.3 * rng.normal(size=count))

    sizes, nats = drawn(400_000)
    truth = nats.sum() / sizes.sum() / math.log(2)
    covered = 0
    for _ in range(1500):
        sizes, nats = drawn(25)
        items = [document(i, -float(n), size=int(s)) for i, (s, n) in enumerate(zip(sizes, nats, strict=True))]
        (found,) = figures(items, ["bits_per_byte"])
        covered += found.low <= truth <= found.high
    assert 0.925 < covered / 1500 < 0.97


def test_documents_of_one_source_go_together():
    items = [document(i, -10.0 - i // 5, size=10, cluster=str(i // 5)) for i in range(20)]
    (found,) = figures(items, ["bits_per_byte"])
    expected = mean([1.0, 1.1, 1.2, 1.3])
    assert (found.low, found.high) == pytest.approx((expected.low / math.log(2), expected.high / math.log(2)))


def test_one_document_has_a_perplexity_and_no_interval():
    (found,) = figures(TWO[:1], ["word_perplexity"])
    assert (found.value, found.low, found.high) == (pytest.approx(math.exp(4)), None, None)
    assert "one document has no spread" in found.why


@pytest.mark.parametrize("nats", [math.nan, -math.inf])
def test_a_log_likelihood_that_is_not_finite_makes_it_undefined(nats):
    (found,) = figures([*TWO, document(2, nats, words=1)], ["word_perplexity"])
    assert (found.value, found.why) == (None, "1 of 3 items have a log-likelihood that is not finite")


def test_texts_without_units_are_counted_or_undefined():
    (found,) = figures([*TWO, document(2, -1.0)], ["word_perplexity"])
    assert (found.value, found.count) == (pytest.approx(math.exp(4)), 2)
    assert found.why == "1 of 3 items have no log-likelihood or no length"
    (found,) = figures([document(2, 0.0, words=0)], ["word_perplexity"])
    assert (found.value, found.why) == (None, "the texts are empty")


def test_what_no_number_can_hold_is_said_and_never_written_as_infinite():
    (found,) = figures([document(0, -2000.0, words=1)], ["word_perplexity"])
    assert (found.value, found.why) == (None, "it is larger than a number can be")
    (found,) = figures([document(0, -10.0, words=1), document(1, -300.0, words=1)], ["word_perplexity"])
    assert found.high is None
    assert "open above" in found.why
    assert found.low < found.value


def test_each_group_has_its_perplexity():
    items = [document(i, -10.0, size=10, groups={"source": "a" if i < 2 else "b"}) for i in range(4)]
    assert [one.group for one in figures(items, ["bits_per_byte"])] == [None, "source=a", "source=b"]
