"""Annotators: planted likings are found within their intervals, and none is found where none was planted."""

import math

import numpy as np
import pytest

from heed.evaluate.annotators import (
    Choice,
    Judgement,
    choices_of,
    figures_of_raters,
    flagged,
    rater,
    raters,
    strengths,
)


def simulated(rng, n, *, competence=1.0, position=0.0, length=0.0, who="w", per_cluster=1):
    margins, lengths = rng.normal(0, 1.5, n), rng.normal(0, 8, n).round()
    chance = 1 / (1 + np.exp(-(competence * margins + position + length * lengths)))
    took_left = rng.random(n) < chance
    return [
        Choice(who, float(m), float(k), bool(y), None if per_cluster == 1 else f"{i // per_cluster}")
        for i, (m, k, y) in enumerate(zip(margins, lengths, took_left, strict=True))
    ]


def covers(coefficient, truth):
    return coefficient.low <= truth <= coefficient.high


def test_planted_competence_and_likings_are_within_their_intervals_in_95_of_100_seeds():
    inside = np.zeros(3)
    for seed in range(300):
        choices = simulated(np.random.default_rng(seed), 150, competence=0.8, position=0.5, length=0.06)
        found = rater("w", choices)
        inside += [covers(found.competence, 0.8), covers(found.position, 0.5), covers(found.length, 0.06)]
    assert (inside >= 300 * 0.95 - 2.6 * math.sqrt(300 * 0.05 * 0.95)).all(), inside


def test_strong_likings_are_told_from_nothing():
    found = rater("w", simulated(np.random.default_rng(0), 400, position=1.0, length=0.1))
    assert found.position.low > 0
    assert found.length.low > 0
    assert found.position.p < 1e-4


def test_unbiased_annotators_are_flagged_in_at_most_5_of_100_seeds():
    false_alarms, alone = 0, np.zeros(2)
    for seed in range(300):
        rng = np.random.default_rng(1000 + seed)
        found = raters([c for who in "abcd" for c in simulated(rng, 80, who=who)])
        false_alarms += bool(flagged(found))
        alone += [not covers(found[0].position, 0), not covers(found[0].length, 0)]
    bound = 300 * 0.05 + 2.6 * math.sqrt(300 * 0.05 * 0.95)
    assert false_alarms <= bound
    assert (alone <= bound).all(), alone


def test_choices_that_share_a_prompt_are_no_independent_choices():
    """Every choice told five times over: five times the choices, no more knowledge."""
    once = simulated(np.random.default_rng(3), 100, position=0.4)
    five = [Choice(c.annotator, c.margin, c.length, c.took_left, f"{i}") for i, c in enumerate(once) for _ in range(5)]
    single, repeated = rater("w", once), rater("w", five)
    assert repeated.position.value == pytest.approx(single.position.value, abs=1e-6)
    width = single.position.high - single.position.low
    assert repeated.position.high - repeated.position.low == pytest.approx(width, rel=0.15)


def test_exchanging_the_sides_turns_the_position_round_and_nothing_else():
    choices = simulated(np.random.default_rng(5), 120, position=0.7, length=0.05)
    turned = [Choice(c.annotator, -c.margin, -c.length, not c.took_left) for c in choices]
    one, other = rater("w", choices), rater("w", turned)
    assert other.position.value == pytest.approx(-one.position.value, abs=1e-9)
    assert other.position.high == pytest.approx(-one.position.low, abs=1e-9)
    assert other.competence.value == pytest.approx(one.competence.value, abs=1e-9)
    assert other.length.value == pytest.approx(one.length.value, abs=1e-9)


def test_without_sides_position_is_undefined_and_length_the_same_whichever_side_is_called_left():
    choices = simulated(np.random.default_rng(6), 200, length=0.08)
    chosen_left = [c if c.took_left else Choice("w", -c.margin, -c.length, True) for c in choices]
    one, other = (rater("w", each, sides_are_known=False) for each in (choices, chosen_left))
    assert one.position.value is None
    assert "which side" in one.position.why
    assert one.length.value == pytest.approx(other.length.value, abs=1e-9)
    assert covers(one.length, 0.08)


def test_the_coefficients_are_where_the_likelihood_is_highest():
    choices = simulated(np.random.default_rng(7), 60, position=0.3)
    found = rater("w", choices)

    def likelihood(g, b, k):
        odds = [g * c.margin + b + k * c.length for c in choices]
        return sum(-math.log1p(math.exp(-o if c.took_left else o)) for o, c in zip(odds, choices, strict=True))

    best = (found.competence.value, found.position.value, found.length.value)
    for i, step in enumerate((1e-3, 1e-3, 1e-4)):
        for sign in (-1, 1):
            moved = list(best)
            moved[i] += sign * step
            assert likelihood(*moved) < likelihood(*best)


def test_choices_without_error_have_no_coefficients_but_a_reason():
    rng = np.random.default_rng(8)
    choices = [Choice("w", float(m), float(k), bool(m > 0)) for m, k in rng.normal(0, 1, (50, 2))]
    found = rater("w", choices)
    assert found.competence.value is None
    assert "without error" in found.competence.why
    always_left = [Choice("w", float(m), float(k), True) for m, k in rng.normal(0, 1, (50, 2))]
    assert rater("w", always_left).position.value is None


@pytest.mark.parametrize(
    ("choices", "name", "says"),
    [
        ([Choice("w", 0.0, 1.0, True), *simulated(np.random.default_rng(1), 0)], "competence", "equally strong"),
        ([Choice("w", 1.0, 0.0, True)] * 3, "length", "equally long"),
        ([Choice("w", 1.0, 2.0, True), Choice("w", -1.0, 2.0, False)], "position", "too few"),
        ([Choice("w", float(i % 3 - 1), float(i % 3 - 1), i % 2 == 0) for i in range(30)], "length", "go together"),
    ],
)
def test_what_cannot_be_estimated_is_undefined_with_its_reason(choices, name, says):
    coefficient = getattr(rater("w", choices), name)
    assert coefficient.value is None
    assert says in coefficient.why


def test_strengths_rank_answers_as_they_win_and_stay_finite():
    found = strengths([("a", "b")] * 5 + [("b", "c")] * 5)
    assert found["a"] > found["b"] > found["c"]
    assert sum(found.values()) == pytest.approx(0, abs=1e-9)
    assert strengths([]) == {}


def test_votes_of_a_pair_give_log_odds_drawn_towards_nothing():
    found = strengths([("a", "b")] * 300 + [("b", "a")] * 100)
    assert found["a"] - found["b"] == pytest.approx(math.log(3), abs=0.05)


def test_likings_are_found_beside_strengths_that_the_others_choices_give():
    """Ten annotators of the same pairs, one of whom takes the left side too often and one likes length."""
    planted = {"a0": (1.2, 0.0), "a1": (0.0, 0.08)}
    inside, told = np.zeros(2), 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        judgements = []
        for prompt in range(120):
            s, k = rng.normal(0, 1.5), float(round(rng.normal(0, 8)))
            for who in (f"a{i}" for i in range(10)):
                b, liking = planted.get(who, (0.0, 0.0))
                took_left = bool(rng.random() < 1 / (1 + math.exp(-(s + b + liking * k))))
                judgements.append(Judgement(who, f"{prompt}", "left", "right", took_left, k))
        choices, num_alone = choices_of(judgements)
        assert num_alone == 0
        found = {each.annotator: each for each in raters(choices)}
        inside += [covers(found["a0"].position, 1.2), covers(found["a1"].length, 0.08)]
        told += ("a0", "position") in flagged(list(found.values()))
    # Strengths from nine votes are not the true ones, which draws the others' coefficients a little towards 0.
    assert (inside >= 5).all(), inside
    assert told >= 6


def test_a_pair_that_nobody_else_judged_gives_no_margin_and_is_counted():
    choices, num_alone = choices_of([Judgement("w", "p", "x", "y", True, 1.0)])
    assert (choices, num_alone) == ([], 1)


def test_figures_name_the_annotator_the_unit_and_what_is_undefined():
    rng = np.random.default_rng(9)
    found = raters(simulated(rng, 200, position=2.0, who="An") + simulated(rng, 200, who="Bình"))
    summary, *rows = figures_of_raters(found)
    assert (summary.measure, summary.value, summary.why) == ("annotators_flagged", 1, "An: position")
    assert {(each.measure, each.group) for each in rows} == {
        (f"annotator_{name}", f"annotator={who}")
        for name in ("competence", "position", "length")
        for who in ("An", "Bình")
    }
    nothing, *_ = figures_of_raters(raters([Choice("w", 1.0, 1.0, True)]))
    assert nothing.value is None
