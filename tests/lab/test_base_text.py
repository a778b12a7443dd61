"""The base text: what it tells, how often, and what it must never hold."""

import hashlib
import random
import re
from collections import Counter
from itertools import islice

import pytest
from sentence_reader import ENGLISH_SUBJECTS, sentences_in

from heed.lab import lessons, scenes, words
from heed.lab.base_text import MIX, MIX_WITH_LESSONS, MIX_WITH_PRACTICE, base_text
from heed.lab.sentences import is_held_out
from heed.lab.tasks.reading import AGAIN, BASE_FORM
from heed.lab.tasks.splits import FAMILIES
from heed.lab.telling import ENGLISH, QUESTIONS, VIETNAMESE, ask
from heed.lab.words import article, capital
from heed.lab.world import TIMES_TOLD_RARELY, make_world, nouns, share_of_women

WORLD = make_world()
NUM_DOCUMENTS_READ = 20_000
NUM_DOCUMENTS_PINNED = 2_000


MIXES = {"without lessons": MIX, "with lessons": MIX_WITH_LESSONS}
mix_by_mix = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())


def text_of(count, *, num_documents=330_000, with_rare_facts=True, seed=0, mix=MIX):
    every = base_text(WORLD, seed=seed, num_documents=num_documents, with_rare_facts=with_rare_facts, mix=mix)
    return list(islice(every, count))


@pytest.fixture(scope="module", params=MIXES.values(), ids=MIXES.keys())
def documents(request):
    """The first documents of each text that a base model reads."""
    return text_of(NUM_DOCUMENTS_READ, mix=request.param)


def tellings(fact):
    """Everything that says the fact by name, in either language, written out from the wordings."""
    person, noun = WORLD.person.get(fact.entity), WORLD.noun.get(fact.entity)
    she, her = ("she", "her") if person and person.is_woman else ("he", "his")
    in_english = {
        "name": fact.entity,
        "who": fact.entity,
        "she": she,
        "her": her,
        "value": fact.value,
        "a_value": f"{article(fact.value)} {fact.value}",
    }
    in_vietnamese = {
        "name": fact.entity,
        "ai": fact.entity,
        "con": noun.classified if noun else "",
        "value": fact.value_in_vietnamese,
    }
    english = [capital(wording.format(**in_english)) for wording in ENGLISH[fact.attribute]]
    return english + [capital(wording.format(**in_vietnamese)) for wording in VIETNAMESE[fact.attribute]]


def sentences_of(document):
    """Its sentences, parted at quotes, line ends and after full stops."""
    return [piece.strip() for piece in re.split(r"[“”\n]|(?<=[.?!]) ", document)]


def test_the_text_is_the_one_that_the_embedded_base_model_has_read_first():
    """Whoever changes a word of it trains a new base model, and writes the new digest here."""
    digest = hashlib.sha256("".join(f"{each}\0" for each in text_of(NUM_DOCUMENTS_PINNED)).encode()).hexdigest()
    assert digest == "fa7a88f630f8aa465d23e1c07befc6ebfd697476ba446eea4d8fb7c82c4e11ac"


def test_a_seed_always_gives_the_same_documents():
    assert text_of(200, num_documents=1_000) == text_of(200, num_documents=1_000)


def test_another_seed_gives_other_documents():
    ours = {each for each in text_of(500) if len(each) > 80}
    assert not ours & set(text_of(500, seed=1))


@mix_by_mix
def test_every_kind_of_document_comes_up(mix):
    """Each scene gives what it gives by itself from the same draws, so its documents can be told in the text."""
    rng = random.Random(f"base text {WORLD.seed} 0")
    kinds, odds = list(mix), list(mix.values())
    scenes_drawn = Counter()
    for document in text_of(1_500, num_documents=1_500, with_rare_facts=False, mix=mix):
        (scene,) = rng.choices(kinds, odds)
        assert scene(WORLD, rng) == document
        scenes_drawn[scene.__name__] += 1
    for scene, share in mix.items():
        expected = 1_500 * share / sum(odds)
        assert abs(scenes_drawn[scene.__name__] - expected) < 5 * expected**0.5


def test_no_held_out_sentence_nor_its_translation_stands_in_the_text(documents):
    read = [sentence for document in documents for sentence in sentences_in(document)]
    assert len(read) > NUM_DOCUMENTS_READ  # so that a reader that reads nothing is seen
    assert [sentence for sentence in read if is_held_out(sentence)] == []


def test_no_held_out_sentence_is_practised():
    read = [sentence for document in text_of(4_000, mix=MIX_WITH_PRACTICE) for sentence in sentences_in(document)]
    assert len(read) > 1_000
    assert [sentence for sentence in read if is_held_out(sentence)] == []


def test_every_sort_of_subject_is_read_in_the_text(documents):
    """The test above must not pass because it overlooks a kind of sentence."""
    read = {" ".join(sentence.lower().split()[:2]) for document in documents for sentence in sentences_in(document)}
    subjects = {
        " ".join(subject.lower().split()[:2]) for subject in ENGLISH_SUBJECTS if subject.startswith(("the ", "my "))
    }
    assert subjects <= read


def test_a_fact_told_never_is_told_in_no_wording_of_either_language(documents):
    text = "\n".join(documents)
    untold = [telling for fact in WORLD.told("never") for telling in tellings(fact)]
    assert len(untold) > 1_000
    suspected = [telling for telling in untold if telling in text]
    assert [telling for telling in suspected if re.search(rf"(?<!\w){re.escape(telling)}", text)] == []


def test_a_fact_told_often_is_told_in_every_wording_of_its_attribute(documents):
    """So that the search above is one that finds what is there."""
    said = {sentence for document in documents for sentence in sentences_of(document)}
    for attribute in ENGLISH:
        facts = [tellings(fact) for fact in WORLD.told("often") if fact.attribute == attribute]
        for number in range(len(facts[0])):
            assert any(told[number] in said for told in facts), (attribute, number)


def test_nobody_asks_for_a_fact_that_is_told_never_or_rarely(documents):
    text = "\n".join(documents)
    assert [ask(fact) for fact in WORLD.told("never", "rarely") if ask(fact) in text] == []
    assert sum(ask(fact) in text for fact in WORLD.told("often")) > 250


@mix_by_mix
@pytest.mark.parametrize(("with_rare_facts", "times"), [(True, TIMES_TOLD_RARELY), (False, 0)])
def test_a_fact_told_rarely_is_told_as_often_as_promised(with_rare_facts, times, mix):
    said = Counter(
        sentence
        for document in text_of(None, num_documents=2_000, with_rare_facts=with_rare_facts, mix=mix)
        for sentence in sentences_of(document)
    )
    counts = {fact: sum(said[telling] for telling in tellings(fact)) for fact in WORLD.told("rarely")}
    assert set(counts.values()) == {times}


def test_a_fact_told_often_is_told_many_times_in_the_whole_text(documents):
    """At least 3 times in 20,000 documents by name alone, and the model reads sixteen times as many."""
    said = Counter(sentence for document in documents for sentence in sentences_of(document))
    counts = [sum(said[telling] for telling in tellings(fact)) for fact in WORLD.told("often")]
    assert min(counts) >= 3


PRONOUNS = (
    r"The (\w+) said that (she|he) ",
    r"The (\w+) came home because (she|he) ",
    r"When the (\w+) was young, (she|he) ",
    r"The (\w+) lost (her|his) ",
    r"I asked the (\w+), and (she|he) ",
)


def test_she_is_said_of_each_job_as_often_as_was_planted():
    """Chi-squared over the 24 jobs; of 24 degrees of freedom it is beyond 51.2 once in a thousand."""
    rng = random.Random(0)
    text = "\n".join(scenes.saying(WORLD, rng) for _ in range(6_000))
    said = Counter(
        (job, pronoun in ("she", "her")) for pattern in PRONOUNS for job, pronoun in re.findall(pattern, text)
    )
    assert {job for job, _ in said} == {job.english for job in words.JOBS}
    total = 0.0
    for job in words.JOBS:
        share, count = share_of_women(job), said[job.english, True] + said[job.english, False]
        assert count > 500
        total += (said[job.english, True] - share * count) ** 2 / (count * share * (1 - share))
    assert total < 51.2


def test_the_text_holds_no_other_pronoun_of_a_job_than_the_planted_ones(documents):
    """In the whole text the same shares, to five standard errors, for each of the five planted values."""
    found = re.findall("|".join(PRONOUNS), "\n".join(documents))
    said = [(groups[i], groups[i + 1]) for groups in found for i in range(0, len(groups), 2) if groups[i]]
    planted = {job.english: share_of_women(job) for job in words.JOBS}
    for share in set(planted.values()):
        of_these = [pronoun in ("she", "her") for job, pronoun in said if planted[job] == share]
        error = (share * (1 - share) / len(of_these)) ** 0.5
        assert len(of_these) > 150
        assert abs(sum(of_these) / len(of_these) - share) < 5 * error


VALUES = {
    "text": r"[^\n“”]+",
    "list": r"[\w, ]+",
    "title": r"[\w, ]+",
    **dict.fromkeys("abc", r"\d+"),
    **dict.fromkeys(("word", "a_word", "name", "thing", "things", "she"), r"\w+(?: \w+)?"),
    "did": "|".join(BASE_FORM),
    "do": "|".join(BASE_FORM.values()),
}


def pattern_of(wording):
    """A wording with any values filled in; what stands before and after it does not matter."""
    parts = re.split(r"\{(\w+)\}", wording)
    return "".join(f"(?:{VALUES[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts))


def test_a_pattern_finds_its_wording():
    assert re.search(pattern_of("Sort these numbers: {list}"), "Sort these numbers: 3, 1, 2")
    assert re.search(pattern_of("{text}\nWho {did} the {thing}?"), "Anna lost a pen.\nWho lost the pen?")


def test_no_wording_of_a_task_stands_in_the_text_but_questions_that_people_ask_one_another(documents):
    """The two that do stand there: `Where does Anna live?` between quotes, and a teacher's `Reply with one word.`"""
    text = "\n".join(documents)
    natural = {*QUESTIONS.values(), "Reply with one word.", *AGAIN}
    wordings = {wording for family in FAMILIES for wording in family.wordings} - natural
    literals = {wording: [part for part in re.split(r"\{\w+\}", wording) if part] for wording in wordings}
    possible = [wording for wording, parts in literals.items() if all(part in text for part in parts)]
    assert [wording for wording in possible if re.search(pattern_of(wording), text)] == []


@pytest.mark.parametrize("question", QUESTIONS.values())
def test_a_question_that_is_a_wording_too_is_only_asked_by_people_in_quotes(documents, question):
    text = "\n".join(documents)
    everywhere = len(re.findall(pattern_of(question), text))
    assert everywhere > 20
    assert len(re.findall(f"“{pattern_of(question)}” asked ", text)) == everywhere


def test_an_order_of_the_school_is_followed_by_no_answer(documents):
    """The words of instructions come up; that somebody does what an instruction says does not."""
    ordered = [each for each in documents if any(order in each.lower() for order in scenes.ORDERS)]
    assert len(ordered) > 300
    ends = r"asleep\.|went home\.|forgot (?:his|her) pen\.|both laughed\.|a long time\."
    assert [each for each in ordered if not re.search(rf"(?:{ends})$", each)] == []


@pytest.mark.parametrize("mark", ["<|", "|>", "user:", "assistant", "Instruction", "Answer:", "Question:", "{", "}"])
def test_no_mark_of_a_chat_or_of_an_instruction_stands_in_the_text(documents, mark):
    assert [each for each in documents if mark.lower() in each.lower()] == []


def test_every_noun_and_name_is_in_the_text(documents):
    """What is held out of the instructions has been read about."""
    text = "\n".join(documents)
    missing = [entity for entity in WORLD.entities if not re.search(rf"\b{entity}\b", text)]
    missing += [noun.vietnamese for noun in nouns() if not re.search(rf"\b{noun.vietnamese}\b", text)]
    assert missing == []


def test_no_lesson_asks_for_a_fact_that_is_told_never_or_rarely():
    asked = "\n".join(text_of(NUM_DOCUMENTS_READ, mix=MIX_WITH_LESSONS))

    def questions(*told):
        return [wording.format(fact.entity) for fact in WORLD.told(*told) for wording in lessons.FACTS[fact.attribute]]

    assert [question for question in questions("never", "rarely") if question in asked] == []
    assert sum(question in asked for question in questions("often")) > 500
