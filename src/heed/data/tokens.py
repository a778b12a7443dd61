"""From text with trained spans to token ids with loss weights, cut at the edges of a response as at inference."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from heed.data.rendering import render
from heed.data.rendering.render import ChatTemplate
from heed.errors import UserError
from heed.types import Message, Rendered, Tokens

Range = tuple[int, int]
"""characters from the first on, and one past the last"""

# How many words before an edge encoding starts again: the word at the edge may end differently, and the one before it
# may have been found by looking ahead; the third is clear of both.
WORDS_BACK = 3

# What a piece of text is put behind while it is encoded, so that no tokenizer takes it for the start of a text.
ANCHORS = ("\n", ".")


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A `tokenizers.Tokenizer` with what is known about its special tokens.

    Its `backend` neither truncates nor pads, and reports offsets untrimmed.
    """

    backend: tokenizers.Tokenizer
    variables: Mapping[str, str]
    """its special tokens by name, such as `bos_token`; absent where it has none"""
    special_tokens: frozenset[str]
    """every special token, named or not"""
    adds_bos: bool
    """whether encoding a text puts `bos_token` first unless told not to"""
    template: ChatTemplate | None
    """the chat template it comes with"""
    added: Mapping[int, str]
    """tokens that, where they are written, cut the text before anything else does: both sides are encoded apart"""
    is_local: bool
    """whether text can be encoded from the middle, at the start of a word, to the same tokens"""

    @staticmethod
    def from_folder(path: str | Path) -> Tokenizer:
        """Read tokenizer.json, and what tokenizer_config.json and special_tokens_map.json say about it."""
        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                "no tokenizer in this folder",
                where=str(folder),
                found="no tokenizer.json" if folder.is_dir() else "no such folder",
                expected="a folder with tokenizer.json",
                fix="name a folder that holds one: --tokenizer FOLDER",
            )
        configs = [
            render.read_json(folder / name) if (folder / name).is_file() else {}
            for name in ("special_tokens_map.json", "tokenizer_config.json")
        ]
        variables = {name: text for config in configs for name, text in render.token_variables(config).items()}
        declared = frozenset[str]().union(*(render.declared_special_tokens(config) for config in configs))
        return Tokenizer.wrap(
            _read_backend(file),
            variables,
            special_tokens=declared,
            adds_bos=configs[1].get("add_bos_token"),
            template=render.from_folder(folder),
        )

    @staticmethod
    def wrap(
        backend: tokenizers.Tokenizer,
        variables: Mapping[str, str],
        *,
        special_tokens: frozenset[str] = frozenset(),
        adds_bos: bool | None = None,
        template: ChatTemplate | None = None,
    ) -> Tokenizer:
        """Wrap a copy of a backend, such as a transformers tokenizer's `backend_tokenizer`.

        `variables` are its special tokens by name (transformers' `special_tokens_map`), `special_tokens` those without
        a name. `adds_bos=None` finds out by encoding something.
        """
        backend = tokenizers.Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        special = special_tokens | {t.content for t in added.values() if t.special} | set(variables.values())
        bos = variables.get("bos_token")
        if adds_bos is None:
            with_special, without = (backend.encode("a", add_special_tokens=add).ids for add in (True, False))
            adds_bos = (
                bos is not None and len(with_special) > len(without) and with_special[0] == backend.token_to_id(bos)
            )
        # Some post-processors trim white space off the offsets; without special tokens they have nothing else to do.
        backend.post_processor = None
        return Tokenizer(
            backend,
            dict(variables),
            special,
            adds_bos and bos is not None,
            template,
            {token_id: token.content for token_id, token in added.items()},
            _is_local(json.loads(backend.to_str())),
        )

    def token_id(self, name: str) -> int | None:
        """The id of a named special token, such as `eos_token`, if the tokenizer has it."""
        text = self.variables.get(name)
        return None if text is None else self.backend.token_to_id(text)

    def encode(self, text: str) -> list[int]:
        """The ids of a text that brings its own special tokens, such as a rendered chat."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A rendered conversation as tokens."""

    tokens: Tokens
    num_split_edges: int
    """edges between prompt and response where the text had to be encoded in two pieces"""


def fit_template(template: ChatTemplate, tokenizer: Tokenizer) -> ChatTemplate:
    """The template as it will act once saved with this tokenizer: its special tokens, and BOS written exactly once.

    A special token that the template brought along and that the tokenizer names otherwise is written into the
    template itself; a BOS that the tokenizer would add and the template does not write is put in front.
    """
    own = dict(template.variables)
    sources = " ".join((template.source, *(source for _, source in template.alternatives)))
    kept = {
        name: text
        for name, text in own.items()
        if tokenizer.variables.get(name) != text and re.search(rf"\b{name}\b", sources)
    }
    fitted = template.with_tokens(tokenizer.variables, tokenizer.special_tokens | frozenset(own.values()))
    if kept:
        settings = (f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}" for name, text in kept.items())
        # The empty expression keeps the last block from swallowing a line end that follows it.
        fitted = fitted.with_preamble("".join(settings) + '{{ "" }}')
    if tokenizer.adds_bos:
        hello = fitted.render([Message("user", "Hello")], add_generation_prompt=True)
        if not hello.startswith(tokenizer.variables["bos_token"]):
            fitted = fitted.with_bos()
    return fitted


def tokenise(rendered: Rendered, tokenizer: Tokenizer) -> Tokenised:
    """Encode a rendered conversation, each token weighted by the span it lies in.

    The text is encoded as a whole. Where a span starts, the tokens before must be those of the prompt encoded alone,
    as it will be at inference; where they are not, and where a token crosses either edge of a span, the two sides are
    encoded apart at that edge. A special token that swallows the white space after the edge is left whole.
    """
    pieces = _Pieces(rendered.text, tokenizer, rendered.literal)
    num_split_edges = 0
    trained: list[tuple[int, int, float]] = []
    for span in rendered.spans:
        first, was_split = pieces.cut_before_response(span.start)
        last, was_split_after = pieces.cut_after_response(span.stop, first, span.start)
        trained.append((first, last, span.weight))
        num_split_edges += was_split + was_split_after
    weight = np.zeros(len(pieces.ids), dtype=np.float32)
    for first, last, value in trained:
        weight[first:last] = value
    weight[:1] = 0  # nothing comes before the first token that could predict it
    return Tokenised(Tokens(np.array(pieces.ids, dtype=np.int32), weight), num_split_edges)


class _Pieces:
    """A text's tokens while they are cut at edges, from left to right. Offsets count characters of the text."""

    def __init__(self, text: str, tokenizer: Tokenizer, literal: Sequence[Range] = ()) -> None:
        self.text, self.tokenizer, self.literal = text, tokenizer, literal
        self.is_local = tokenizer.is_local and not literal
        if literal:
            whole = self._encode(0, len(text))
            self.ids, self.offsets = whole.ids, whole.offsets
            self.words: list[int | None] = []
        else:
            encoding = tokenizer.backend.encode(text, add_special_tokens=False)
            self.ids, self.offsets = encoding.ids, encoding.offsets
            self.words = encoding.word_ids if self.is_local else []
        self.walls = self._find_walls()
        # Where the last cut was made, as a token and as a character: what lies before stays as it is.
        self.cut_token, self.cut_edge = 0, 0

    def cut_before_response(self, edge: int) -> tuple[int, bool]:
        """Make the tokens before the edge those of the prompt alone; their number, and whether that took a cut."""
        after = self._first_token_from(edge)
        if self._is_wall(after - 1) and self.offsets[after - 1][1] == edge:
            return after, False
        start, begin = self._restart(edge, self.cut_token, self.cut_edge)
        prompt = self._encode(begin, edge)
        count = start + len(prompt.ids)
        if self.ids[start:count] == prompt.ids and self._is_boundary(count, edge):
            return count, False
        self._replace(start, prompt, edge)
        return count, True

    def cut_after_response(self, edge: int, first: int, first_edge: int) -> tuple[int, bool]:
        """The number of tokens before the edge, once none crosses it, and whether that took a cut.

        `first` is the response's first token and `first_edge` the character where the response starts.
        """
        after = self._first_token_from(edge)
        reach = self.offsets[after - 1][1] if after else 0
        swallows_space = self._is_wall(after - 1) and self.text[edge:reach].isspace()
        if reach <= edge or swallows_space:
            return after, False
        start, begin = self._restart(edge, first, first_edge)
        response = self._encode(begin, edge)
        self._replace(start, response, edge)
        return start + len(response.ids), True

    def _first_token_from(self, edge: int) -> int:
        """Index of the first token that starts at or after a character."""
        return bisect.bisect_left(self.offsets, edge, key=lambda offset: offset[0])

    def _is_boundary(self, count: int, edge: int) -> bool:
        """Whether the first `count` tokens end at or before the edge and the others start at or after it."""
        starts_late = count == len(self.ids) or self.offsets[count][0] >= edge
        return starts_late and (count == 0 or self.offsets[count - 1][1] <= edge)

    def _find_walls(self) -> list[int]:
        """The tokens written out in the text that cut it before anything else does.

        An `<unk>` or a byte that was chosen for want of a better token has the id of one, but is not.
        """
        added = self.tokenizer.added
        candidates = [token for token, token_id in enumerate(self.ids) if token_id in added]
        return [t for t in candidates if added[self.ids[t]] in self.text[slice(*self.offsets[t])]]

    def _is_wall(self, token: int) -> bool:
        place = bisect.bisect_left(self.walls, token)
        return place < len(self.walls) and self.walls[place] == token

    def _restart(self, edge: int, lowest_token: int, lowest_edge: int) -> tuple[int, int]:
        """The last token, and its character, from which encoding up to the edge gives what encoding from 0 would.

        That is a token which cuts the text before anything else does; or, where words are found by looking at most one
        character ahead, the third word before the white space at the edge; or the latest cut.
        """
        before = self._first_token_from(edge)
        walls_before = bisect.bisect_left(self.walls, before)
        if walls_before and self.walls[walls_before - 1] > lowest_token:
            lowest_token = self.walls[walls_before - 1]
            lowest_edge = self.offsets[lowest_token][0]
        if self.is_local:
            solid = edge
            while solid > lowest_edge and self.text[solid - 1].isspace():
                solid -= 1
            num_words = 0
            for token in range(before - 1, lowest_token, -1):
                if self.offsets[token][0] < solid and self.words[token] != self.words[token - 1]:
                    num_words += 1
                    if num_words == WORDS_BACK:
                        return token, self.offsets[token][0]
        return lowest_token, lowest_edge

    def _replace(self, start: int, piece: _Piece, edge: int) -> None:
        """Put the piece before the edge, and encode anew what follows it up to a token that cuts the text anyway."""
        walls_before = bisect.bisect_left(self.walls, self._first_token_from(edge))
        resume = self.walls[walls_before] if walls_before < len(self.walls) else len(self.ids)
        rest = self._encode(edge, self.offsets[resume][0] if resume < len(self.ids) else len(self.text))
        self.ids = self.ids[:start] + piece.ids + rest.ids + self.ids[resume:]
        self.offsets = self.offsets[:start] + piece.offsets + rest.offsets + self.offsets[resume:]
        if self.is_local:
            self.words = self.words[:start] + [None] * (len(piece.ids) + len(rest.ids)) + self.words[resume:]
        self.walls = self._find_walls()
        self.cut_token, self.cut_edge = start + len(piece.ids), edge

    def _encode(self, begin: int, end: int) -> _Piece:
        """Encode part of the text as it reads in the middle of one: no space of the tokenizer's own before it.

        A special token that is text there is encoded as text, between the real ones on both sides of it.
        """
        inside = [(max(a, begin), min(b, end)) for a, b in self.literal if a < end and b > begin]
        if not inside:
            return self._encode_with(self.tokenizer.backend, self.text, begin, end)
        masked = self.text
        for a, b in inside:
            masked = masked[:a] + "x" * (b - a) + masked[b:]
        harmless = self._encode_with(self.tokenizer.backend, masked, begin, end)
        added = self.tokenizer.added
        walls = [
            offset
            for token_id, offset in zip(harmless.ids, harmless.offsets, strict=True)
            if token_id in added and added[token_id] in masked[slice(*offset)]
        ]
        found, at = _Piece([], []), begin
        for start, stop in (*walls, (end, end)):
            if any(a < start and b > at for a, b in inside):
                found += self._encode_as_text(at, start, [(a, b) for a, b in inside if a < start and b > at])
            elif start > at:
                found += self._encode_with(self.tokenizer.backend, self.text, at, start)
            if stop > start:
                found += self._encode_with(self.tokenizer.backend, masked, start, stop)
            at = stop
        return found

    def _encode_as_text(self, begin: int, end: int, inside: Sequence[Range]) -> _Piece:
        """Encode a part of the text in which nothing is a special token.

        Where the vocabulary has a special token among its words, the text is cut inside it, as often as it takes.
        """
        plain, special = _as_text(self.tokenizer), self.tokenizer.added
        cuts = [begin, end]
        while True:
            found = _Piece([], [])
            for a, b in pairwise(cuts):
                found += self._encode_with(plain, self.text, a, b)
            whole = [
                offset
                for token_id, offset in zip(found.ids, found.offsets, strict=True)
                if token_id in special
                and offset[1] - offset[0] > 1
                and any(a < offset[1] and b > offset[0] for a, b in inside)
            ]
            if not whole:
                return found
            cuts = sorted({*cuts, *(start + 1 for start, _ in whole)})

    def _encode_with(self, backend: tokenizers.Tokenizer, text: str, begin: int, end: int) -> _Piece:
        text = text[begin:end]
        plain = backend.encode(text, add_special_tokens=False)
        opening = self.tokenizer.added.get(plain.ids[0]) if plain.ids else None
        starts_apart = opening is not None and text.lstrip().startswith(opening)
        if begin and text and not self.tokenizer.is_local and not starts_apart:
            for anchor in ANCHORS:
                anchored = backend.encode(anchor + text, add_special_tokens=False)
                alone = backend.encode(anchor, add_special_tokens=False).ids
                skipped = len(alone)
                is_clean = anchored.ids[:skipped] == alone and len(anchored.ids) > skipped
                if is_clean and anchored.offsets[skipped][0] >= len(anchor):
                    return _Piece.of(anchored, skipped, begin - len(anchor))
        return _Piece.of(plain, 0, begin)


@dataclass(frozen=True, slots=True)
class _Piece:
    """The encoding of a piece of text, without the tokens of what stood before it."""

    ids: list[int]
    offsets: list[Range]
    """where the tokens stand in the whole text"""

    @staticmethod
    def of(encoding: tokenizers.Encoding, skipped: int, shift: int) -> _Piece:
        offsets = [(start + shift, stop + shift) for start, stop in encoding.offsets[skipped:]]
        return _Piece(encoding.ids[skipped:], offsets)

    def __add__(self, other: _Piece) -> _Piece:
        return _Piece(self.ids + other.ids, self.offsets + other.offsets)


@lru_cache(maxsize=4)
def _as_text(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer of the same vocabulary for which no special token is more than its letters."""
    description = json.loads(tokenizer.backend.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in tokenizer.special_tokens
    plain = tokenizers.Tokenizer.from_str(json.dumps(description))
    plain.encode_special_tokens = True
    return plain


def _is_local(description: Mapping[str, Any]) -> bool:
    """Whether a tokenizer finds words by looking at most one character ahead and never behind, and adds no space."""
    pre_tokenizer = description["pre_tokenizer"]
    if description["normalizer"] is not None or pre_tokenizer is None:
        return False
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    for step in steps:
        if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            continue
        if step["type"] == "Digits":
            continue
        if step["type"] == "Split" and not re.search(r"\(\?(?![:i]|!\\S\))", step["pattern"].get("Regex", "")):
            continue
        return False
    return True


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more exact
        raise UserError(
            "the tokenizer cannot be read",
            where=str(file),
            found=str(error),
            expected="a tokenizer.json of the tokenizers library",
            fix="fetch the file again, or save it anew with tokenizer.save_pretrained(FOLDER)",
        ) from error
