"""What a model makes of answers: how likely they are with and without their prompts, and where they lie in its states.

Answers go to the model many at a time, sorted by their tokens, so that a prompt with several answers, an answer to
several prompts, and whatever else begins alike is computed once; how many go at a time changes memory and rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from heed.config import tokens_per_forward
from heed.errors import UserError, typed
from heed.forest.build import build, common_prefix, sort_key
from heed.forest.plan import cut
from heed.models.intake.access import Access
from heed.models.kernels.speed import speed_up
from heed.models.likelihood import likelihoods
from heed.models.load import LoadedModel, choose_device, load_with_tokenizer
from heed.models.score import autocast
from heed.models.self_check import ChosenScore, choose_score, everything_trained
from heed.recipes.training.setup import refuse_reward_model
from heed.recipes.workshop.answered import Answered, Words, with_and_without_prompt
from heed.types import Forest, Tokens

PROBE_TOKENS = 64
"""of the data, on which the forest is compared with the model's own forward"""
LEAST_TOKENS = 4096
"""forest tokens of a forward at least: without gradients they take little memory"""


@dataclass(frozen=True, slots=True)
class Nll:
    """Negative log-likelihoods of the same tokens of a record, in nats."""

    after_prompt: float
    """mean over the answers' tokens, each after all that stands before it"""
    alone: float
    """mean over the same tokens, each after the first token and the answer's tokens before it alone"""
    num_tokens: int


@dataclass(eq=False)
class Asked:
    """A model in memory that answers are put to."""

    name: str
    loaded: LoadedModel
    words: Words
    dtype: str
    max_tokens: int
    """forest tokens of a forward"""
    say: Callable[[str], None] = lambda line: None
    _chosen: list[ChosenScore] = field(default_factory=list)

    def way(self, sequences: Sequence[Tokens]) -> ChosenScore:
        """How log-probabilities are computed: the forest's way where it is proved to compute what the model does."""
        if not self._chosen:
            longest = max(sequences, key=len)
            limit = self.words.num_positions
            self._chosen.append(
                choose_score(
                    self.loaded.model,
                    everything_trained(longest.ids[:PROBE_TOKENS]),
                    longest_in_data=limit or 2**31,
                    num_positions=limit,
                    share=True,
                    max_tokens=self.max_tokens,
                )
            )
            if not self._chosen[0].shares_prefixes:
                self.say(f"{self.name}: {self._chosen[0].note}")
        return self._chosen[0]

    def nll(self, records: Sequence[Answered], *, with_alone: bool = True) -> list[Nll]:
        """NLL of each record's answers after their prompts and alone; a record without tokens to ask for has NaN.

        Args:
            with_alone: False computes the first of the two only, and asks for every token of an answer.
        """
        sequences: list[Tokens] = []
        place: list[tuple[int, int]] = []  # (record, 0 after the prompt or 1 alone) of each sequence
        first = self.words.first_token if with_alone else 0
        for number, record in enumerate(records):
            for sequence in record.sequences:
                whole, alone = with_and_without_prompt(sequence, first)
                sequences += [whole, *(alone if with_alone else [])]
                place += [(number, 0), *((number, 1) for _ in (alone if with_alone else []))]
        sums, counts = np.zeros((len(records), 2)), np.zeros((len(records), 2), dtype=np.int64)
        with autocast(self.loaded.device, self.dtype):
            for index, logp, _ in likelihoods(self.way(sequences), sequences, max_tokens=self.max_tokens):
                sums[place[index]] -= logp.sum()
                counts[place[index]] += len(logp)
        if not np.isfinite(sums).all():
            wrong = records[int(np.flatnonzero(~np.isfinite(sums).all(axis=1))[0])]
            raise UserError(
                "the model's loss is not finite",
                where=f"--model {typed(self.name)}, at {wrong.origin}",
                found="a log-probability that is no number",
                expected="finite numbers",
                fix="--dtype float32; or another --model",
            )
        with np.errstate(invalid="ignore"):
            means = sums / counts
        return [Nll(float(a), float(b), int(n)) for (a, b), (n, _) in zip(means, counts, strict=True)]

    def embeddings(self, records: Sequence[Answered]) -> np.ndarray:
        """(n, width) float32 of length 1: the mean of the final hidden states over the answers' tokens, with prompts.

        The states are those that the head reads, after the last norm, at the answers' own tokens.
        """
        sequences, of_record = [], []
        for number, record in enumerate(records):
            shifted = [moved for each in record.sequences if (moved := _next_asked(each)) is not None]
            sequences += shifted
            of_record += [number] * len(shifted)
        found = np.zeros((len(records), self.loaded.model.config.get_text_config().hidden_size))
        for indices, forest in self._forests(sequences):
            with torch.no_grad(), autocast(self.loaded.device, self.dtype):
                states = self.way(sequences).states(forest)
            rows = states[forest.source.to(states.device)].double().cpu()
            sums = torch.zeros(len(indices), rows.shape[1], dtype=torch.float64).index_add_(0, forest.sequence, rows)
            np.add.at(found, [of_record[i] for i in indices], sums.numpy())
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def _forests(self, sequences: Sequence[Tokens]) -> Iterator[tuple[list[int], Forest]]:
        """The sequences of each forward by number, and their forest."""
        share = self.way(sequences).shares_prefixes
        order = sorted(range(len(sequences)), key=lambda i: sort_key(sequences[i].ids))
        none = [0] * len(order)
        pairs = pairwise(sequences[i].ids[:-1] for i in order)
        shared = [0, *(common_prefix(a, b) for a, b in pairs)] if share else none
        for part in cut([len(sequences[i]) - 1 for i in order], shared, self.max_tokens, carried=none):
            indices = [order[at] for at in part]
            yield indices, build([sequences[i] for i in indices], share=share, reads_last=False)


def _next_asked(sequence: Tokens) -> Tokens | None:
    """The sequence with each trained token's place handed to the token behind it, which it predicts: its own state."""
    at = np.flatnonzero(sequence.weight)
    if not len(at):
        return None
    ids = np.append(sequence.ids[: at[-1] + 1], np.int32(0))
    weight = np.zeros(len(ids), dtype=np.float32)
    weight[at + 1] = 1
    return Tokens(ids, weight)


def open_asked(
    name: str,
    words: Words,
    *,
    device: str,
    dtype: str,
    max_tokens: int | None,
    trust_remote_code: bool,
    say: Callable[[str], None] = lambda line: None,
) -> Asked:
    """Load a run, a model folder, an adapter or a hub name, to put answers to it.

    Raises:
        UserError: it cannot be loaded, or is a reward model.
    """
    refuse_reward_model(name)
    weights = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    loaded = load_with_tokenizer(name, choose_device(device), weights, Access(trust_remote_code, say))
    loaded.model.requires_grad_(False).eval()
    speed_up(loaded.model)
    size = max_tokens or max(LEAST_TOKENS, tokens_per_forward(None, loaded.device.type, loaded.width))
    return Asked(name, loaded, words, dtype, size, say)
