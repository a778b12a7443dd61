"""The learning rate of each step, as a pure function."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int, shape: Shape = "cosine") -> float:
    r"""Linear warm-up to the peak, then a cosine or a straight line down to zero, or no change.

    With t the step (from 1), W the warm-up steps, T all steps and p = (t - 1 - W) / (T - W),

        t <= W:     peak * t / (W + 1)
        constant:   peak
        linear:     peak * (1 - p)
        cosine:     peak * (1 + cos(pi p)) / 2

    So W steps lie below the peak, step W + 1 is at the peak, and zero is reached at step T + 1: no step is taken
    with a learning rate of zero.

    Args:
        step: t, counted from 1, at most `total_steps`.
        peak: the largest learning rate, >= 0.
        warmup_steps: W >= 0. Where it is `total_steps` or more, the peak is never reached.
        total_steps: T >= 1.
        shape: what follows the warm-up.

    Facts the tests hold it to:
        It is > 0 at every step for peak > 0, never above the peak, rises during warm-up and never rises after it.
        One step without warm-up is taken at the peak.

    Source: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5 with one cycle and eta_min = 0.
    Differs from transformers' schedules only in the warm-up, where those take the first step with rate zero.
    """
    if not 1 <= step <= total_steps:
        raise ValueError(f"step {step} is not one of 1 to {total_steps}")
    if step <= warmup_steps:
        return peak * step / (warmup_steps + 1)
    progress = (step - 1 - warmup_steps) / (total_steps - warmup_steps)
    if shape == "constant":
        return peak
    if shape == "linear":
        return peak * (1 - progress)
    return peak * (1 + math.cos(math.pi * progress)) / 2
