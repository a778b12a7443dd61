"""AdamW over the trained parameters."""

from collections.abc import Iterable

import torch
from torch import nn


def adamw(named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), fused into one pass over the weights.

    m = 0.9 m + 0.1 g;  v = 0.999 v + 0.001 g^2;  w -= lr * (m^ / (sqrt(v^) + 1e-8) + weight_decay * w)

    Only matrices are decayed; norms and biases are not, as in GPT-3 (arXiv:2005.14165, appendix B) and since.
    The learning rate is set by the training loop before every step.
    """
    trained = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimiser.param_groups:
        group["lr"] = rate
