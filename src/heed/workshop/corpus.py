"""What only many records together show: what stood before, what contradicts, and what tells the preferred answer.

Records come in one by one, as digests of what they say; of each a few numbers are kept and no text (72 bytes, and 40
for every pair of ranked answers), and sorted when all are in. Two texts of one digest of 128 bits are taken for one.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from heed.data_faults import Fault
from heed.types import Document, Judged, Message, Origin, Ranking
from heed.workshop.record_faults import Noun, answers_of, plain, prompt_of

Edge = tuple[int, int]
MOST_EDGES = 64
"""pairs of one prompt in which a circle is looked for"""
RECORD_BITS = 40
"""of a place, below the number of its file"""
OLD_PLACE = re.compile(r"\b[^\W\d_]*(?:[óòỏõọ][ae]|[úùủũụ]y)\b", re.IGNORECASE)
NEW_PLACE = re.compile(r"\b[^\W\d_]*(?:o[áàảãạéèẻẽẹ]|(?<!q)u[ýỳỷỹỵ])\b", re.IGNORECASE)
"""syllables in oa, oe and uy alone, with the mark on the first letter as before 1980, or on the second"""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a record says, as far as it is compared with other records."""

    origin: Origin
    prompt: bytes
    asked: bytes
    """the prompt but for case, blanks and punctuation"""
    record: bytes
    answers: tuple[bytes, ...]
    """the best one first"""
    lengths: tuple[int, ...]
    """of the answers, in characters"""
    is_ranked: bool
    scores: tuple[float, ...]
    num_old_marks: int
    num_new_marks: int
    annotator: str | None = None


def digest_of(noun: Noun, annotator: str | None = None) -> Digest:
    """A record as it is compared: accents composed, blanks at the ends gone, and nothing else changed."""
    asked, whole, digests = said_by(noun)
    if isinstance(noun, Document):
        return Digest(noun.origin, asked, asked, whole, (), (), False, (), *_marks([noun.text]))
    prompt, answers = prompt_of(noun), answers_of(noun)
    loosely = _digest(f"{message.role}\0{plain(message.content) or message.content}" for message in prompt)
    lengths = tuple(sum(len(message.content.strip()) for message in answer) for answer in answers)
    scores = noun.scores if isinstance(noun, Ranking) else ()
    marks = _marks([m.content for m in prompt] + [m.content for answer in answers for m in answer])
    return Digest(
        noun.origin, asked, loosely, whole, digests, lengths, isinstance(noun, Ranking), scores, *marks, annotator
    )


def said_by(noun: Noun) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """128 bits each of the prompt, of the whole record, and of every answer; of a document, of its text twice."""
    if isinstance(noun, Document):
        said = _digest([noun.text])
        return said, said, ()
    asked = _digest(f"{message.role}\0{message.content}" for message in prompt_of(noun))
    digests = tuple(map(_of_answer, answers_of(noun)))
    verdict = [str(noun.is_desirable).encode()] if isinstance(noun, Judged) else []
    return asked, hashlib.blake2b(b"".join([asked, *digests, *verdict]), digest_size=16).digest(), digests


def _of_answer(answer: Sequence[Message]) -> bytes:
    return _digest(f"{message.role}\0{message.content}\0{message.extra or ''}" for message in answer)


def _digest(texts: Iterable[str]) -> bytes:
    """128 bits of texts, the same where they differ in how accents are composed or in blanks around them."""
    plain = "\x1e".join("\0".join(part.strip() for part in text.split("\0")) for text in texts)
    return hashlib.blake2b(
        unicodedata.normalize("NFC", plain).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def _marks(texts: Iterable[str]) -> tuple[int, int]:
    composed = [unicodedata.normalize("NFC", text) for text in texts if not text.isascii()]
    old, new = (sum(len(place.findall(text)) for text in composed) for place in (OLD_PLACE, NEW_PLACE))
    return old, new


def _halves(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


@dataclass(slots=True)
class Habit:
    """How often an annotator took the longer of two answers of unequal length."""

    first: Origin
    num_longer: int = 0
    num_choices: int = 0


PROMPT, RECORD, ASKED, ANSWER, PLACE, HAS_ANSWER, WIDTH = (0, 1), (2, 3), (4, 5), 6, 7, 8, 9
"""columns of what is kept of a record; the last one is 1 where it has one answer, which is not ranked"""
EDGE_PROMPT, BETTER, WORSE, EDGE_PLACE, EDGE_WIDTH = (0, 1), 2, 3, 4, 5
"""columns of what is kept of a pair"""


@dataclass(slots=True)
class Corpus:
    """What was seen so far."""

    num_records: int = 0
    _rows: array[int] = field(default_factory=lambda: array("Q"))
    _edges: array[int] = field(default_factory=lambda: array("Q"))
    _differences: array[int] = field(default_factory=lambda: array("i"))
    _paths: dict[str, int] = field(default_factory=dict)
    _num_old_marks: int = 0
    _num_new_marks: int = 0
    _habits: dict[str, Habit] = field(default_factory=dict)

    def add(self, seen: Digest) -> None:
        """Take in a record."""
        self.num_records += 1
        self._num_old_marks += seen.num_old_marks
        self._num_new_marks += seen.num_new_marks
        place = self._paths.setdefault(seen.origin.path, len(self._paths)) << RECORD_BITS | seen.origin.record
        answer = _halves(seen.answers[0])[0] if seen.answers else 0
        has_answer = bool(seen.answers) and not seen.is_ranked
        digests = (*_halves(seen.prompt), *_halves(seen.record), *_halves(seen.asked))
        self._rows.extend((*digests, answer, place, has_answer))
        if not seen.is_ranked:
            return
        for better, worse in strict_pairs(seen):
            a, b = (_halves(seen.answers[each])[0] for each in (better, worse))
            if a != b:
                difference = seen.lengths[better] - seen.lengths[worse]
                self._differences.append(max(1 - 2**31, min(difference, 2**31 - 1)))
                self._edges.extend((*_halves(seen.prompt), a, b, place))
                if seen.annotator is not None and difference:
                    habit = self._habits.setdefault(seen.annotator, Habit(seen.origin))
                    habit.num_longer += difference > 0
                    habit.num_choices += 1

    def faults(self, held_out: Corpus | None = None) -> Iterator[Fault]:
        """What all records together show, kind by kind, in the order of the records.

        Args:
            held_out: the records that a model is measured on, which should not be among those it learns from.
        """
        rows = np.frombuffer(self._rows, np.uint64).reshape(-1, WIDTH)
        if held_out is not None:
            yield from self._held_out(rows, held_out)
        repeated, first = _repeated(rows, RECORD)
        for place, before in zip(rows[repeated, PLACE], rows[first, PLACE], strict=True):
            yield Fault("duplicate", self._origin(place), "", f"the same as {self._origin(before)}")
        alone = np.ones(len(rows), bool)
        alone[repeated] = False
        rows = rows[alone & (rows[:, HAS_ANSWER] == 1)]
        for place, before in zip(*(rows[each, PLACE] for each in _repeated(rows, ASKED)), strict=True):
            yield Fault("another-answer", self._origin(place), "", f"the same prompt as {self._origin(before)}")
        yield from self._preferences()
        yield from self._of_all()

    def _held_out(self, rows: np.ndarray, held_out: Corpus) -> Iterator[Fault]:
        theirs = np.frombuffer(held_out._rows, np.uint64).reshape(-1, WIDTH)
        where = {(high, low): place for high, low, place in theirs[:, [*PROMPT, PLACE]].tolist()}
        maybe = np.flatnonzero(np.isin(rows[:, PROMPT[0]], theirs[:, PROMPT[0]]))
        for high, low, place in rows[maybe][:, [*PROMPT, PLACE]].tolist():
            if (there := where.get((high, low))) is not None:
                found = f"its prompt is that of {held_out._origin(there)}"
                yield Fault("in-held-out", self._origin(place), "", found)

    def _preferences(self) -> Iterator[Fault]:
        edges = np.frombuffer(self._edges, np.uint64).reshape(-1, EDGE_WIDTH)
        order = np.lexsort((np.arange(len(edges)), edges[:, 1], edges[:, 0]))
        edges = edges[order]
        bounds = [0, *(np.flatnonzero((edges[1:, :2] != edges[:-1, :2]).any(1)) + 1).tolist(), len(edges)]
        found = []
        for start, stop in pairwise(bounds):
            if stop - start > 1:
                found += list(_contradictions(edges[start:stop, BETTER:].tolist()))
        for kind in ("reversed-preference", "preference-cycle"):
            for place, before in sorted((place, before) for each, place, before in found if each == kind):
                yield Fault(kind, self._origin(place), "", f"against {self._origin(before)}")

    def _of_all(self) -> Iterator[Fault]:
        first = Origin(next(iter(self._paths), ""), 1)
        area, low, high = auc_of_length(self._differences)
        if len(self._differences) >= MIN_PAIRS and (low > LENGTH_TELLS or high < 1 - LENGTH_TELLS):
            word, share = ("longer", area) if area > 0.5 else ("shorter", 1 - area)
            low, high = (low, high) if area > 0.5 else (1 - high, 1 - low)
            interval = f"{share:.1%} [{low:.1%}, {high:.1%}] of {len(self._differences):,} pairs"
            told = f"the {word} answer is preferred in {interval}"
            yield Fault("length-decides", first, "all records", told)
        for annotator, habit, of_others in habits_of(self._habits):
            share = habit.num_longer / habit.num_choices
            found = (
                f"{annotator} took the longer answer in {share:.1%} of {habit.num_choices:,}, others in {of_others:.1%}"
            )
            yield Fault("annotator-habit", habit.first, "all records", found)
        if self._num_old_marks and self._num_new_marks:
            found = f"{self._num_old_marks:,} syllables as in hòa, {self._num_new_marks:,} as in hoà"
            yield Fault("tone-marks", first, "all records", found)

    def _origin(self, place: int) -> Origin:
        file, record = divmod(int(place), 2**RECORD_BITS)
        return Origin(list(self._paths)[file], record)


def _repeated(rows: np.ndarray, columns: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows whose digest stood before in another answer or record, the first row of each), in the order of the rows.

    Where prompts are compared, a row with the answer of the first one is no further answer.
    """
    high, low = columns
    order = np.lexsort((np.arange(len(rows)), rows[:, low], rows[:, high]))
    ordered = rows[order]
    begins = np.ones(len(rows), bool)
    begins[1:] = (ordered[1:, list(columns)] != ordered[:-1, list(columns)]).any(1)
    first = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    again = (first != order) & ((columns == RECORD) | (rows[order, ANSWER] != rows[first, ANSWER]))
    by_row = np.argsort(order[again])
    return order[again][by_row], first[again][by_row]


def _contradictions(edges: Sequence[Sequence[int]]) -> Iterator[tuple[str, int, int]]:
    """(kind, place, place of what it contradicts) among (better, worse, place) of one prompt, in their order."""
    seen: dict[Edge, int] = {}
    for better, worse, place in edges:
        if (worse, better) in seen:
            yield "reversed-preference", place, seen[worse, better]
        elif (better, worse) not in seen and len(seen) < MOST_EDGES:
            if (before := leads(seen, worse, better)) is not None:
                yield "preference-cycle", place, before
            seen[better, worse] = place


def leads(edges: dict[Edge, int], start: int, goal: int) -> int | None:
    """The place of the last preference of a way from one answer to another, step by step; None where there is none."""
    reached, waiting = {start}, [start]
    while waiting:
        at = waiting.pop()
        for (a, b), place in edges.items():
            if a == at and b == goal:
                return place
            if a == at and b not in reached:
                reached.add(b)
                waiting.append(b)
    return None


MIN_PAIRS = 20
LENGTH_TELLS = 0.6
"""area under the curve of a predictor by length alone, from which on it is told"""


def habits_of(found: Mapping[str, Habit]) -> Iterator[tuple[str, Habit, float]]:
    """(annotator, what it did, share of the longer answers that the others took) of those who differ by no chance.

    The test of two proportions: with shares p of n choices and q of the others' m, and r that of all,

        z = (p - q) / sqrt(r (1 - r) (1 / n + 1 / m)),      P = erfc(|z| / sqrt(2)) times the number of annotators

    which is below 5% (Bonferroni). Better answers are often longer, so it is the others that one is compared with; an
    annotator who was given other prompts may differ for that.
    """
    longer, choices = (sum(getattr(each, name) for each in found.values()) for name in ("num_longer", "num_choices"))
    for annotator, habit in sorted(found.items()):
        others = choices - habit.num_choices
        if min(habit.num_choices, others) < MIN_PAIRS:
            continue
        share, of_others, of_all = (
            habit.num_longer / habit.num_choices,
            (longer - habit.num_longer) / others,
            longer / choices,
        )
        spread = math.sqrt(of_all * (1 - of_all) * (1 / habit.num_choices + 1 / others))
        if spread and math.erfc(abs(share - of_others) / spread / math.sqrt(2)) * len(found) < LEVEL:
            yield annotator, habit, of_others


LEVEL = 0.05
"""chance that any annotator at all is named where none has a habit"""


def strict_pairs(seen: Digest) -> Iterator[tuple[int, int]]:
    """(better, worse) of every two answers of which one is preferred; ties are none."""
    for worse in range(1, len(seen.answers)):
        for better in range(worse):
            if not seen.scores or seen.scores[better] > seen.scores[worse]:
                yield better, worse


def auc_of_length(differences: Sequence[int]) -> tuple[float, float, float]:
    """P(the preferred answer is the longer one) + P(both are as long) / 2, with its 95% interval.

    A predictor that prefers the longer answer, on pairs: the area under its curve is the share of pairs it gets right.
    The interval is Wilson's (1927, "Probable inference", J. Am. Stat. Assoc. 22).
    """
    n = len(differences)
    if not n:
        return 0.5, 0.0, 1.0
    share = sum(1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in differences) / n
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return share, middle - half, middle + half
