"""What the model will see: a data set's records through the template and the tokenizer, no model needed.

records -> rendered chat -> tokens + mask -> pieces of text to draw
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from heed.config import DataSource, ShowSettings
from heed.data.chat import masked
from heed.data.check import check
from heed.data.choice import choose_template, with_new_tokens
from heed.data.prepare import conversations_of
from heed.data.read import read, read_labelled
from heed.data.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.data.wordings import load_wordings
from heed.errors import UserError
from heed.types import Conversation, Finding, Rendered, Tokens

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

    @property
    def num_trained(self) -> int:
        """Tokens with a weight other than 0."""
        return int((self.tokens.weight != 0).sum())


def run(settings: ShowSettings, *, say: Callable[[str], None] = lambda line: None) -> Iterator[Shown | Finding]:
    """The asked-for records of every data set, in order; a record that cannot be used is a `Finding`.

    `say` is told what was chosen where nothing was asked for.
    """
    template, tokenizer = _template(settings, _tokenizer(settings), say)
    for source in settings.data:
        for conversation in _chosen(source, settings):
            yield from _sequences(conversation, source.path, template, tokenizer)


def _tokenizer(settings: ShowSettings) -> Tokenizer:
    if settings.tokenizer is not None:
        return Tokenizer.from_folder(settings.tokenizer)
    if settings.model is None:
        raise UserError(
            "there is no tokenizer to show the data with",
            where="--model, --tokenizer",
            found="neither",
            expected="a model, or a folder that holds a tokenizer.json",
            fix="--model MODEL, or --tokenizer FOLDER --template alpaca",
        )
    if (Path(settings.model) / "tokenizer.json").is_file():
        return Tokenizer.from_folder(settings.model)
    # A hub name, or an older layout: transformers knows where to look. Imported late, because it takes seconds.
    from heed.recipes.opening import open_tokenizer

    return open_tokenizer(settings.model)


def _template(
    settings: ShowSettings, tokenizer: Tokenizer, say: Callable[[str], None]
) -> tuple[ChatTemplate, Tokenizer]:
    """The template that tuning would choose, and the tokenizer with the special tokens that it would add to a model.

    A tokenizer that was named on its own stays as it is: then its ids are what is looked at.
    """
    template, new_tokens = choose_template(settings.template, tokenizer, say)
    if new_tokens:
        say(f"tuning would add the tokens {' '.join(new_tokens)}")
        if settings.tokenizer is None:
            tokenizer = with_new_tokens(tokenizer, new_tokens)
    if settings.date is not None:
        template = dataclasses.replace(template, date=settings.date)
    return fit_template(template, tokenizer), tokenizer


def _chosen(source: DataSource, settings: ShowSettings) -> Iterator[Conversation]:
    """The records that are asked for; a record that says several conversations counts as one."""
    num_seen = 0
    by_record = itertools.groupby(_conversations(source), key=lambda conversation: conversation.origin)
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


def _conversations(source: DataSource) -> Iterator[Conversation]:
    wordings = load_wordings(source.wordings) if source.wordings is not None else None
    for _, noun in read(source.path) if wordings is None else read_labelled(source.path):
        yield from conversations_of(noun, wordings)


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


def pieces(rendered: Rendered, tokens: Tokens, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    """The text cut where tokens begin; tokens that share a character, as parts of an emoji do, stay together."""
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
            found.append(Piece(rendered.text[begin:end], tuple(tokens.ids[first:index].tolist()), weight))
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
