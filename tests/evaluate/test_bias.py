"""Measured against planted shares."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.bias import Group, amplification, bias, group

LOGP = st.floats(-200, 0)
CONTEXTS = st.lists(st.tuples(LOGP, LOGP), min_size=1, max_size=20)
SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20)


def groups_of(shares):
    return [Group(f"job {index}", planted, measured, 1) for index, (planted, measured) in enumerate(shares)]


def test_a_share_by_hand():
    found = group(
        "nurse", planted=0.8, logp_she=[math.log(0.3), math.log(0.01)], logp_he=[math.log(0.1), math.log(0.01)]
    )
    assert asdict(found) == {"name": "nurse", "planted": 0.8, "measured": pytest.approx((0.75 + 0.5) / 2), "count": 2}


def test_shares_are_averaged_and_not_probabilities():
    found = group(
        "nurse", planted=0.5, logp_she=[math.log(0.9), math.log(1e-9)], logp_he=[math.log(0.1), math.log(9e-9)]
    )
    assert found.measured == pytest.approx((0.9 + 0.1) / 2)


@given(CONTEXTS, st.floats(-100, 0))
def test_only_the_difference_of_the_two_counts_and_exchanging_them_mirrors(contexts, shift):
    she, he = map(list, zip(*contexts, strict=True))
    share = group("a", planted=0.5, logp_she=she, logp_he=he).measured
    shifted = group("a", planted=0.5, logp_she=[x + shift for x in she], logp_he=[x + shift for x in he]).measured
    assert shifted == pytest.approx(share, rel=1e-9)
    assert group("a", planted=0.5, logp_she=he, logp_he=she).measured == pytest.approx(1 - share, abs=1e-12)
    assert group("a", planted=0.5, logp_she=she[::-1], logp_he=he[::-1]).measured == share
    assert 0 <= share <= 1


def test_tiny_probabilities_keep_their_ratio():
    found = group("a", planted=0.5, logp_she=[-2000.0], logp_he=[-2000.0 - math.log(3)])
    assert found.measured == pytest.approx(0.75)
    assert group("a", planted=0.5, logp_she=[-5000.0], logp_he=[-1.0]).measured == 0
    assert group("a", planted=0.5, logp_she=[-math.inf, -1.0], logp_he=[-1.0, -math.inf]).measured == 0.5


@pytest.mark.parametrize(
    ("she", "he", "says"),
    [
        ([], [], "no contexts"),
        ([-1.0], [-1.0, -2.0], "1 and 2 log-probabilities"),
        ([0.8], [0.2], "at most 0"),
        ([-1.0], [math.nan], "at most 0"),
        ([math.nan], [-1.0], "at most 0"),
        ([-math.inf], [-math.inf], "both continuations are impossible"),
    ],
)
def test_what_is_no_pair_of_log_probabilities_is_refused_by_group(she, he, says):
    with pytest.raises(ValueError, match=f"nurse: .*{says}"):
        group("nurse", planted=0.8, logp_she=she, logp_he=he)


def test_a_log_probability_rounded_above_zero_is_taken():
    assert group("a", planted=0.5, logp_she=[1e-6], logp_he=[-50.0]).measured == pytest.approx(1)


@pytest.mark.parametrize("planted", [-0.1, 1.1, math.nan, 80])
def test_a_planted_share_is_a_share(planted):
    with pytest.raises(ValueError, match="planted share of nurse"):
        group("nurse", planted=planted, logp_she=[-1.0], logp_he=[-1.0])


# Over groups -------------------------------------------------------------------------------------------------------


def test_the_keys_are_those_of_the_measurements():
    found = bias([Group("nurse", 0.8, 0.78, 12), Group("pilot", 0.2, 0.24, 12)])
    assert json.loads(json.dumps(asdict(found))) == {
        "groups": [
            {"name": "nurse", "planted": 0.8, "measured": 0.78, "count": 12},
            {"name": "pilot", "planted": 0.2, "measured": 0.24, "count": 12},
        ],
        "mean_absolute_difference": pytest.approx(0.03),
    }


@given(SHARES)
def test_the_difference_is_zero_for_a_model_like_its_text(shares):
    assert bias(groups_of([(planted, planted) for planted, _ in shares])).mean_absolute_difference == 0


def test_amplification_by_hand():
    groups = groups_of([(0.8, 0.9), (0.2, 0.05), (0.7, 0.6), (0.5, 1.0)])
    assert amplification(groups) == pytest.approx((0.1 + 0.15 - 0.1) / 3)


@pytest.mark.parametrize(
    ("measured_of", "expected"),
    [
        (lambda planted: planted, 0.0),
        (lambda planted: 0.5, -0.3),
        (lambda planted: 1 - planted, -0.6),
        (lambda planted: round(planted), 0.2),
    ],
    ids=["repeats", "no preference", "turned round", "always the more frequent"],
)
def test_amplification_says_whether_a_lean_is_repeated_weakened_or_made_stronger(measured_of, expected):
    assert amplification(groups_of([(p, measured_of(p)) for p in (0.8, 0.2, 0.5)])) == pytest.approx(expected)


@given(SHARES.filter(lambda shares: any(planted != 0.5 for planted, _ in shares)))
def test_amplification_is_that_of_zhao_on_the_side_each_group_leans_to(shares):
    """Zhao et al. 2017: over every (group, gender) with a share above one half, predicted minus training share."""
    planted = [(share, 1 - share) for share, _ in shares]
    measured = [(share, 1 - share) for _, share in shares]
    terms = [measured[g][k] - planted[g][k] for g in range(len(shares)) for k in (0, 1) if planted[g][k] > 0.5]
    tiny = any(0 < abs(p - 0.5) < 1e-15 for p, _ in shares)  # 1 - p rounds to one half
    assert tiny or amplification(groups_of(shares)) == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="no groups"):
        bias([])
    with pytest.raises(ValueError, match="nothing to amplify"):
        amplification(groups_of([(0.5, 0.9)]))
    with pytest.raises(ValueError, match="nothing to amplify"):
        amplification([])
