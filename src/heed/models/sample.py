"""Let a model answer: greedy samples for the run's record, and streams for chat."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

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
