"""Before decoding together: prove on this model that it computes what the model's own forward computes.

It may not, for the reasons told in `check` and with the same families; those answer one by one, by their own forward.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from heed.forest.build import build
from heed.models.attention import attention_named
from heed.models.check import TOLERANCE, everything_trained, probe_sequences, rope_kind, sliding_window
from heed.models.decode import (
    DECODE_NAME,
    Decoding,
    common_beginning,
    compute_prompts,
    device_of,
    logits_of,
    step,
)
from heed.models.load import num_positions
from heed.models.score import plain_score

LOW_PRECISION_TOLERANCE = 0.25
"""in nats, for 16-bit weights or products, whose rounding hides less than this"""

NUM_STEPS = 4
"""tokens of each probed sequence that are decoded; those before them are its prompt"""

PROBE_TOKENS = range(16, 65)
"""lengths of a probe, where the sliding window asks for no longer one"""

_known: WeakKeyDictionary[PreTrainedModel, dict[bool, str | None]] = WeakKeyDictionary()
"""what was found for each model, with its sliding window outgrown or not: its forward stays what it is"""


@torch.no_grad()
def why_not_together(model: PreTrainedModel, prompt: Sequence[int], longest: int) -> str | None:
    """Why this model's sequences must be decoded one by one, or None if they may be decoded together.

    Args:
        prompt: ids to try it on.
        longest: tokens of the longest sequence that may come about.
    """
    window = sliding_window(model.config.get_text_config())
    outgrown = window is not None and longest > window
    found = _known.setdefault(model, {})
    if outgrown not in found:
        found[outgrown] = _why_not_together(model, prompt, longest, window)
    return found[outgrown]


def _why_not_together(model: PreTrainedModel, prompt: Sequence[int], longest: int, window: int | None) -> str | None:
    config = model.config.get_text_config()
    if (kind := rope_kind(config)) is not None:
        return f"{kind} RoPE depends on the longest row"
    if getattr(config, "attention_chunk_size", None):
        return "chunked attention cannot be replaced"
    ids = np.resize(np.asarray(prompt), min(max(len(prompt), PROBE_TOKENS.start), PROBE_TOKENS.stop - 1))
    probe = probe_sequences(everything_trained(ids), window, longest, num_positions(model))
    sequences = [tokens.ids.tolist() for tokens in probe]
    try:
        logp = decoded_logp(model, sequences, NUM_STEPS)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        return f"the model cannot be decoded with ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
    _, every = plain_score(model, build(probe, share=False), rows_per_forward=1)
    expected = torch.stack([each[-NUM_STEPS:] for each in every.split([len(ids) - 1 for ids in sequences])])
    difference = float((logp - expected).abs().max())
    device = device_of(model).type
    exact = model.dtype in TOLERANCE and not torch.is_autocast_enabled(device)
    tolerance = TOLERANCE[model.dtype] if exact else LOW_PRECISION_TOLERANCE
    return None if difference <= tolerance else f"log-probs differ by {difference:.1e} nats from the model's own"


def decoded_logp(model: PreTrainedModel, sequences: Sequence[Sequence[int]], num_steps: int) -> Tensor:
    """Log p of the last tokens of each sequence (sequences, steps), the given ones fed in place of drawn ones."""
    prompts = [ids[:-num_steps] for ids in sequences]
    ends = torch.tensor([ids[-num_steps:] for ids in sequences], device=device_of(model))
    computed = compute_prompts(model, prompts)
    decoding = Decoding.like(computed, num_slots=len(prompts), trunk=common_beginning(prompts))
    decoding.admit(computed, range(len(prompts)))
    states = [computed.states]
    with attention_named(model, DECODE_NAME):
        states += [step(model, decoding, ends[:, at]) for at in range(num_steps - 1)]
    logp = torch.stack([torch.log_softmax(logits_of(model, rows), dim=-1) for rows in states], dim=1)
    return logp.gather(2, ends[..., None])[..., 0]
