"""Hidden states of prompts, at the token from which an answer would begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from heed.dist.world import World
from heed.models.self_check import ChosenScore
from heed.recipes.training.micro_batches import MicroBatching
from heed.types import Forest, Tokens


def last_states(score: ChosenScore, prompts: Sequence[Sequence[int]], *, max_tokens: int) -> np.ndarray:
    """(n, width) float64, the final hidden state of the last token of each of n prompts, as the head reads it.

    What prompts begin with alike is computed once, where the model's way allows it.

    Args:
        score: how forests are computed with this model.
        prompts: token ids, none empty.
        max_tokens: forest tokens of a forward.
    """
    if not prompts:
        return np.zeros((0, score.model.config.get_text_config().hidden_size))
    groups = [(Tokens(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.float32)),) for ids in prompts]

    def of_forest(forest: Forest) -> torch.Tensor:
        states = score.states(forest)
        return states[forest.last.to(states.device)]

    return np.concatenate(MicroBatching(max_tokens, score.shares_prefixes, World()).per_sequence(groups, of_forest))
