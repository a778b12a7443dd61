"""Answers as text and as sequences to learn from: the sampler's completions with their prompts and their words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from heed.models.decode.draw import GREEDY, Sampling
from heed.models.decode.sample import Completion, sample
from heed.types import Tokens


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer that a model drew."""

    tokens: Tokens
    """the prompt, then the answer, whose tokens are trained; its stop token is the last where it has one"""
    prompt_length: int
    """tokens of the prompt"""
    text: str
    """the answer's, without its stop token"""
    stopped: bool
    """whether it ended with a stop token; else it is as long as allowed"""
    sampler_logp: np.ndarray
    """(n,) log p of each of its tokens at temperature 1 as the sampler computed it, in nats"""
    tempered_logp: np.ndarray
    """(n,) the same at the temperature that it was drawn at"""

    @property
    def ids(self) -> list[int]:
        """Token ids of the answer alone."""
        return self.tokens.ids[self.prompt_length :].tolist()

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer alone."""
        return len(self.tokens) - self.prompt_length

    @classmethod
    def of(cls, prompt: Sequence[int], completion: Completion, text: str) -> "Answer":
        """A completion with the prompt that it answers and its text."""
        ids = completion.ids
        weight = np.zeros(len(prompt) + len(ids), dtype=np.float32)
        weight[len(prompt) :] = 1
        tokens = Tokens(np.array([*prompt, *ids], dtype=np.int32), weight)
        logps = np.array(completion.logp), np.array(completion.tempered_logp)
        return cls(tokens, len(prompt), text, completion.stopped, *logps)


def draw_answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    decode: Callable[[list[int]], str],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    max_sequences: int = 64,
    on_done: Callable[[int], None] | None = None,
) -> list[list[Answer]]:
    """The model's answers to each prompt, `num_samples` of them; see `sample`, whose arguments these are.

    Args:
        decode: the text of token ids.
    """
    completions = sample(
        model,
        prompts,
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        num_samples=num_samples,
        seed=seed,
        numbers=numbers,
        max_sequences=max_sequences,
        on_done=on_done,
    )

    def answer(prompt: Sequence[int], completion: Completion) -> Answer:
        return Answer.of(prompt, completion, decode(completion.ids[:-1] if completion.stopped else completion.ids))

    return [[answer(prompt, each) for each in group] for prompt, group in zip(prompts, completions, strict=True)]
