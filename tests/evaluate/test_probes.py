"""Probes of reward models: planted likings are recovered within their intervals, none is found where there is none."""

import hashlib
import math
import re

import numpy as np
import pytest

from heed.evaluate.probe_texts import (
    FILLERS,
    NAME,
    NAMES,
    PRONOUNS,
    WITH_NAME,
    WITH_PRONOUN,
    WITHOUT_PLACE,
    Text,
    language_of,
    with_a_name,
    with_a_pronoun,
)
from heed.evaluate.probes import difference_of_sets, flagged, probe_length, probe_names, probe_pronouns

WORDS = re.compile(r"\w+")
ANY_NAME = {name for names in NAMES.values() for name in names}


def noise(text, seed):
    """A standard normal number that hangs on every letter of a text."""
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    first, second = (int.from_bytes(digest[i : i + 8]) / 2**64 for i in (0, 8))
    return math.sqrt(-2 * math.log(first or 0.5)) * math.cos(2 * math.pi * second)


def model(seed, *, of_names=0.0, of_texts=1.0, per_word=0.0, names=(), liking=0.0):
    """A reward model of noise: by text, by name, and by both, with likings that are planted.

    `of_names`: how much names differ for reasons of their own, gender aside. `liking` is for any of `names`.
    """

    def rewards(asked):
        found = []
        for prompt, answer in asked:
            words = WORDS.findall(answer)
            asked_of = "X" if any(word in ANY_NAME for word in WORDS.findall(prompt)) else prompt
            named = [word for word in words if word in ANY_NAME]
            found.append(
                3 * noise(asked_of, seed)
                + of_texts * noise(f"{prompt} {answer}", seed)
                + of_names * sum(noise(f"name {each}", seed) for each in set(named))
                + per_word * len(answer.split())
                + liking * any(word in names for word in words)
            )
        return found

    return rewards


def of(probed, measure, group=None):
    [found] = [each for each in probed if each.figure.measure == measure and each.figure.group == group]
    return found


def covers(figure, truth):
    return figure.low <= truth <= figure.high


FEMALE = {*NAMES["english", "female"], *NAMES["vietnamese", "female"]}
SEEDS = 120
MISSES = SEEDS * 0.05 + 2.6 * math.sqrt(SEEDS * 0.05 * 0.95)
"""in one test of a hundred, more than that by chance where the true share is 5%"""


def test_a_planted_liking_for_the_names_of_one_gender_is_recovered_in_95_of_100_seeds():
    missed = seen = 0
    for seed in range(SEEDS):
        figure = of(
            probe_names(WITH_NAME, model(seed, of_names=0.3, names=FEMALE, liking=1.5)), "name_male_female"
        ).figure
        missed += not covers(figure, -1.5)
        seen += figure.high < 0
    assert missed <= MISSES
    assert seen > 0.95 * SEEDS


def test_a_planted_liking_for_one_name_is_recovered_at_that_name_and_at_no_other():
    missed = seen = others = 0
    for seed in range(SEEDS):
        probed = probe_names(WITH_NAME, model(seed, of_texts=0.5, names={"Anna"}, liking=2.0))
        figure = of(probed, "name", "name=Anna").figure
        missed += not covers(figure, 2.0)
        seen += figure.low > 0
        others += any(
            not covers(each.figure, -2.0 / 31) for each in probed if each.figure.group not in (None, "name=Anna")
        )
    assert missed <= MISSES
    assert seen > 0.8 * SEEDS
    assert others <= MISSES  # the intervals of all names hold together


def test_a_planted_liking_for_length_is_recovered_per_word_whichever_way_words_are_added():
    missed = np.zeros(2)
    for seed in range(SEEDS):
        probed = probe_length(WITHOUT_PLACE, model(seed, of_texts=0.5, per_word=0.3))
        missed += [not covers(of(probed, name).figure, 0.3) for name in ("length_filler", "length_repeated")]
    assert (missed <= MISSES).all(), missed
    assert of(probed, "length_filler").figure.low > 0


def test_a_planted_liking_for_he_is_recovered():
    missed = 0
    for seed in range(SEEDS):
        figure = of(
            probe_pronouns(WITH_PRONOUN, model(seed, names={"he", "He", "his", "His", "anh", "Anh"}, liking=1.0)),
            "pronoun_he_she",
        ).figure
        missed += not covers(figure, 1.0)
    assert missed <= MISSES


@pytest.mark.parametrize("of_names", [0.0, 1.0], ids=["noise of texts", "names differ, gender does not"])
def test_a_model_without_a_liking_is_flagged_in_at_most_5_of_100_seeds(of_names):
    """By each probe of its own interval, and by all of them taken together."""
    alone, together = {}, 0
    for seed in range(SEEDS):
        rewards_of = model(10_000 + seed, of_names=of_names)
        probed = probe_names(WITH_NAME, rewards_of)
        if of_names:  # then a liking for single names is there, and is told
            probed = [each for each in probed if each.figure.group is None]
        probed += probe_pronouns(WITH_PRONOUN, rewards_of) + probe_length(WITHOUT_PLACE, rewards_of)
        for each in probed:
            if each.figure.group is None:
                alone[each.figure.measure] = alone.get(each.figure.measure, 0) + (not covers(each.figure, 0))
        together += flagged(probed).value > 0
    assert max(alone.values()) <= MISSES, alone
    assert together <= MISSES


def test_a_model_that_is_blind_to_names_has_no_liking_and_no_doubt_of_it():
    def blind(asked):
        return [float(len(prompt.split())) for prompt, _ in asked]

    for each in probe_names(WITH_NAME, blind) + probe_pronouns(WITH_PRONOUN, blind):
        assert each.figure.value == pytest.approx(0, abs=1e-12)
        assert each.p == 1
        assert covers(each.figure, 0)
    assert flagged(probe_names(WITH_NAME, blind)).value == 0


def test_a_liking_without_noise_is_recovered_in_spite_of_rounding():
    probed = probe_names(WITH_NAME, model(0, of_texts=0.0, names={"Anna"}, liking=0.7))
    assert covers(of(probed, "name", "name=Anna").figure, 0.7)
    assert of(probed, "name", "name=Anna").p < 1e-100
    assert "name=Anna" in flagged(probed).why


def test_the_difference_of_sets_by_hand():
    first, second = np.array([[1.0, 3.0], [2.0, 6.0]]), np.array([[0.0], [1.0]])
    figure = difference_of_sets("x", [(first, second)]).figure
    assert figure.value == pytest.approx((2 + 4) / 2 - 0.5)  # differences by text: 2 and 3
    # V_texts = Var(2, 3) / 2 = 1/4; V_words = Var(1.5, 4.5) / 2 = 9/4; cells: (±0.5)² * 4 / 1 / 4 = 1/4; V = 9/4
    assert figure.high - figure.value == pytest.approx(12.706 * 1.5, rel=1e-3)


def test_texts_of_one_prompt_are_no_independent_texts():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (20, 1))
    once = difference_of_sets("x", [(values, 0 * values)]).figure
    five = np.repeat(values, 5, axis=0)
    again = difference_of_sets("x", [(five, 0 * five)], [i // 5 for i in range(100)]).figure
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low)


def test_a_reward_that_is_not_finite_and_too_few_texts_are_undefined_with_the_reason():
    broken = probe_length(WITHOUT_PLACE, lambda asked: [math.nan] * len(asked))
    assert {each.figure.value for each in broken} == {None}
    assert "not finite" in broken[0].figure.why
    [few, *_] = probe_names(WITH_NAME[:1], model(0))
    assert few.figure.value is None
    assert flagged([few]).value is None


# ---- texts


def test_the_built_in_texts_differ_in_nothing_but_their_place():
    for text in WITH_NAME:
        james, linh = (text.filled({NAME: name}) for name in ("James", "Linh"))
        assert james.answer.replace("James", "Linh") == linh.answer
        assert "⟨" not in james.answer + james.prompt
    for text in WITH_PRONOUN:
        forms = PRONOUNS[language_of(text.answer)]
        he, she = text.filled(forms["he"]), text.filled(forms["she"])
        assert len(he.answer.split()) == len(she.answer.split())
        assert "⟨" not in he.answer + she.answer
    assert {len(each) for each in NAMES.values()} == {8}
    assert len({name for names in NAMES.values() for name in names}) == 32
    assert len(FILLERS["en"]) == len(FILLERS["vi"])


def test_a_sentence_that_begins_with_a_pronoun_begins_with_a_capital():
    text = Text("?", "⟨he⟩ left. ⟨he⟩ took ⟨his⟩ hat, as ⟨he⟩ does.")
    assert text.filled(PRONOUNS["en"]["she"]).answer == "She left. She took her hat, as she does."


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Ask Anna about it. Anna knows.", f"Ask {NAME} about it. {NAME} knows."),
        ("Ask Anna or James about it.", None),
        ("David Bowie sang it.", None),
        ("Ask her about it.", None),
        ("Bananas are fruit.", None),
        ("Hỏi Hùng đi.", f"Hỏi {NAME} đi."),
    ],
)
def test_answers_of_ones_own_with_one_name_get_a_place_for_it(answer, found):
    assert [each.answer for each in with_a_name([Text("Who?", answer)])] == ([found] if found else [])


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("He took his hat.", "⟨he⟩ took ⟨his⟩ hat."),
        ("He saw her.", None),
        ("He hurt himself.", None),
        ("The hat is his.", None),
        ("The man said he left.", None),
        ("James said he left.", None),
        ("They left.", None),
    ],
)
def test_answers_of_ones_own_get_places_for_pronouns_where_every_form_is_unambiguous(answer, found):
    assert [each.answer for each in with_a_pronoun([Text("Who?", answer)])] == ([found] if found else [])
