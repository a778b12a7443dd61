"""Tasks on lists and numbers: pick, sort, count, reckon, compare."""

from __future__ import annotations

import unicodedata

from heed.lab import words
from heed.lab.tasks.task import Family, Pool, Task, instruction

ALPHABET = "aăâbcdđeêfghijklmnoôơpqrstuưvwxyz"
"""the Vietnamese letters, and those of foreign names where English has them"""
TONES = frozenset("\u0300\u0301\u0303\u0309\u0323")

FIRST = (
    "What is the first word of this list? {list}",
    "Give the first word of the list: {list}",
    "{list}\nName the first item.",
    "Which word comes first? {list}",
    "Take the first item from the list.\n{list}",
    "Write down only the first word: {list}",
    "First word of the list, please: {list}",
    "Which one stands at the beginning? {list}",
    "Tell me the first word in the list.\n{list}",
    "Say what the first item is: {list}",
)
LAST = (
    "What is the last word of this list? {list}",
    "Give the last word of the list: {list}",
    "{list}\nName the last item.",
    "Which word comes last? {list}",
    "Take the last item from the list.\n{list}",
    "Write down only the last word: {list}",
    "Last word of the list, please: {list}",
    "Which one stands at the end? {list}",
    "Tell me the last word in the list.\n{list}",
    "Say what the last item is: {list}",
)
NEXT = (
    "Which word comes after {word}? {list}",
    "What comes after {word} in this list? {list}",
    "{list}\nName the item after {word}.",
    "Give the word that follows {word}: {list}",
    "Look at the list: {list}. What follows {word}?",
    "After {word} comes which word? {list}",
    "Find the word right after {word}.\n{list}",
    "In the list {list}, what is next after {word}?",
    "Tell me which item comes after {word}: {list}",
    "Which item follows {word} in the list?\n{list}",
)
REVERSE = (
    "Write this list backwards: {list}",
    "Give the list from the end to the beginning: {list}",
    "{list}\nTurn the list around.",
    "Read the list from the end: {list}",
    "Reverse this list.\n{list}",
    "Put the words in reverse order: {list}",
    "Say the list backwards: {list}",
    "List the words again, the last one first: {list}",
    "Reverse the order of these words: {list}",
    "Turn this list backwards.\n{list}",
)
SORT = (
    "Sort these numbers: {list}",
    "Sort the numbers from small to large: {list}",
    "{list}\nPut the numbers in order.",
    "Put these numbers in order, the smallest first: {list}",
    "Order the numbers from the smallest to the largest.\n{list}",
    "Write the numbers in rising order: {list}",
    "Sort from the smallest to the largest: {list}",
    "Give these numbers in order: {list}",
    "Please sort these numbers, smallest first: {list}",
    "Order these from small to large: {list}",
)
SORT_DOWN = (
    "Sort these numbers, the largest first: {list}",
    "Sort the numbers from large to small: {list}",
    "{list}\nPut the numbers in order from the largest down.",
    "Put these numbers in order, the largest first: {list}",
    "Order the numbers from the largest to the smallest.\n{list}",
    "Write the numbers in falling order: {list}",
    "Sort from the largest to the smallest: {list}",
    "Count down with these numbers: {list}",
    "Please sort these numbers, largest first: {list}",
    "Order these from large to small: {list}",
)
SORT_WORDS = (
    "Put these words in alphabetical order: {list}",
    "Sort the words from A to Z: {list}",
    "{list}\nSort the words by the alphabet.",
    "Write the list in alphabetical order.\n{list}",
    "Sort these words alphabetically: {list}",
    "Give the words in alphabetical order: {list}",
    "Arrange by the alphabet: {list}",
    "Order the words from A to Z.\n{list}",
    "Please arrange these words in alphabetical order: {list}",
    "Alphabetical order, please: {list}",
)
COUNT = (
    "How many words are in this list? {list}",
    "Count the words in the list: {list}",
    "{list}\nHow many items are there?",
    "Count the items.\n{list}",
    "How long is this list? {list}",
    "Give the number of words: {list}",
    "How many words do you see? {list}",
    "Say how many items the list has: {list}",
    "Tell me how many words are in the list.\n{list}",
    "What is the number of items in this list? {list}",
)
COUNT_ONE = (
    "How often does the word {word} come up? {list}",
    "Count the word {word} in this list: {list}",
    "{list}\nHow many times is {word} in the list?",
    "How many times does {word} come? {list}",
    "Count how often {word} is there.\n{list}",
    "Give the number of times the word {word} comes: {list}",
    "How often is {word} in the list? {list}",
    "In the list {list}, how often is the word {word}?",
    "Tell me how many times {word} comes up: {list}",
    "How many times do you see {word} here? {list}",
)
ADD = (
    "What is {a} + {b}?",
    "Add {a} and {b}.",
    "How much is {a} plus {b}?",
    "Give the sum of {a} and {b}.",
    "Work out {a} + {b}.",
    "{a} + {b} = ?",
    "What do {a} and {b} make?",
    "Add the two numbers: {a}, {b}",
    "What is the sum of {a} and {b}?",
    "How much do {a} and {b} make?",
)
SUBTRACT = (
    "What is {c} - {b}?",
    "Take {b} away from {c}.",
    "How much is {c} minus {b}?",
    "Subtract {b} from {c}.",
    "Work out {c} - {b}.",
    "{c} - {b} = ?",
    "What is left of {c} without {b}?",
    "What is {c} less {b}?",
    "Give {c} - {b}.",
    "How much is {c} less {b}?",
)
WORD_SUM = (
    "{name} had {a} {things} and got {b} more. How many {things} does {she} have now?",
    "{name} had {a} {things}. Then {she} got {b} more. How many are there now?",
    "First {name} had {a} {things}, then {she} got {b} more. Give the number of {things}.",
    "{name} had {a} {things} and bought {b} more. How many is that?",
    "How many {things} does {name} have, if {she} had {a} and got {b} more?",
    "{name} got {b} {things} and had {a} before. How many {things} now?",
    "If {name} has {a} {things} and gets {b} more, how many does {she} have?",
    "Count the {things}: {name} had {a} and got {b} more.",
    "{name} had {a} {things} and found {b} more. How many does {she} have?",
    "Say how many {things} {name} has, who had {a} and got {b} more.",
)
LARGEST = (
    "Which number is the largest? {list}",
    "Give the largest of these numbers: {list}",
    "{list}\nName the largest number.",
    "Find the largest number: {list}",
    "What is the largest of {list}?",
    "Compare the numbers. Which one is the largest? {list}",
    "Pick the largest: {list}",
    "Write down the largest number.\n{list}",
    "Tell me which number is the largest: {list}",
    "Largest number, please: {list}",
)
SMALLEST = (
    "Which number is the smallest? {list}",
    "Give the smallest of these numbers: {list}",
    "{list}\nName the smallest number.",
    "Find the smallest number: {list}",
    "What is the smallest of {list}?",
    "Compare the numbers. Which one is the smallest? {list}",
    "Pick the smallest: {list}",
    "Write down the smallest number.\n{list}",
    "Tell me which number is the smallest: {list}",
    "Smallest number, please: {list}",
)
MORE = (
    "Is {a} more or less than {b}?",
    "More or less? {a} is ... than {b}.",
    "Compare {a} with {b}: more or less?",
    "Say if {a} is more or less than {b}.",
    "Compare the two numbers {a} and {b}. Is the first more or less?",
    "{a} and {b}: is the first one more or less?",
    "Is the number {a} more than {b} or less than {b}? Say more or less.",
    "How does {a} compare with {b}, more or less?",
    "Tell me if {a} is more or less than {b}.",
    "Decide: is {a} more or less than {b}?",
)


def first_of_list(pool: Pool) -> Task:
    """The first of several names."""
    names = pool.names(3, 6)
    return instruction(pool.worded(FIRST).format(list=", ".join(names)), names[0], "choice", *names)


def last_of_list(pool: Pool) -> Task:
    """The last of several names."""
    names = pool.names(3, 6)
    return instruction(pool.worded(LAST).format(list=", ".join(names)), names[-1], "choice", *reversed(names))


def next_in_list(pool: Pool) -> Task:
    """The name after a given one."""
    names = pool.names(3, 6)
    at = pool.rng.randrange(len(names) - 1)
    prompt = pool.worded(NEXT).format(list=", ".join(names), word=names[at])
    others = [name for name in names if name != names[at + 1]]
    return instruction(prompt, names[at + 1], "choice", names[at + 1], *others)


def reverse_list(pool: Pool) -> Task:
    """A list from its end."""
    names = pool.names(2, 4)
    return instruction(pool.worded(REVERSE).format(list=", ".join(names)), ", ".join(reversed(names)), "list")


def sort_numbers(pool: Pool) -> Task:
    """Numbers in rising order."""
    some = pool.numbers(3, 5)
    listed, answer = ", ".join(map(str, some)), ", ".join(map(str, sorted(some)))
    return instruction(pool.worded(SORT).format(list=listed), answer, "list")


def sort_numbers_down(pool: Pool) -> Task:
    """Numbers in falling order."""
    some = pool.numbers(3, 5)
    listed, answer = ", ".join(map(str, some)), ", ".join(map(str, sorted(some, reverse=True)))
    return instruction(pool.worded(SORT_DOWN).format(list=listed), answer, "list")


def sort_words(pool: Pool) -> Task:
    """Names by the alphabet, of which there are several: only lists that all of them order alike."""
    names = pool.names(3, 4)
    while not order_is_plain(names):
        names = pool.names(3, 4)
    answer = ", ".join(sorted(names, key=str.lower))
    return instruction(pool.worded(SORT_WORDS).format(list=", ".join(names)), answer, "list")


def order_is_plain(names: list[str]) -> bool:
    """Whether Unicode, a Vietnamese dictionary and someone who passes over accents put the names in one order."""
    by_code = sorted(names, key=str.lower)
    return by_code == sorted(names, key=_vietnamese_letters) == sorted(names, key=_letters)


def _letters(name: str) -> str:
    """Without accents: `Đức` is `duc`."""
    return "".join(
        c for c in unicodedata.normalize("NFD", name.lower().replace("đ", "d")) if not 0x300 <= ord(c) < 0x370
    )


def _vietnamese_letters(name: str) -> list[int]:
    """Places in the alphabet, where `đ` and `ă` are letters of their own and tones are none."""
    untoned = "".join(c for c in unicodedata.normalize("NFD", name.lower()) if c not in TONES)
    return [ALPHABET.index(letter) for letter in unicodedata.normalize("NFC", untoned)]


def count_words(pool: Pool) -> Task:
    """How many names a list holds."""
    names = pool.names(2, 6)
    return instruction(pool.worded(COUNT).format(list=", ".join(names)), str(len(names)), "number")


def count_one_word(pool: Pool) -> Task:
    """How often one name comes up in a list."""
    names = pool.names(2, 3)
    word = names[0]
    names += [word] * pool.rng.randint(0, 3)
    pool.rng.shuffle(names)
    prompt = pool.worded(COUNT_ONE).format(list=", ".join(names), word=word)
    return instruction(prompt, str(names.count(word)), "number")


def _terms(pool: Pool, *, least: int = 1) -> tuple[int, int]:
    while True:
        a, b = pool.rng.randint(least, 12), pool.rng.randint(least, 12)
        if pool.fresh(f"{min(a, b)} + {max(a, b)}"):
            return a, b


def add(pool: Pool) -> Task:
    """The sum of two small numbers."""
    a, b = _terms(pool)
    return instruction(pool.worded(ADD).format(a=a, b=b), str(a + b), "number")


def subtract(pool: Pool) -> Task:
    """The difference of two small numbers."""
    a, b = _terms(pool)
    return instruction(pool.worded(SUBTRACT).format(b=b, c=a + b), str(a), "number")


def sum_in_words(pool: Pool) -> Task:
    """A sum told as a little story, of two things or more, for `1 hammers` is no English."""
    a, b = _terms(pool, least=2)
    (person,) = pool.people(1)
    things = pool.noun(words.TOOLS).plural
    prompt = pool.worded(WORD_SUM).format(name=person.name, she=person.she, things=things, a=a, b=b)
    return instruction(prompt, str(a + b), "number")


def largest_number(pool: Pool) -> Task:
    """The largest of several numbers."""
    some = pool.numbers(2, 4)
    return instruction(pool.worded(LARGEST).format(list=", ".join(map(str, some))), str(max(some)), "number")


def smallest_number(pool: Pool) -> Task:
    """The smallest of several numbers."""
    some = pool.numbers(2, 4)
    return instruction(pool.worded(SMALLEST).format(list=", ".join(map(str, some))), str(min(some)), "number")


def more_or_less(pool: Pool) -> Task:
    """Two numbers compared."""
    a, b = pool.numbers(2, 2)
    right, wrong = ("more", "less") if a > b else ("less", "more")
    return instruction(pool.worded(MORE).format(a=a, b=b), right, "choice", right, wrong)


FAMILIES = (
    Family("first_of_list", "list", first_of_list, FIRST),
    Family("last_of_list", "list", last_of_list, LAST),
    Family("next_in_list", "look up", next_in_list, NEXT),
    Family("reverse_list", "list", reverse_list, REVERSE),
    Family("sort_numbers", "sort", sort_numbers, SORT),
    Family("sort_numbers_down", "order", sort_numbers_down, SORT_DOWN),
    Family("sort_words", "order", sort_words, SORT_WORDS),
    Family("count_words", "count", count_words, COUNT),
    Family("count_one_word", "count", count_one_word, COUNT_ONE),
    Family("add", "reckon", add, ADD),
    Family("subtract", "reckon", subtract, SUBTRACT),
    Family("sum_in_words", "story sums", sum_in_words, WORD_SUM),
    Family("largest_number", "compare", largest_number, LARGEST),
    Family("smallest_number", "compare", smallest_number, SMALLEST),
    Family("more_or_less", "compare", more_or_less, MORE),
)
