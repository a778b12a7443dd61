"""Use a model that is tuned: its answers, the log-probability of an answer, the reward of one.

prompts -> rendered chat -> tokens -> sampler or forest -> texts or numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from heed.config import tokens_per_forward
from heed.data.answers import rendered_answer, up_to_last_trained
from heed.data.prompts import prompt_text
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.dist.world import World
from heed.errors import UserError
from heed.models.decode.sample import Sampling, sample
from heed.models.heads.scalar import RewardModel, is_reward_model, load_reward_model
from heed.models.intake.access import Access
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, choose_device, load_with_tokenizer, num_positions
from heed.models.score import autocast
from heed.models.self_check import ChosenScore, choose_score
from heed.objectives.ragged import sum_by_sequence
from heed.recipes.library.states import last_states
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.setup import answers_end, wrapped
from heed.types import Finding, Forest, Message, Origin, Prompt, Tokens

PromptLike = str | Sequence[Mapping[str, Any]]
"""what is asked: a user's words, or messages with `role` and `content`"""

MAX_NEW_TOKENS = 256


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory, with the chat template that it is spoken to in. See `heed.load`."""

    name: str
    loaded: LoadedModel
    template: ChatTemplate
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    dtype: str
    reward_model: RewardModel | None

    def answers(
        self, prompts: Sequence[PromptLike], *, max_new_tokens: int = MAX_NEW_TOKENS, stop: Sequence[str] = ()
    ) -> list[str]:
        """The model's greedy answer to each prompt, all prompts together, without its stop token.

        Args:
            prompts: texts that a user says, or lists of messages, `{"role": "user", "content": "..."}`.
            max_new_tokens: the most tokens of an answer; a longer one is cut there.
            stop: texts that end an answer too; they stay in it.

        Raises:
            UserError: a prompt cannot be asked, or leaves the model no position for an answer.
        """
        return [first for (first,) in self.samples(prompts, 1, temperature=0, max_new_tokens=max_new_tokens, stop=stop)]

    def samples(
        self,
        prompts: Sequence[PromptLike],
        num_samples: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[list[str]]:
        """`num_samples` answers to each prompt, drawn at a temperature; the same for the same seed."""
        self._refuse_reward_model("answers")
        if isinstance(prompts, str):
            raise TypeError(f"a list of prompts is expected; for one prompt: [{prompts!r}]")
        ids = [self._prompt_ids(prompt, number) for number, prompt in enumerate(prompts, 1)]
        backend = self.tokenizer.backend

        def text_of(answer: list[int]) -> str:
            text: str = backend.decode(answer, skip_special_tokens=False)
            return text

        with autocast(self.loaded.device, self.dtype):
            drawn = sample(
                self.loaded.model,
                ids,
                stop_ids=self.stop_ids,
                max_new_tokens=max_new_tokens,
                sampling=Sampling(temperature, top_p),
                num_samples=num_samples,
                seed=seed,
                stop_strings=stop,
                decode=text_of,
            )
        return [
            [text_of(each.ids[:-1] if each.ids[-1] in self.stop_ids else each.ids) for each in completions]
            for completions in drawn
        ]

    def logp(self, prompt: PromptLike, answer: str | Sequence[str]) -> Any:
        """log P(answer | prompt), a float in nats, at most 0: of the tokens that tuning would train, stop token too.

            log P = sum_i log P(y_i | prompt, y_<i)

        Of a list of answers to the prompt a list of floats; what they begin with alike is computed once.
        """
        self._refuse_reward_model("log-probabilities")

        def of_forest(forest: Forest) -> torch.Tensor:
            with autocast(self.loaded.device, self.dtype):
                logp = self._scores.logp(forest).logp
            return sum_by_sequence(logp.double(), forest.sequence.to(logp.device), forest.num_sequences)

        return self._per_answer(prompt, answer, of_forest)

    def states(self, prompts: Sequence[PromptLike]) -> np.ndarray:
        """(n, width) float64, the final hidden state of each prompt's last token, from which its answer would begin.

        It is the state that the model's head reads: after the last normalisation. What prompts begin with alike is
        computed once.
        """
        self._refuse_reward_model("states")
        ids = [self._prompt_ids(prompt, number) for number, prompt in enumerate(prompts, 1)]
        scores = self._scores
        with autocast(self.loaded.device, self.dtype):
            return last_states(scores, ids, max_tokens=self._max_tokens)

    def can_be_asked(self, prompt: PromptLike) -> bool:
        """Whether the template takes a prompt, and the model has a position left for an answer to it."""
        try:
            self._prompt_ids(prompt, 1)
        except UserError:
            return False
        return True

    def reward(self, prompt: PromptLike, answer: str | Sequence[str]) -> Any:
        """What a reward model thinks of an answer, a float: higher is better; of a list of answers a list of floats.

        The difference of the rewards of two answers is the log-odds that people rank the first above the second.

        Raises:
            UserError: this is no reward model.
        """
        scorer = self.reward_model
        if scorer is None:
            raise UserError(
                "this model gives no rewards",
                where=self.name,
                found="a language model",
                expected="a folder that heed reward wrote, or a sequence classifier with one label",
                fix='heed.load("RUN_OF_HEED_REWARD").reward(prompt, answer)',
            )

        def of_forest(forest: Forest) -> torch.Tensor:
            with autocast(self.loaded.device, self.dtype):
                states = self._scores.states(forest)
            return scorer.rewards(states, forest)

        return self._per_answer(prompt, answer, of_forest)

    def _per_answer(self, prompt: PromptLike, answer: str | Sequence[str], of_forest: Any) -> float | list[float]:
        answers = [answer] if isinstance(answer, str) else list(answer)
        group = tuple(self._sequence(prompt, each) for each in answers)
        batching = MicroBatching(self._max_tokens, self._scores.shares_prefixes, World())
        [numbers] = batching.per_sequence([group], of_forest) if group else [np.zeros(0)]
        return float(numbers[0]) if isinstance(answer, str) else numbers.tolist()

    @cached_property
    def _scores(self) -> ChosenScore:
        """How log-probabilities are computed: the forest's way where it is proved to compute what the model does."""
        limit = num_positions(self.loaded.model)
        probe = self._sequence("Name a fruit and a colour.", "An apple is red, and a banana is yellow.")
        return choose_score(
            self.loaded.model,
            probe,
            longest_in_data=limit or 2**31,
            num_positions=limit,
            share=True,
            max_tokens=self._max_tokens,
        )

    @property
    def _max_tokens(self) -> int:
        return tokens_per_forward(None, self.loaded.device.type, self.loaded.width)

    def _prompt_ids(self, prompt: PromptLike, number: int) -> list[int]:
        asked = Prompt(messages_of(prompt), Origin("prompts", number), {})
        rendered = prompt_text(asked, self.template)
        if isinstance(rendered, Finding):
            raise rendered.error()
        ids: list[int] = tokenise(rendered, self.tokenizer).tokens.ids.tolist()
        limit = num_positions(self.loaded.model)
        if limit is not None and len(ids) >= limit:
            raise UserError(
                "the prompt leaves no room for an answer",
                where=f"prompt {number:,}",
                found=f"{len(ids):,} tokens",
                expected=f"fewer than {limit:,}, the model's positions",
                fix="ask in fewer words",
            )
        return ids

    def _sequence(self, prompt: PromptLike, answer: str) -> Tokens:
        """The prompt and the answer up to its stop token; the answer's tokens are trained."""
        found = rendered_answer(
            messages_of(prompt), (Message("assistant", answer),), Origin("prompt and answer", 1), self.template
        )
        if isinstance(found, Finding):
            raise found.error()
        tokens = up_to_last_trained(tokenise(found[0], self.tokenizer).tokens)
        limit = num_positions(self.loaded.model)
        if limit is not None and len(tokens) > limit:
            raise UserError(
                "the answer is longer than the model can read",
                where="prompt and answer",
                found=f"{len(tokens):,} tokens together",
                expected=f"at most {limit:,}, the model's positions",
                fix="shorten the prompt or the answer",
            )
        return tokens

    def _refuse_reward_model(self, what: str) -> None:
        if self.reward_model is None:
            return
        raise UserError(
            f"a reward model gives no {what}",
            where=self.name,
            found="a reward model",
            expected="a language model",
            fix="heed.load the run of heed sft, dpo, ppo or grpo",
        )


def open_model(name: str, *, template: str | None, device: str, dtype: str, trust_remote_code: bool = False) -> Model:
    """Load a run, a model folder, an adapter or a reward model, to be used and not trained.

    Raises:
        UserError: it cannot be loaded, or has no chat template and none is given.
    """
    at, access = choose_device(device), Access(trust_remote_code)
    scorer = load_reward_model(name, at, access) if is_reward_model(name) else None
    if scorer is None:
        loaded = load_with_tokenizer(name, at, torch.bfloat16 if dtype == "bfloat16" else torch.float32, access)
        loaded.model.requires_grad_(False).eval()
    else:
        loaded = scorer.loaded
    speed_up(loaded.model)
    tokenizer = wrapped(loaded.tokenizer, name, needs_template=template is None)
    chosen = tokenizer.template if template is None else ChatTemplate.load(template)
    if chosen is None:
        raise UserError(
            "this model has no chat template",
            where=name,
            found="a tokenizer without a chat template, as base models have",
            expected="a tuned model, or the template to speak to it in: alpaca, chatml, plain or a jinja file",
            fix=f'heed.load({name!r}, template="alpaca")',
        )
    chosen = fit_template(chosen, tokenizer)
    ends = tuple(answers_end(loaded, chosen, tokenizer))
    return Model(name, loaded, chosen, tokenizer, ends, dtype, scorer)


def messages_of(prompt: PromptLike) -> tuple[Message, ...]:
    """A user's words, or messages as mappings, as heed's own."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(str(each["role"]), str(each["content"])) for each in prompt)
