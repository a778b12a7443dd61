"""Before decoding together: prove on this model that it computes what the model's own forward computes.

It may not, for the reasons told in `check` and with the same families; those answer one by one, by their own forward.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from heed.errors import is_out_of_memory
from heed.forest.build import build
from heed.models.attention.forest_attention import attention_named
from heed.models.decode.fast_step import FastStep
from heed.models.decode.slots import Decoding
from heed.models.decode.together import (
    DECODE_NAME,
    PlainStep,
    Step,
    common_beginning,
    compute_prompts,
    device_of,
)
from heed.models.load import num_positions
from heed.models.score import plain_score
from heed.models.self_check import (
    REFUSALS,
    TOLERANCE,
    everything_trained,
    probe_sequences,
    rope_kind,
    sliding_window,
)
from heed.types import Tokens

LOW_PRECISION_TOLERANCE = 0.25
"""in nats, for 16-bit weights or products, whose rounding hides less than this"""

NUM_STEPS = 4
"""tokens of each probed sequence that are decoded; those before them are its prompt"""

PROBE_TOKENS = range(16, 65)
"""lengths of a probe, where the sliding window asks for no longer one"""

LONGEST_PROBE = 2 * PROBE_TOKENS.stop
"""more tokens than any sequence of such a probe has"""

_known: WeakKeyDictionary[PreTrainedModel, dict[tuple[bool, bool], str | None]] = WeakKeyDictionary()
"""what was found for each model, with its sliding window outgrown or not, under autocast or not: its forward stays what
it is"""

_fast: WeakKeyDictionary[PreTrainedModel, dict[tuple[bool, frozenset[tuple[bool, str]]], bool]] = WeakKeyDictionary()
"""whether a `FastStep` computes what the model does, under autocast or not, by the adapters that are off or active"""


@torch.no_grad()
def why_not_together(model: PreTrainedModel, prompt: Sequence[int], longest: int) -> str | None:
    """Why this model's sequences must be decoded one by one, or None if they may be decoded together.

    Args:
        prompt: ids to try it on.
        longest: tokens of the longest sequence that may come about.
    """
    window = sliding_window(model.config.get_text_config())
    outgrown = window is not None and longest > window
    found, situation = _known.setdefault(model, {}), (outgrown, is_autocast(model))
    if situation not in found:
        found[situation] = _why_not_together(model, prompt, longest, window)
    return found[situation]


def is_autocast(model: PreTrainedModel) -> bool:
    """Whether products of the model are in lower precision than its weights."""
    return torch.is_autocast_enabled(device_of(model).type)


def tolerance_of(model: PreTrainedModel) -> float:
    """How far, in nats, two ways to the same log-probability may be apart."""
    exact = model.dtype in TOLERANCE and not is_autocast(model)
    return TOLERANCE[model.dtype] if exact else LOW_PRECISION_TOLERANCE


def _why_not_together(model: PreTrainedModel, prompt: Sequence[int], longest: int, window: int | None) -> str | None:
    config = model.config.get_text_config()
    if (kind := rope_kind(config)) is not None:
        return f"{kind} RoPE depends on the longest row"
    if getattr(config, "attention_chunk_size", None):
        return "chunked attention cannot be replaced"
    sequences = probe_of(model, prompt, longest, window)
    try:
        difference = difference_from_model(model, sequences, PlainStep(model))
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return f"the model cannot be decoded with ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
    return (
        None if difference <= tolerance_of(model) else f"log-probs differ by {difference:.1e} nats from the model's own"
    )


@torch.no_grad()
def fastest_step(model: PreTrainedModel, prompt: Sequence[int], longest: int) -> Step:
    """The step that a model is decoded with, where `why_not_together` has nothing against it.

    A `FastStep` where the model has one and it computes what the model computes, which is tried once for each state of
    its adapters; else the model's own forward.
    """
    fast = FastStep.of(model, max(longest, LONGEST_PROBE))
    if fast is None:
        return PlainStep(model)
    adapters = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    state = is_autocast(model), frozenset((each.disable_adapters, str(each.active_adapters)) for each in adapters)
    known = _fast.setdefault(model, {})
    if state not in known:
        sequences = probe_of(model, prompt, longest, None)
        stricter = 1 if is_autocast(model) else 10  # two roundings to 8 bits are as far apart as any other two
        known[state] = difference_from_model(model, sequences, fast) <= tolerance_of(model) / stricter
    return fast if known[state] else PlainStep(model)


def probe_of(model: PreTrainedModel, prompt: Sequence[int], longest: int, window: int | None) -> tuple[Tokens, ...]:
    """Sequences made of a prompt, of different lengths, that share beginnings."""
    ids = np.resize(np.asarray(prompt), min(max(len(prompt), PROBE_TOKENS.start), PROBE_TOKENS.stop - 1))
    return probe_sequences(everything_trained(ids), window, longest, num_positions(model))


def difference_from_model(model: PreTrainedModel, probe: Sequence[Tokens], step: Step) -> float:
    """The largest difference in nats of a decoded token's log p from that of the model's own forward."""
    logp = decoded_logp(model, [tokens.ids.tolist() for tokens in probe], NUM_STEPS, step)
    _, every = plain_score(model, build(probe, share=False), max_tokens=1)
    expected = torch.stack([each[-NUM_STEPS:] for each in every.split([len(tokens) - 1 for tokens in probe])])
    return float((logp - expected).abs().max())


def decoded_logp(model: PreTrainedModel, sequences: Sequence[Sequence[int]], num_steps: int, step: Step) -> Tensor:
    """Log p of the last tokens of each sequence (sequences, steps), the given ones fed in place of drawn ones."""
    prompts = [ids[:-num_steps] for ids in sequences]
    ends = torch.tensor([ids[-num_steps:] for ids in sequences], device=device_of(model))
    computed = compute_prompts(model, prompts)
    decoding = Decoding.like(computed, num_slots=len(prompts), trunk=common_beginning(prompts))
    decoding.admit(computed, range(len(prompts)))
    states = [computed.states]
    with attention_named(model, DECODE_NAME):
        states += [step(decoding, ends[:, at]) for at in range(num_steps - 1)]
    logp = torch.stack([torch.log_softmax(step.logits(rows), dim=-1) for rows in states], dim=1)
    return logp.gather(2, ends[..., None])[..., 0]
