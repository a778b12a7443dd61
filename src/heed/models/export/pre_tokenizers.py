"""How text is cut before byte pairs are merged: the names that llama.cpp knows, and what each stands for.

A tokenizer whose way to cut is none of these cannot be exported: llama.cpp would cut otherwise, and the model would
read other tokens than it was trained on, without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2_WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST


@dataclass(frozen=True)
class PreTokenizer:
    """One of llama.cpp's ways to cut text."""

    patterns: tuple[str, ...]
    """regular expressions, each applied to what the one before has cut; what none matches is a piece, too"""
    takes_whole_words: bool = False
    """whether a piece that is a token is taken as it is, before any merging"""


PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((GPT2_WORDS,)),
    "smollm": PreTokenizer((r"\p{N}", GPT2_WORDS)),
    "llama-bpe": PreTokenizer((LLAMA3_WORDS,), takes_whole_words=True),
    "smaug-bpe": PreTokenizer((LLAMA3_WORDS,)),
    "qwen2": PreTokenizer((QWEN2_WORDS,)),
}
"""by `tokenizer.ggml.pre`, after llama.cpp's src/llama-vocab.cpp"""

ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPELLINGS = {
    GPT2_WORDS + r"|\s+": "gpt-2",
    LLAMA3_WORDS.replace(CONTRACTIONS, ANY_CASE): "llama3",
    QWEN2_WORDS.replace(CONTRACTIONS, ANY_CASE): "qwen2",
}
"""the same expressions as tokenizer.json spells them"""


def name_of(pre_tokenizer: Mapping[str, Any] | None, *, takes_whole_words: bool) -> str | None:
    """llama.cpp's name for the `pre_tokenizer` of a tokenizer.json; None where it has none for it."""
    if pre_tokenizer is None:
        return None
    steps = list(pre_tokenizer["pretokenizers"]) if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    cuts = steps[:-1] + ([{"type": "GPT2"}] if steps[-1].get("use_regex", True) else [])
    names = [_name_of_cut(cut) for cut in cuts]
    known = {("gpt-2",): "gpt-2", ("digits", "gpt-2"): "smollm", ("qwen2",): "qwen2"}
    if names == ["llama3"]:
        return "llama-bpe" if takes_whole_words else "smaug-bpe"
    return None if takes_whole_words else known.get(tuple(names))


def _name_of_cut(step: Mapping[str, Any]) -> str:
    match step["type"]:
        case "GPT2":
            return "gpt-2"
        case "Digits" if step.get("individual_digits"):
            return "digits"
        case "Split" if step.get("behavior") in ("Isolated", "Removed") and not _drops(step):
            return SPELLINGS.get(str(step["pattern"].get("Regex")), "unknown")
    return "unknown"


def _drops(step: Mapping[str, Any]) -> bool:
    """Whether a split keeps only what lies between the matches."""
    return bool(step["behavior"] == "Removed") != bool(step.get("invert"))
