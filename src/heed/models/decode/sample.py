"""Let a model answer: many prompts at once, for evaluation and reinforcement, or token by token, for chat."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from heed.errors import UserError
from heed.forest.build import common_prefix, sort_key
from heed.models.attention.forest_attention import attention_named, plain_attention_of
from heed.models.decode.draw import GREEDY as GREEDY
from heed.models.decode.draw import Sampling as Sampling
from heed.models.decode.draw import draw, logp_at, uniform_numbers
from heed.models.decode.self_check import fastest_step, why_not_together
from heed.models.decode.slots import Decoding, Prompts
from heed.models.decode.stop_strings import StopStrings
from heed.models.decode.stop_strings import before_stop as before_stop
from heed.models.decode.together import (
    DECODE_NAME,
    Step,
    common_beginning,
    compute_prompts,
    device_of,
)
from heed.models.heads.language import at_least_float32
from heed.models.load import num_positions
from heed.models.self_check import rope_kind

PROMPT_TOKENS = 8192
"""distinct prompt tokens that are computed, and whose keys and values are held, at a time"""

PROMPT_ENTRIES = 1024 * 768
"""hidden states of a layer, in numbers, that keep a CPU busy: more only take memory"""

SHORTEST_TRUNK = 32
"""a shorter beginning of all prompts is copied to each sequence: to read it apart would cost more than it saves"""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer."""

    ids: list[int]
    """the new tokens, with the stop token, or all of the token that completed a stop string, if it ended with one"""
    logp: list[float]
    """log p of each under the model at temperature 1, before any limit on what is drawn, in nats"""
    tempered_logp: list[float]
    """the same at the temperature that it was drawn at; at temperature 0 as `logp`"""
    stopped: bool
    """whether it ended with a stop token or string; else it is as long as allowed, or as the model's positions last"""


@dataclass(eq=False, slots=True)
class Unfinished:
    """A completion in the making."""

    prompt: int
    """number of its prompt"""
    sample: int
    """its number among the prompt's samples"""
    limit: int
    """tokens it may have"""
    uniform: list[float]
    """a number for each of its draws; none where the likeliest token is taken"""
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    tempered_logp: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Drawing:
    """What happens at every token of every answer."""

    sampling: Sampling
    stop_ids: frozenset[int]
    stop_strings: StopStrings | None
    finish: Callable[[Unfinished], None]
    """called with every answer as soon as it is over"""

    def add_token(self, logits: Tensor, answers: Sequence[Unfinished]) -> tuple[Tensor, list[int]]:
        """Draw a token for each answer (answers,) from its row of logits; returns them, and which answers are over."""
        uniform = [answer.uniform[len(answer.ids)] for answer in answers] if self.sampling.temperature else []
        temperature = self.sampling.temperature
        tokens, logp = draw(logits, uniform, self.sampling)
        tempered = logp if temperature in (0, 1) else logp_at(logits, tokens, temperature)
        over = []
        # One copy from the device for all three: on a GPU each is waited for. Float64 holds them as they are.
        columns = torch.stack([tokens.double(), logp.double(), tempered.double()]).tolist()
        for row, (answer, token_id, *of_token) in enumerate(zip(answers, *columns, strict=True)):
            token = int(token_id)
            if not isfinite(of_token[0]):
                raise not_finite(of_token[0], len(answer.ids) + 1)
            answer.ids.append(token)
            answer.logp.append(of_token[0])
            answer.tempered_logp.append(of_token[1])
            answer.stopped = token in self.stop_ids or (
                self.stop_strings is not None and self.stop_strings.ended(answer.ids)
            )
            if answer.stopped or len(answer.ids) == answer.limit:
                over.append(row)
                self.finish(answer)
        return tokens, over


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    max_sequences: int = 64,
    on_done: Callable[[int], None] | None = None,
    stop_strings: Sequence[str] = (),
    decode: Callable[[list[int]], str] | None = None,
) -> list[list[Completion]]:
    """Answer every prompt `num_samples` times, many sequences at once.

    What prompts have in common is computed once. A sequence that is done makes room for one that waits. What is drawn
    for an answer depends on the seed, on the number of its prompt and on its number among the prompt's samples; not,
    but for rounding, on what else is in the batch.

    Args:
        stop_ids: tokens that end an answer; may be empty.
        max_new_tokens: the most tokens of an answer; where the model's positions do not last, it ends with them.
        seed: 0 or more.
        numbers: of the prompts, where they are some of many: each answer is then what it is among all of them.
        max_sequences: sequences that are decoded at a time; bounds the memory of their keys and values.
        on_done: called after every answer with the number of those that are done.
        stop_strings: texts that end an answer too, as soon as its own text, without the prompt's, holds one of them.
            All tokens stay, also where the last goes on behind the string: `before_stop` cuts the text.
        decode: the text of token ids, needed for stop strings.

    Returns:
        for each prompt, in the order given, its samples.

    Raises:
        ValueError: a prompt is empty or leaves no position for an answer, or a number or stop string makes no sense.
    """
    if max_sequences < 1:
        raise ValueError(f"max_sequences is {max_sequences}: there must be one at least")
    answers = unanswered(model, prompts, max_new_tokens, sampling, num_samples, seed, numbers or range(len(prompts)))
    done: dict[tuple[int, int], Completion] = {}

    def finish(answer: Unfinished) -> None:
        done[answer.prompt, answer.sample] = Completion(answer.ids, answer.logp, answer.tempered_logp, answer.stopped)
        if on_done is not None:
            on_done(len(done))

    drawing = Drawing(sampling, frozenset(stop_ids), StopStrings.of(stop_strings, decode), finish)
    longest = max((len(prompts[answer.prompt]) + answer.limit for answer in answers), default=0)
    if answers and why_not_together(model, longest_prompt := max(prompts, key=len), longest) is None:
        step = fastest_step(model, longest_prompt, longest)
        answer_together(model, prompts, answers, drawing, step, max_sequences=max_sequences)
    else:
        for answer in answers:
            answer_alone(model, prompts[answer.prompt], answer, drawing)
    return [[done[prompt, number] for number in range(num_samples)] for prompt in range(len(prompts))]


def not_finite(logp: float, number: int) -> UserError:
    """What to say of a model that predicts nothing."""
    return UserError(
        "the model's predictions are not finite numbers",
        where=f"token {number:,} of an answer that was being drawn",
        found=f"a log-probability of {logp}",
        expected="a finite log-probability: the weights have diverged, or never were finite",
        fix="another model; in training, a lower --lr with another --out",
    )


def greedy(model: PreTrainedModel, prompt: Sequence[int], *, stop_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """The likeliest token again and again, until a stop token, which is the last one returned, or the limit."""
    return sample(model, [prompt], stop_ids=stop_ids, max_new_tokens=max_new_tokens)[0][0].ids


def unanswered(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    num_samples: int,
    seed: int,
    numbers: Sequence[int],
) -> list[Unfinished]:
    """An empty answer for each sample of each prompt, with the numbers that its draws take."""
    if max_new_tokens < 1 or num_samples < 1:
        raise ValueError(f"{num_samples} answers of {max_new_tokens} tokens: there must be one at least")
    positions = num_positions(model)
    answers = []
    for index, (prompt, its_number) in enumerate(zip(prompts, numbers, strict=True)):
        room = max_new_tokens if positions is None else min(max_new_tokens, positions - len(prompt))
        if len(prompt) == 0:
            raise ValueError(f"prompt {index} has no tokens")
        if room < 1:
            raise ValueError(f"prompt {index} has {len(prompt)} tokens and leaves none of the {positions} positions")
        for number in range(num_samples):
            uniform = uniform_numbers(seed, its_number, number, room) if sampling.temperature else []
            answers.append(Unfinished(index, number, room, uniform))
    return answers


@torch.inference_mode()
def answer_together(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Unfinished],
    drawing: Drawing,
    step: Step,
    *,
    max_sequences: int,
) -> None:
    """Decode up to `max_sequences` answers at a time."""
    trunk = common_beginning(prompts)
    trunk = trunk if trunk >= SHORTEST_TRUNK else 0
    waiting = with_prompts(model, prompts, answers)
    decoding: Decoding | None = None
    active: list[Unfinished] = []
    tokens = torch.empty(0, dtype=torch.long, device=device_of(model))
    with attention_named(model, DECODE_NAME):
        while True:
            is_filling = True
            while is_filling:  # an answer may be over with its first token, and leave its slot to another
                is_filling = False
                # Prompts are computed as they enter, so that no more than one computation's keys are held beside.
                entering = islice(waiting, max_sequences - len(active))
                for computed, group in groupby(entering, key=lambda each: each[1]):
                    is_filling = True
                    if decoding is None:
                        num_slots = min(max_sequences, len(answers))
                        decoding = Decoding.like(computed, num_slots=num_slots, trunk=trunk)
                    tokens = torch.cat([tokens, enter(step, decoding, drawing, computed, list(group), active)])
            if decoding is None or not active:
                return
            tokens, over = drawing.add_token(step.logits(step(decoding, tokens)), active)
            for slot in reversed(over):  # from the last, so that what moves into a slot goes on
                decoding.dismiss(slot)
                tokens[slot], active[slot] = tokens[len(active) - 1], active[-1]
                active.pop()
            tokens = tokens[: len(active)]


def with_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Unfinished]
) -> Iterator[tuple[Unfinished, Prompts, int]]:
    """Every answer with its prompt, computed together with others, and its number among them.

    Like prompts come side by side, and are computed when the first of them is asked for.
    """
    order = sorted(answers, key=lambda answer: (sort_key(np.asarray(prompts[answer.prompt])), answer.prompt))
    width = model.config.get_text_config().hidden_size
    on_cpu = device_of(model).type == "cpu"
    at_a_time = min(PROMPT_TOKENS, PROMPT_ENTRIES // width) if on_cpu else PROMPT_TOKENS
    by_prompt = [(index, list(group)) for index, group in groupby(order, key=lambda answer: answer.prompt)]
    start = 0
    while start < len(by_prompt):
        stop, num_tokens, before = start, 0, np.empty(0)
        while stop < len(by_prompt):
            ids = np.asarray(prompts[by_prompt[stop][0]])
            num_tokens += len(ids) - common_prefix(before, ids)
            if num_tokens > at_a_time and stop > start:
                break
            stop, before = stop + 1, ids
        computed = compute_prompts(model, [prompts[index] for index, _ in by_prompt[start:stop]])
        for row, (_, group) in enumerate(by_prompt[start:stop]):
            yield from ((answer, computed, row) for answer in group)
        start = stop


def enter(
    step: Step,
    decoding: Decoding,
    drawing: Drawing,
    computed: Prompts,
    entering: Sequence[tuple[Unfinished, Prompts, int]],
    active: list[Unfinished],
) -> Tensor:
    """Draw first tokens, make the answers that go on active, and return the tokens of those."""
    rows = torch.tensor([row for _, _, row in entering], device=computed.states.device)
    tokens, over = drawing.add_token(step.logits(computed.states[rows]), [answer for answer, _, _ in entering])
    done = set(over)
    going_on = [index for index in range(len(entering)) if index not in done]
    going_on.sort(key=lambda index: -len(computed.paths[entering[index][2]]))  # like lengths come into one band
    if going_on:
        decoding.admit(computed, [entering[index][2] for index in going_on])
        active += [entering[index][0] for index in going_on]
    return tokens[going_on]


def answer_alone(model: PreTrainedModel, prompt: Sequence[int], answer: Unfinished, drawing: Drawing) -> None:
    """Decode one answer by the model's own forward.

    Where positions depend on the longest row, what was kept of a shorter one would be wrong: nothing is kept.
    """
    keeps = rope_kind(model.config.get_text_config()) is None
    ids = torch.tensor([list(prompt)], device=device_of(model))
    fed, kept = ids, None
    over: list[int] = []
    with attention_named(model, plain_attention_of(model)):
        while not over:
            output = model(input_ids=fed, attention_mask=torch.ones_like(ids), past_key_values=kept, use_cache=keeps)
            logits = output.logits[:, -1]
            token, over = drawing.add_token(logits.to(at_least_float32(logits.dtype)), [answer])
            ids = torch.cat([ids, token[None]], dim=1)
            fed, kept = (token[None], output.past_key_values) if keeps else (ids, None)


@torch.no_grad()
def stream(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    on_token: Callable[[int, float], None],
    stop_strings: Sequence[str] = (),
    decode: Callable[[list[int]], str] | None = None,
) -> None:
    """Call `on_token` with every token of an answer as soon as it is drawn, those of a stop token or string included.

    With it comes log p of the token under the model at temperature 1, before any limit on what is drawn, in nats.
    Draws from torch's global generator. Nothing but `sampling` has a say in it: penalties and limits that a model's
    generation config brings along are set aside.
    """
    stops = StopStrings.of(stop_strings, decode)
    ids = torch.tensor([list(prompt)], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0], use_cache=True
    )
    if sampling.temperature > 0:
        settings.update(do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)
    listener = _Listener(on_token)
    with attention_named(model, plain_attention_of(model)), _generating_by(model, settings):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            streamer=listener,
            logits_processor=[listener.hear_logits],
            stopping_criteria=None if stops is None else [_Ended(stops, len(prompt))],
        )


@contextmanager
def _generating_by(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


@dataclass(frozen=True, eq=False)
class _Ended:
    """What `generate` asks after every token whether the one answer is over."""

    stops: StopStrings
    prompt_tokens: int

    def __call__(self, ids: Tensor, scores: Any, **others: Any) -> Tensor:
        """Called by `generate`."""
        return torch.tensor([self.stops.ended(ids[0, self.prompt_tokens :].tolist())], device=ids.device)


class _Listener:
    """What `generate` hands tokens to: the prompt first, which is nothing new, then one at a time.

    The logits that a token is drawn from come before it, and before temperature and limits are applied to them. On a
    GPU a token may come a step late, so that logits wait for theirs in a queue.
    """

    def __init__(self, on_token: Callable[[int, float], None]) -> None:
        self.on_token, self.saw_prompt = on_token, False
        self.waiting: deque[Tensor] = deque()

    def hear_logits(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Called by `generate` for every token, to change the logits; they stay as they are."""
        self.waiting.append(torch.log_softmax(logits[0].to(at_least_float32(logits.dtype)), dim=-1))
        return logits

    def put(self, ids: Tensor) -> None:
        """Called by `generate`."""
        if self.saw_prompt:
            token = int(ids)
            self.on_token(token, float(self.waiting.popleft()[token]))
        self.saw_prompt = True

    def end(self) -> None:
        """Called by `generate` after the last token."""
