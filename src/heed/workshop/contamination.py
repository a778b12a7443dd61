"""Find texts of evaluation sets in records: by how much of a text's runs of n words stands in a record.

A run of n words that two texts share says little: phrases and boilerplate are shared by many. So a record holds a text
only where a share of all its runs stands there, and runs that many records of one evaluation set have do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from heed.types import Origin
from heed.workshop.mend import texts_in
from heed.workshop.words import Words, folded, runs_of, words_of

ENOUGH = 13
"""words that are hardly the same by chance. Fewer in common are a match only where they are the whole of what is asked:
answers, choices and lines that short may well stand elsewhere, as titles, lists and sayings do."""
ASKED = re.compile(
    r"(?:^|[^a-z0-9])(?:prompt|question|query|instruction|problem|task|goal|inputs?|context|ctx|passage|paragraph|premise|"
    r"hypothesis|sentence[12]?|stem|text|content|user|human)(?:$|[^a-z0-9])"
)
"""in the name of a field that holds what is asked; where a record has none, all its texts are taken for asked"""
WORD = re.compile(r"[^\W_]+")
LABEL = re.compile(
    r"^[^\S\n]*(?:(question|query|problem|instruction|prompt|q|câu hỏi|问题|問題)|answer|response|passage|context|"
    r"premise|hypothesis|sentence|text|input|output|a|user|human|assistant|trả lời|đoạn văn|答案|回答)"
    r"[^\S\n]*\d*[^\S\n]*[:：]",
    re.MULTILINE,
)
"""what files of evaluation sets put before a question or an answer, which another template words otherwise"""
MANY, MANY_SHARE = 5, 0.1
"""records of one set, and their share of the set, from which on a run of words is boilerplate of it"""
SLOT_BITS = 24
"""of the table that says at once of most runs that no evaluation set has them"""


@dataclass(frozen=True, slots=True)
class Match:
    """A text of an evaluation set that stands in a record."""

    item: int
    """which text"""
    coverage: float
    """share of its runs of words that stand in the record"""
    shown: str
    """the longest part of the record that is word for word as there, in lower case"""


@dataclass(frozen=True, slots=True)
class Index:
    """Runs of words of evaluation sets. I texts, R runs."""

    n: int
    run: np.ndarray
    """(R,) uint64, rising"""
    item: np.ndarray
    """(R,) int64; the text it is of"""
    num_runs: np.ndarray
    """(I,) int64; distinct ones that count, at least 1"""
    is_slot: np.ndarray
    """(2^SLOT_BITS,) bool; whether any run begins with these bits"""

    def matches(self, records: Sequence[Mapping[str, Any]], coverage: float) -> list[Match | None]:
        """For every record the text that it holds most of, where that is `coverage` or more."""
        texts = [[folded(text) for text in texts_in(record)] for record in records]
        owner = np.repeat(np.arange(len(records)), [len(each) for each in texts])
        flat = [text for each in texts for text in each]
        words = words_of(flat, with_signs=False)
        runs, first = runs_of(words, self.n, short=False)
        maybe = np.flatnonzero(self.is_slot[runs >> np.uint64(64 - SLOT_BITS)])
        low, high = (np.searchsorted(self.run, runs[maybe], side) for side in ("left", "right"))
        num = high - low
        at = np.repeat(maybe, num)
        within = np.arange(len(at)) - np.repeat(np.cumsum(num) - num, num)
        item = self.item[np.repeat(low, num) + within]
        record = owner[words.text[first[at]]]
        found: list[Match | None] = [None] * len(records)
        if not len(at):
            return found
        distinct = np.unique(np.stack([record, item, runs[at].view(np.int64)], 1), axis=0)
        pairs, shared = np.unique(distinct[:, :2], axis=0, return_counts=True)
        num_runs = self.num_runs[pairs[:, 1]]
        covered = shared / num_runs
        is_held = (covered >= coverage) & (shared >= np.minimum(num_runs, ENOUGH - self.n + 1))
        joined = "".join(flat)
        for (which, text), share in zip(pairs[is_held].tolist(), covered[is_held].tolist(), strict=True):
            before = found[which]
            rank = (share, int(self.num_runs[text]))
            if before is None or rank > (before.coverage, int(self.num_runs[before.item])):
                here = first[np.unique(at[(record == which) & (item == text)])]
                found[which] = Match(text, share, _longest(words, here, self.n, joined))
        return found


def _longest(words: Words, first: np.ndarray, n: int, joined: str) -> str:
    """The text of the longest of the stretches that runs beginning at these words cover."""
    is_new = np.ones(len(first), bool)
    is_new[1:] = (np.diff(first) > n) | (words.text[first[1:]] != words.text[first[:-1]])
    begins = np.flatnonzero(is_new)
    ends = np.append(begins[1:], len(first)) - 1
    best = int(np.argmax(first[ends] - first[begins]))
    return joined[words.start[first[begins[best]]] : words.stop[first[ends[best]] + n - 1]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text of an evaluation set stands."""

    origin: Origin
    where: str
    """the fields that lead to it"""

    def as_json(self) -> dict[str, object]:
        return {"path": self.origin.path, "record": self.origin.record, "where": self.where}


@dataclass(slots=True)
class IndexBuilder:
    """Takes in evaluation sets, one after the other.

    What is asked is looked for from `n` words on; any other text, and every line of a text, from `ENOUGH` words on. Of
    scripts that put no blanks between words, two characters count as a word.
    """

    n: int
    places: list[Place] = field(default_factory=list)
    """of every text that is looked for"""
    num_boilerplate: int = 0
    """texts and lines that are nothing but boilerplate"""
    _seen: set[int] = field(default_factory=set)
    _run: list[np.ndarray] = field(default_factory=list)
    _item: list[np.ndarray] = field(default_factory=list)
    _num_runs: list[np.ndarray] = field(default_factory=list)

    def add(self, records: Sequence[tuple[Origin, Mapping[str, Any]]]) -> None:
        """Take in all records of one set."""
        n = self.n
        found = [each for number, (origin, record) in enumerate(records) for each in _texts(origin, record, number, n)]
        asks = {unit[0] for _, unit, _, is_asked in found if is_asked}
        found = [each for each in found if len(each[2]) >= 2 * n - 1]
        texts = [text for _, _, text, _ in found]
        words = words_of(texts, with_signs=False)
        runs, first = runs_of(words, n, short=False)
        text = words.text[first]
        numbers: dict[tuple[int, ...], int] = {}
        units = np.array([numbers.setdefault(unit, len(numbers)) for _, unit, _, _ in found], np.int64)
        counts = ~_near_frequent(_are_frequent(runs, units[text]), text, n)
        line = _lines(words, texts)
        has_lines = np.zeros(len(texts), bool)
        has_lines[words.text[1:][(line[1:] != line[:-1]) & (words.text[1:] == words.text[:-1])]] = True
        enough = np.array([n if is_asked or unit[0] not in asks else ENOUGH for _, unit, _, is_asked in found], int)
        # Once each, unless it was too short, or boilerplate, where it stood before.
        first_of = {key: place for place, key in reversed(list(enumerate(zip(texts, enough.tolist(), strict=True))))}
        is_new = np.zeros(len(texts), bool)
        is_new[[place for (each, _), place in first_of.items() if hash(each) not in self._seen]] = True
        num_words = np.where(words.is_alone, 0.5, 1.0)
        of_line = line[first] == line[first + n - 1]
        in_text = np.bincount(words.text, num_words)[text] if len(text) else text
        in_line = np.bincount(line, num_words)[line[first]] if len(text) else text
        places = [place for place, _, _, _ in found]
        is_in = is_new[text] & counts
        is_taken = is_in & (in_text >= enough[text])
        self._take(places, text, text, runs, is_taken)
        are_lines_taken = is_in & of_line & has_lines[text] & (in_line >= ENOUGH)
        self._take(places, line[first], text, runs, are_lines_taken)
        self._seen.update(hash(texts[each]) for each in np.unique(text[is_taken | are_lines_taken]).tolist())
        # Of every text that is long enough: whether anything of it counts.
        self.num_boilerplate += len(np.setdiff1d(text[is_new[text]], text[counts]))

    def _take(
        self, places: Sequence[Place], group: np.ndarray, text: np.ndarray, runs: np.ndarray, is_in: np.ndarray
    ) -> None:
        """Make an item of the runs of every group, which is a text or a line."""
        group, text, runs = group[is_in], text[is_in], runs[is_in]
        chosen = np.unique(np.stack([group, text, runs.view(np.int64)], 1), axis=0)
        begins = np.flatnonzero(np.diff(chosen[:, 0], prepend=-1))
        num_runs = np.diff(begins, append=len(chosen))
        self._run.append(chosen[:, 2].view(np.uint64))
        self._item.append(np.repeat(np.arange(len(begins)), num_runs) + len(self.places))
        self._num_runs.append(num_runs)
        self.places += [places[each] for each in chosen[begins, 1].tolist()]

    def index(self) -> Index:
        """What was taken in, for records to be looked up."""
        run, item = np.concatenate(self._run), np.concatenate(self._item)
        order = np.lexsort((item, run))
        is_slot = np.zeros(1 << SLOT_BITS, bool)
        is_slot[run >> np.uint64(64 - SLOT_BITS)] = True
        return Index(self.n, run[order], item[order], np.concatenate(self._num_runs), is_slot)


Text = tuple[Place, tuple[int, ...], str, bool]
"""(place, the record or the object of a list inside it that it belongs to, the text folded, whether it is asked)"""


def _texts(origin: Origin, record: Any, number: int, n: int) -> Iterator[Text]:
    """Every text of a record without its labels; a line that is labelled as a question stands by itself, too."""

    def walk(value: Any, steps: tuple[str, ...], unit: tuple[int, ...], is_asked: bool) -> Iterator[Text]:
        if isinstance(value, str):
            text, place = folded(value), Place(origin, ".".join(steps))
            without = LABEL.sub("", text)
            # A question that is too short without its label is looked for with it.
            yield place, unit, without if len(WORD.findall(without)) >= n else text, is_asked
            if "\n" in text.strip():
                for label in LABEL.finditer(text):
                    if label[1]:
                        yield place, unit, text[label.end() :].lstrip().partition("\n")[0], True
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, (*steps, str(key)), unit, names_what_is_asked(str(key)))
        elif isinstance(value, list | tuple):
            for place_in, item in enumerate(value):
                inside = (*unit, place_in) if isinstance(item, Mapping) else unit
                yield from walk(item, (*steps, str(place_in)), inside, is_asked)

    yield from walk(record, (), (number,), False)


@cache
def names_what_is_asked(field: str) -> bool:
    """Whether a field has a usual name of what is asked."""
    return ASKED.search(field.casefold()) is not None


def _are_frequent(runs: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(R,) whether a run stands in many records of the set."""
    pairs = np.unique(np.stack([runs.view(np.int64), unit], 1), axis=0)
    distinct, count = np.unique(pairs[:, 0], return_counts=True)
    num_units = len(np.unique(unit))
    many = distinct[(count >= MANY) & (count > MANY_SHARE * num_units)]
    return np.isin(runs.view(np.int64), many)


def _near_frequent(is_frequent: np.ndarray, text: np.ndarray, n: int) -> np.ndarray:
    """(R,) whether a run has a word in common with a frequent one of its text; runs of a text follow one another."""
    places = np.flatnonzero(is_frequent)
    if not len(places):
        return is_frequent
    here = np.arange(len(text))
    after = places[np.minimum(np.searchsorted(places, here), len(places) - 1)]
    before = places[np.maximum(np.searchsorted(places, here, "right") - 1, 0)]
    is_near = is_frequent.copy()
    for each in (before, after):
        is_near |= (np.abs(each - here) < n) & (text[each] == text)
    return is_near


def _lines(words: Words, texts: Sequence[str]) -> np.ndarray:
    """(W,) the line that each word stands in, counted over all texts."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    feeds: np.ndarray = np.searchsorted(np.flatnonzero(codes == ord("\n")), words.start)
    feeds += words.text  # texts are not parted by line feeds
    return feeds
