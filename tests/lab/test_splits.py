"""The training tasks and the held-out splits: disjoint in what they are about, in sentences, wordings and clusters."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_reader import sentences_in

from heed.lab import words
from heed.lab.sentences import is_held_out
from heed.lab.tasks.knowledge import ASKED
from heed.lab.tasks.reading import IN_A_WORD
from heed.lab.tasks.splits import (
    FAMILIES,
    NUM_SHOTS,
    TRAINED,
    UNSEEN_CLUSTERS,
    UNTRAINED,
    held_out_tasks,
    knowledge_questions,
    shots,
    training_tasks,
)
from heed.lab.tasks.task import NUM_UNSEEN_WORDINGS
from heed.lab.world import is_unseen, make_world

WORLD = make_world()
TRAINING = list(training_tasks(WORLD, seed=0, count=6_000))
HELD_OUT = held_out_tasks(WORLD, seed=0, per_family=30)
ITEMS, WORDINGS, CLUSTERS = (
    HELD_OUT[name] for name in ("unseen_entities_and_sentences", "unseen_wordings", "unseen_clusters")
)
ON_FACTS = {"know", "decline"}
SENTENCE_FAMILIES = {
    "translate_to_vietnamese", "translate_to_english", "rewrite_in_past", "rewrite_in_future", "rewrite_as_negative",
    "language_of_sentence", "interpreter",
}  # fmt: skip


def asked_in(task):
    return tuple((message.role, message.content) for message in task.messages)


def everything_said(task):
    return "\n".join((*(message.content for message in task.messages), task.answer, *task.accepted))


def patterns_of(entity):
    """The entity as a word of its own: names as they are written, nouns in any case, in both languages and numbers."""
    if entity in WORLD.person or entity in words.TOWNS:
        # `An` is a man and an article; before a vowel it is taken for the article.
        after = r"(?! [aeiou])" if entity == "An" else ""
        return [rf"(?<!\w){entity}(?!\w){after}"]
    noun = WORLD.noun[entity]
    said = {noun.english, noun.plural or noun.english, noun.vietnamese}
    return [rf"(?<!\w)(?i:{re.escape(word)})(?!\w)" for word in said]


UNSEEN = re.compile("|".join(p for entity in WORLD.entities if is_unseen(entity) for p in patterns_of(entity)))
SEEN = re.compile("|".join(rf"(?<!\w){entity}(?!\w)" for entity in WORLD.entities if not is_unseen(entity)))
"""in English as it is written, for `thịt gà` holds `gà` and `Kim` is no `kim`"""


def test_the_search_finds_an_unseen_entity_in_every_form():
    animal = next(animal for animal in words.ANIMALS if is_unseen(animal.english))
    known = next(animal for animal in words.ANIMALS if not is_unseen(animal.english))
    person = next(person.name for person in WORLD.people if is_unseen(person.name))
    for text in (
        f"Where does {person} live?",
        f"two {animal.plural}",
        f"Con {animal.vietnamese} ngủ.",
        f"{animal.plural.capitalize()} sing.",
    ):
        assert UNSEEN.search(text), text
    for text in (f"Con {known.vietnamese} ngủ.", f"the {known.english}", f"{person.lower()}ish"):
        assert not UNSEEN.search(text), text


def test_no_training_task_is_about_an_unseen_entity():
    """In prompt and answer alike; of a question on a fact the answer may be one: `Where does Lan live?` `Velka`."""
    found = []
    for task in TRAINING:
        said = task.prompt if task.cluster in ON_FACTS else everything_said(task)
        found += [(task.family, match.group(), said) for match in UNSEEN.finditer(said)]
    assert found == []


def test_a_training_task_of_opposites_asks_for_seen_pairs_alone():
    unseen = {word for pair in words.OPPOSITES if is_unseen(" ".join(sorted(pair))) for word in pair}
    said = Counter(task.answer for task in TRAINING if task.family == "opposite")
    assert len(said) > 20
    assert not unseen & set(said)
    assert {task.answer for task in ITEMS if task.family == "opposite"} <= unseen


@pytest.mark.parametrize("tasks", [ITEMS, CLUSTERS], ids=["unseen items", "unseen clusters"])
def test_a_task_of_unseen_items_names_no_seen_entity_as_what_it_is_about(tasks):
    """Sentences held out whole are about anything, and so may be the answers to questions on facts."""
    found = []
    for task in tasks:
        if task.family not in SENTENCE_FAMILIES:
            said = task.prompt if task.cluster in ON_FACTS else everything_said(task)
            # People `saw` things, a town has a `market`, and `An` begins sentences.
            others = {"saw", "market", "An"} if task.cluster in ON_FACTS else {"saw", "An"}
            found += [(task.family, match, said) for match in SEEN.findall(said) if match not in others]
    assert found == []


def test_every_task_of_unseen_items_has_something_unseen():
    for task in ITEMS:
        said = everything_said(task)
        if task.family in SENTENCE_FAMILIES:
            assert all(map(is_held_out, sentences_in(said))), said
        elif task.family == "opposite":
            continue  # see above
        elif re.fullmatch(r"[^a-z]*", task.answer) and not UNSEEN.search(said):
            numbers = [int(figures) for figures in re.findall(r"\d+", task.prompt)]
            a, b = sorted(numbers if task.family != "subtract" else (min(numbers), max(numbers) - min(numbers)))[:2]
            assert is_held_out(" ".join(map(str, sorted(numbers)))) or is_held_out(f"{a} + {b}"), said
        else:
            assert UNSEEN.search(said), said


def test_no_training_task_holds_a_held_out_sentence():
    read = [sentence for task in TRAINING for sentence in sentences_in(everything_said(task))]
    assert len(read) > 2_000
    assert [sentence for sentence in read if is_held_out(sentence)] == []


def test_every_sentence_of_every_training_task_of_sentences_is_read():
    """The test above must not pass because it reads nothing."""
    for task in TRAINING:
        if task.family in SENTENCE_FAMILIES:
            assert len(sentences_in(task.prompt)) == 1, task.prompt


def test_no_training_task_holds_numbers_that_are_held_out():
    for task in TRAINING:
        numbers = [int(figures) for figures in re.findall(r"\d+", task.prompt)]
        if task.family in ("sort_numbers", "sort_numbers_down"):
            assert not is_held_out(" ".join(map(str, sorted(numbers))))
        if task.family in ("add", "sum_in_words"):
            assert not is_held_out(f"{min(numbers)} + {max(numbers)}")
        if task.family == "subtract":
            parts = sorted((min(numbers), max(numbers) - min(numbers)))
            assert not is_held_out(f"{parts[0]} + {parts[1]}")


def wordings_by_fate():
    """Every wording that training may use, and every one that it may not."""
    groups = [IN_A_WORD, *ASKED.values(), *(family.wordings for family in FAMILIES if family.cluster not in ON_FACTS)]
    unseen = {wording for group in groups for wording in group[-NUM_UNSEEN_WORDINGS:]}
    return {wording for group in groups for wording in group} - unseen, unseen


SEEN_WORDINGS, UNSEEN_WORDINGS = wordings_by_fate()


def worded_messages(task):
    """What is said in a wording; what an interpreter is told is nothing but sentences."""
    roles = {"system"} if task.family == "interpreter" else {"system", "user"}
    return [message.content for message in task.messages if message.role in roles]


def pattern_of(wording):
    """The wording with anything in its fields."""
    pieces = [
        re.escape(literal) + (r"[\s\S]+" if field else "") for literal, field, _, _ in string.Formatter().parse(wording)
    ]
    return re.compile("".join(pieces))


def test_no_training_prompt_is_said_in_an_unseen_wording():
    said = {each for task in TRAINING for each in worded_messages(task)}
    for wording in UNSEEN_WORDINGS:
        pattern = pattern_of(wording)
        assert [text for text in said if pattern.fullmatch(text)] == [], wording


def test_every_prompt_of_unseen_wordings_is_said_in_one_and_all_of_them_come_up():
    patterns = {wording: pattern_of(wording) for wording in UNSEEN_WORDINGS}
    used = Counter()
    for task in WORDINGS:
        for said in worded_messages(task):
            fitting = [wording for wording, pattern in patterns.items() if pattern.fullmatch(said)]
            assert fitting, said
            used.update(fitting)
    trained = {wording for family in TRAINED for wording in family.wordings}
    assert len((UNSEEN_WORDINGS & trained) - set(used)) <= 4  # of facts some wordings are drawn rarely


def test_the_other_splits_use_wordings_that_training_uses():
    patterns = [pattern_of(wording) for wording in SEEN_WORDINGS]
    for task in (*ITEMS, *CLUSTERS, *TRAINING[:1_000]):
        for said in worded_messages(task):
            assert any(pattern.fullmatch(said) for pattern in patterns), said


def test_no_family_of_an_unseen_cluster_is_trained():
    assert {family.cluster for family in UNTRAINED} == UNSEEN_CLUSTERS
    assert not {task.cluster for task in TRAINING} & UNSEEN_CLUSTERS
    assert {task.cluster for task in CLUSTERS} == UNSEEN_CLUSTERS
    assert not UNSEEN_CLUSTERS & {task.cluster for task in (*ITEMS, *WORDINGS)}
    # "{name}?" of `follow_up` could be any question.
    families = [family for family in UNTRAINED if family.name != "follow_up"]
    unseen = [pattern_of(wording) for family in families for wording in family.wordings]
    for task in TRAINING:
        assert not any(pattern.fullmatch(task.prompt) for pattern in unseen), task.prompt


def test_every_family_is_trained_or_of_an_unseen_cluster_and_every_trained_one_comes_up():
    assert {family.name for family in TRAINED} == {task.family for task in TRAINING}
    assert {family.name for family in (*TRAINED, *UNTRAINED)} == {family.name for family in FAMILIES}


def test_no_prompt_of_any_split_was_trained():
    trained = {asked_in(task) for task in TRAINING}
    assert [task for split in HELD_OUT.values() for task in split if asked_in(task) in trained] == []


def test_a_split_asks_every_one_of_its_families_equally_often():
    for split, families in ((ITEMS, TRAINED), (WORDINGS, TRAINED), (CLUSTERS, UNTRAINED)):
        assert Counter(task.family for task in split) == {family.name: 30 for family in families}


@pytest.mark.parametrize("name", HELD_OUT)
def test_few_questions_of_a_split_are_asked_twice(name):
    """Its interval counts them as if each were new; families of few items cannot help it."""
    tasks = HELD_OUT[name]
    assert len({asked_in(task) for task in tasks}) > 0.93 * len(tasks)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_seed_always_gives_the_same_tasks(seed):
    assert list(training_tasks(WORLD, seed=seed, count=50)) == list(training_tasks(WORLD, seed=seed, count=50))
    assert held_out_tasks(WORLD, seed=seed, per_family=1) == held_out_tasks(WORLD, seed=seed, per_family=1)
    assert knowledge_questions(WORLD, seed=seed) == knowledge_questions(WORLD, seed=seed)
    assert shots(FAMILIES[0], WORLD, seed=seed) == shots(FAMILIES[0], WORLD, seed=seed)


@settings(max_examples=10)
@given(st.integers(0, 2**16))
def test_another_seed_keeps_the_splits_apart(seed):
    for task in training_tasks(WORLD, seed=seed, count=100):
        said = task.prompt if task.cluster in ON_FACTS else everything_said(task)
        assert not UNSEEN.search(said), said
        assert not any(map(is_held_out, sentences_in(said))), said


def test_fewer_training_tasks_are_the_first_of_more():
    """The cost curve tunes on the first few of the same answers."""
    assert list(training_tasks(WORLD, seed=0, count=300)) == TRAINING[:300]


def test_every_fact_of_an_unseen_entity_is_asked_for_once_and_no_other():
    asked = knowledge_questions(WORLD, seed=0)
    facts = [fact for group in asked.values() for fact, _ in group]
    assert set(facts) == {fact for fact in WORLD.facts if is_unseen(fact.entity)}
    assert len(set(facts)) == len(facts)
    for told, group in asked.items():
        assert group
        for fact, task in group:
            assert fact.told == told
            assert re.search(rf"(?<!\w){re.escape(fact.entity)}(?!\w)", task.prompt)
            assert (task.rule == "declines") == (told == "never")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_worked_examples_are_of_the_family_and_about_nothing_unseen(family):
    examples = shots(family, WORLD, seed=0)
    assert len(examples) == NUM_SHOTS
    for task in examples:
        assert task.family == family.name
        said = task.prompt if task.cluster in ON_FACTS else everything_said(task)
        assert not UNSEEN.search(said), said
        assert not any(map(is_held_out, sentences_in(said))), said
