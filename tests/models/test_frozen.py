"""A frozen base in 16 bits: two bytes a weight, and the numbers and gradients of its float32 copy, to the bit."""

import numpy as np
import pytest
import torch
from tiny import CHATML_TOKENS, CPU, SHAPES, write_base

from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.decode.sample import greedy
from heed.models.frozen import is_held
from heed.models.heads.scalar import trunk_fingerprint
from heed.models.intake.dtypes import checkpoint_dtype
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, add_tokens, load_model, load_tokenizer
from heed.models.score import forest_score, plain_score
from heed.types import Tokens

IDS = [5, 6, 7, 8, 9, 5, 7, 11, 3]


def with_adapter(base, dtype, new_tokens=(), rank=3):
    """A base loaded in this dtype, with an adapter that is away from its start."""
    model, tokenizer = load_model(base, CPU, dtype), load_tokenizer(base)
    ids = add_tokens(model, tokenizer, new_tokens, seed=0)
    loaded = add_adapter(LoadedModel(model, tokenizer), rank=rank, alpha=6.0, new_token_ids=ids, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.trained_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return loaded


def gradients(loaded, score):
    loaded.model.zero_grad(set_to_none=True)
    weight = np.ones(len(IDS), dtype=np.float32)
    weight[0] = 0.0
    forest = build([Tokens(np.array(IDS, dtype=np.int32), weight)], share=False)
    loss, _ = score(loaded.model, forest)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in loaded.trained_parameters()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [*SHAPES, "phi untied"])
def test_a_frozen_base_in_16_bits_gives_the_loss_and_gradient_of_its_float32_copy_to_the_bit(shape, dtype, tmp_path):
    base = write_base(tmp_path, shape, dtype=dtype)
    assert checkpoint_dtype(base) == dtype
    held, wide = with_adapter(base, dtype), with_adapter(base, torch.float32)
    assert all(p.dtype == torch.float32 for _, p in held.trained_parameters())
    for fast in (False, True):
        if fast:
            speed_up(held.model)
            speed_up(wide.model)
        for score in (forest_score, plain_score):
            ours, theirs = gradients(held, score), gradients(wide, score)
            assert torch.equal(ours[0], theirs[0])
            assert ours[1].keys() == theirs[1].keys()
            assert all(torch.equal(ours[1][name], grad) for name, grad in theirs[1].items())
            assert max(float(grad.abs().max()) for grad in theirs[1].values()) > 0
    prompt = IDS[:4]
    found, expected = (greedy(each.model, prompt, stop_ids=[], max_new_tokens=8) for each in (held, wide))
    assert found == expected
    assert trunk_fingerprint(held.model) == trunk_fingerprint(wide.model)


@pytest.mark.parametrize("shape", SHAPES)
def test_frozen_matrices_take_two_bytes_a_weight(shape, tmp_path):
    held = with_adapter(write_base(tmp_path, shape, dtype=torch.bfloat16), torch.bfloat16)
    frozen = [p for p in held.model.parameters() if not p.requires_grad]
    matrices = [p for p in frozen if p.dim() > 1 and "wpe" not in str(p.shape)]
    assert {p.dtype for p in matrices} == {torch.bfloat16}
    rest = sum(p.numel() for p in frozen if p.dim() < 2)
    assert sum(p.numel() * p.element_size() for p in frozen) == 2 * sum(p.numel() for p in frozen) + 2 * rest


def test_no_widened_copy_is_kept_for_the_backward(tmp_path):
    held = with_adapter(write_base(tmp_path, "llama tied", dtype=torch.bfloat16), torch.bfloat16)
    linear = next(module for module in held.model.modules() if is_held(module) and type(module) is torch.nn.Linear)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(torch.randn(2, linear.weight.shape[1], requires_grad=True))
    assert [tensor.dtype for tensor in kept] == [torch.bfloat16]
    assert kept[0].data_ptr() == linear.weight.data_ptr()


@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied"])
def test_rows_that_are_trained_stay_float32(shape, tmp_path):
    base = write_base(tmp_path / "base", shape, dtype=torch.bfloat16)
    held = with_adapter(base, torch.bfloat16, CHATML_TOKENS)
    assert all(p.dtype == torch.float32 for _, p in held.trained_parameters())
    _, grads = gradients(held, forest_score)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


def test_a_config_that_speaks_of_fewer_bits_than_the_files_hold_rounds_nothing(tmp_path):
    base = write_base(tmp_path, "llama tied")
    from damage import change_config

    change_config(tmp_path, dtype="bfloat16")
    assert checkpoint_dtype(base) == torch.float32


def test_autocast_computes_on_a_held_base_what_it_does_on_a_float32_one(tmp_path):
    base = write_base(tmp_path, "llama untied", dtype=torch.bfloat16)
    held, wide = with_adapter(base, torch.bfloat16), with_adapter(base, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = gradients(held, forest_score), gradients(wide, forest_score)
    torch.testing.assert_close(ours[0], theirs[0])
    for name, grad in theirs[1].items():
        torch.testing.assert_close(ours[1][name], grad, rtol=1e-2, atol=1e-3)
