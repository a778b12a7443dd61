"""Ask a base model every question under several few-shot prompts, and keep what it says.

questions -> prompts, each with its examples -> tokens -> sampler -> texts
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from heed import files
from heed.data.tokens import Tokenizer
from heed.errors import UserError, typed
from heed.eval_config import KnownSettings
from heed.models.decode.sample import GREEDY, Sampling, before_stop, sample
from heed.models.intake.access import Access
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, choose_device, load_with_tokenizer, num_positions
from heed.models.score import autocast
from heed.models.stops import stop_ids
from heed.recipes.knowing.questions import Question
from heed.recipes.knowing.shots import FewShot, Form
from heed.recipes.training.setup import wrapped
from heed.types import Finding

QUESTIONS_AT_A_TIME = 64
"""after which the answers are kept"""
MAX_SEQUENCES = 128
ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class UnderPrompt:
    """What was said under one of the few-shot prompts."""

    shots: tuple[str, ...]
    """ids of the examples"""
    greedy: str
    samples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Base:
    """A base model in memory, and how it is asked."""

    name: str
    loaded: LoadedModel
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    form: Form
    few_shot: FewShot
    settings: KnownSettings

    @property
    def answers_per_question(self) -> int:
        """Likeliest and drawn ones, under all prompts."""
        return self.settings.num_prompts * (1 + self.settings.num_samples)

    def answers(self, questions: Sequence[Question], on_done: Callable[[int], None]) -> list[list[UnderPrompt]]:
        """For each question what is said under each prompt. What an answer is depends on its question alone."""
        said: list[list[UnderPrompt]] = [[] for _ in questions]
        sampling, num_samples = Sampling(self.settings.temperature, top_p=1.0), self.settings.num_samples
        done = 0
        for prompt in range(self.settings.num_prompts):
            # Questions that share all their examples go together: the examples are then computed once.
            by_examples: dict[tuple[Question, ...], list[int]] = defaultdict(list)
            for index, question in enumerate(questions):
                by_examples[self.few_shot.examples(prompt, question)].append(index)
            for examples, indices in by_examples.items():
                some = [questions[index] for index in indices]
                greedy = self._said(examples, some, prompt, GREEDY, 1, _behind(done, on_done))
                done += len(some)
                drawn = self._said(examples, some, prompt, sampling, num_samples, _behind(done, on_done))
                done += len(some) * num_samples
                ids = tuple(example.id for example in examples)
                for index, [likeliest], samples in zip(indices, greedy, drawn, strict=True):
                    said[index].append(UnderPrompt(ids, likeliest, tuple(samples)))
        return said

    def prompt(self, examples: Sequence[Question], question: Question) -> str:
        """Examples, then the question, to be gone on with."""
        return "".join(map(self.form.shown, examples)) + self.form.asked(question)

    def refuse_long_prompts(self, questions: Sequence[Question]) -> None:
        """Stop at once where the longest question, behind its examples, leaves no room for an answer."""
        longest = max(questions, key=lambda question: len(question.text))
        for prompt in range(self.settings.num_prompts):
            self._ids(self.few_shot.examples(prompt, longest), longest)

    def _said(
        self,
        examples: Sequence[Question],
        questions: Sequence[Question],
        prompt: int,
        sampling: Sampling,
        num_samples: int,
        on_done: Callable[[int], None],
    ) -> list[list[str]]:
        stops = (self.form.stop,)
        with autocast(self.loaded.device, self.settings.dtype):
            drawn = sample(
                self.loaded.model,
                [self._ids(examples, question) for question in questions],
                stop_ids=self.stop_ids,
                max_new_tokens=self.settings.max_new_tokens,
                sampling=sampling,
                num_samples=num_samples,
                seed=self.settings.seed,
                numbers=[_number(question, prompt) for question in questions],
                max_sequences=MAX_SEQUENCES,
                on_done=on_done,
                stop_strings=stops,
                decode=self._text,
            )

        def text_of(ids: list[int]) -> str:
            text = self._text(ids[:-1] if ids[-1] in self.stop_ids else ids)
            return before_stop(text, stops).strip()

        return [[text_of(answer.ids) for answer in answers] for answers in drawn]

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.backend.decode(ids, skip_special_tokens=False)
        return text

    def _ids(self, examples: Sequence[Question], question: Question) -> list[int]:
        bos = self.tokenizer.token_id("bos_token") if self.tokenizer.adds_bos else None
        ids = [*([] if bos is None else [bos]), *self.tokenizer.encode(self.prompt(examples, question))]
        limit, room = num_positions(self.loaded.model), self.settings.max_new_tokens
        if limit is None or len(ids) + room <= limit:
            return ids
        raise UserError(
            "a question with its examples leaves no room for an answer",
            where=str(question.origin),
            found=f"{len(ids):,} tokens, and {room:,} for the answer",
            expected=f"at most {limit:,} together, the model's positions",
            fix=f"--num-shots {max(0, len(examples) - 1)}" + (f" --max-new-tokens {room // 2}" if room > 1 else ""),
        )


def open_base(settings: KnownSettings, questions: Sequence[Question], say: Callable[[str], None]) -> Base:
    """Load the model, and settle the form and the examples.

    Raises:
        UserError: the model cannot be loaded, the form says too little, or there are too few questions.
    """
    form = Form.of(settings.form)
    few_shot = FewShot.drawn(
        questions, num_prompts=settings.num_prompts, num_shots=settings.num_shots, seed=settings.seed
    )
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    access = Access(settings.trust_remote_code, say)
    loaded = load_with_tokenizer(settings.model, choose_device(settings.device), dtype, access)
    loaded.model.requires_grad_(False).eval()
    speed_up(loaded.model)
    tokenizer = wrapped(loaded.tokenizer, settings.model, needs_template=False)
    ends = tuple(stop_ids(loaded.model, loaded.tokenizer))
    return Base(settings.model, loaded, tokenizer, ends, form, few_shot, settings)


def too_long_to_give(base: Base, questions: Sequence[Question]) -> list[Finding]:
    """The questions of which every right answer is longer than what is drawn: unknown whatever the model knows."""
    room, encode = base.settings.max_new_tokens, base.tokenizer.encode
    long = [q for q in questions if q.accepted and not any(len(encode(text)) <= room for text in q.accepted)]
    return [
        Finding(
            "every right answer is longer than the answers that are drawn, so none could be given",
            question.origin,
            f"{question.answer[:60]!r}, {len(encode(question.answer)):,} tokens",
            f"at most {room:,}; questions on facts have short answers",
            f"--max-new-tokens {len(encode(question.answer))}",
        )
        for question in long
    ]


def ask_all(
    base: Base,
    questions: Sequence[Question],
    kept: Mapping[str, list[UnderPrompt]],
    path: Path,
    on_done: Callable[[int], None],
) -> dict[str, list[UnderPrompt]]:
    """Ask what is not among the kept answers, add to their file as they come, and return all by the question's id."""
    found = dict(kept)
    waiting = [question for question in questions if question.id not in kept]
    before = (len(questions) - len(waiting)) * base.answers_per_question
    for start in range(0, len(waiting), QUESTIONS_AT_A_TIME):
        some = waiting[start : start + QUESTIONS_AT_A_TIME]
        so_far = before + start * base.answers_per_question
        said = base.answers(some, _behind(so_far, on_done))
        files.append_line(path, "\n".join(map(line_of, some, said)))
        found |= {question.id: each for question, each in zip(some, said, strict=True)}
    return found


def _behind(num_before: int, on_done: Callable[[int], None]) -> Callable[[int], None]:
    """What counts from where others have stopped."""
    return lambda count: on_done(num_before + count)


def line_of(question: Question, said: Sequence[UnderPrompt]) -> str:
    """A question and what was said, as a line of `answers.jsonl`."""
    prompts = [{"shots": each.shots, "greedy": each.greedy, "samples": each.samples} for each in said]
    return json.dumps({"id": question.id, "question": question.text, "prompts": prompts}, ensure_ascii=False)


def read_answers(path: Path) -> dict[str, list[UnderPrompt]]:
    """What was kept, by the question's id; a last line that a killed process left unfinished is cut off.

    Raises:
        UserError: another line is broken.
    """
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        files.write_bytes(path, whole)
    return dict(_answers_in(whole, path))


def _answers_in(content: bytes, path: Path) -> Iterator[tuple[str, list[UnderPrompt]]]:
    for number, text in enumerate(content.decode("utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            line: dict[str, Any] = json.loads(text)
            prompts = [UnderPrompt(tuple(p["shots"]), p["greedy"], tuple(p["samples"])) for p in line["prompts"]]
            yield str(line["id"]), prompts
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "kept answers cannot be read",
                where=f"{path}, line {number:,}",
                found=f"{type(error).__name__}: {error}",
                expected="the lines that heed wrote",
                fix=f"rm {typed(path)}, then the same command again: it asks anew",
            ) from error


def _number(question: Question, prompt: int) -> int:
    """What decides the draws of a question under a prompt, beside the seed."""
    return int.from_bytes(hashlib.sha256(f"{question.id} {prompt}".encode()).digest()[:8], "big")
