"""Find what is wrong with data: every record by itself, beside its own answers, and beside all others.

records -> faults and a digest of each, in several processes -> faults of the whole -> counts, examples, all of them
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TextIO

from heed import files
from heed.config import DataSource
from heed.data.chat import masked
from heed.data.parallel import map_in_processes
from heed.data.read import read_comparable_with_fields
from heed.data.rendering.choice import choose_template, with_new_tokens
from heed.data.rendering.render import ChatTemplate
from heed.data.shapes.names import annotator_of
from heed.data.soundness import check_ranking, check_text
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.data_config import DataCheckSettings
from heed.data_faults import KINDS, LEVELS, Fault
from heed.recipes.workshop.outputs import nothing_there, refuse_one_name, refuse_taken
from heed.train.progress import Progress
from heed.types import Conversation, Document, Finding, Judged, Message, Ranking
from heed.workshop.corpus import Corpus, Digest, digest_of
from heed.workshop.record_faults import Noun, answers_of, faults_of, prompt_of

OF_A_FINDING = {
    "the scores contradict the order of the answers": "contradicting-scores",
    "there are two different system prompts": "role-order",
    "the prompt is empty": "empty-prompt",
}
"""the kind of what the readers say of a record, by their problem; `unreadable` for any other"""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What tells whether a record is too long for a model."""

    template: ChatTemplate
    tokenizer: Tokenizer
    num_positions: int


@dataclass(slots=True)
class Checked:
    """What was found."""

    num_records: int = 0
    num_bad_records: dict[str, int] = field(default_factory=dict)
    """kind -> records that show it"""
    examples: dict[str, list[Fault]] = field(default_factory=dict)
    """kind -> its first findings"""
    notes: Counter[str] = field(default_factory=Counter)
    """what the readers put right, in words, and how often"""

    @property
    def has_errors(self) -> bool:
        return any(KINDS[kind].level == "error" for kind in self.num_bad_records)

    def in_order(self) -> list[str]:
        """The kinds that were found: errors, warnings, notes, the most frequent first."""
        found = self.num_bad_records
        return sorted(found, key=lambda kind: (LEVELS.index(KINDS[kind].level), -found[kind], kind))

    def as_json(self, paths: list[str]) -> dict[str, Any]:
        """Everything as one JSON object."""
        kinds = [
            {
                "kind": kind,
                "level": KINDS[kind].level,
                "means": KINDS[kind].means,
                "num_records": self.num_bad_records[kind],
                "share": self.num_bad_records[kind] / self.num_records,
                "examples": [fault.as_json() for fault in self.examples.get(kind, [])],
            }
            for kind in self.in_order()
        ]
        return {"files": paths, "num_records": self.num_records, "kinds": kinds, "notes": dict(self.notes)}


def run(settings: DataCheckSettings, say: Callable[[str], None] = lambda line: None) -> Checked:
    """Check all records, and write all findings where they are asked for.

    Raises:
        UserError: a file cannot be read, or nothing is in it.
    """
    if settings.out is not None:
        refuse_taken("--out", Path(settings.out))
    for source in (*settings.data, *settings.eval_data):
        if settings.html is not None:  # which may be there, as a report may, but is no data
            refuse_one_name(("--data", Path(source.path)), ("--html", Path(settings.html)))
    wanted = frozenset(settings.only or KINDS) - frozenset(settings.ignore)
    checked = Checked()
    held_out = Corpus()
    for source in settings.eval_data:
        for _, digest in seen_in(source, checked, settings.workers, None):
            if digest is not None:
                held_out.add(digest)
    checked.num_records, checked.notes = 0, Counter()
    lengths = lengths_of(settings, say)
    corpus = Corpus()
    with new_lines(settings.out) as out:
        _check(settings, checked, corpus, held_out, lengths, wanted, out)
    return checked


@contextlib.contextmanager
def new_lines(path: str | None) -> Iterator[TextIO | None]:
    """A text file that appears under its name when the block ends; None where no name is given."""
    if path is None:
        yield None
        return
    place = Path(path).absolute()
    with (
        files.new_files(place.parent, [place.name]) as folder,
        (folder / place.name).open("w", encoding="utf-8") as out,
    ):
        yield out


def _check(
    settings: DataCheckSettings,
    checked: Checked,
    corpus: Corpus,
    held_out: Corpus,
    lengths: Lengths | None,
    wanted: frozenset[str],
    out: TextIO | None,
) -> None:
    def tell(faults: Iterator[Fault]) -> None:
        seen: set[tuple[str, str, int]] = set()
        for fault in faults:
            if fault.kind not in wanted:
                continue
            if out is not None:
                out.write(json.dumps(fault.as_json(), ensure_ascii=False) + "\n")
            if (key := (fault.kind, fault.origin.path, fault.origin.record)) in seen:
                continue
            seen.add(key)
            checked.num_bad_records[fault.kind] = checked.num_bad_records.get(fault.kind, 0) + 1
            examples = checked.examples.setdefault(fault.kind, [])
            if len(examples) < settings.examples:
                examples.append(fault)

    for source in settings.data:
        stream = seen_in(source, checked, settings.workers, lengths)
        for _, group in groupby(stream, key=lambda seen: seen[0][0]):
            faults: list[Fault] = []
            for (_, found), digest in group:
                faults += found
                if digest is not None:
                    corpus.add(digest)
            tell(iter(faults))
    if not checked.num_records:
        raise nothing_there([source.path for source in settings.data])
    tell(corpus.faults(held_out if held_out.num_records else None))


Seen = tuple[tuple[str, tuple[Fault, ...]], Digest | None]
"""((which record, what it shows), what it is compared by)"""


def seen_in(source: DataSource, checked: Checked, workers: int | None, lengths: Lengths | None) -> Iterator[Seen]:
    """Every record of a data set as it was seen, in order."""
    records = (
        item if isinstance(item, Finding) else (item[0], annotator_of(item[1]))
        for item in read_comparable_with_fields(source.path, source.columns, checked.notes)
    )
    last = ""
    with Progress("checking", unit="records") as progress:
        for seen in map_in_processes(partial(look, lengths), records, workers):
            if seen[0][0] != last:
                checked.num_records += 1
                last = seen[0][0]
            progress.update(checked.num_records)
            yield seen


def look(lengths: Lengths | None, item: tuple[Noun, str | None] | Finding) -> Seen:
    """What one record, and who judged it, shows by itself."""
    if isinstance(item, Finding):
        kind = OF_A_FINDING.get(item.problem, "unreadable")
        return (str(item.origin), (Fault(kind, item.origin, "", f"{item.problem}: {item.found}"[:200]),)), None
    noun, annotator = item
    if (found := no_text_in(noun)) is not None:
        return (str(noun.origin), (Fault("unreadable", noun.origin, "", found),)), None
    faults = list(faults_of(noun))
    if isinstance(noun, Ranking) and (broken := check_ranking(noun)) is not None and broken.problem in OF_A_FINDING:
        faults.append(Fault(OF_A_FINDING[broken.problem], noun.origin, "", broken.found[:200]))
    if lengths is not None and (num_tokens := longest(noun, lengths)) > lengths.num_positions:
        found = f"{num_tokens:,} tokens, where the model has {lengths.num_positions:,} positions"
        faults.append(Fault("too-long", noun.origin, "", found))
    return (str(noun.origin), tuple(faults)), digest_of(noun, annotator)


def no_text_in(noun: Noun) -> str | None:
    """What of a record is no Unicode text, such as half of a surrogate pair; None where all of it is."""
    if isinstance(noun, Document):
        messages = [Message("user", noun.text)]
    else:
        messages = [*prompt_of(noun), *chain.from_iterable(answers_of(noun))]
    finding = check_text(messages, noun.origin)
    return finding.found if finding is not None else None


def longest(noun: Noun, lengths: Lengths) -> int:
    """Tokens of the longest sequence that a record becomes; 0 where the template cannot show it."""
    if isinstance(noun, Document):
        return 0  # which is cut into pieces that fit
    if isinstance(noun, Ranking):
        said = [
            Conversation.answered(noun.prompt, answer, noun.origin, noun.tools, noun.template_arguments)
            for answer in noun.answers
        ]
    else:
        said = [noun.conversation() if isinstance(noun, Judged) else noun]
    found = [masked(each, lengths.template) for each in said]
    rendered = [each for sequences in found if not isinstance(sequences, Finding) for each in sequences]
    return max((len(tokenise(each, lengths.tokenizer).tokens) for each in rendered), default=0)


def lengths_of(settings: DataCheckSettings, say: Callable[[str], None]) -> Lengths | None:
    """The template, the tokenizer and the positions of the model, where one was named."""
    if settings.model is None:
        return None
    # Imported late, because it takes seconds, and only who names a model needs it.
    from heed.models.intake.access import Access
    from heed.models.load import positions_at
    from heed.recipes.training.setup import open_tokenizer

    access = Access(settings.trust_remote_code)
    limit = positions_at(settings.model, access)
    if limit is None:
        say(f"{settings.model} has no limit of positions: lengths are not checked")
        return None
    tokenizer = open_tokenizer(settings.model, access)
    template, new_tokens = choose_template(settings.template, tokenizer, say)
    tokenizer = with_new_tokens(tokenizer, new_tokens) if new_tokens else tokenizer
    return Lengths(fit_template(replace(template, special_text="as-text"), tokenizer), tokenizer, limit)
