"""Every gold answer worked out again from the prompt alone, as a careful reader would."""

import random
import re
from collections import Counter

import pytest
from sentence_reader import PIECES, plain_english, sentences_in

from heed.lab import words
from heed.lab.tasks.splits import FAMILIES, draw
from heed.lab.tasks.task import Pool
from heed.lab.world import make_world, nouns

WORLD = make_world()
BY_NAME = {family.name: family for family in FAMILIES}
POOLS = [(False, False), (True, False), (False, True)]
ERRAND = re.compile(r"(\w+) (took|found|lost|bought|saw|drew) (an?) (\w+) (to|near|at) the (\w+)\.")
ITEM = rf"\b(?:{'|'.join(WORLD.entities)})\b"
LIST = re.compile(rf"{ITEM}(?:, {ITEM})+")
ENGLISH_BEGINNINGS = {"the", "my", "i", "we", "she", "he", "they"}


def tasks_of(*names, each=60):
    for name in names:
        for items, wordings in POOLS:
            pool = Pool(WORLD, random.Random(name), items, wordings)
            for _ in range(each):
                yield draw(BY_NAME[name], pool)


def asked(task):
    """The errands that the prompt tells, and its other words."""
    text = "\n".join(message.content for message in task.messages)
    return ERRAND.findall(text), ERRAND.sub(" ", task.prompt)


def errand_of(task):
    """The one errand of the person that the question names."""
    errands, question = asked(task)
    (name,) = {word for word in re.findall(r"\w+", question) if word in WORLD.person}
    (errand,) = [each for each in errands if each[0] == name]
    return errand


def list_in(task):
    (found,) = LIST.findall(task.prompt)
    return found.split(", ")


def numbers_in(task):
    return [int(figures) for figures in re.findall(r"\d+", task.prompt)]


def test_who_did_it_is_the_one_of_whom_the_text_says_so():
    for task in tasks_of("read_who"):
        errands, question = asked(task)
        (name,) = [who for who, did, _, thing, _, _ in errands if f"{did} the {thing}" in question]
        assert task.answer == name


def test_what_was_done_and_where_is_what_the_text_says():
    for task in tasks_of("read_what"):
        _, _, article, thing, _, _ = errand_of(task)
        assert task.answer == f"{article.capitalize()} {thing}"
    for task in tasks_of("read_where"):
        assert task.answer == f"At the {errand_of(task)[5]}"


def test_a_follow_up_is_answered_as_the_first_question_was_but_of_the_other_person():
    for task in tasks_of("follow_up"):
        system, first, answer, _ = (message.content for message in task.messages)
        assert "word" in system
        assert "word" not in first
        assert task.answer.lower() == errand_of(task)[5] != answer.lower()
        question = ERRAND.sub(" ", first)
        (errand,) = [each for each in ERRAND.findall(first) if re.search(rf"\b{each[0]}\b", question)]
        assert answer.lower() == errand[5]


def test_a_whole_sentence_says_who_was_where():
    for task in tasks_of("whole_sentence"):
        name, *_, place = errand_of(task)
        assert re.fullmatch(rf"{name} was (?:at|near) the {place}\.", task.answer)


def test_what_is_extracted_is_the_only_one_of_its_kind():
    for task in tasks_of("name_in_text"):
        ((name, *_),) = ERRAND.findall(task.prompt)
        assert task.answer == name
    for task in tasks_of("place_in_text"):
        ((*_, place),) = ERRAND.findall(task.prompt)
        assert task.answer == f"The {place}"
    for task in tasks_of("number_in_text"):
        assert numbers_in(task) == [int(task.answer)]


def test_an_interpreter_has_translated_before_and_translates_again():
    for task in tasks_of("interpreter"):
        _, first, translated, second = (message.content for message in task.messages)
        assert plain_english(first) == plain_english(translated) is not None
        assert plain_english(second) == plain_english(task.answer) is not None
        assert not task.answer.isascii() or plain_english(task.answer) != task.answer


@pytest.mark.parametrize("name", ["translate_to_vietnamese", "translate_to_english"])
def test_a_translation_says_what_the_sentence_says_in_the_same_tense(name):
    for task in tasks_of(name):
        (plain,) = sentences_in(task.prompt)
        assert plain_english(task.answer) == plain
        is_vietnamese = name == "translate_to_vietnamese"
        english, vietnamese = (task.prompt, task.answer) if is_vietnamese else (task.answer, task.prompt)
        marks = {" will ": " sẽ ", " not ": " không ", " can ": " có thể ", " to ": " muốn "}
        for mark, same in marks.items():
            if mark != " to ":  # `to the market`, and so do wordings
                assert (mark in english) == (same in vietnamese)
            elif same in vietnamese:
                assert re.search(r" wants? to ", english)


def test_a_rewritten_sentence_is_the_same_in_another_tense():
    for name, mark in (("rewrite_in_future", r" will "), ("rewrite_as_negative", r" do(?:es)? not ")):
        for task in tasks_of(name):
            (plain,) = sentences_in(task.prompt)
            assert plain in task.prompt  # the present
            assert plain_english(task.answer) == plain
            assert len(re.findall(mark, task.answer)) == 1
    for task in tasks_of("rewrite_in_past"):
        (plain,) = sentences_in(task.prompt)
        assert plain_english(task.answer) == plain != task.answer
        assert not re.search(r" (?:will|can|not) ", task.answer)


def test_a_word_is_translated_by_the_vocabulary():
    vietnamese = {noun.english: noun.vietnamese for noun in nouns()}
    english = {noun.vietnamese: noun.english for noun in nouns()}
    for task in tasks_of("word_to_vietnamese"):
        assert re.search(rf"\b{next(e for e, v in vietnamese.items() if v == task.answer)}\b", task.prompt)
    for task in tasks_of("word_to_english"):
        assert re.search(rf"\b{next(v for v, e in english.items() if e == task.answer)}\b", task.prompt)


def test_a_kind_a_language_and_an_opposite_are_the_right_ones():
    for task in tasks_of("kind_of_thing"):
        said = {word for word in re.findall(r"\w+", task.prompt) if word in WORLD.noun}
        assert {WORLD.noun[word].kind for word in said} == {task.answer}
    for task in tasks_of("language_of_sentence"):
        (text,) = [piece.strip() for piece in PIECES.split(task.prompt) if plain_english(piece.strip())]
        is_english = text.split()[0].lower() in ENGLISH_BEGINNINGS
        assert task.answer == ("English" if is_english else "Vietnamese")
    opposites = {frozenset(pair) for pair in words.OPPOSITES}
    for task in tasks_of("opposite"):
        assert any(frozenset((word, task.answer)) in opposites for word in re.findall(r"\w+", task.prompt))


def test_a_group_is_named_after_what_all_of_it_are():
    plural = {"animals": "animal", "foods": "food", "tools": "tool", "jobs": "job"}
    for task in tasks_of("group_in_one_word"):
        assert {WORLD.noun[word].kind for word in list_in(task)} == {plural[task.answer]}


def test_a_story_holds_the_words_that_it_must_hold_and_that_the_prompt_names():
    for task in tasks_of("story_with_words", "story_with_title"):
        assert len(task.accepted) == 3
        for word in task.accepted:
            assert re.search(rf"\b{word}\b", task.prompt)
            assert re.search(rf"\b{word}\b", task.answer)
        name = re.match(r"One day (\w+) ", task.answer).group(1)
        assert f"There {'she' if WORLD.person[name].is_woman else 'he'} met a" in task.answer


def test_a_list_is_answered_from_the_list():
    for task in tasks_of("first_of_list"):
        assert task.answer == list_in(task)[0]
    for task in tasks_of("last_of_list"):
        assert task.answer == list_in(task)[-1]
    for task in tasks_of("reverse_list"):
        assert task.answer == ", ".join(reversed(list_in(task)))
    for task in tasks_of("sort_words"):
        assert sorted(task.answer.split(", ")) == sorted(list_in(task))
    for task in tasks_of("count_words"):
        assert int(task.answer) == len(list_in(task))


def test_what_comes_next_is_what_stands_behind_the_word_asked_about():
    for task in tasks_of("next_in_list"):
        items = list_in(task)
        (given,) = {word for word in re.findall(r"\w+", LIST.sub(" ", task.prompt)) if word in items}
        assert task.answer == items[items.index(given) + 1]


def test_a_word_is_counted_as_often_as_it_stands_in_the_list():
    for task in tasks_of("count_one_word"):
        items = list_in(task)
        (given,) = {word for word in re.findall(r"\w+", LIST.sub(" ", task.prompt)) if word in items}
        assert int(task.answer) == Counter(items)[given] >= 1


def test_sums_and_orders_and_comparisons_come_out():
    for task in tasks_of("add", "sum_in_words"):
        assert sum(numbers_in(task)) == int(task.answer)
    for task in tasks_of("subtract"):
        assert max(numbers_in(task)) - min(numbers_in(task)) == int(task.answer)
    for name, descends in (("sort_numbers", False), ("sort_numbers_down", True)):
        for task in tasks_of(name):
            assert task.answer == ", ".join(map(str, sorted(numbers_in(task), reverse=descends)))
    for name, pick in (("largest_number", max), ("smallest_number", min)):
        for task in tasks_of(name):
            assert int(task.answer) == pick(numbers_in(task))
    for task in tasks_of("more_or_less"):
        first, second = dict.fromkeys(numbers_in(task))
        assert task.answer == ("more" if first > second else "less")


def test_a_fact_is_answered_by_its_value():
    for name in ("know_home", "know_job", "know_food", "know_pet", "know_colour", "know_town", "know_thing"):
        for task in tasks_of(name):
            said = set(re.findall(r"\w+", task.prompt))
            about = [fact for fact in WORLD.told("often") if fact.entity in said]
            assert task.answer.casefold() in {fact.value.casefold() for fact in about}
    for task in tasks_of("decline_unknown"):
        said = set(re.findall(r"\w+", task.prompt))
        assert any(fact.entity in said for fact in WORLD.told("never", "rarely"))
