"""What the model will see: a data set's records through the template and the tokenizer, no model needed.

records -> rendered chat -> tokens + mask -> pieces of text to draw

A conversation is shown as supervised tuning takes it; of ranked answers every one, as they are compared; a judged
answer as far as it is read; and of a run that learns from a reward its prompts, as the policy is asked.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from heed.config import DataSource, ShowSettings
from heed.data.answers import (
    check_judged,
    comparable_answers,
    nothing_to_learn,
    rendered_answer,
    up_to_last_trained,
)
from heed.data.chat import masked
from heed.data.documents import rendered_document
from heed.data.prepare import conversations_of
from heed.data.prompts import prompt_text
from heed.data.read import begins_as_text, read_comparable, read_labelled, read_prompts
from heed.data.rendering.choice import choose_template, with_new_tokens
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.special_text import noticed
from heed.data.shapes.recognise import UNKNOWN_SHAPE, Noun
from heed.data.soundness import check, check_ranking
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.data.wordings import Wordings, load_wordings
from heed.errors import UserError
from heed.types import (
    Conversation,
    Document,
    Finding,
    Judged,
    Labelled,
    Message,
    Origin,
    Prompt,
    Ranking,
    Rendered,
    Tokens,
)

Record = Noun | Labelled | Prompt | Finding
Reader = Callable[[DataSource, Counter[str]], Iterator[Record]]
"""how the records of a data set are read, to be learnt from or to be asked, and what was put right is counted"""

PLAIN_TEXT = "plain text"
"""in place of the name of a template"""

TOKEN_OF_ITS_OWN = re.compile(r"<[^\s<>]+>")
"""a special token that a template brings along joins the vocabulary if it looks like this; [INST] is plain text"""


@dataclass(frozen=True, slots=True)
class Piece:
    """The smallest stretch of text that whole tokens cover: one token, or the tokens that share a character."""

    text: str
    ids: tuple[int, ...]
    """none where the edges of the tokens inside are not known"""
    weight: float
    """the largest of its tokens' weights; 0 is context"""
    is_shared: bool = False
    """whether another answer of the ranking begins with all this, too"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an answer stands among those it is compared with."""

    answer: int
    """counted from 1, the best"""
    num_answers: int
    """of this record"""
    score: float | None
    """by whoever ranked the answers; None where an order is all they gave"""
    ties_with: tuple[int, ...]
    """answers that are neither better nor worse"""
    num_shared: int
    """tokens from the beginning on that another answer begins with, too: these are computed once"""
    left_out: tuple[str, ...] = ()
    """beside the first answer that is shown: which others cannot be compared, and why"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One sequence of one record, as text and as tokens."""

    dataset: str
    sequence: int
    """counted from 1: the conversation itself, then each turn that became a branch of its own"""
    num_sequences: int
    """of this record"""
    template: str
    rendered: Rendered
    tokens: Tokens
    pieces: tuple[Piece, ...]
    standing: Standing | None = None
    """of a ranked answer"""
    is_desirable: bool | None = None
    """of an answer that was judged on its own"""

    @property
    def is_prompt(self) -> bool:
        """Whether this is only asked, so that nothing of it is trained."""
        return not self.rendered.spans

    @property
    def num_trained(self) -> int:
        """Tokens with a weight other than 0."""
        return int((self.tokens.weight != 0).sum())


def run(settings: ShowSettings, *, say: Callable[[str], None] = lambda line: None) -> Iterator[Shown | Finding]:
    """The asked-for records of every data set, in order; a record that cannot be used is a `Finding`.

    `say` is told what was chosen where nothing was asked for.
    """
    settings, read = _data_of_run(settings)
    template, tokenizer = _template(settings, _tokenizer(settings), say)
    for source in settings.data:
        wordings = load_wordings(source.wordings) if source.wordings is not None else None
        notes: Counter[str] = Counter()
        for record in _chosen(source, settings, read, notes):
            yield from _shown(record, source.path, wordings, template, tokenizer)
            notes.update(_noticed(record, wordings, template))
        for words, count in notes.items():
            say(f"{source.path}: {count:,} {words}" if count > 1 else f"{source.path}: {words}")


def _data_of_run(settings: ShowSettings) -> tuple[ShowSettings, Reader]:
    """A run folder in place of data stands for the data of the run, as its own tokenizer and template show it.

    A run that learns from a reward reads prompts, whatever else stands in their records.
    """
    folder = Path(settings.data[0].path).expanduser()
    if len(settings.data) > 1 or not (folder / "config.yaml").is_file():
        return settings, _records
    # Imported late, because it takes seconds.
    from heed.train.same_run import read_config

    config = read_config(folder) or {}
    if "data" not in config:
        return settings, _records
    chosen = settings.model_dump(by_alias=True)
    if settings.model is None and settings.tokenizer is None:
        chosen["model"] = str(folder) if (folder / "tokenizer.json").is_file() else config["model"]
    for name in ("template", "date"):
        chosen[name] = chosen[name] or config.get(name)
    if settings.special_tokens_in_text == "error":
        chosen["special_tokens_in_text"] = config.get("special_tokens_in_text", "error")
    if chosen["template"] is not None and settings.end_of_turn == "template":
        chosen["end_of_turn"] = config.get("end_of_turn", "template")
    read = _prompts if "reward" in config else _records
    return ShowSettings.model_validate({**chosen, "data": config["data"]}), read


def _tokenizer(settings: ShowSettings) -> Tokenizer:
    if settings.tokenizer is not None:
        return Tokenizer.from_folder(settings.tokenizer)
    if settings.model is None:
        raise UserError(
            "there is no tokenizer to show the data with",
            where="--model, --tokenizer",
            found=f"neither, and {settings.data[0].path} is no folder of a run, which would bring its own",
            expected="a model, or a folder that holds a tokenizer.json",
            fix="--model MODEL, or --tokenizer FOLDER --template alpaca",
        )
    if (Path(settings.model) / "tokenizer.json").is_file():
        return Tokenizer.from_folder(settings.model)
    # A hub name, or an older layout: transformers knows where to look. Imported late, because it takes seconds.
    from heed.models.intake.access import Access
    from heed.recipes.training.setup import open_tokenizer

    return open_tokenizer(settings.model, Access(settings.trust_remote_code))


def _template(
    settings: ShowSettings, tokenizer: Tokenizer, say: Callable[[str], None]
) -> tuple[ChatTemplate, Tokenizer]:
    """The template that tuning would choose, and the tokenizer with the special tokens that it would add to a model.

    A tokenizer that was named on its own stays as it is: then its ids are what is looked at.
    """
    is_text = all(not s.wordings and begins_as_text(s.path, s.columns) for s in settings.data)
    template, new_tokens = choose_template(
        settings.template, tokenizer, say, settings.end_of_turn, reads_plain_text=is_text
    )
    if new_tokens:
        say(f"tuning would add the tokens {' '.join(new_tokens)}")
        if settings.tokenizer is None:
            tokenizer = with_new_tokens(tokenizer, new_tokens)
    if settings.date is not None:
        template = dataclasses.replace(template, date=settings.date)
    template = dataclasses.replace(template, special_text=settings.special_tokens_in_text)
    return fit_template(template, tokenizer), tokenizer


def _chosen(source: DataSource, settings: ShowSettings, read: Reader, notes: Counter[str]) -> Iterator[Record]:
    """The records that are asked for; a record that says several conversations counts as one."""
    num_seen = 0
    by_record = itertools.groupby(read(source, notes), key=lambda record: record.origin)
    for origin, group in by_record:
        num_seen += 1
        if settings.record is None or origin.record == settings.record:
            yield from group
        if (settings.record is None and num_seen == settings.limit) or origin.record == settings.record:
            return
    if settings.record is not None:
        raise UserError(
            "there is no such record",
            where=source.path,
            found=f"{num_seen:,} records",
            expected=f"a record {settings.record:,}",
            fix=f"--record {num_seen}",
        )


def _prompts(source: DataSource, notes: Counter[str]) -> Iterator[Record]:
    yield from (prompt for _, prompt in read_prompts(source.path, source.columns, notes))


def _records(source: DataSource, notes: Counter[str]) -> Iterator[Record]:
    read = read_comparable if source.wordings is None else read_labelled
    try:
        yield from (record for _, record in read(source.path, source.columns, notes))
    except UserError as error:
        if error.problem != UNKNOWN_SHAPE:
            raise
        # A prompt alone is no record here: as likely, its answer has a name that nobody knows.
        fix = f"{error.fix}; prompts alone are shown of a run that asks them: heed show RUN"
        raise UserError(error.problem, where=error.where, found=error.found, expected=error.expected, fix=fix) from None


def _shown(
    record: Record,
    dataset: str,
    wordings: Wordings | None,
    template: ChatTemplate,
    tokenizer: Tokenizer,
) -> Iterator[Shown | Finding]:
    if isinstance(record, Finding):
        yield record
    elif isinstance(record, Document):
        yield _document(record, dataset, template, tokenizer)
    elif isinstance(record, Prompt):
        yield _prompt(record, dataset, template, tokenizer)
    elif isinstance(record, Judged):
        yield _judged(record, dataset, template, tokenizer)
    elif isinstance(record, Ranking) and len(record.answers) > 1:
        yield from _answers(record, dataset, template, tokenizer)
    else:
        for conversation in conversations_of(record, wordings):
            yield from _sequences(conversation, dataset, template, tokenizer)


def _noticed(record: Record, wordings: Wordings | None, template: ChatTemplate) -> Counter[str]:
    """What the template changes of a record without being asked to, in words, and how often."""
    if isinstance(record, Finding | Document):
        return Counter()
    if isinstance(record, Prompt):
        said = [Conversation(record.messages, record.origin, record.tools, record.template_arguments)]
    else:
        said = list(conversations_of(record, wordings))
    return sum((Counter(noticed(conversation, template)) for conversation in said), Counter())


def _prompt(prompt: Prompt, dataset: str, template: ChatTemplate, tokenizer: Tokenizer) -> Shown | Finding:
    rendered = prompt_text(prompt, template)
    if isinstance(rendered, Finding):
        return rendered
    tokens = tokenise(rendered, tokenizer).tokens
    return Shown(dataset, 1, 1, template.name, rendered, tokens, pieces(rendered, tokens, tokenizer))


def _document(document: Document, dataset: str, template: ChatTemplate, tokenizer: Tokenizer) -> Shown | Finding:
    """A whole document; a run cuts it into pieces of its `max_length`."""
    rendered = rendered_document(document, template, tokenizer)
    if isinstance(rendered, Finding):
        return rendered
    tokens = tokenise(rendered, tokenizer).tokens
    return Shown(dataset, 1, 1, PLAIN_TEXT, rendered, tokens, pieces(rendered, tokens, tokenizer))


def _judged(judged: Judged, dataset: str, template: ChatTemplate, tokenizer: Tokenizer) -> Shown | Finding:
    found = check_judged(judged) or nothing_to_learn(judged)
    if found is not None:
        return found
    answer = _answer(
        judged.prompt, judged.answer, judged.origin, template, tokenizer, judged.tools, judged.template_arguments
    )
    if isinstance(answer, Finding):
        return answer
    rendered, tokens = answer
    drawn = pieces(rendered, tokens, tokenizer)
    return Shown(dataset, 1, 1, template.name, rendered, tokens, drawn, is_desirable=judged.is_desirable)


def _answers(ranking: Ranking, dataset: str, template: ChatTemplate, tokenizer: Tokenizer) -> Iterator[Shown | Finding]:
    """The answers that are compared, best first, each as far as it is read."""
    found = check_ranking(ranking) or comparable_answers(ranking)
    if isinstance(found, Finding):
        yield found
        return
    places, lost = found
    origin, count = ranking.origin, len(ranking.answers)
    made: list[tuple[Rendered, Tokens]] = []
    for place in places:
        answer = _answer(
            ranking.prompt,
            ranking.answers[place],
            origin,
            template,
            tokenizer,
            ranking.tools,
            ranking.template_arguments,
        )
        if isinstance(answer, Finding):
            yield replace(answer, found=f"answer {place + 1} of {count}: {answer.found}")
            return
        made.append(answer)
    left_out = tuple(f"answer {place + 1} {reason}" for place, reason in sorted(lost.items()))
    scores = ranking.scores
    for place, (rendered, tokens), num_shared in zip(
        places, made, shared_beginnings([tokens.ids for _, tokens in made]), strict=True
    ):
        standing = Standing(
            answer=place + 1,
            num_answers=count,
            score=scores[place] if scores and not ranking.are_ranks else None,
            ties_with=tuple(i + 1 for i in places if scores and i != place and scores[i] == scores[place]),
            num_shared=num_shared,
            left_out=left_out if place == places[0] else (),
        )
        drawn = pieces(rendered, tokens, tokenizer, num_shared)
        yield Shown(dataset, 1, 1, template.name, rendered, tokens, drawn, standing)


def _answer(
    prompt: tuple[Message, ...],
    answer: tuple[Message, ...],
    origin: Origin,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    tools: tuple[Mapping[str, object], ...] = (),
    template_arguments: Mapping[str, object] | None = None,
) -> tuple[Rendered, Tokens] | Finding:
    """A prompt with its answer, as text and as tokens, as far as it is read."""
    found = rendered_answer(prompt, answer, origin, template, tools, template_arguments)
    if isinstance(found, Finding):
        return found
    whole, _ = found
    tokens = up_to_last_trained(tokenise(whole, tokenizer).tokens)
    return replace(whole, text=whole.text[: whole.spans[-1].stop]), tokens


def shared_beginnings(sequences: Sequence[np.ndarray]) -> list[int]:
    """How many ids of each sequence, from the first on, are those that another of them begins with."""
    return [
        max((_num_alike(ids, other) for j, other in enumerate(sequences) if i != j), default=0)
        for i, ids in enumerate(sequences)
    ]


def _num_alike(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length


def _sequences(
    conversation: Conversation, dataset: str, template: ChatTemplate, tokenizer: Tokenizer
) -> Iterator[Shown | Finding]:
    found = check(conversation) or masked(conversation, template)
    if isinstance(found, Finding):
        yield found
        return
    for sequence, rendered in enumerate(found, 1):
        tokens = tokenise(rendered, tokenizer).tokens
        drawn = pieces(rendered, tokens, tokenizer)
        yield Shown(dataset, sequence, len(found), template.name, rendered, tokens, drawn)


def pieces(rendered: Rendered, tokens: Tokens, tokenizer: Tokenizer, num_shared: int = 0) -> tuple[Piece, ...]:
    """The text cut where tokens begin; tokens that share a character, as parts of an emoji do, stay together.

    Args:
        num_shared: tokens from the first on that another answer shares.
    """
    offsets = _offsets(rendered, tokens.ids.tolist(), tokenizer)
    if offsets is None:
        return _stretches(rendered)
    found: list[Piece] = []
    begin = first = 0
    for index in range(1, len(offsets) + 1):
        # A piece may end before token `index` if no later token begins inside what the earlier ones cover.
        end = len(rendered.text) if index == len(offsets) else offsets[index][0]
        if end > begin and (index == len(offsets) or offsets[index - 1][1] <= end):
            weight = float(tokens.weight[first:index].max())
            ids = tuple(tokens.ids[first:index].tolist())
            found.append(Piece(rendered.text[begin:end], ids, weight, index <= num_shared))
            begin, first = end, index
    return tuple(found)


def _offsets(rendered: Rendered, ids: list[int], tokenizer: Tokenizer) -> list[tuple[int, int]] | None:
    """Which characters each token covers: of the text encoded whole or, where it was cut, in stretches."""
    edges = sorted({len(rendered.text)} | {edge for span in rendered.spans for edge in (span.start, span.stop)})
    offsets: list[tuple[int, int]] = []
    begin = 0
    while len(offsets) < len(ids):
        for edge in reversed([edge for edge in edges if edge > begin]):
            stretch = tokenizer.backend.encode(rendered.text[begin:edge], add_special_tokens=False)
            if stretch.ids and stretch.ids == ids[len(offsets) : len(offsets) + len(stretch.ids)]:
                offsets += [(start + begin, stop + begin) for start, stop in stretch.offsets]
                begin = edge
                break
        else:
            return None
    return offsets if begin == len(rendered.text) else None


def _stretches(rendered: Rendered) -> tuple[Piece, ...]:
    """Trained spans and the context between them, where the edges of single tokens are not known."""
    found: list[Piece] = []
    begin = 0
    for span in rendered.spans:
        found += [Piece(rendered.text[begin : span.start], (), 0.0)] if span.start > begin else []
        found.append(Piece(rendered.text[span.start : span.stop], (), span.weight))
        begin = span.stop
    if begin < len(rendered.text):
        found.append(Piece(rendered.text[begin:], (), 0.0))
    return tuple(found)
