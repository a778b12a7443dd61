"""The 25 verifiable instructions of IFEval: does a response follow one?

Each check is named as the data names it (`change_case:english_capital`), and its keyword arguments are those of the
data, all of them required. Behaviour is that of the authors' code as lm-eval 0.4.13 keeps it, rules of thumb included
(`keywords:existence` finds "cat" in "category", a `-` at the start of any line is a bullet), so that figures compare.

Where we differ, each time because it is at fault:
    an argument that is 0 or missing is replaced by one drawn at random there, so that a verdict differs from call to
        call and is about an instruction nobody gave; here 0 is 0, and a missing argument is an error
    a "letter" that is none (`!`, `#`: two prompts of the data ask for them) is replaced by a random letter there; here
        that character is counted
    keywords, forbidden words, section names and postscript markers are read as regular expressions there ("C++" and
        "(a" raise, "a.b" matches "axb"); here as they are
    the language is detected with a random seed there; here with a fixed one
    JSON nested thousands deep raises RecursionError there; here it is not followed

Source: Zhou et al. 2023, "Instruction-following evaluation for large language models", arXiv:2311.07911.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heed.evaluate.checkers.ifeval.language import language_of
from heed.evaluate.checkers.ifeval.words import num_capital_words, num_sentences_in, num_words_in

RELATIONS = ("less than", "at least")
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")


def holds(count: int, relation: str, threshold: float) -> bool:
    """Whether a count is "less than", or "at least", a threshold."""
    return count < threshold if relation == "less than" else count >= threshold


def keywords_existence(response: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword is in it, in any case, also inside of other words."""
    return all(re.search(re.escape(word), response, re.IGNORECASE) for word in keywords)


def keywords_frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword is in it that often, also inside of other words."""
    return holds(len(re.findall(re.escape(keyword.strip()), response, re.IGNORECASE)), relation, frequency)


def forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words is in it as a word of its own."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", response, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The character is in it that often, in either case."""
    return holds(response.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(response: str, *, language: str) -> bool:
    """It is in that language (ISO 639-1); so is a text in which no language can be detected, as in the source."""
    found = language_of(response)
    return found is None or found == language


def number_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    """It has that many sentences."""
    return holds(num_sentences_in(response), relation, num_sentences)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """It has exactly so many paragraphs between `***`, none of them empty but before the first and after the last."""
    paragraphs = [part.strip() for part in re.split(r"\s?\*\*\*\s?", response)]
    if not all(paragraphs[1:-1]):
        return False
    num_empty = sum(not paragraphs[at] for at in {0, len(paragraphs) - 1})
    return len(paragraphs) - num_empty == num_paragraphs


def number_words(response: str, *, num_words: int, relation: str) -> bool:
    """It has that many words."""
    return holds(num_words_in(response), relation, num_words)


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """It has exactly so many paragraphs between empty lines, and the n-th begins with that word.

    As in the source, empty paragraphs are not counted and yet have a place, so that one before the n-th moves it.
    """
    paragraphs = response.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if not 1 <= nth_paragraph <= count or count != num_paragraphs:
        return False
    nth = paragraphs[int(nth_paragraph) - 1].strip()
    if not nth:
        return False
    word = nth.split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """It has at least so many `[placeholders]`."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, *, postscript_marker: str) -> bool:
    """It has a postscript that begins with the marker, anywhere."""
    marker = postscript_marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker.lower())), response.lower()) is not None


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """It has exactly so many lines that begin with `*` or `-`."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(response: str) -> bool:
    """It has one of the three answers in it."""
    return any(answer in response for answer in ANSWERS)


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """It has at least so many `*highlights*`; a `**highlight**` counts by itself."""
    single = [found.strip("*").strip() for found in re.findall(r"\*[^\n\*]*\*", response)]
    double = [
        found.removeprefix("**").removesuffix("**").strip() for found in re.findall(r"\*\*[^\n\*]*\*\*", response)
    ]
    return sum(map(bool, single + double)) >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """It has at least so many sections that begin with the section's name and a number."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", response)) >= num_sections


def json_format(response: str) -> bool:
    """It is JSON from beginning to end, in a fence of three ticks or in none."""
    text = response.strip()
    for fence in FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """It has a `<<title>>`."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", response))


def two_responses(response: str) -> bool:
    """It is two different responses with `******` between them."""
    parts = [part.strip() for part in response.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """It begins with the prompt, in any case."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(response: str, *, end_phrase: str) -> bool:
    """It ends with the phrase, in any case, with quotes behind it or without."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """It has that many words in capital letters."""
    return holds(num_capital_words(response), capital_relation, capital_frequency)


def english_capital(response: str) -> bool:
    """It is in English, and all of its letters are capital."""
    return response.isupper() and language_of(response) in ("en", None)


def english_lowercase(response: str) -> bool:
    """It is in English, and none of its letters is capital."""
    return response.islower() and language_of(response) in ("en", None)


def no_comma(response: str) -> bool:
    """It has no comma."""
    return "," not in response


def quotation(response: str) -> bool:
    """It stands in double quotation marks."""
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "combination:repeat_prompt": repeat_prompt,
    "combination:two_responses": two_responses,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:json_format": json_format,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:title": title,
    "keywords:existence": keywords_existence,
    "keywords:forbidden_words": forbidden_words,
    "keywords:frequency": keywords_frequency,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_words": number_words,
    "punctuation:no_comma": no_comma,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
}
"""name of an instruction -> check(response, its arguments)"""

ARGUMENTS = {name: tuple(inspect.signature(check).parameters)[1:] for name, check in CHECKS.items()}


def wrong_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """What is wrong with an instruction's arguments; empty where nothing is."""
    missing = [f"'{one}'" for one in ARGUMENTS[name] if one not in arguments]
    unknown = [f"'{one}'" for one in arguments if one not in ARGUMENTS[name]]
    if missing or unknown:
        says = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has an unknown {', '.join(unknown)}"] * bool(
            unknown
        )
        return f"the instruction {name} {' and '.join(says)}"
    for one, value in arguments.items():
        expected = _expected(one)
        if not EXPECTED[expected](value):
            return f"the instruction {name} has {value!r} for '{one}', which is {expected}"
    return ""


EXPECTED: dict[str, Callable[[Any], bool]] = {
    "a whole number": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0,
    "'less than' or 'at least'": lambda value: value in RELATIONS,
    "one character": lambda value: isinstance(value, str) and len(value) == 1 and not value.isspace(),
    "a list of words": lambda value: (
        isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(word, str) and word for word in value)
    ),
    "a text": lambda value: isinstance(value, str) and value.strip() != "",
}


def _expected(argument: str) -> str:
    if argument.endswith("relation"):
        return "'less than' or 'at least'"
    if argument.startswith("num_") or argument.endswith("frequency") or argument == "nth_paragraph":
        return "a whole number"
    if argument in ("keywords", "forbidden_words"):
        return "a list of words"
    return "one character" if argument == "letter" else "a text"
