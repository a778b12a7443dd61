"""Hold a GGUF file against the model and the tokenizer that it was made from."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from heed.models.decode.sample import greedy
from heed.models.export.differs import differs
from heed.models.export.llama_text import text_reader
from heed.models.export.pre_tokenizers import PRE_TOKENIZERS
from heed.models.export.probe_texts import QUESTIONS, TEXTS
from heed.models.export.reading_gguf import Opened, weights_of
from heed.models.export.vocabulary import Vocabulary
from heed.models.export.writing_gguf import BLOCK
from heed.models.intake.access import quiet_transformers
from heed.models.load import num_positions

TOLERANCE = 1e-5
"""largest difference, in nats, of log-probabilities that are computed from the same bits"""
NEW_TOKENS = 16
"""of an answer that is compared"""
FEW_SPECIAL = 40
"""special tokens that are looked for inside words and beside each other"""


def texts_of(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> list[str]:
    """The texts to tokenise: the fifty, special tokens among words, and every question as the model is asked it.

    A tokenizer that composes accents is compared on composed ones: see `Vocabulary.composes`.
    """
    special = [token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in (3, 4)]
    among = [f"a{token} b {token}\n{token}{token} c" for token in special[:FEW_SPECIAL]]
    texts = [*TEXTS, *among, "".join(special[:FEW_SPECIAL]), *(prompt_of(tokenizer, each) for each in QUESTIONS)]
    return [unicodedata.normalize("NFC", text) for text in texts] if vocabulary.composes else texts


def prompt_of(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """A question as the model reads it; as it is where there is no chat template."""
    if tokenizer.chat_template is None:
        return question
    asked = [{"role": "user", "content": question}]
    rendered: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    return rendered


def prompts_of(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, count: int) -> list[list[int]]:
    """Tokens of the first `count` questions that leave room for an answer."""
    room = (num_positions(model) or 1 << 30) - NEW_TOKENS
    adds = tokenizer.chat_template is None
    tokens = [tokenizer(prompt_of(tokenizer, each), add_special_tokens=adds).input_ids for each in QUESTIONS[:count]]
    return [ids for ids in tokens if 0 < len(ids) <= room]


def scored_of(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, count: int) -> list[list[int]]:
    """Tokens of the first `count` questions, cut to what the model can read: one at least, or nothing is compared."""
    tokens = [tokenizer(prompt_of(tokenizer, each)).input_ids for each in QUESTIONS[:count]]
    found = [ids[: num_positions(model)] for ids in tokens if ids]
    assert found, "the tokenizer makes no tokens of any question"
    return found


def answers_of(model: PreTrainedModel, prompts: Sequence[Sequence[int]], stops: Sequence[int]) -> list[list[int]]:
    """Greedy answers, as tokens."""
    return [greedy(model, ids, stop_ids=stops, max_new_tokens=NEW_TOKENS) for ids in prompts]


def compare_tokens(file: Opened, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """Tokenise every text by what the file says and as the tokenizer does; return who read the file.

    Raises:
        UserError: a text becomes other tokens.
    """
    readers: dict[str, Callable[[str], list[int]]] = {"llama.cpp's rules": text_reader(file)}
    if file.fields["tokenizer.ggml.pre"] in PRE_TOKENIZERS and file.fields["tokenizer.ggml.pre"] != "smollm":
        # Its reader of other files guesses: SentencePiece's spaces, and GPT-2's words where it does not know better.
        with quiet_transformers():
            theirs = AutoTokenizer.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
        readers["transformers"] = lambda text: list(theirs(text, add_special_tokens=False).input_ids)
    for who, read in readers.items():
        for text in texts:
            whole = who != "transformers"
            expected, found = list(tokenizer(text, add_special_tokens=whole).input_ids), read(text)
            if found != expected:
                raise differs(
                    f"a text becomes other tokens by {who}",
                    file.path,
                    f"{text[:60]!r}: {_around(found, expected, tokenizer)}",
                    _around(expected, found, tokenizer),
                )
    return list(readers)


def _around(ids: Sequence[int], others: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens where two lists part."""
    first = next((i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
    return f"token {first + 1} on: {' '.join(map(repr, tokenizer.convert_ids_to_tokens(list(ids[first : first + 4]))))}"


def take_weights(model: PreTrainedModel, file: Opened) -> float:
    """Compare every weight of the file with the model's, and put it in the model's place.

    Returns:
        the largest difference of any weight, which is 0 for float32.

    Raises:
        UserError: a weight is further off than its kind of number rounds, is missing, or has no place.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    largest, seen = 0.0, set()
    for stored, name, weight in weights_of(file):
        if name not in own or own[name].shape != weight.shape:
            shape = tuple(own[name].shape) if name in own else "none"
            raise differs(
                "a tensor of another shape", file.path, f"{stored}: {tuple(weight.shape)}", f"{name}: {shape}"
            )
        before = own[name].detach().float().cpu()
        apart = (weight - before).abs()
        allowed = _rounding(before, file, stored)
        if not bool((apart <= allowed).all()):
            worst = int((apart - allowed).nan_to_num(torch.inf).argmax())
            raise differs(
                "a weight is another",
                file.path,
                f"{stored}: {weight.flatten()[worst]:.9g} at number {worst:,}",
                f"{before.flatten()[worst]:.9g}, give or take {allowed.flatten()[worst]:.3g}",
            )
        largest = max(largest, float(apart.max()))
        with torch.no_grad():
            own[name].copy_(weight)
        seen.add(id(own[name]))
    absent = [name for name, parameter in own.items() if id(parameter) not in seen]
    tied_head = [name for name, p in own.items() if p is model.get_output_embeddings().weight]
    if absent == tied_head and "output.weight" not in file.stored:
        with torch.no_grad():  # equal in value, though not one tensor
            model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
        absent = []
    if absent:
        raise differs("a tensor is missing", file.path, f"nothing for {absent[0]}", "every weight of the model")
    return largest


def _rounding(weight: Tensor, file: Opened, stored: str) -> Tensor:
    """How far a stored weight may lie from the true one, weight by weight.

    - F32: 0.
    - F16: half a unit in the last of 11 bits, 2^-11 |w|, or half the smallest number, 2^-25.
    - Q8_0: with d = max |w| / 127 of the block of 32, half a step d / 2; and the step itself is float16, which moves
      the at most 127 steps by 127 (2^-11 d + 2^-25).
    """
    match file.stored[stored].tensor_type.name:
        case "F32":
            return torch.zeros_like(weight)
        case "F16":
            return (weight.abs() * 2.0**-11).clamp(min=2.0**-25)
        case "Q8_0":
            rows = weight.T if file.arch == "gpt2" and not stored.startswith(("token_embd", "output.")) else weight
            steps = rows.abs().reshape(-1, BLOCK).amax(dim=1, keepdim=True) / 127
            bound = (steps * (0.5 + 127 * 2.0**-11) * (1 + 1e-5) + 127 * 2.0**-25).expand(-1, BLOCK).reshape(rows.shape)
            return bound.T if rows is not weight else bound
    raise differs("numbers of another kind", file.path, f"{stored}: {file.stored[stored].tensor_type.name}", "as asked")


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Of any log-probability of any next token, in nats; infinite where one of the models computes no number."""
    apart = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
    return max(apart, default=0.0) if all(each == each for each in apart) else float("inf")


def transformers_model(file: Opened) -> PreTrainedModel | str:
    """The model as transformers reads the file, or why it cannot."""
    if file.arch == "qwen3" and file.size("attention.key_length") != 128:
        return "it takes every head of this family to be 128 wide"
    if file.arch == "gpt2" and len(file.fields["tokenizer.ggml.tokens"]) != 50_257:
        return "it takes every model of this family to have 50,257 tokens"
    if "rope_freqs.weight" in file.stored or f"{file.arch}.rope.scaling.type" in file.fields:
        return "it does not read scaled positions"
    if "blk.0.attn_q.bias" in file.stored and file.arch == "llama":
        return "it does not read biases of this family"
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # where its progress bar goes
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                str(file.path.parent), gguf_file=file.path.name, dtype=torch.float32
            )
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        return f"it stops with {' '.join(str(error).split())[:120]}"
    return model.eval()
