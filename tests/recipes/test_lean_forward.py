"""How large a forward of a reward model or of several roles is."""

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from heed.models.load import LoadedModel
from heed.recipes.training.micro_batches import lean_forward


@pytest.mark.parametrize(
    ("width", "max_tokens", "size"),
    [
        (768, None, 640),  # 5/8 of 1,024
        (32, None, 5_120),  # 5/8 of 8,192
        (768, 100, 100),
    ],
)
def test_a_forward_holds_five_eighths_of_what_a_language_head_needs_unless_told_otherwise(width, max_tokens, size):
    config = LlamaConfig(
        vocab_size=16, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4
    )
    nothing: Any = None
    assert lean_forward(max_tokens, LoadedModel(LlamaForCausalLM(config), nothing)) == size
