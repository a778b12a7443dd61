"""A frozen base in 16 bits: two bytes a weight, and the numbers and gradients of its float32 copy, to the bit."""

import copy

import numpy as np
import pytest
import torch
import transformers as t
from tiny import CHATML_TOKENS, CPU, SHAPES, write_base

from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.decode.sample import greedy
from heed.models.decode.together import PlainStep
from heed.models.frozen import hold_frozen, is_held, narrow
from heed.models.heads.scalar import load_reward_model, new_reward_model, save_reward_model, trunk_fingerprint
from heed.models.intake.dtypes import checkpoint_dtype
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, add_tokens, load_model, load_tokenizer
from heed.models.roles import roles_on_one_base, separate_models
from heed.models.score import forest_score, forest_states, plain_score
from heed.models.writing import store_as
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


def gradients(loaded, score, ids=IDS):
    loaded.model.zero_grad(set_to_none=True)
    weight = np.ones(len(ids), dtype=np.float32)
    weight[0] = 0.0
    forest = build([Tokens(np.array(ids, dtype=np.int32), weight)], share=False)
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


@pytest.mark.parametrize("is_plain", [False, True], ids=["", "HEED_PLAIN"])
@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied", "llama untied", "phi untied"])
def test_rows_that_are_trained_stay_float32_beside_tables_of_two_bytes_a_weight(shape, is_plain, tmp_path, monkeypatch):
    if is_plain:
        monkeypatch.setenv("HEED_PLAIN", "1")
    base = write_base(tmp_path / "base", shape, dtype=torch.bfloat16)
    held, wide = (with_adapter(base, dtype, CHATML_TOKENS) for dtype in (torch.bfloat16, torch.float32))
    assert all(p.dtype == torch.float32 for _, p in held.trained_parameters())
    assert {p.dtype for p in held.model.parameters() if p.dim() > 1 and not p.requires_grad} == {torch.bfloat16}
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in held.trained_parameters():
            if "trainable_tokens" in name:  # to numbers that 16 bits do not hold
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for (_, ours), (_, theirs) in zip(held.trained_parameters(), wide.trained_parameters(), strict=True):
            theirs.copy_(ours)
    ids = [*IDS, *held.tokenizer.convert_tokens_to_ids(list(CHATML_TOKENS)), *IDS]
    for fast in (False, True):
        if fast:
            speed_up(held.model)
            speed_up(wide.model)
        for score in (forest_score, plain_score):
            (loss, grads), (expected_loss, expected) = (gradients(each, score, ids) for each in (held, wide))
            torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
            for name, grad in expected.items():
                torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_heads_bias_counts_beside_the_rows_of_new_tokens(dtype, tmp_path):
    base = write_base(tmp_path, "phi untied", dtype=torch.bfloat16)
    plain, adapted = (with_adapter(base, dtype, tokens) for tokens in ((), CHATML_TOKENS))
    generator = torch.Generator().manual_seed(2)
    bias = torch.randn(adapted.model.get_output_embeddings().original_module.bias.shape, generator=generator)
    with torch.no_grad():
        adapted.model.get_output_embeddings().original_module.bias.copy_(bias)
        plain.model.get_output_embeddings().bias.copy_(bias[: len(plain.model.get_output_embeddings().bias)])
        expected = plain.model(torch.tensor([IDS])).logits
        found = adapted.model(torch.tensor([IDS])).logits
        torch.testing.assert_close(found[..., : expected.shape[-1]], expected)
        fast = copy.deepcopy(adapted.model)
        speed_up(fast)
        torch.testing.assert_close(fast(torch.tensor([IDS])).logits, found)


def test_a_table_that_an_embedding_scales_as_it_reads_is_widened_where_the_head_shares_it():
    config = t.Gemma3TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=16, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    wide = t.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).float().eval()
    held = copy.deepcopy(wide).to(torch.bfloat16)
    hold_frozen(held)
    ids = torch.tensor([IDS])
    for each in (wide, held):
        each.model.embed_tokens.embed_scale = wide.model.embed_tokens.embed_scale.clone()
        each.model.rotary_emb = copy.deepcopy(wide.model.rotary_emb)
    torch.testing.assert_close(held(ids).logits, wide(ids).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("new_tokens", [(), CHATML_TOKENS], ids=["", "new tokens"])
def test_an_adapter_on_a_base_of_16_bits_is_decoded_by_heeds_own_steps(new_tokens, tmp_path):
    held = with_adapter(write_base(tmp_path, "llama untied", dtype=torch.bfloat16), torch.bfloat16, new_tokens)
    speed_up(held.model)
    states = torch.randn(3, held.width)
    found = PlainStep(held.model).logits(states)
    torch.testing.assert_close(found, held.model.get_output_embeddings()(states), rtol=1e-5, atol=1e-5)


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


# -- frozen roles -----------------------------------------------------------------------------------------------------


def bytes_of_matrices(model):
    matrices = {id(p): p for p in model.parameters() if p.dim() > 1}.values()
    return sum(p.numel() * p.element_size() for p in matrices) / sum(p.numel() for p in matrices)


@pytest.mark.parametrize("shape", [*SHAPES, "phi untied"])
def test_what_is_narrowed_computes_to_the_bit_what_it_did_and_what_16_bits_cannot_hold_stays(shape, tmp_path):
    base = write_base(tmp_path, shape, dtype=torch.bfloat16)
    wide, narrowed = load_model(base, CPU), narrow(load_model(base, CPU))
    ids = torch.tensor([IDS])
    assert bytes_of_matrices(wide) == 4
    assert bytes_of_matrices(narrowed) == 2
    assert torch.equal(narrowed(ids).logits, wide(ids).logits)
    assert not any(p.requires_grad for p in narrowed.parameters())
    trained = load_model(base, CPU)
    with torch.no_grad():
        trained.get_input_embeddings().weight[0, 0] += 2.0**-20
    before = trained(ids).logits
    assert 2 < bytes_of_matrices(narrow(trained)) < 4
    assert trained.get_input_embeddings().weight.dtype == torch.float32
    assert torch.equal(trained(ids).logits, before)


def test_every_frozen_role_of_a_run_on_16_bits_keeps_two_bytes_a_weight(tmp_path):
    base = write_base(tmp_path / "base", "llama untied", dtype=torch.bfloat16)
    loaded = LoadedModel(load_model(base, CPU), load_tokenizer(base))
    reward = tmp_path / "reward"
    reward.mkdir()
    how = {"template": "{{ messages }}", "template_name": "own", "stop_tokens": ["<|endoftext|>"]}
    save_reward_model(new_reward_model(loaded, 0), reward, **how)
    store_as(reward, torch.bfloat16)
    scorer = load_reward_model(str(reward), CPU)
    assert bytes_of_matrices(scorer.loaded.model) == 2
    whole = load_reward_model(str(reward), CPU, for_tuning=True)
    assert bytes_of_matrices(whole.loaded.model) == 4
    weight = np.ones(len(IDS), dtype=np.float32)
    weight[0] = 0.0
    forest = build([Tokens(np.array(IDS, dtype=np.int32), weight)])
    with torch.no_grad():
        scores = [each.rewards(forest_states(each.loaded.model, forest), forest) for each in (scorer, whole)]
    assert torch.equal(*scores)
    for with_value in (False, True):
        policy = LoadedModel(load_model(base, CPU), load_tokenizer(base))
        roles = separate_models(policy, reward=str(reward), with_value=with_value)
        assert bytes_of_matrices(roles.reference.model) == 2
        assert bytes_of_matrices(roles.reward.model) == 2
        assert bytes_of_matrices(roles.policy.model) == 4
        assert all(p.requires_grad for p in roles.policy.model.parameters())
        if with_value:
            assert bytes_of_matrices(roles.value.model) == 4
    held = load_model(base, CPU, torch.bfloat16)
    roles = roles_on_one_base(
        LoadedModel(held, load_tokenizer(base)), rank=2, alpha=4.0, seed=0, reward=str(reward), with_value=True
    )
    assert "weights of its own" in roles.note
    assert bytes_of_matrices(roles.reward.model) == 2
