"""Requests without one right answer, their gold reward, and the annotators who rank answers to them."""

import math
import random
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_reader import sentences_in

from heed.lab.gold import COST_OF_WORD, Merits, merits
from heed.lab.grammar_check import is_sentence
from heed.lab.preferences import Annotators, Judged, judged, noise_ceiling, preference_record
from heed.lab.sentences import draw_sentence, is_held_out
from heed.lab.tasks.requests import TELL, names, requests
from heed.lab.tasks.task import NUM_UNSEEN_WORDINGS
from heed.lab.world import is_unseen, make_world

WORLD = make_world()
OWL, NURSE, MOUSE = (WORLD.noun[english] for english in ("owl", "nurse", "mouse"))
TRAINING = requests(WORLD, seed=0, count=3_000, held_out=False)
HELD_OUT = requests(WORLD, seed=0, count=500, held_out=True)


def gold(answer):
    return merits([OWL, NURSE], answer).gold


# ---- reading sentences


def test_every_sentence_that_the_grammar_writes_is_read_as_one():
    rng = random.Random(0)
    written = [draw_sentence(rng, held_out=number % 2 == 0).english for number in range(5_000)]
    assert [sentence for sentence in written if not is_sentence(sentence)] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "The owl.",
        "The owl eats.",
        "The owl eats rice",
        "The owl eats rice!",
        "the owl eats rice.",
        "The owl eat rice.",
        "The owls eat rice.",
        "They eats rice.",
        "I is hungry.",
        "The owl eats a hammer.",
        "The owl eats the rice.",
        "The owl needs hammer.",
        "The owl needs an hammer.",
        "The owl sees a old man.",
        "The owl sees a elephant.",
        "The owl sees two sheeps.",
        "The owl sleeps the garden.",
        "The owl goes in the garden.",
        "The nurse owl eats rice.",
        "The owl ate rice tomorrow.",
        "The owl eats rice yesterday.",
        "The owl will eats rice.",
        "The owl will eat rice yesterday.",
        "The owl does not eats rice.",
        "The owl does not eat rice every day.",
        "The owl  eats rice.",
        "The owl eats rice. The owl eats bread.",
        "The owl eats\nrice.",
        "Con mèo ăn cơm.",
        "Owl eats rice.",
        "A owl eats rice.",
    ],
)
def test_what_the_grammar_cannot_write_is_no_sentence(text):
    assert not is_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "The owl eats rice.",
        "I eat rice.",
        "My mother wants to carry an umbrella.",
        "They do not see an old owl.",
        "The clever owl eats rice.",
        "The nurse sees ten geese at night.",
        "The sheep slept behind the bridge last week.",
        "We will go to the market tomorrow.",
    ],
)
def test_what_it_can_write_is_one(text):
    assert is_sentence(text)


@given(st.data())
def test_one_word_left_out_or_doubled_makes_no_sentence_of_a_sentence(data):
    spoken = draw_sentence(random.Random(data.draw(st.integers(0, 10_000)))).in_tense("present").english[:-1].split(" ")
    at = data.draw(st.integers(0, len(spoken) - 1))
    doubled = f"{' '.join([*spoken[: at + 1], *spoken[at:]])}."
    assert not is_sentence(doubled)


# ---- gold, by hand


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The owl eats rice. The owl goes to the park. The nurse needs a pen. The nurse sees a cat.", 1.0),
        ("The owl eats rice. The nurse needs a pen.", 0.5),
        ("The owl eats rice. The owl goes to the park.", 0.5),
        ("The owl eats rice. The owl goes to the park. The owl sees a cat.", 0.5),  # two of each are wanted
        ("The nurse sees an owl. The nurse hears two owls.", 1.0),
        ("The cat eats rice.", 0.0),
        ("The owl eats rice. The owl eats rice.", 0.25 - 0.1),
        ("The owl eat rice. The nurse needs a pen.", 0.25 - 0.1),
        ("The nurse needs a pen. The owl eats", 0.25 - 0.1),
        ("The nurse needs a pen.The owl eats rice.", -0.1),  # no space: one text that is no sentence
        ("The nurse needs a pen.\nThe owl eats rice.", 0.5),
        ("  The nurse needs a pen.  The owl eats rice. ", 0.5),
        ("", -0.1),
        ("  \n", -0.1),
        ("Owl nurse owl nurse", -0.1),
    ],
)
def test_gold_is_what_was_wanted_less_faults(answer, expected):
    assert gold(answer) == pytest.approx(expected, abs=1e-12)


def test_every_word_beyond_24_costs():
    wanted = "The owl eats rice. The owl goes to the park. The nurse needs a pen. The nurse sees a cat."  # 20 words
    assert gold(f"{wanted} The cook eats soup.") == 1.0  # 24
    assert gold(f"{wanted} The cook needs a pen.") == pytest.approx(1 - COST_OF_WORD, abs=1e-12)  # 25
    assert gold(f"{wanted} The cook goes to the park. We sit in the park.") == pytest.approx(1 - 7 * COST_OF_WORD)  # 31


@given(st.text(max_size=300), st.integers(1, 20))
def test_gold_lies_between_minus_one_and_one_and_long_nonsense_at_the_bottom(text, times):
    assert -1 <= gold(text) <= 1
    assert gold(f"{text} nonsense. " * 200) == -1


def test_a_topic_is_named_in_the_singular_and_the_plural_as_a_word_of_its_own():
    assert names("The owl", OWL)
    assert names("two OWLS.", OWL)
    assert names("three mice", MOUSE)
    assert not names("the howl of an owlet", OWL)
    assert not names("mouses", MOUSE)


# ---- requests


def topics_of(task):
    return frozenset(task.accepted)


def test_no_pair_of_topics_is_in_training_and_held_out_whatever_the_seed():
    other = requests(WORLD, seed=9, count=500, held_out=True)
    assert {topics_of(task) for task in TRAINING}.isdisjoint(map(topics_of, (*HELD_OUT, *other)))


def test_there_are_as_many_different_requests_as_asked_for():
    assert (len({task.prompt for task in TRAINING}), len({task.prompt for task in HELD_OUT})) == (3_000, 500)
    assert all(len(topics_of(task)) == 2 for task in (*TRAINING, *HELD_OUT))


def test_a_request_names_its_topics_and_nothing_that_training_may_not_name():
    for task in (*TRAINING, *HELD_OUT):
        assert all(names(task.prompt, WORLD.noun[topic]) for topic in task.accepted)
        assert not any(map(is_unseen, task.accepted))


def test_no_demonstration_holds_a_sentence_or_a_name_that_is_kept_from_training():
    said = " ".join(task.answer for task in TRAINING)
    assert not any(map(is_held_out, sentences_in(said)))
    assert len(sentences_in(said)) > 5_000
    assert [english for english in WORLD.noun if is_unseen(english) and f" {english} " in said] == []


def test_the_last_wordings_are_kept_back():
    for wording in TELL[-NUM_UNSEEN_WORDINGS:]:
        beginning = wording.partition("{")[0]
        assert not any(task.prompt.startswith(beginning) for task in (*TRAINING, *HELD_OUT) if beginning)


def test_demonstrators_differ_in_care_and_never_break_the_grammar():
    seen = [merits([WORLD.noun[topic] for topic in task.accepted], task.answer) for task in TRAINING]
    shares = [each.share for each in seen]
    assert {0.0, 0.25, 0.5, 0.75, 1.0} <= set(shares)
    assert 0.3 < sum(shares) / len(shares) < 0.6
    assert all(is_sentence(f"{part}.") for task in TRAINING for part in task.answer[:-1].split(". "))


def test_the_same_seed_gives_the_same_requests_and_another_gives_others():
    assert requests(WORLD, seed=0, count=50, held_out=True) == HELD_OUT[:50]
    assert requests(WORLD, seed=1, count=50, held_out=True) != HELD_OUT[:50]


# ---- annotators


def answer(text, share, words=10):
    return Judged(text, Merits(share, 0, words))


GOOD, FAIR, BAD = answer("good", 1.0), answer("fair", 0.75), answer("bad", 0.25)


def test_the_chance_is_that_of_bradley_and_terry():
    annotators = Annotators(noise=0.25, length_bias=0.0)
    assert annotators.chance(GOOD, FAIR) == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-12)
    assert annotators.chance(FAIR, GOOD) == pytest.approx(1 - annotators.chance(GOOD, FAIR), abs=1e-12)
    assert annotators.chance(GOOD, GOOD) == 0.5


def test_a_longer_answer_is_liked_by_so_much_a_word():
    long, short = answer("long", 0.5, words=20), answer("short", 0.5, words=10)
    annotators = Annotators(noise=0.2, length_bias=0.03)
    assert annotators.liking(long) - annotators.liking(short) == pytest.approx(0.3, abs=1e-12)
    assert annotators.chance(long, short) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=1e-12)


def test_a_word_too_many_costs_gold_but_annotators_may_like_it():
    """What a policy can exploit: with the lab's own bias, liking still rises where gold falls, unless it is 0."""
    enough, too_long = answer("a", 1.0, words=24), answer("b", 1.0, words=54)
    assert enough.merits.gold > too_long.merits.gold
    assert Annotators(length_bias=0.0).liking(enough) > Annotators(length_bias=0.0).liking(too_long)
    assert Annotators().liking(enough) < Annotators().liking(too_long)


def test_chances_of_extreme_differences_are_finite():
    annotators = Annotators(noise=1e-6, length_bias=0.0)
    assert (annotators.chance(GOOD, BAD), annotators.chance(BAD, GOOD)) == (1.0, 0.0)


class Uniforms(random.Random):
    """Numbers between 0 and 1 that are given."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers = iter(numbers)

    def random(self):
        return next(self.numbers)


def uniform_of(error):
    """What is to be drawn for a Gumbel error of this size: its distribution function."""
    return math.exp(-math.exp(-error))


@pytest.mark.parametrize("error", [-1.0, 0.0, 2.0])
def test_an_error_of_gumbel_times_the_noise_makes_good_what_an_answer_lacks(error):
    annotators = Annotators(noise=0.25, length_bias=0.0)  # FAIR is liked 0.25 less than GOOD: once the noise
    almost, enough = (Uniforms(uniform_of(error + more), uniform_of(error)) for more in (1 - 1e-6, 1 + 1e-6))
    assert annotators.rank([FAIR, GOOD], almost) == [GOOD, FAIR]
    assert annotators.rank([FAIR, GOOD], enough) == [FAIR, GOOD]


def test_rankings_are_drawn_with_the_probabilities_of_plackett_and_luce():
    annotators, count = Annotators(noise=0.4, length_bias=0.0), 20_000
    rng = random.Random(0)
    drawn = [tuple(annotators.rank([FAIR, BAD, GOOD], rng)) for _ in range(count)]
    weight = {each: math.exp(annotators.liking(each) / 0.4) for each in (GOOD, FAIR, BAD)}
    for first, second, third in permutations(weight):
        of_rest = weight[second] / (weight[second] + weight[third])
        expected = weight[first] / sum(weight.values()) * of_rest
        found = drawn.count((first, second, third)) / count
        assert found == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / count))
    for a, b in combinations(weight, 2):
        before = sum(ranking.index(a) < ranking.index(b) for ranking in drawn) / count
        assert before == pytest.approx(annotators.chance(a, b), abs=3 * math.sqrt(0.25 / count))


def test_the_same_random_source_gives_the_same_ranking():
    assert [Annotators().rank([GOOD, FAIR, BAD], random.Random(3)) for _ in range(5)] == [
        Annotators().rank([GOOD, FAIR, BAD], random.Random(3))
    ] * 5


def test_the_noise_ceiling_is_what_the_best_guess_of_every_pair_reaches():
    annotators = Annotators(noise=0.25, length_bias=0.0)
    sure, unsure = annotators.chance(GOOD, BAD), annotators.chance(GOOD, FAIR)
    assert noise_ceiling(annotators, [[GOOD, BAD], [FAIR, GOOD]]) == pytest.approx((sure + unsure) / 2, abs=1e-12)
    three = [sure, unsure, annotators.chance(FAIR, BAD)]
    assert noise_ceiling(annotators, [[BAD, GOOD, FAIR]]) == pytest.approx(sum(three) / 3, abs=1e-12)
    assert noise_ceiling(annotators, [[GOOD, GOOD]]) == 0.5


def test_the_ceiling_is_reached_by_who_knows_the_annotators_and_by_no_one_else():
    rng, annotators = random.Random(1), Annotators()
    groups = [[answer(str(n), rng.choice((0, 0.5, 1)), rng.randint(5, 60)) for n in range(4)] for _ in range(400)]
    rankings = [annotators.rank(group, rng) for group in groups for _ in range(20)]
    pairs = [pair for ranking in rankings for pair in combinations(ranking, 2)]

    def accuracy(score):
        return sum((score(won) > score(lost)) + 0.5 * (score(won) == score(lost)) for won, lost in pairs) / len(pairs)

    ceiling = noise_ceiling(annotators, groups)
    assert accuracy(annotators.liking) == pytest.approx(ceiling, abs=0.005)
    assert accuracy(lambda each: each.merits.gold) < ceiling - 0.01
    assert accuracy(lambda each: each.merits.num_words) < ceiling - 0.05


def test_a_ceiling_without_a_pair_is_refused():
    with pytest.raises(ValueError, match="no pair"):
        noise_ceiling(Annotators(), [[GOOD], []])


# ---- records

RICH = "The owl eats rice. The owl goes to the park. The nurse needs a pen. The nurse sees a cat."
POOR = "The cat eats rice."
SURE = Annotators(noise=1e-6, length_bias=0.0)


def test_two_answers_make_a_pair_and_more_a_ranking_best_first():
    pair = preference_record("Tell me.", [OWL, NURSE], [POOR, RICH], SURE, random.Random(0))
    assert pair == {
        "prompt": "Tell me.", "chosen": RICH, "rejected": POOR, "topics": ["owl", "nurse"], "gold": [1.0, 0.0],
    }  # fmt: skip
    middle = "The owl eats rice."
    ranking = preference_record("Tell me.", [OWL, NURSE], [middle, POOR, RICH], SURE, random.Random(0))
    assert ranking["responses"] == [RICH, middle, POOR]
    assert ranking["gold"] == [1.0, 0.25, 0.0]


def test_equal_answers_are_ranked_once_and_no_one_ranks_a_single_answer():
    assert [each.text for each in judged([OWL], ["b", "a", "b"])] == ["b", "a"]
    assert preference_record("Tell me.", [OWL, NURSE], [RICH, RICH], SURE, random.Random(0)) is None
    pair = preference_record("Tell me.", [OWL, NURSE], [RICH, POOR, RICH], SURE, random.Random(0))
    assert (pair["chosen"], pair["rejected"]) == (RICH, POOR)
