"""Few-shot prompts: how a question and its answer stand in a text, and which examples stand before a question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from heed.errors import UserError
from heed.recipes.knowing.questions import Question

QUESTION, ANSWER = "{question}", "{answer}"


@dataclass(frozen=True, slots=True)
class Form:
    """How a question with its answer is written, again and again, so that a base model goes on in the same way."""

    before: str
    """in front of the question"""
    between: str
    """behind the question, without white space at its end, which belongs to the answer's first token"""
    gap: str
    """that white space"""
    after: str
    """behind the answer"""

    @classmethod
    def of(cls, text: str) -> Form:
        """Read `Question: {question}\\nAnswer: {answer}\\n\\n`, in which `\\n` and `\\t` are a line end and a tab.

        Raises:
            UserError: one of the two places is missing or there twice, or nothing tells where an answer ends.
        """
        text = text.replace("\\n", "\n").replace("\\t", "\t")  # as a shell hands them on
        before, _, rest = text.partition(QUESTION)
        between, _, after = rest.partition(ANSWER)
        if text.count(QUESTION) != 1 or text.count(ANSWER) != 1 or not after:
            raise UserError(
                "the form does not say where the question and its answer stand, and what follows",
                where="--form",
                found=repr(text),
                expected="a text with {question} once, then {answer} once, and then something that ends an answer",
                fix=r"--form 'Question: {question}\nAnswer: {answer}\n\n'",
            )
        stripped = between.rstrip(" \t")
        return cls(before, stripped, between[len(stripped) :], after)

    @property
    def stop(self) -> str:
        """The character that ends an answer: the first one behind it."""
        return self.after[0]

    def shown(self, question: Question) -> str:
        """A question with its answer, as an example."""
        return f"{self.before}{question.text}{self.between}{self.gap}{question.answer}{self.after}"

    def asked(self, question: Question) -> str:
        """A question whose answer is to come."""
        return f"{self.before}{question.text}{self.between}"


@dataclass(frozen=True, slots=True)
class FewShot:
    """The examples of several prompts, the same for every question but those among them."""

    prompts: tuple[tuple[Question, ...], ...]
    """for each prompt its examples, and one more that takes the place of an example that is the question itself"""

    @classmethod
    def drawn(cls, questions: Sequence[Question], *, num_prompts: int, num_shots: int, seed: int) -> FewShot:
        """Draw the examples from the questions that have an answer.

        Each prompt takes those with the smallest hash of the seed, the prompt and the question, so that the order of
        the data does not matter. Of questions that are alike one is an example.

        Raises:
            UserError: there are too few.
        """
        answerable = list({question.key: question for question in questions if question.is_answerable}.values())
        if len(answerable) < num_shots + 1:
            raise UserError(
                "there are too few questions with an answer to draw examples from",
                where="--num-shots",
                found=f"{len(answerable):,} different ones",
                expected=f"at least {num_shots + 1:,}: {num_shots:,} examples, none of which is the question itself",
                fix=f"--num-shots {max(0, len(answerable) - 1)}, or more data",
            )

        def drawn(prompt: int) -> tuple[Question, ...]:
            return tuple(sorted(answerable, key=lambda question: _rank(seed, prompt, question))[: num_shots + 1])

        return cls(tuple(map(drawn, range(num_prompts))))

    def examples(self, prompt: int, question: Question) -> tuple[Question, ...]:
        """What stands before a question; never the question itself, nor one like it."""
        candidates = self.prompts[prompt]
        return tuple(each for each in candidates if each.key != question.key)[: len(candidates) - 1]


def _rank(seed: int, prompt: int, question: Question) -> bytes:
    return hashlib.sha256(f"{seed} {prompt} {question.id}".encode()).digest()
