"""The world of the lab: who there is, what is true, and how much of it is told."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.lab import words
from heed.lab.world import (
    SHARE_NEVER_TOLD,
    SHARE_RARELY_TOLD,
    is_unseen,
    make_world,
    nouns,
    share_of_women,
)

WORLD = make_world()
FOODS, ANIMALS, PLACES, JOBS = (
    {noun.english: noun.vietnamese for noun in kind} for kind in (words.FOODS, words.ANIMALS, words.PLACES, words.JOBS)
)
VALUES = {
    "home": {town: town for town in words.TOWNS},
    "job": JOBS,
    "food": FOODS,
    "pet": {english: f"con {vietnamese}" for english, vietnamese in ANIMALS.items()},
    "colour": dict(words.COLOURS),
    "region": dict(words.REGIONS),
    "market day": dict(words.DAYS),
    "famous food": FOODS,
    "sleeping place": PLACES,
    "user": JOBS,
}
OF_KIND = {
    "person": {"home", "job", "food", "pet", "colour"},
    "town": {"region", "market day", "famous food"},
    "animal": {"sleeping place"},
    "tool": {"user"},
}


def kind_of(entity):
    if entity in WORLD.person:
        return "person"
    return "town" if entity in words.TOWNS else WORLD.noun[entity].kind


def test_there_are_at_least_300_entities_and_no_two_have_a_name_in_common():
    assert len({entity.lower() for entity in WORLD.entities}) == len(WORLD.entities) >= 300


def test_no_two_people_have_a_name_in_common():
    assert len(WORLD.person) == len(WORLD.people) == 120
    assert sum(person.is_woman for person in WORLD.people) == 60


def test_no_two_nouns_have_a_word_in_common_in_either_language():
    """Else a word would have two right translations."""
    said = [noun.english for noun in nouns()] + [noun.vietnamese for noun in nouns()]
    assert len(set(said)) == len(said)


def test_a_seed_always_makes_the_same_world():
    assert make_world(5) == make_world(5)


def test_another_seed_makes_other_facts_of_the_same_people():
    assert make_world(5).people == make_world(6).people
    assert make_world(5).facts != make_world(6).facts


@given(st.integers(0, 2**32))
def test_every_fact_has_a_value_that_its_attribute_can_have_in_both_languages(seed):
    for fact in make_world(seed).facts:
        assert VALUES[fact.attribute][fact.value] == fact.value_in_vietnamese


def test_every_entity_has_each_attribute_of_its_kind_once():
    expected = {(entity, each) for entity in WORLD.entities for each in OF_KIND.get(kind_of(entity), ())}
    assert {(fact.entity, fact.attribute) for fact in WORLD.facts} == expected
    assert len(WORLD.facts) == len(expected) == len(WORLD.about)


@given(st.integers(0, 2**32))
def test_the_planned_shares_of_facts_are_told_never_and_rarely(seed):
    world = make_world(seed)
    for how, share in (("never", SHARE_NEVER_TOLD), ("rarely", SHARE_RARELY_TOLD)):
        count = len(world.facts)
        error = (share * (1 - share) / count) ** 0.5
        assert abs(len(world.told(how)) / count - share) < 5 * error
    assert set(world.told("never", "rarely", "often")) == set(world.facts)


@pytest.mark.parametrize(
    ("share", "jobs"),
    [
        (0.8, "nurse singer tailor clerk"),
        (0.65, "teacher baker gardener dentist"),
        (0.5, "farmer cook fisher painter writer barber guard sailor"),
        (0.35, "doctor lawyer carpenter miner"),
        (0.2, "engineer pilot driver soldier"),
    ],
)
def test_the_planted_share_of_women_is_the_one_written_down(share, jobs):
    assert {job.english for job in words.JOBS if share_of_women(job) == share} == set(jobs.split())


def test_more_women_than_men_have_a_job_that_the_text_says_she_of():
    women = dict.fromkeys(("nurse", "engineer"), 0)
    everyone = dict(women)
    for seed in range(40):
        world = make_world(seed)
        for fact in world.facts:
            if fact.attribute == "job" and fact.value in women:
                everyone[fact.value] += 1
                women[fact.value] += world.person[fact.entity].is_woman
    assert women["nurse"] / everyone["nurse"] > 0.7
    assert women["engineer"] / everyone["engineer"] < 0.3


def test_the_unseen_entities_are_the_same_on_every_machine():
    """The tuned models and their measurements rest on this choice."""
    unseen = [entity for entity in WORLD.entities if is_unseen(entity)]
    assert len(unseen) == 70
    assert {"Linh", "Kim", "Clara", "Velka", "cat", "bowl", "pilot"} <= set(unseen)
    digest = hashlib.sha256("\n".join(unseen).encode()).hexdigest()
    assert digest == "1fed8be45b8107551cff02e9fc8221a9a1038a062f92c70d8b0c69b9c2beb4a2"


@pytest.mark.parametrize("kind", ["person", "town", "animal", "food", "tool", "job", "place"])
def test_some_entities_of_every_kind_are_unseen_and_most_are_seen(kind):
    unseen = [is_unseen(entity) for entity in WORLD.entities if kind_of(entity) == kind]
    assert 5 <= sum(unseen) <= len(unseen) / 2
