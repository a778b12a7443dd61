"""How a reward model ranks held-out answers, and whether it takes length for quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heed.evaluate.clustered import clustered_correlation
from heed.evaluate.intervals import Mean

NUM_LENGTH_BINS = 10


def held_out_comparisons(scores: Sequence[np.ndarray], rewards: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each prompt, r_better - r_worse of every two answers of which one was ranked better, in the order given.

    Args:
        scores: (K,) of each prompt's answers, by whoever ranked them.
        rewards: (K,) of the same answers, by the reward model.

    Returns:
        A cluster for every prompt, for the intervals of `clustered.py`: comparisons of one prompt share its rewards.
    """
    return [
        np.array(
            [
                of_prompt[better] - of_prompt[worse]
                for better in range(len(ranks))
                for worse in range(len(ranks))
                if ranks[better] > ranks[worse]
            ],
            dtype=np.float64,
        )
        for ranks, of_prompt in zip(scores, rewards, strict=True)
    ]


def length_correlation(rewards: Sequence[np.ndarray], lengths: Sequence[np.ndarray]) -> Mean:
    """Pearson's correlation of reward and length among answers to the same prompt, from -1 to 1, and its interval.

    Both are taken as differences from their prompt's mean, so that prompts which want long answers, or good ones, do
    not count. 0 where either does not differ anywhere. The interval is between prompts, as `clustered_correlation` has
    it.

    Args:
        rewards: (K,) of each prompt's answers.
        lengths: (K,) of the same answers, in tokens.
    """
    return clustered_correlation(lengths, rewards)


@dataclass(frozen=True)
class LengthBin:
    """Answers of about one length."""

    length: float
    """mean tokens"""
    reward: float
    """mean"""
    count: int


def length_bins(rewards: Sequence[np.ndarray], lengths: Sequence[np.ndarray]) -> list[LengthBin]:
    """Mean reward by length, in at most `NUM_LENGTH_BINS` bins of about as many answers each, shortest first.

    Answers of one length are in one bin.
    """
    length, reward = np.concatenate(list(lengths)), np.concatenate(list(rewards))
    edges = np.unique(np.quantile(length, np.linspace(0, 1, NUM_LENGTH_BINS + 1)[1:-1]))
    bin_of = np.searchsorted(edges, length)
    return [
        LengthBin(float(length[bin_of == i].mean()), float(reward[bin_of == i].mean()), int((bin_of == i).sum()))
        for i in np.unique(bin_of)
    ]
