"""Tokenise with what a GGUF file says, by llama.cpp's rules: what every program that reads the file will do.

Source: llama.cpp's src/llama-vocab.cpp (`tokenizer_st_partition`, `llm_tokenizer_spm`, `llm_tokenizer_bpe`), with
special tokens in a text taken for what they are. tests/models/test_llama_cpp.py compares with llama.cpp itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gguf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from heed.models.export.differs import differs
from heed.models.export.pre_tokenizers import PRE_TOKENIZERS
from heed.models.export.reading_gguf import Opened

SPACE = "▁"
WHOLE = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED, gguf.TokenType.UNKNOWN)
"""types of tokens that are looked for in a text before anything else"""


def text_reader(file: Opened) -> Callable[[str], list[int]]:
    """A function from a text to its tokens, with the BOS and EOS that the file asks for.

    Raises:
        UserError: the file names a tokenizer that heed does not write.
    """
    fields = file.fields
    tokens: Sequence[str] = fields["tokenizer.ggml.tokens"]
    types: Sequence[int] = fields["tokenizer.ggml.token_type"]
    whole = {token: token_id for token_id, token in enumerate(tokens) if types[token_id] in WHOLE}
    adds_space = bool(fields.get("tokenizer.ggml.add_space_prefix", False))
    match fields["tokenizer.ggml.model"]:
        case "gpt2":
            of_piece = _by_pairs(file)
        case "llama":
            of_piece = _by_scores(fields)
        case other:
            raise differs("its tokenizer is another", file.path, str(other), "gpt2 or llama")
    before = [fields["tokenizer.ggml.bos_token_id"]] if fields["tokenizer.ggml.add_bos_token"] else []
    behind = [fields["tokenizer.ggml.eos_token_id"]] if fields["tokenizer.ggml.add_eos_token"] else []

    def read(text: str) -> list[int]:
        found = list(before)
        follows_special = True
        for part in partition(text, whole):
            if isinstance(part, int):
                found.append(part)
            else:
                found += of_piece(" " + part if adds_space and follows_special else part)
            follows_special = isinstance(part, int)
        return [*found, *behind]

    return read


def partition(text: str, whole: Mapping[str, int]) -> list[str | int]:
    """Cut out the special tokens of a text, the longest first; what lies between stays text, if it is not empty."""
    parts: list[str | int] = [text] if text else []
    for token in sorted(whole, key=lambda each: -len(each.encode())):
        if token not in text:
            continue
        cut: list[str | int] = []
        for part in parts:
            if isinstance(part, int):
                cut.append(part)
                continue
            first, *rest = part.split(token)
            cut += [first] if first else []
            for piece in rest:
                cut += [whole[token], piece] if piece else [whole[token]]
        parts = cut
    return parts


def _by_pairs(file: Opened) -> Callable[[str], list[int]]:
    """Byte-level BPE behind one of llama.cpp's ways to cut."""
    fields = file.fields
    pre = PRE_TOKENIZERS.get(fields["tokenizer.ggml.pre"])
    if pre is None:
        raise differs("text is cut otherwise", file.path, f"{fields['tokenizer.ggml.pre']}", "a way that heed writes")
    vocab = {token: token_id for token_id, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [_pair(merge) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre.takes_whole_words))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pre.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def _pair(merge: str) -> tuple[str, str]:
    cut = merge.index(" ", 1)
    return merge[:cut], merge[cut + 1 :]


def _by_scores(fields: Mapping[str, Any]) -> Callable[[str], list[int]]:
    """Characters joined, again and again, where that gives the token of the highest score; else bytes."""
    ids = {token: token_id for token_id, token in enumerate(fields["tokenizer.ggml.tokens"])}
    scores: Sequence[float] = fields["tokenizer.ggml.scores"]

    def read(text: str) -> list[int]:
        parts: list[str] = list(text.replace(" ", SPACE))
        following = [*range(1, len(parts)), -1]
        preceding = list(range(-1, len(parts) - 1))
        waiting: list[tuple[float, int, int, str]] = []

        def consider(left: int, right: int) -> None:
            if left >= 0 and right >= 0 and (joined := parts[left] + parts[right]) in ids:
                heapq.heappush(waiting, (-scores[ids[joined]], left, right, joined))

        for place in range(len(parts) - 1):
            consider(place, place + 1)
        while waiting:
            _, left, right, joined = heapq.heappop(waiting)
            if not parts[left] or not parts[right] or parts[left] + parts[right] != joined:
                continue  # one of them was joined with something else meanwhile
            parts[left], parts[right] = joined, ""
            following[left] = following[right]
            if following[right] >= 0:
                preceding[following[right]] = left
            consider(preceding[left], left)
            consider(left, following[left])
        return [token_id for part in parts if part for token_id in _ids_or_bytes(part, ids)]

    return read


def _ids_or_bytes(part: str, ids: Mapping[str, int]) -> list[int]:
    return [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
