"""What the mean of a step's loss is taken over, expressed in the weights of its tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from heed.types import Tokens


def weigh(group: Sequence[Tokens], mean_over: Literal["token", "sequence"]) -> tuple[Tokens, ...]:
    """Give a conversation's tokens the weights with which a step's mean is the one asked for.

        token      loss = sum of w * NLL over sum of w, over all tokens of the step: weights stay as they are
        sequence   loss = (1/C) sum_c (1/W_c) sum_{i in c} w_i NLL_i: w becomes w / W_c

    W_c is the conversation's own sum. The new weights of a step sum to its number of conversations C, so that one
    division by the sum of weights serves both.

    Args:
        group: the conversation's sequences, the main one and its branches.
    """
    if mean_over == "token":
        return tuple(group)
    total = sum(float(tokens.weight.sum(dtype=np.float64)) for tokens in group)
    return tuple(replace(tokens, weight=tokens.weight / np.float64(total)) for tokens in group)
