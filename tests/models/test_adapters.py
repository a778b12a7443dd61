"""LoRA: the forest's gradient of every trained weight is the plain path's, and new tokens' rows learn in full."""

import pytest
import torch
from families import branching_sequences, casts_in, difference, gradient_of, scored, tiny

from heed.errors import UserError
from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.heads.language import Head
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, prepare_training
from heed.models.score import forest_score, plain_score
from heed.models.self_check import choose_score

ITEMS = branching_sequences()
NEW_IDS = sorted({int(ITEMS[0].ids[4]), int(ITEMS[0].ids[16]), int(ITEMS[-1].ids[25])})
"""treated as new: all are read, and the last two are predicted"""


def adapted(family, new_token_ids=(), dtype=torch.float64):
    """The tiny model with an adapter whose B is off its start, so that A has a gradient too."""
    model = tiny(family, dtype=dtype)
    speed_up(model)
    loaded = add_adapter(LoadedModel(model, None), rank=3, alpha=6.0, new_token_ids=new_token_ids, seed=0)
    loaded.model.to(dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in loaded.trained_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return loaded


def eager_gradient(family, new_token_ids=()):
    """The adapted model's own forward, one sequence at a time, with the loss written out."""
    model = adapted(family, new_token_ids).model
    model.set_attn_implementation("eager")
    total = 0.0
    for each in ITEMS:
        ids, weight = torch.tensor(each.ids.tolist()), torch.tensor(each.weight.tolist(), dtype=torch.float64)
        with casts_in(torch.float64):
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            loss = (torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none") * weight[1:]).sum()
            loss.backward()
        total += loss.item()
    return total, gradient_of(model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama tied with biases", "gemma2", "gpt-neox"])
@pytest.mark.parametrize("new_token_ids", [(), NEW_IDS], ids=["", "with new tokens"])
def test_the_forest_computes_the_adapted_models_own_gradient(family, new_token_ids):
    expected_loss, expected_gradient = eager_gradient(family, new_token_ids)
    for score, share in ((forest_score, True), (plain_score, False)):
        loss, gradient = scored(adapted(family, new_token_ids).model, score, build(ITEMS, share=share))
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert difference(gradient, expected_gradient) < 1e-11


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_starts_as_its_base_and_leaves_the_base_frozen(family):
    model = tiny(family)
    ids = torch.tensor(ITEMS[0].ids.tolist())[None]
    before = model(ids).logits
    loaded = add_adapter(LoadedModel(model, None), rank=3, alpha=6.0, new_token_ids=(), seed=0)
    torch.testing.assert_close(loaded.model(ids).logits, before, rtol=0, atol=1e-12)
    assert all("lora_" in name for name, _ in loaded.trained_parameters())
    # Every linear layer but the head: 4 per layer of GPT-2, 7 per layer of Llama; A and B of each.
    assert len(loaded.trained_parameters()) == 2 * 3 * {"gpt2": 4, "llama": 7}[family]


@pytest.mark.parametrize(
    ("family", "name"), [("llama", "model.layers.1.mlp.up_proj"), ("gpt2", "transformer.h.1.mlp.c_fc")]
)
def test_an_adapted_layer_adds_alpha_over_rank_times_b_a(family, name):
    loaded = adapted(family)
    layer = loaded.model.get_submodule(name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape[0] == b.shape[1] == 3
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = layer.base_layer(x) + (6.0 / 3) * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "num_tables"), [("llama", 2), ("llama tied with biases", 1), ("gpt2", 1)])
def test_new_tokens_learn_their_rows_and_no_other_row_moves(family, num_tables):
    loaded = adapted(family, NEW_IDS)
    rows = {name: p for name, p in loaded.trained_parameters() if "lora_" not in name}
    assert {tuple(p.shape) for p in rows.values()} == {(len(NEW_IDS), 32)}
    assert len(rows) == num_tables
    head = loaded.model.get_output_embeddings()
    before = [loaded.model.get_input_embeddings()(torch.arange(90)).detach().clone(), head_table(head).detach().clone()]
    _, gradient = scored(loaded.model, forest_score, build(ITEMS))
    assert all(float(gradient[name].abs().max(dim=1).values.min()) > 0 for name in rows), "every new row learns"
    with torch.no_grad():
        for p in rows.values():
            p.add_(1.0)
    after = [loaded.model.get_input_embeddings()(torch.arange(90)), head_table(head)]
    for was, now in zip(before, after, strict=True):
        moved = (now - was).abs().amax(dim=1) > 0.5
        assert moved.nonzero()[:, 0].tolist() == NEW_IDS


def head_table(head):
    """W^T of the head as a function of its input, whatever wraps it: its answer to the unit vectors."""
    return head(torch.eye(32, dtype=torch.float64)).T


def test_a_head_knows_the_rows_that_are_trained_on_it():
    with_rows, without = (Head.of(adapted("llama", ids).model) for ids in (NEW_IDS, ()))
    assert with_rows is not None
    assert with_rows.new is not None
    assert with_rows.new.ids.tolist() == NEW_IDS
    assert without is not None
    assert without.new is None


@pytest.mark.parametrize("family", ["gpt2", "llama tied with biases", "gemma2"])
def test_the_self_check_trusts_an_adapted_model_with_new_tokens(family):
    model = adapted(family, NEW_IDS, torch.float32).model
    found = choose_score(model, ITEMS[0], longest_in_data=100, num_positions=64, share=True)
    assert found.shares_prefixes, found.note


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_recomputing_activations_changes_no_gradient_of_an_adapter(family):
    expected_loss, expected_gradient = scored(adapted(family).model, forest_score, build(ITEMS))
    loaded = adapted(family)
    prepare_training(loaded.model, activations="recompute")
    loss, gradient = scored(loaded.model, forest_score, build(ITEMS))
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    assert difference(gradient, expected_gradient) < 1e-12


def on_layers(family, *names):
    """Names of the layers that have an adapter."""
    loaded = add_adapter(LoadedModel(tiny(family), None), rank=2, alpha=4.0, new_token_ids=(), seed=0, targets=names)
    return {name for name, module in loaded.model.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"attn.c_attn", "attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}),
        ("gpt-neox", {"query_key_value", "attention.dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
    ],
)
def test_groups_of_targets_are_the_layers_they_say(family, attention, mlp):
    for group, ends in (("attention", attention), ("mlp", mlp)):
        found = on_layers(family, group)
        assert len(found) == 3 * len(ends)
        assert {end for end in ends if any(name.endswith(f".{end}") for name in found)} == ends
        assert all(name.endswith(tuple(f".{end}" for end in ends)) for name in found)
    assert on_layers(family, "attention", "mlp") == on_layers(family, "all-linear")


def test_targets_are_layers_by_the_ends_of_their_names():
    assert on_layers("llama", "q_proj", "v_proj") == {
        f"model.layers.{layer}.self_attn.{name}" for layer in range(3) for name in ("q_proj", "v_proj")
    }
    assert on_layers("llama", "layers.1.mlp.up_proj") == {"model.layers.1.mlp.up_proj"}
    # In GPT-2 an end alone is a layer in attention and one in the MLP.
    assert on_layers("gpt2", "mlp.c_proj") == {f"transformer.h.{layer}.mlp.c_proj" for layer in range(3)}
    assert len(on_layers("gpt2", "c_proj")) == 6


@pytest.mark.parametrize(("name", "near"), [("q_prj", "q_proj"), ("atention", "attention"), ("lm_head", "all-linear")])
def test_a_target_of_no_layer_is_answered_with_the_nearest(name, near):
    with pytest.raises(UserError) as caught:
        on_layers("llama", name)
    assert (caught.value.where, caught.value.found) == ("--lora.targets", name)
    assert caught.value.fix == f"--lora.targets {near}"
    assert on_layers("llama", near)


def test_the_forest_computes_the_gradient_of_adapters_on_some_layers():
    def some():
        model = tiny("llama")
        speed_up(model)
        return add_adapter(LoadedModel(model, None), rank=3, alpha=6.0, new_token_ids=(), seed=0, targets=["q_proj"])

    shared = scored(some().model, forest_score, build(ITEMS, share=True))
    plain = scored(some().model, plain_score, build(ITEMS, share=False))
    assert shared[0] == pytest.approx(plain[0], rel=1e-12)
    assert difference(shared[1], plain[1]) < 1e-11
    assert len(shared[1]) == 2 * 3
