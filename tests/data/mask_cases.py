"""Short ways to say a conversation, and what the tests of rendering, masks and tokens share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from heed.data.chat import masked
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer
from heed.types import Conversation, Finding, Message, Origin, Rendered

ORIGIN = Origin("answers.jsonl", 7)

FAMILIES = (
    "command-r-v01",
    "deepseek-r1-distill-qwen-7b",
    "gemma-3-4b-it",
    "granite-3.1-8b-instruct",
    "llama-3.1-8b-instruct",
    "mistral-7b-instruct-v0.3",
    "phi-3-mini-4k-instruct",
    "qwen2.5-0.5b-instruct",
    "qwen3-0.6b",
    "smollm2-1.7b-instruct",
    "smollm3-3b",
    "zephyr-7b-beta",
)


def user(content: str, **extra: Any) -> Message:
    return Message("user", content, extra=extra)


def assistant(content: str, weight: float = 1.0, **extra: Any) -> Message:
    return Message("assistant", content, weight, extra)


def system(content: str) -> Message:
    return Message("system", content)


def conversation(*messages: Message, tools: Sequence[dict[str, Any]] = (), **arguments: Any) -> Conversation:
    return Conversation(messages, ORIGIN, tuple(tools), arguments)


def inline(source: str, eos_token: str | None = "</s>") -> ChatTemplate:
    """A template written in a test."""
    variables = {} if eos_token is None else {"eos_token": eos_token}
    return ChatTemplate(source, "inline").with_tokens(variables, frozenset(variables.values()))


def family(shared: Path, name: str) -> ChatTemplate:
    return ChatTemplate.load(shared / "templates" / name)


def built_in(name: str) -> ChatTemplate:
    return ChatTemplate.load(name).with_tokens({"eos_token": "</s>"}, frozenset({"</s>"}))


def rendered(template: ChatTemplate, *messages: Message, **arguments: Any) -> tuple[Rendered, ...]:
    tools = arguments.pop("tools", ())
    result = masked(conversation(*messages, tools=tools, **arguments), template)
    assert not isinstance(result, Finding), f"{result.problem}: {result.found}"
    return result


def finding(template: ChatTemplate, *messages: Message, **arguments: Any) -> Finding:
    tools = arguments.pop("tools", ())
    result = masked(conversation(*messages, tools=tools, **arguments), template)
    assert isinstance(result, Finding), f"trained {[trained_texts(r) for r in result]}"
    return result


def trained_texts(result: Rendered) -> list[str]:
    return [result.text[span.start : span.stop] for span in result.spans]


def trained(template: ChatTemplate, *messages: Message, **arguments: Any) -> list[list[str]]:
    """The trained texts of the whole conversation and of each branch."""
    return [trained_texts(result) for result in rendered(template, *messages, **arguments)]


SENTENCES = (
    "the cat sat on the mat and the dog ran away from the house",
    "### Response: Below is an instruction that describes a task",
    "xin chào thế giới, tôi là một mô hình ngôn ngữ",
    "Hello there! What is 2+2? It is 4. Hi. Bye.",
)


def metaspace_tokenizer(prepend_scheme: str) -> Tokenizer:
    """A SentencePiece-style tokenizer: BPE over `▁` for spaces with bytes for unknown characters."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    strip = [decoders.Strip(" ", 1, 0)] if prepend_scheme != "never" else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=special + bytes_, show_progress=False)
    backend.train_from_iterator([f"{line}\n" for line in SENTENCES], trainer)
    state = backend.to_str().replace('"special":true', '"special":false')
    backend = tokenizers.Tokenizer.from_str(state)
    return Tokenizer.wrap(backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def unigram_tokenizer() -> Tokenizer:
    """A SentencePiece-style Unigram tokenizer that normalises to NFKC, so texts change length."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([f"{line}\n" for line in SENTENCES], trainer)
    return Tokenizer.wrap(backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
