"""How the next token is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float
    """0 takes the likeliest token; 1 samples as the model predicts"""
    top_p: float
    """only the likeliest tokens that together hold this probability are drawn from"""
    top_k: int = 0
    """only this many of the likeliest tokens are drawn from; 0 sets no limit"""


GREEDY = Sampling(temperature=0.0, top_p=1.0)
"""the likeliest token again and again"""

AS_PREDICTED = Sampling(temperature=1.0, top_p=1.0)
"""each token as often as the model predicts it"""


def draw(
    logits: Float[Tensor, "rows vocabulary"], uniform: Sequence[float], sampling: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """A token for each row, and its log-probability under the model itself, before temperature and limits, in nats.

    Tokens are drawn by the inverse of the cumulative distribution: the first token, in order of ids, whose cumulative
    probability exceeds the row's number in `uniform`, which is in [0, 1). So a draw depends on its row and its number
    and nothing else. Temperature 0 needs no number.
    """
    logp = torch.log_softmax(logits, dim=-1)
    if sampling.temperature == 0:
        token = logits.argmax(dim=-1)
    else:
        cumulative = chances(logp, sampling).cumsum(dim=-1, dtype=torch.float64)
        number = torch.tensor(np.asarray(uniform), dtype=torch.float64, device=logits.device)
        # Below the total, even rounded, because numbers are at most 1 - 2^-53: never past the last token with a chance.
        token = torch.searchsorted(cumulative, number[:, None] * cumulative[:, -1:], right=True)[:, 0]
        token = token.clamp(max=logits.shape[-1] - 1)  # where logits are NaN, and so is the log p that comes back
    return token, logp.gather(1, token[:, None])[:, 0]


def logp_at(
    logits: Float[Tensor, "rows vocabulary"], token: Int[Tensor, " rows"], temperature: float
) -> Float[Tensor, " rows"]:
    """log p of each row's token where the temperature divides the logits, before any limit, in nats.

    At temperature 0, where nothing is drawn, that of the model itself.
    """
    return torch.log_softmax(logits / (temperature or 1.0), dim=-1).gather(1, token[:, None])[:, 0]


def chances(logp: Float[Tensor, "rows vocabulary"], sampling: Sampling) -> Float[Tensor, "rows vocabulary"]:
    """What each token is drawn in proportion to, p ** (1 / temperature), and 0 beyond `top_k` and `top_p`.

    In the order in which transformers applies them: temperature, then `top_k`, then `top_p` of what is left. A token
    is within `top_p` if those likelier than it hold less (Holtzman et al. 2020, arXiv:1904.09751, section 3.1).
    """
    scaled = logp if sampling.temperature == 1 else logp / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, float("-inf"))
    if sampling == AS_PREDICTED:
        return scaled.exp()  # sums to 1 already
    chance = torch.softmax(scaled, dim=-1, dtype=torch.float64)
    if sampling.top_p < 1:
        by_size, order = chance.sort(dim=-1, descending=True, stable=True)
        likelier = by_size.cumsum(dim=-1) - by_size
        beyond = (likelier >= sampling.top_p).index_fill_(1, order.new_zeros(1), False)
        chance = chance.masked_fill(beyond.scatter(1, order, beyond), 0.0)
    return chance


def uniform_numbers(seed: int, prompt: int, sample: int, count: int) -> list[float]:
    """Numbers in [0, 1) for one answer's draws, the same whatever else is sampled and however many are asked for."""
    return np.random.default_rng([seed, prompt, sample]).random(count).tolist()
