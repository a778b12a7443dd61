"""A tokenizer as GGUF stores it, or the reason why it cannot be stored there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from heed.errors import UserError, typed
from heed.models.export.pre_tokenizers import PRE_TOKENIZERS, name_of
from heed.models.load import tokenizer_facts

SPACE = "▁"
"""SentencePiece's sign for a space"""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""tokens for the bytes of what no other token spells"""


@dataclass(frozen=True)
class Vocabulary:
    """The entries `tokenizer.*` of a GGUF file."""

    model: str
    """`gpt2`: byte-level pairs in the order of `merges`; `llama`: neighbours by the score of what they give"""
    pre: str
    """llama.cpp's name for how text is cut first"""
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    adds_space: bool
    """whether a space is put before the text, and behind every special token"""
    adds_bos: bool
    adds_eos: bool
    bos_id: int | None
    eos_id: int
    eot_id: int | None
    """a second token that ends an answer"""
    unknown_id: int | None
    padding_id: int | None
    templates: Mapping[str, str] = field(default_factory=dict)
    composes: bool = False
    """whether the tokenizer composes accents first (NFC), which no program does that reads GGUF"""
    stops: Sequence[int] = ()
    """all tokens that end an answer; programs know two of them from the file, the others have to be told"""


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, rows: int, stops: Sequence[int], where: str) -> Vocabulary:
    """Translate a tokenizer.

    Args:
        rows: of the model's table of embeddings.
        stops: the tokens at which the model's generation config stops.

    Raises:
        UserError: llama.cpp would tokenise otherwise.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    bpe = described["model"]
    if bpe["type"] != "BPE":
        raise refused(where, f"a tokenizer of the kind {bpe['type']}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if bpe.get(key):
            raise refused(where, f"{key}: {bpe[key]}")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in bpe["merges"]]
    tokens, types = _tokens(described, rows, where)
    adds_bos, adds_eos = _ends_added(tokenizer, where)
    bos_id, eos_id, eot_id, all_stops = _special_ids(tokenizer, stops, where)
    byte_level = _is_byte_level(described, where)
    if byte_level:
        if bpe.get("unk_token"):  # a byte without a token is dropped by both; only here could it become another one
            raise refused(where, f"byte-level BPE with a token for the unknown: {bpe['unk_token']}")
        pre = name_of(described["pre_tokenizer"], takes_whole_words=bool(bpe.get("ignore_merges")))
        if pre is None:
            raise refused(where, f"text cut by {json.dumps(described['pre_tokenizer'], ensure_ascii=False)[:300]}")
        if broken := next((pair for pair in merges if any(" " in part for part in pair)), None):
            raise refused(where, f"a merge with a space in it: {broken!r}")
    else:
        pre = "default"
    return Vocabulary(
        model="gpt2" if byte_level else "llama",
        pre=pre,
        tokens=tokens,
        types=types,
        scores=None if byte_level else _scores(tokens, bpe["vocab"], merges, where),
        merges=[" ".join(pair) for pair in merges] if byte_level else None,
        adds_space=not byte_level and _puts_space(described, where),
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        bos_id=bos_id,
        eos_id=eos_id,
        eot_id=eot_id,
        unknown_id=None if byte_level else bpe["vocab"].get(bpe.get("unk_token")),
        padding_id=tokenizer.pad_token_id if _in_table(tokenizer.pad_token_id, rows) else None,
        templates=tokenizer_facts(tokenizer).templates,
        composes=_normalisers(described) == ["NFC"],
        stops=all_stops,
    )


def refused(where: str, found: str) -> UserError:
    """The error for a tokenizer that llama.cpp has no equal of."""
    return UserError(
        "llama.cpp would turn text into other tokens than this tokenizer does",
        where=where,
        found=found,
        expected="byte-level BPE that cuts text like one of "
        f"{', '.join(PRE_TOKENIZERS)}, or BPE with byte fallback that SentencePiece made",
        fix=f"heed export {typed(where)} --to folder --out FOLDER: a folder keeps the tokenizer as it is",
    )


def _tokens(described: Mapping[str, Any], rows: int, where: str) -> tuple[list[str], list[int]]:
    """Text and type of every token by id; rows of the model without a token get a name that no text holds."""
    kinds = gguf.TokenType
    found: dict[int, tuple[str, int]] = {}
    for token, token_id in described["model"]["vocab"].items():
        is_byte = described["model"].get("byte_fallback") and token in BYTES
        is_unknown = token == described["model"].get("unk_token")
        found[token_id] = (token, kinds.BYTE if is_byte else kinds.UNKNOWN if is_unknown else kinds.NORMAL)
    for added in described["added_tokens"]:
        if odd := [key for key in ("single_word", "lstrip", "rstrip") if added[key]]:
            raise refused(where, f"the token {added['content']!r} is {', '.join(odd)}")
        if found.get(added["id"], ("", 0))[1] != kinds.UNKNOWN:
            found[added["id"]] = (added["content"], kinds.CONTROL if added["special"] else kinds.USER_DEFINED)
    known = {token for token, _ in found.values()}
    if len(known) < len(found):
        raise refused(where, "two tokens with the same text")
    in_table = {token_id: each for token_id, each in found.items() if token_id < rows}
    padded = [in_table.get(token_id) or (f"[PAD{token_id}]", kinds.UNUSED) for token_id in range(rows)]
    return [token for token, _ in padded], [int(kind) for _, kind in padded]


def _is_byte_level(described: Mapping[str, Any], where: str) -> bool:
    """Whether tokens are spelled in bytes, each byte as a printable character."""
    names = _normalisers(described)
    steps = described["pre_tokenizer"] or {}
    kinds = [step["type"] for step in steps.get("pretokenizers", [steps]) if step]
    if "ByteLevel" in kinds:
        if names not in ([], ["NFC"]):
            raise refused(where, f"text rewritten by {', '.join(names)}")
        return True
    if not described["model"].get("byte_fallback") or any(token not in described["model"]["vocab"] for token in BYTES):
        raise refused(where, "BPE that is neither byte-level nor falls back to bytes")
    return False


def _normalisers(described: Mapping[str, Any]) -> list[str]:
    step = described["normalizer"]
    return [each["type"] for each in step.get("normalizers", [step])] if step else []


def _puts_space(described: Mapping[str, Any], where: str) -> bool:
    """Whether a tokenizer with SentencePiece's spaces puts one before the text."""
    step, steps = described["normalizer"], described["pre_tokenizer"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    parts = step.get("normalizers", [step]) if step else []
    if steps is None and parts in ([replace], [prepend, replace]):
        return parts[0] == prepend
    if not parts and steps and steps["type"] == "Metaspace" and not steps.get("split", True):
        scheme = steps.get("prepend_scheme", "always")
        if steps["replacement"] == SPACE and scheme in ("always", "never"):
            return bool(scheme == "always")
    raise refused(where, f"spaces written by {json.dumps([step, steps], ensure_ascii=False)[:300]}")


def _scores(
    tokens: Sequence[str], vocab: Mapping[str, int], merges: Sequence[tuple[str, ...]], where: str
) -> list[float]:
    """A score for every token, so that merging by score is merging in the order of the list.

    llama.cpp joins whichever two neighbours give the token of the highest score, the first ones if several do. That is
    the order of a list only where every pair that spells a token is in it, and the pairs of one token stand together.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        joined = "".join(pair)
        first.setdefault(joined, rank)
        if last.setdefault(joined, rank) < rank - 1:
            raise refused(where, f"the merges that give {joined!r} do not stand together")
        last[joined] = rank
    listed = set(merges)
    for token in vocab:
        for cut in range(1, len(token)):
            pair = (token[:cut], token[cut:])
            if pair[0] in vocab and pair[1] in vocab and pair not in listed and token not in BYTES:
                raise refused(where, f"{pair[0]!r} and {pair[1]!r} are not merged, though {token!r} is a token")
    return [-float(first[token] if token in first else len(merges)) for token in tokens]


def _ends_added(tokenizer: PreTrainedTokenizerBase, where: str) -> tuple[bool, bool]:
    """Whether encoding puts BOS before a text and EOS behind it."""
    plain, whole = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    for before in ([], [tokenizer.bos_token_id]):
        for behind in ([], [tokenizer.eos_token_id]):
            if whole == [*before, *plain, *behind]:
                return bool(before), bool(behind)
    raise refused(where, f"encoding 'a' puts more around it than BOS and EOS: {tokenizer.convert_ids_to_tokens(whole)}")


def _special_ids(
    tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], where: str
) -> tuple[int | None, int, int | None, list[int]]:
    """BOS, EOS and a second token that ends answers; then all that do.

    Left out, llama.cpp takes token 11 for BOS and EOS, whatever that is. EOS stays the tokenizer's, which templates
    write; the first of the model's other stop tokens is the second.
    """
    eos_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(stops), None)
    if eos_id is None:
        raise UserError(
            "nothing says where an answer of this model ends",
            where=where,
            found="no EOS token in the tokenizer, no eos_token_id in generation_config.json",
            expected="one of them; llama.cpp would stop at token 11",
            fix=f'write {{"eos_token_id": ID}} into {typed(where)}/generation_config.json',
        )
    bos_id = tokenizer.bos_token_id
    if bos_id is None:
        if any("bos_token" in text for text in tokenizer_facts(tokenizer).templates.values()):
            raise refused(where, "a chat template that writes bos_token, and no such token")
        bos_id = eos_id  # which nothing writes: no text begins with it
    eot_id = next((each for each in stops if each != eos_id), None)
    return bos_id, int(eos_id), eot_id, list(stops) or [int(eos_id)]


def _in_table(token_id: int | None, rows: int) -> bool:
    return token_id is not None and 0 <= token_id < rows
