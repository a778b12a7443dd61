"""Reads the lab's sentences back: from a text in either language to the plain English that decides what is held out.

Written from the vocabulary alone, so that it would find a held-out sentence whichever scene or task had let it in.
"""

import re
from collections.abc import Iterator

from heed.lab import words

PIECES = re.compile(r"[“”\n]| = | – |: |(?<=[.?!]) ")
"""what stands between two sentences of a document"""
BEGINNINGS = re.compile(r"(?<!\w)(?=([^\W\d_][^.?!\n“”]*\.))")
"""from every word to the next full stop"""
TIMES = [
    *("every day", "in the morning", "at night", "yesterday", "last week", "tomorrow", "next week"),
    *("mỗi ngày", "vào buổi sáng", "vào ban đêm", "hôm qua", "tuần trước", "ngày mai", "tuần sau"),
]
MARKERS = ("đã ", "sẽ ", "không ", "muốn ", "có thể ", "")


def animals() -> Iterator[tuple[str, str]]:
    """`a black cat` and `một con mèo đen`, and every other animal that a sentence can name."""
    for animal in words.ANIMALS:
        for adjective, after in [("", ""), *words.ADJECTIVES]:
            english, vietnamese = f"{adjective} {animal.english}".strip(), f"con {animal.vietnamese} {after}".strip()
            yield f"the {english}", vietnamese
            yield f"{'an' if english[0] in 'aeiou' else 'a'} {english}", f"một {vietnamese}"
        for count, vietnamese_count in words.NUMBERS:
            yield f"{count} {animal.plural}", f"{vietnamese_count} con {animal.vietnamese}"


def rests() -> Iterator[tuple[words.Verb, str, str]]:
    """Every verb with everything that may follow it, in both languages."""
    for verb in words.WITH_FOOD:
        yield from ((verb, food.english, food.vietnamese) for food in words.FOODS)
    for verb in words.WITH_TOOL:
        yield from ((verb, tool.with_article, f"một {tool.classifier} {tool.vietnamese}") for tool in words.TOOLS)
    for verb in words.WITH_ANIMAL:
        yield from ((verb, english, vietnamese) for english, vietnamese in animals())
    for place in words.PLACES:
        yield words.GO, f"to the {place.english}", place.vietnamese
        for english, vietnamese in words.POSITIONS:
            for verb in words.WITH_PLACE:
                yield verb, f"{english} the {place.english}", f"{vietnamese} {place.vietnamese}"


SUBJECTS = [*words.PEOPLE_WORDS, *words.PRONOUNS, *animals()]
SUBJECTS += [(f"the {job.english}", job.vietnamese) for job in words.JOBS]
ENGLISH_SUBJECTS = {english: english for english, _ in SUBJECTS}
VIETNAMESE_SUBJECTS = {vietnamese: english for english, vietnamese in SUBJECTS}
ENGLISH_ENDS = {
    f"{form} {rest}": (verb, rest)
    for verb, rest, _ in rests()
    for form in (
        verb.base, verb.present, verb.past, f"will {verb.base}", f"can {verb.base}", f"do not {verb.base}",
        f"does not {verb.base}", f"want to {verb.base}", f"wants to {verb.base}",
    )
}  # fmt: skip
VIETNAMESE_ENDS = {
    f"{marker}{verb.vietnamese} {rest} {verb.vietnamese_after}".strip(): (verb, english)
    for verb, english, rest in rests()
    for marker in MARKERS
}
LONGEST_SUBJECT = max(len(subject.split()) for pair in SUBJECTS for subject in pair)


def plain_english(sentence: str) -> str | None:
    """The sentence in the English present without its time of day; None of what is no sentence of the lab's."""
    if not sentence.endswith("."):
        return None
    if not sentence[0].isupper():
        return None
    text = sentence[:1].lower() + sentence[1:-1]
    text = f"I{text[1:]}" if text.startswith("i ") else text
    for time in TIMES:
        text = text.removesuffix(f" {time}")
    spoken = text.split(" ")
    for length in range(min(LONGEST_SUBJECT, len(spoken) - 1), 0, -1):
        first, second = " ".join(spoken[:length]), " ".join(spoken[length:])
        for subjects, ends in ((ENGLISH_SUBJECTS, ENGLISH_ENDS), (VIETNAMESE_SUBJECTS, VIETNAMESE_ENDS)):
            if first in subjects and second in ends:
                return _plain(subjects[first], *ends[second])
    return None


def _plain(subject: str, verb: words.Verb, rest: str) -> str:
    is_plural = subject in words.PLURAL_SUBJECTS or subject.split()[0] in {count for count, _ in words.NUMBERS}
    text = f"{subject} {verb.base if is_plural else verb.present} {rest}."
    return text[0].upper() + text[1:]


def sentences_in(text: str) -> list[str]:
    """Every sentence of the lab's in a text, as plain English, wherever in a line it stands."""
    read = (plain_english(found) for found in BEGINNINGS.findall(text))
    return [sentence for sentence in read if sentence]
