"""The mismatched answers from which KTO estimates how far the policy has moved: a prompt with the answer to another.

Each prompt of the data stands beside the answer to the next other prompt, in a fixed random order, so that good and bad
answers come up as often as they occur. The two together keep to the length that the data keeps to: where the next
answer does not fit behind a prompt, one is taken that does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from heed.data.preferences import JudgedTokens
from heed.recipes.preference.data import PreferenceData
from heed.recipes.preference.digests import DigestIndex, digest
from heed.types import Tokens

NONE = -1
MAX_TRIES = 32
"""answers to other prompts that are looked at for one that fits, before the shortest is taken"""


@dataclass(frozen=True, eq=False)
class Chain:
    """Judged answers that stand beside each other: those of a data set that are trained, or those that are measured."""

    at: Callable[[int], Tokens]
    """the answer with its prompt, of a place in the chain"""
    size: int


def chains_of(data: PreferenceData[JudgedTokens], drawn: Sequence[np.ndarray]) -> list[Chain]:
    """Every data set's training records, and every data set's measured ones.

    Args:
        drawn: the records of each data set that the run trains on.
    """

    def of_records(at: Callable[[int], JudgedTokens], records: np.ndarray) -> Chain:
        return Chain(lambda place: at(int(records[place])).tokens, len(records))

    def of_measured(judged: Sequence[JudgedTokens]) -> Chain:
        return Chain(lambda place: judged[place].tokens, len(judged))

    trained = [of_records(items.at, records) for items, records in zip(data.sets, drawn, strict=True)]
    return trained + [of_measured(found) for found in data.held_out.values()]


class Partners:
    """For each judged answer, its prompt with an answer to another prompt of its chain.

    Holds numbers alone: tokens are read when they are wanted.
    """

    def __init__(self, chains: Sequence[Chain], *, max_length: int | None, are_cut: bool) -> None:
        """Choose them all, in time that grows with the number of answers and not with its square.

        Args:
            max_length: tokens of a prompt with an answer; None is no limit.
            are_cut: where no answer to another prompt is short enough, cut one; otherwise there is none.
        """
        self._chains, self._max_length = chains, max_length
        described = [_describe(chain) for chain in chains]
        chosen = [_choose(each, max_length, are_cut=are_cut) for each in described]
        self._index = DigestIndex(np.concatenate([each.digests for each in described]))
        self._chain = np.repeat(np.arange(len(chains)), [chain.size for chain in chains])
        self._partner = np.concatenate([each.partner for each in chosen])
        self.longest = max(each.longest for each in chosen)
        """tokens of the longest of them"""
        counts = (
            (sum(each.num_others for each in chosen), "another answer than the next one, which is too long for them"),
            (sum(each.num_cut for each in chosen), f"an answer that is cut to fit into {max_length} tokens"),
            (
                sum(each.num_without for each in chosen),
                "none, since none fits: z0 leaves them out",
            ),
        )
        self.notes = tuple(
            f"mismatched answers: {count:,} of the prompts have {words}" for count, words in counts if count
        )

    def of(self, tokens: Tokens) -> Tokens | None:
        """The prompt of this answer with one that does not belong; None where there is none.

        Raises:
            KeyError: the answer is in none of the chains.
        """
        place = self._index.place(digest(tokens))
        if self._partner[place] == NONE:
            return None
        chain = self._chains[int(self._chain[place])]
        return mismatched(tokens, chain.at(int(self._partner[place])), self._max_length)


def prompt_of(tokens: Tokens) -> bytes:
    """What stands before the answer."""
    return tokens.ids[: num_prompt_tokens(tokens)].tobytes()


def num_prompt_tokens(tokens: Tokens) -> int:
    """How many tokens stand before the answer."""
    return int(np.flatnonzero(tokens.weight)[0])


def mismatched(tokens: Tokens, other: Tokens, max_length: int | None) -> Tokens:
    """The prompt of one with the answer of another, cut off behind `max_length` tokens."""
    ours, theirs = num_prompt_tokens(tokens), num_prompt_tokens(other)
    return Tokens(
        np.concatenate([tokens.ids[:ours], other.ids[theirs:]])[:max_length],
        np.concatenate([tokens.weight[:ours], other.weight[theirs:]])[:max_length],
    )


@dataclass(frozen=True, eq=False)
class _Described:
    """What is known of the n answers of a chain without their tokens."""

    digests: np.ndarray
    """(n, 2) uint64"""
    prompt: np.ndarray
    """(n,) uint64, a number that equal prompts have in common"""
    prompt_length: np.ndarray
    answer_length: np.ndarray
    """(n,) int64, tokens"""


def _describe(chain: Chain) -> _Described:
    digests = np.empty((chain.size, 2), dtype="<u8")
    prompt = np.empty(chain.size, dtype="<u8")
    lengths = np.empty((2, chain.size), dtype=np.int64)
    for place in range(chain.size):
        tokens = chain.at(place)
        digests[place] = np.frombuffer(digest(tokens), dtype="<u8")
        prompt[place] = int.from_bytes(hashlib.blake2b(prompt_of(tokens), digest_size=8).digest(), "little")
        length = num_prompt_tokens(tokens)
        lengths[:, place] = length, len(tokens) - length
    return _Described(digests, prompt, lengths[0], lengths[1])


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The partners of a chain."""

    partner: np.ndarray
    """(n,) places in the chain, or `NONE`"""
    longest: int
    """tokens of the longest prompt with its partner's answer"""
    num_others: int = 0
    """for which not the next answer was taken, but one that fits"""
    num_cut: int = 0
    num_without: int = 0


def _choose(described: _Described, max_length: int | None, *, are_cut: bool) -> _Chosen:
    """The next answer to another prompt, in a random order, or the nearest after it that fits."""
    # Files list good answers before bad ones: in their order, whatever does not belong would be a good one.
    mixed = np.random.default_rng(len(described.prompt)).permutation(len(described.prompt))
    prompt, prompt_length, answer_length = (
        each[mixed] for each in (described.prompt, described.prompt_length, described.answer_length)
    )
    partner = np.full(len(mixed), NONE, dtype=np.int64)
    following = _next_other(prompt)
    if following is None:
        return _Chosen(partner, 0)
    chosen = following.copy()
    limit = np.iinfo(np.int64).max if max_length is None else max_length
    too_long = np.flatnonzero(prompt_length + answer_length[following] > limit)
    shortest = _shortest(prompt, answer_length)
    num_cut = num_without = 0
    for place in too_long:
        room = limit - int(prompt_length[place])
        other = _fitting(int(place), prompt, answer_length, following, room)
        if other is None:
            other = next(each for each in shortest if prompt[each] != prompt[place])
        if answer_length[other] <= room:
            chosen[place] = other
        elif are_cut:
            num_cut += 1
        else:
            chosen[place] = NONE
            num_without += 1
    has_one = chosen != NONE
    partner[mixed] = np.where(has_one, mixed[chosen], NONE)
    lengths = np.minimum(prompt_length + answer_length[chosen], limit)
    longest = int(lengths[has_one].max(initial=0))
    return _Chosen(partner, longest, len(too_long) - num_cut - num_without, num_cut, num_without)


def _next_other(prompt: np.ndarray) -> np.ndarray | None:
    """(n,) the next place, round the end, that has another prompt; None where all are the same."""
    last_of_run = np.flatnonzero(prompt != np.roll(prompt, -1))
    if not len(last_of_run):
        return None
    run = np.searchsorted(last_of_run, np.arange(len(prompt))) % len(last_of_run)
    following: np.ndarray = (last_of_run[run] + 1) % len(prompt)
    return following


def _fitting(place: int, prompt: np.ndarray, answer_length: np.ndarray, following: np.ndarray, room: int) -> int | None:
    """The first of the next places with another prompt whose answer is short enough."""
    other = place
    for _ in range(MAX_TRIES):
        other = int(following[other]) if prompt[other] == prompt[place] else (other + 1) % len(prompt)
        if prompt[other] != prompt[place] and answer_length[other] <= room:
            return other
    return None


def _shortest(prompt: np.ndarray, answer_length: np.ndarray) -> tuple[int, int]:
    """The place of the shortest answer, and of the shortest to another prompt than that one's."""
    first = int(np.argmin(answer_length))
    return first, int(np.argmin(np.where(prompt == prompt[first], np.iinfo(np.int64).max, answer_length)))
