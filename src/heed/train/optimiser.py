"""AdamW over the trained parameters, its two states in 32 or in 8 bits."""

from collections.abc import Callable, Collection, Iterable
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from heed.dist.divided import is_shard
from heed.errors import UserError

SMALLEST = 4096
"""numbers of a tensor from which bitsandbytes keeps its states in 8 bits"""


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    bits: int = 32,
    in_32: Collection[Tensor] = (),
    say: Callable[[str], None] = lambda line: None,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), fused into one pass over the weights.

    m = 0.9 m + 0.1 g;  v = 0.999 v + 0.001 g^2;  w -= lr * (m^ / (sqrt(v^) + 1e-8) + weight_decay * w)

    Only matrices are decayed; norms and biases are not, as in GPT-3 (arXiv:2005.14165, appendix B) and since.
    The learning rate is set by the training loop before every step.

    Args:
        bits: of a number of m and v. 8: bitsandbytes keeps them in blocks of 256, each with its own scale (Dettmers et
            al. 2022, arXiv:2110.02861), but for tensors of fewer than 4,096 numbers and those of `in_32`.
        in_32: parameters whose states keep 32 bits whatever `bits` says: tables, whose rows have no gradient in most
            steps, and would move by the rounding of their neighbours' states.
        say: hears how much is kept in 8 bits.

    Raises:
        UserError: 8 bits are asked for, and bitsandbytes is not installed or a parameter is divided among processes.
    """
    trained = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    # One pass over the weights takes whole ones or shards; the order of all of them is the same.
    groups = [{**g, "params": some} for g in groups for some in _alike(g["params"])]
    if bits == 8:
        return _in_8_bits(groups, {id(parameter) for parameter in in_32}, say)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def _alike(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters in runs of whole ones and of shards."""
    return [list(some) for _, some in groupby(parameters, key=is_shard)]


def _in_8_bits(groups: list[dict[str, Any]], in_32: set[int], say: Callable[[str], None]) -> torch.optim.Optimizer:
    trained = [parameter for group in groups for parameter in group["params"]]
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "an optimiser in 8 bits needs a package that is not installed",
            where="--optim.bits 8",
            found="no bitsandbytes",
            expected="bitsandbytes, which comes with heed's extra 'quantise'",
            fix="pip install 'heed-lm[quantise]'",
        )
    if any(hasattr(parameter, "device_mesh") for parameter in trained):
        raise UserError(
            "an optimiser in 8 bits cannot step parameters that are divided among processes",
            where="--optim.bits 8, --parallel",
            found="parameters of which each process holds a part",
            expected="whole parameters on every process, or states in 32 bits, which are divided with them",
            fix="--optim.bits 32",
        )
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    small = [p for p in trained if p.numel() < SMALLEST]
    for parameter in trained:
        if id(parameter) in in_32 and parameter.numel() >= SMALLEST:
            GlobalOptimManager.get_instance().override_config(parameter, "optim_bits", 32)
        else:  # a parameter that is gone may have left its number, and what was asked of it
            GlobalOptimManager.get_instance().pid2config.pop(id(parameter), None)
    exact = [p for p in trained if p.numel() >= SMALLEST and id(p) in in_32]
    kept = sum(p.numel() for p in (*small, *exact))
    count = sum(p.numel() for p in trained)
    say(
        f"AdamW's states of {count - kept:,} of {count:,} trained numbers in 8 bits; {len(small):,} tensors of fewer "
        f"than {SMALLEST:,} and {len(exact):,} tables keep 32"
    )
    optimiser: torch.optim.Optimizer = AdamW8bit(groups, lr=0.0, min_8bit_size=SMALLEST)
    return optimiser


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def keep_moments_on_cpu(optimiser: torch.optim.Optimizer) -> None:
    """Let AdamW's moments wait in the memory of the CPU between steps; they visit the device for a step.

    On a CPU there is nothing to move.
    """

    def move(to: Callable[[Tensor], torch.device]) -> None:
        for parameter, state in optimiser.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    state[key] = state[key].to(to(parameter), non_blocking=False)

    optimiser.register_step_pre_hook(lambda *_: move(lambda parameter: parameter.device))
    optimiser.register_step_post_hook(lambda *_: move(lambda parameter: torch.device("cpu")))
