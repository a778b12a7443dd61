"""Let a model answer: greedy samples for the run's record, and answers that are told token by token for chat."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from heed.models.attention import attention_named, plain_attention_of


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: Sequence[int], *, stop_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """The likeliest token again and again, until a stop token, which is the last one returned, or the limit."""
    ids = torch.tensor([list(prompt)], device=model.get_input_embeddings().weight.device)
    with attention_named(model, plain_attention_of(model)):
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
        )
    new: list[int] = output[0, ids.shape[1] :].tolist()
    return new


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float
    """0 takes the likeliest token; 1 samples as the model predicts"""
    top_p: float
    """only the likeliest tokens that together hold this probability are drawn from"""


@torch.no_grad()
def tell(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    on_token: Callable[[int], None],
) -> None:
    """Call `on_token` with every token of an answer as soon as it is drawn, a stop token included.

    Draws from torch's global generator. Nothing but `sampling` has a say in it: penalties and limits that a model's
    generation config brings along are set aside.
    """
    ids = torch.tensor([list(prompt)], device=model.get_input_embeddings().weight.device)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0], use_cache=True
    )
    if sampling.temperature > 0:
        settings.update(do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0)
    with attention_named(model, plain_attention_of(model)), _generating_by(model, settings):
        model.generate(ids, attention_mask=torch.ones_like(ids), streamer=_Listener(on_token))


@contextmanager
def _generating_by(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


class _Listener:
    """What `generate` hands tokens to: the prompt first, which is nothing new, then one at a time."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self.on_token, self.saw_prompt = on_token, False

    def put(self, ids: Tensor) -> None:
        """Called by `generate`."""
        if self.saw_prompt:
            self.on_token(int(ids))
        self.saw_prompt = True

    def end(self) -> None:
        """Called by `generate` after the last token."""
