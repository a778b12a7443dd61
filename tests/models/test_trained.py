"""What learns where it is named: the trained gradients are full training's, and the rest has none."""

import pytest
import torch
from families import branching_sequences, difference, gradient_of, scored, tiny
from tiny import CPU, write_base

from heed.errors import UserError
from heed.forest.build import build
from heed.models.heads import language
from heed.models.kernels.speed import speed_up
from heed.models.load import load_model
from heed.models.score import forest_logp, forest_score, plain_score
from heed.models.trained import choose_trained, how_many_learn
from heed.train.optimiser import adamw

ITEMS = branching_sequences()
FAMILIES = ["gpt2", "llama", "llama tied with biases", "gemma2", "gpt-neox"]


def learning(family, *names, new_token_ids=()):
    model = tiny(family, dtype=torch.float64)
    choose_trained(model, names, new_token_ids=new_token_ids)
    speed_up(model)
    return model


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "names", [["last:1"], ["last:2", "norms"], ["head"], ["embeddings"], ["norms"], ["*.1.*", "norms"]]
)
def test_the_gradient_of_what_learns_is_that_of_full_training_and_the_rest_has_none(family, names):
    full = tiny(family, dtype=torch.float64)
    speed_up(full)
    some = learning(family, *names)
    for score, share in ((forest_score, True), (plain_score, False)):
        loss, everything = scored(full, score, build(ITEMS, share=share))
        full.zero_grad(set_to_none=True)
        found_loss, found = scored(some, score, build(ITEMS, share=share))
        assert found_loss == pytest.approx(loss, rel=1e-12)
        assert {name for name, parameter in some.named_parameters() if parameter.grad is not None} == trained_names(
            some
        )
        some.zero_grad(set_to_none=True)
        assert difference(found, {name: everything[name] for name in found}) < 1e-12
    assert 0 < len(trained_names(some)) < len(list(some.named_parameters()))


def test_names_mean_what_they_say():
    assert trained_names(learning("llama", "all")) == trained_names(tiny("llama"))
    last = trained_names(learning("llama", "last:1"))
    assert last
    assert all(name.startswith("model.layers.2.") for name in last)
    assert trained_names(learning("llama", "head")) == {"lm_head.weight"}
    assert trained_names(learning("llama", "embeddings")) == {"model.embed_tokens.weight"}
    assert trained_names(learning("gpt2", "embeddings")) == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert all("norm" in name for name in trained_names(learning("llama", "norms")))
    assert len(trained_names(learning("llama", "norms"))) == 2 * 3 + 1
    assert all(".q_proj." in name for name in trained_names(learning("llama", "q_proj")))
    assert trained_names(learning("llama", "model.layers.0.*.up_proj.weight")) == {"model.layers.0.mlp.up_proj.weight"}
    assert trained_names(learning("llama", "model.layers.1")) <= trained_names(learning("llama", "last:2"))


@pytest.mark.parametrize(
    ("name", "found", "fix"),
    [
        ("q_porj", "q_porj", "q_proj"),
        ("last:9", "last:9", "last:3"),
        ("last:0", "last:0", "last:1"),
        ("heads", "heads", "head"),
    ],
)
def test_a_name_of_nothing_is_answered_with_what_there_is(name, found, fix):
    with pytest.raises(UserError) as caught:
        learning("llama", name)
    assert (caught.value.where, caught.value.found, caught.value.fix) == ("--train", found, f"--train {fix}")
    learning("llama", fix)


def test_new_tokens_that_would_never_learn_are_refused_and_the_fix_lets_them():
    with pytest.raises(UserError) as caught:
        learning("llama", "last:1", new_token_ids=[3, 4])
    names = caught.value.fix.removeprefix("--train ").split(",")
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= trained_names(
        learning("llama", *names, new_token_ids=[3])
    )


def test_the_optimiser_holds_state_for_what_learns_alone():
    model = learning("llama", "last:1")
    optimiser = adamw(model.named_parameters(), weight_decay=0.1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    loss, _ = forest_score(model, build(ITEMS, share=True))
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = 1e-2
    optimiser.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained_names(model)
    assert len(optimiser.state) == len(moved)


def test_how_many_learn_counts_a_shared_table_once():
    assert how_many_learn(tiny("gpt2")).startswith("{0:,} of {0:,} ".format(tiny("gpt2").num_parameters()))
    model = learning("llama", "head")
    assert how_many_learn(model).startswith(f"{model.lm_head.weight.numel():,} of {model.num_parameters():,} ")


@pytest.mark.parametrize("score", [forest_score, forest_logp])
def test_a_frozen_head_makes_no_gradient_of_its_weight(score, monkeypatch):
    made, needed = [], language.Gradients.needed

    def noting(*arguments):
        made.append(needed(*arguments))
        return made[-1]

    monkeypatch.setattr(language.Gradients, "needed", noting)
    model = learning("llama", "last:1")
    result = score(model, build(ITEMS, share=True))
    (result[0] if isinstance(result, tuple) else result.logp.sum()).backward()
    assert made
    assert all(each.weight is None and each.bias is None and each.rows is not None for each in made)


def test_a_bias_of_the_head_can_learn_alone(tmp_path):
    full, some = (load_model(write_base(tmp_path / name, "phi untied"), CPU).double() for name in ("full", "some"))
    choose_trained(some, ["lm_head.bias"])
    _, everything = scored(full, forest_score, build(ITEMS, share=True))
    _, found = scored(some, forest_score, build(ITEMS, share=True))
    assert {name for name, p in some.named_parameters() if p.grad is not None} == {"lm_head.bias"}
    assert difference(found, {"lm_head.bias": everything["lm_head.bias"]}) < 1e-12
    assert gradient_of(some)["lm_head.bias"].abs().max() > 0
