"""From what a task asks to the tokens that a model reads, as lm-evaluation-harness makes them where names are the same.

description + examples + context | continuation       without a template, text after text
messages -> rendered chat        | continuation       with one, examples as turns of their own
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from heed.data.prompts import prompt_text
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer
from heed.evaluate.guarantees import base_id
from heed.evaluate.items import Generation, Item, Likelihood, Request, Rolling
from heed.evaluate.task import Task, said
from heed.recipes.evaluation.model import Words
from heed.recipes.evaluation.records import OpenTask
from heed.types import Finding, Message, Origin, Prompt, Tokens

MERGED = "options whose first token reaches into the prompt: scored on the tokens of the whole text"


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """One request as tokens."""

    prompt: str
    """the text before the continuation, or all of a rolling text"""
    continuation: str
    """with its delimiter, and the white space that the prompt ended with"""
    ids: np.ndarray
    """(L,) int32: prompt and continuation"""
    num_context: int
    """tokens before the first that is scored"""
    num_bos: int
    """how often BOS stands among them: 1 is what most models learnt from, 2 is a mistake"""
    merges: bool = False
    """whether prompt and continuation share a token: the prompt alone is encoded otherwise"""

    def tokens(self) -> Tokens:
        """The sequence with the weight 1 on every token that is scored."""
        weight = np.zeros(len(self.ids), dtype=np.float32)
        weight[self.num_context :] = 1
        return Tokens(self.ids, weight)


def examples_for(item: Item, task: OpenTask, *, per_item: bool, seed: int) -> tuple[Item, ...]:
    """The few-shot examples before an item's question, which never are the item itself.

    They depend on the seed, the pool's content and, where they are drawn per item, on the item; on no order, no subset
    and no other item.
    """
    count = task.task.num_shots
    if not count or not task.pool:
        return ()
    share = task.task.examples_share
    pool = in_fixed_order(task, seed, None if share is None else item.groups.get(share))
    own = base_id(item.id)  # a record that stands twice would else show its own answer
    order = np.random.default_rng(_hash(seed, item.id)).permutation(len(pool)) if per_item else range(len(pool))
    return tuple(islice((pool[i] for i in order if base_id(pool[i].id) != own), count))


@lru_cache(maxsize=1024)
def in_fixed_order(task: OpenTask, seed: int, group: str | None) -> list[Item]:
    """The pool, or what of it is in one group, in the order in which examples are taken from it."""
    share = task.task.examples_share
    pool = [each for each in task.pool if share is None or each.groups.get(share) == group]
    return sorted(pool, key=lambda each: _hash(seed, each.id))


def _hash(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:8], "big")


def written(request: Request, item: Item, task: Task, examples: Sequence[Item], words: Words) -> Written | Finding:
    """A request as this model reads it, or why it cannot."""
    if isinstance(request, Rolling):
        return rolling(request.text, item.origin, words)
    if isinstance(request, Likelihood) and request.stands_alone:
        return pair(request.context, task.delimiter + request.continuation, bos_of(words), item.origin, words)
    in_chat = words.template is not None and task.kind != "pairs" and bool(request.context or examples)
    if in_chat:
        assert words.template is not None
        prompt = chat_prompt(request.context, task, examples, item, words.template)
        if isinstance(prompt, Finding):
            return prompt
        delimiter = ""
    else:
        prompt, delimiter = plain_prompt(request.context, task, examples, item), task.delimiter
    bos = [] if in_chat else bos_of(words)
    if isinstance(request, Generation):
        ids = np.array([*bos, *words.tokenizer.encode(prompt)], dtype=np.int32)
        return Written(prompt, "", ids, len(ids), count_bos(ids, words.tokenizer))
    return pair(
        prompt, (delimiter if prompt or task.kind == "choice" else "") + request.continuation, bos, item.origin, words
    )


def plain_prompt(context: str, task: Task, examples: Sequence[Item], item: Item) -> str:
    """Description, examples and context, one text after the other."""
    shots = [each.shot for each in examples if each.shot is not None]
    worked = "".join(f"{asked}{task.delimiter}{answer}{task.separator}" for asked, answer in shots)
    return described(task, item) + worked + context


def described(task: Task, item: Item) -> str:
    """What stands before everything in an item's prompt."""
    return f"{said(task.description, item.record)}{task.generation.description}"


def chat_prompt(
    context: str, task: Task, examples: Sequence[Item], item: Item, template: ChatTemplate
) -> str | Finding:
    """The render of description (the system prompt), examples (turns) and context, ready for the answer."""
    shots = [each.shot for each in examples if each.shot is not None]
    system = described(task, item).strip()
    messages = [Message("system", system)] if system else []
    for asked, answer in shots:
        messages += [Message("user", asked), Message("assistant", answer)]
    messages.append(Message("user", context))
    rendered = prompt_text(Prompt(tuple(messages), item.origin, {}), template)
    return rendered if isinstance(rendered, Finding) else rendered.text


def pair(prompt: str, continuation: str, bos: list[int], origin: Origin, words: Words) -> Written | Finding:
    """Prompt and continuation, encoded together and divided by the length of the prompt's own encoding.

    White space at the end of the prompt goes to the continuation, where tokenizers put it. A continuation of nothing
    but BOS is predicted after the model's first token.
    """
    stripped = prompt.rstrip()
    continuation, prompt = prompt[len(stripped) :] + continuation, stripped
    tokenizer = words.tokenizer
    if not prompt:
        if words.first_token is None:
            return nothing_before(origin, words)
        before = bos or [words.first_token]
        ids = np.array([*before, *tokenizer.encode(continuation)], dtype=np.int32)
        return _checked(Written("", continuation, ids, len(before), count_bos(ids, tokenizer)), origin)
    whole, alone = [*bos, *tokenizer.encode(prompt + continuation)], [*bos, *encoded(prompt, tokenizer)]
    ids = np.array(whole, dtype=np.int32)
    merges = whole[: len(alone)] != alone
    return _checked(Written(prompt, continuation, ids, len(alone), count_bos(ids, tokenizer), merges), origin)


@lru_cache(maxsize=16)
def encoded(prompt: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of a prompt, which all options of an item share."""
    return tuple(tokenizer.encode(prompt))


def _checked(made: Written, origin: Origin) -> Written | Finding:
    if made.num_context < len(made.ids):
        return made
    return Finding(
        "a continuation has no token of its own",
        origin,
        found=f"{made.continuation!r} after {made.prompt[-40:]!r}: all of it is in the prompt's last token",
        expected="one token at least that can be scored",
        fix="another delimiter in the task file",
    )


def rolling(text: str, origin: Origin, words: Words) -> Written | Finding:
    """All of a text, predicted after the model's first token."""
    if words.first_token is None:
        return nothing_before(origin, words)
    ids = np.array([words.first_token, *words.tokenizer.encode(text)], dtype=np.int32)
    return Written(text, "", ids, 1, count_bos(ids, words.tokenizer))


def nothing_before(origin: Origin, words: Words) -> Finding:
    """What to say of a text that nothing comes before, for a model that has nothing to put there."""
    return Finding(
        "nothing stands before the text, so that its first token cannot be predicted",
        origin,
        found=f"{words.model}, a tokenizer with neither BOS nor end-of-text",
        expected="one of the two",
        fix="a task with a context; or another model",
    )


def windows(made: Written, num_positions: int, stride: int | None = None) -> Iterator[Written]:
    """A rolling text cut into windows that the model can read; every token is scored in one of them.

    The first window is predicted after the first token; each other one scores the next `stride` tokens, with as much
    context before them as there is room for. Without a stride they are as many as the model reads: windows are disjoint
    but for the last, as lm-evaluation-harness cuts them.
    """
    ids, size = made.ids, num_positions  # the last token of a window is predicted and not read
    num_scored, step = len(ids) - 1, min(stride or num_positions, num_positions)
    start = 0
    while start < num_scored:
        stop = min(start + (step if start else size), num_scored)
        first = max(0, stop - size)
        yield Written(made.prompt, "", ids[first : stop + 1], start - first + 1, made.num_bos if first == 0 else 0)
        start = stop


def bos_of(words: Words) -> list[int]:
    """BOS before a prompt without a template."""
    bos = words.tokenizer.token_id("bos_token")
    return [bos] if words.adds_bos and bos is not None else []


def count_bos(ids: np.ndarray, tokenizer: Tokenizer) -> int:
    """How often BOS stands at the beginning."""
    bos = tokenizer.token_id("bos_token")
    count = 0
    while bos is not None and count < len(ids) and ids[count] == bos:
        count += 1
    return count
