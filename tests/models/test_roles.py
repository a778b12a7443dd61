"""One base and four roles: who is on when, whose gradient reaches whom, and what is in memory once."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import transformers as t
from peft import PeftModel
from tiny import CPU, END, PLAIN, opened, train, write_base

from heed.errors import UserError
from heed.forest.build import build
from heed.models.heads.scalar import load_reward_model, new_reward_model, save_reward_model, values_at
from heed.models.intake.access import peft_warnings_hidden
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, load_model, load_tokenizer, prepare_training, save
from heed.models.roles import roles_on_one_base, separate_models
from heed.models.score import forest_logp, forest_states
from heed.models.self_check import choose_score, everything_trained

SHAPES = ("gpt2 tied", "llama untied")
TEXTS = ("How are you?", "How are you today?", "Xin chào các bạn.")


def forest_for(tokenizer):
    return build([everything_trained(np.array(tokenizer(text).input_ids, dtype=np.int32)) for text in TEXTS])


def base_of_run(tmp_path, shape):
    folder = tmp_path / "base"
    return str(folder) if folder.is_dir() else write_base(folder, shape)


def policy_on(base):
    model = load_model(base, CPU)
    speed_up(model)
    return LoadedModel(model, load_tokenizer(base))


def reward_folder(tmp_path, shape, *, rank=2, offset=0.5, name="reward"):
    """What `heed reward` leaves: a trained adapter on the base, or a whole model."""
    loaded = opened(base_of_run(tmp_path, shape), tmp_path / name, rank=rank, new_tokens=(), stop_tokens=(END,))
    reward_model = new_reward_model(loaded, seed=0)
    train(loaded, seed=7)
    folder = tmp_path / name / "model"
    folder.mkdir()
    save_reward_model(
        replace(reward_model, offset=offset), folder, template=PLAIN, template_name="plain", stop_tokens=[END]
    )
    return str(folder)


def cast(tmp_path, shape="llama untied", *, reward_rank=2, with_value=True, moved=True, **settings):
    """Four roles on one base, policy and value off their start so that every factor has a gradient."""
    reward = reward_folder(tmp_path, shape, rank=reward_rank) if reward_rank is not None else None
    roles = roles_on_one_base(
        policy_on(base_of_run(tmp_path, shape)),
        rank=3,
        alpha=6.0,
        seed=0,
        reward=reward,
        with_value=with_value,
        **settings,
    )
    if moved:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for role in (roles.policy, roles.value):
                for _, parameter in role.trained_parameters() if role is not None else ():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return roles


def logp_of(role, forest):
    with role.active() as model, torch.no_grad():
        return forest_logp(model, forest).logp


def policy_loss(model, forest):
    return (forest_logp(model, forest).logp * torch.linspace(-1, 2, forest.num_trained_tokens)).sum()


def value_loss(role, model, forest):
    return (role.values(forest_states(model, forest), forest) * torch.linspace(-2, 1, forest.num_trained_tokens)).sum()


def gradients(roles):
    """By name, of everything on the base and in the heads; names that have none are left out."""
    every = dict(roles.loaded.model.named_parameters())
    for role in (roles.reward, roles.value):
        if role is not None and role.head is not None:
            every |= {f"{role.name} {name}": p for name, p in role.head.named_parameters()}
    return {name: p.grad.clone() for name, p in every.items() if p.grad is not None}


def flags(roles):
    return {name: p.requires_grad for name, p in roles.loaded.model.named_parameters()}


# -- switching ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_policy_starts_as_the_reference_exactly(tmp_path, shape):
    roles = cast(tmp_path, shape, moved=False)
    forest = forest_for(roles.loaded.tokenizer)
    start = logp_of(roles.policy, forest)
    assert torch.equal(start, logp_of(roles.reference, forest))
    untouched = load_model(base_of_run(tmp_path, shape), CPU)
    speed_up(untouched)
    with torch.no_grad():
        assert torch.equal(start, forest_logp(untouched, forest).logp)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_stays_what_it_was_when_the_policy_moves(tmp_path, shape):
    roles = cast(tmp_path, shape, moved=False)
    forest = forest_for(roles.loaded.tokenizer)
    before = logp_of(roles.reference, forest)
    with torch.no_grad():
        for _, parameter in roles.policy.trained_parameters():
            parameter.add_(0.1)
    assert torch.equal(logp_of(roles.reference, forest), before)
    assert float((logp_of(roles.policy, forest) - before).abs().max()) > 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_every_role_plays_itself_in_any_order(tmp_path, shape):
    roles = cast(tmp_path, shape)
    forest = forest_for(roles.loaded.tokenizer)
    everyone = (roles.policy, roles.reference, roles.reward, roles.value)
    first = [logp_of(role, forest) for role in everyone]
    for i in range(4):
        for j in range(i):
            assert float((first[i] - first[j]).abs().max()) > 1e-3, "four roles that are one would prove nothing"
    again = [logp_of(role, forest) for role in (*reversed(everyone), *everyone)]
    for expected, *found in zip(first, reversed(again[:4]), again[4:], strict=True):
        assert all(torch.equal(expected, each) for each in found)


def test_roles_may_be_active_inside_one_another(tmp_path):
    roles = cast(tmp_path)
    forest = forest_for(roles.loaded.tokenizer)
    expected = logp_of(roles.policy, forest)
    reference = logp_of(roles.reference, forest)
    with roles.policy.active() as model, torch.no_grad():
        with roles.reference.active():
            with roles.value.active():
                pass
            assert torch.equal(forest_logp(model, forest).logp, reference)
        assert torch.equal(forest_logp(model, forest).logp, expected)
    with roles.loaded.adapter.disable_adapter():
        assert torch.equal(logp_of(roles.policy, forest), expected), "whatever peft has switched off outside"


def test_an_error_inside_a_role_leaves_the_role(tmp_path):
    roles = cast(tmp_path)
    forest = forest_for(roles.loaded.tokenizer)
    before = logp_of(roles.policy, forest)
    with pytest.raises(ZeroDivisionError), roles.reference.active():
        raise ZeroDivisionError
    with torch.no_grad():
        assert torch.equal(forest_logp(roles.loaded.model, forest).logp, before), "the policy is on outside"


def test_switching_touches_no_flag_and_no_forward(tmp_path):
    roles = cast(tmp_path)
    before = flags(roles), {name: m.__dict__.get("forward") for name, m in roles.loaded.model.named_modules()}
    for role in (roles.reference, roles.value, roles.reward, roles.policy):
        with role.active():
            assert flags(roles) == before[0]
    assert {name: m.__dict__.get("forward") for name, m in roles.loaded.model.named_modules()} == before[1]


def test_the_self_check_trusts_a_base_with_four_roles(tmp_path):
    roles = cast(tmp_path, moved=True)
    longest = everything_trained(np.array(roles.loaded.tokenizer(TEXTS[1]).input_ids, dtype=np.int32))
    for role in (roles.policy, roles.reference, roles.reward, roles.value):
        with role.active() as model:
            found = choose_score(model, longest, longest_in_data=30, num_positions=96, share=True)
        assert found.shares_prefixes, found.note


# -- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "recomputing"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_roles_gradient_touches_its_own_parameters_and_no_others(tmp_path, shape, checkpointing):
    roles = cast(tmp_path, shape)
    prepare_training(roles.loaded.model, activations="recompute" if checkpointing else "keep")
    forest = forest_for(roles.loaded.tokenizer)
    learning = {name for role in (roles.policy, roles.value) for name, _ in role.trained_parameters()}
    assert {name for name, learns in flags(roles).items() if learns} == learning - {"score.weight"}
    assert not roles.reward.head.weight.requires_grad
    with roles.policy.active() as model:
        policy_loss(model, forest).backward()
    assert gradients(roles).keys() == {name for name, _ in roles.policy.trained_parameters()}
    roles.loaded.model.zero_grad(set_to_none=True)
    with roles.value.active() as model:
        value_loss(roles.value, model, forest).backward()
    own = {name for name, _ in roles.value.trained_parameters()} - {"score.weight"} | {"value weight"}
    found = gradients(roles)
    assert found.keys() == own
    assert all(bool(g.any()) for g in found.values())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "recomputing"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("then", ["reference", "value", "policy"])
def test_a_backward_after_a_switch_gives_the_gradient_of_the_forwards_role(tmp_path, shape, checkpointing, then):
    """peft's own switches would leave the policy without a gradient, or recompute it with another adapter."""
    expected = cast(tmp_path, shape)
    with expected.policy.active() as model:
        policy_loss(model, forest_for(expected.loaded.tokenizer)).backward()
    roles = roles_like(expected, tmp_path, shape)
    prepare_training(roles.loaded.model, activations="recompute" if checkpointing else "keep")
    forest = forest_for(roles.loaded.tokenizer)
    with roles.policy.active() as model:
        loss = policy_loss(model, forest)
    with getattr(roles, then).active() as model:
        with torch.no_grad():
            forest_logp(model, forest)
        loss.backward()
    agree(gradients(roles), gradients(expected))


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def roles_like(roles, tmp_path, shape):
    """The same roles again, built anew, with the same weights."""
    again = roles_on_one_base(
        policy_on(base_of_run(tmp_path, shape)), rank=3, alpha=6.0, seed=0, reward=str(tmp_path / "reward" / "model"),
        with_value=True,
    )  # fmt: skip
    for ours, theirs in ((again.policy, roles.policy), (again.value, roles.value)):
        with torch.no_grad():
            for (_, a), (_, b) in zip(ours.trained_parameters(), theirs.trained_parameters(), strict=True):
                a.copy_(b)
    return again


def test_two_roles_losses_in_one_backward_give_both_gradients(tmp_path):
    roles = cast(tmp_path)
    prepare_training(roles.loaded.model, activations="recompute")
    forest = forest_for(roles.loaded.tokenizer)
    with roles.policy.active() as model:
        policy_loss(model, forest).backward()
    with roles.value.active() as model:
        value_loss(roles.value, model, forest).backward()
    apart = gradients(roles)
    for parameter in (*roles.loaded.model.parameters(), *roles.value.head.parameters()):
        parameter.grad = None
    with roles.policy.active() as model:
        first = policy_loss(model, forest)
    with roles.value.active() as model:
        second = value_loss(roles.value, model, forest)
    (first + second).backward()
    agree(gradients(roles), apart)


def test_new_tokens_rows_are_the_policys_own(tmp_path):
    roles = cast(tmp_path, "llama tied", new_token_ids=[5, 9], reward_rank=None, moved=False)
    names = {name for name, _ in roles.policy.trained_parameters()}
    assert any("trainable_tokens_delta.default" in name for name in names)
    forest = forest_for(roles.loaded.tokenizer)
    before = [logp_of(role, forest) for role in (roles.reference, roles.value)]
    with torch.no_grad():
        for name, parameter in roles.policy.trained_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(1.0)
    for role, was in zip((roles.reference, roles.value), before, strict=True):
        assert torch.equal(logp_of(role, forest), was)
    assert float((logp_of(roles.policy, forest) - before[0]).abs().max()) > 1e-3


# -- how a cast is made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_reward_adapter_on_the_same_base_joins_it_and_scores_as_before(tmp_path, shape):
    roles = cast(tmp_path, shape)
    assert roles.reward_model is None
    assert roles.note == ""
    assert roles.reward.model is roles.policy.model
    forest = forest_for(roles.loaded.tokenizer)
    alone = load_reward_model(str(tmp_path / "reward" / "model"), CPU)
    speed_up(alone.loaded.model)
    with torch.no_grad():
        expected = alone.rewards(forest_states(alone.loaded.model, forest), forest)
        with roles.reward.active() as model:
            found = roles.reward.rewards(forest_states(model, forest), forest)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_start_as_the_rewards(tmp_path, shape):
    roles = cast(tmp_path, shape, moved=False)
    forest = forest_for(roles.loaded.tokenizer)
    found = []
    for role in (roles.reward, roles.value):
        with role.active() as model, torch.no_grad():
            states = forest_states(model, forest)
            found.append(role.values(states, forest))
    torch.testing.assert_close(found[1], values_at(states, forest, roles.value.head) - 0.5, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    assert roles.value.head.weight.data_ptr() != roles.reward.head.weight.data_ptr()


def test_without_a_reward_model_values_start_at_nothing(tmp_path):
    roles = cast(tmp_path, reward_rank=None, moved=False)
    assert roles.reward is None
    forest = forest_for(roles.loaded.tokenizer)
    with roles.value.active() as model:
        assert not roles.value.values(forest_states(model, forest), forest).any()


def test_the_base_is_in_memory_once(tmp_path):
    policy = policy_on(base_of_run(tmp_path, "llama untied"))
    before = {name: p.data_ptr() for name, p in policy.model.named_parameters()}
    reward = reward_folder(tmp_path, "llama untied")
    roles = roles_on_one_base(policy, rank=3, alpha=6.0, seed=0, reward=reward, with_value=True)
    everyone = (roles.policy, roles.reference, roles.reward, roles.value)
    assert len({id(role.model) for role in everyone}) == 1
    after = {
        name.replace(".base_layer", ""): p.data_ptr()
        for name, p in roles.loaded.model.named_parameters()
        if "lora_" not in name
    }
    assert after == before


@pytest.mark.parametrize("rank", [0, 2], ids=["a whole model", "an adapter on another base"])
def test_a_reward_model_that_cannot_join_has_weights_of_its_own_and_says_so(tmp_path, rank):
    reward = reward_folder(tmp_path, "llama untied", rank=rank)
    other = load_model(base_of_run(tmp_path, "llama untied"), CPU)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.add_(1e-3)
    policy = LoadedModel(other, load_tokenizer(base_of_run(tmp_path, "llama untied")))
    roles = roles_on_one_base(policy, rank=3, alpha=6.0, seed=0, reward=reward, with_value=True)
    assert "weights of its own" in roles.note
    assert roles.reward.model is not roles.policy.model
    assert roles.reward_model is not None
    forest = forest_for(roles.loaded.tokenizer)
    expected = load_reward_model(reward, CPU)
    with torch.no_grad(), roles.reward.active() as model:
        found = roles.reward.rewards(forest_states(model, forest), forest)
        torch.testing.assert_close(
            found, expected.rewards(forest_states(expected.loaded.model, forest), forest), rtol=0, atol=1e-6
        )
        with roles.value.active() as model:
            assert not roles.value.values(forest_states(model, forest), forest).any()


@pytest.mark.parametrize(
    "build_roles",
    [
        partial(roles_on_one_base, rank=3, alpha=6.0, seed=0, with_value=False),
        partial(separate_models, with_value=False),
    ],
    ids=["one base", "separate models"],
)
def test_a_reward_model_of_another_tokenizer_is_refused(tmp_path, build_roles):
    reward = reward_folder(tmp_path, "llama untied")
    policy = policy_on(base_of_run(tmp_path, "llama untied"))
    policy.tokenizer.add_special_tokens({"extra_special_tokens": ["<new>"]})
    with pytest.raises(UserError, match="another tokenizer"):
        build_roles(policy, reward=reward)


def test_the_policy_is_saved_as_an_ordinary_adapter(tmp_path):
    roles = cast(tmp_path)
    roles.loaded.adapter.peft_config["default"].base_model_name_or_path = base_of_run(tmp_path, "llama untied")
    folder = tmp_path / "saved"
    folder.mkdir()
    save(roles.loaded, folder, template=PLAIN, stop_tokens=[END])
    assert not [path.name for path in folder.iterdir() if path.is_dir()], "no other role's adapter beside it"
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    forest = forest_for(roles.loaded.tokenizer)
    expected = logp_of(roles.policy, forest)
    merged = load_model(str(folder), CPU)
    with peft_warnings_hidden():
        plain = PeftModel.from_pretrained(
            t.AutoModelForCausalLM.from_pretrained(base_of_run(tmp_path, "llama untied")), folder
        )
    with torch.no_grad():
        for model in (merged, plain.get_base_model()):
            torch.testing.assert_close(forest_logp(model, forest).logp, expected, rtol=0, atol=1e-4)


# -- separate models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 0, 2], ids=["no reward model", "whole reward model", "reward adapter"])
@pytest.mark.parametrize("shape", SHAPES)
def test_separate_models_share_no_weights_and_each_trains_its_own(tmp_path, shape, rank):
    reward = None if rank is None else reward_folder(tmp_path, shape, rank=rank)
    policy = policy_on(base_of_run(tmp_path, shape))
    roles = separate_models(policy, reward=reward, with_value=True)
    everyone = [role for role in (roles.policy, roles.reference, roles.reward, roles.value) if role is not None]
    places = [{p.data_ptr() for p in role.model.parameters()} for role in everyone]
    assert sum(map(len, places)) == len(set.union(*places))
    assert roles.reference.trained_parameters() == []
    forest = forest_for(policy.tokenizer)
    assert torch.equal(logp_of(roles.policy, forest), logp_of(roles.reference, forest))
    before = logp_of(roles.reference, forest)
    for role in (roles.policy, roles.value):
        prepare_training(role.model, activations="recompute")
    with roles.value.active() as model:
        value_loss(roles.value, model, forest).backward()
    assert all(p.grad is not None for _, p in roles.value.trained_parameters())
    assert all(p.grad is None for role in everyone[:-1] for p in role.model.parameters())
    with roles.policy.active() as model:
        policy_loss(model, forest).backward()
    with torch.no_grad():
        for _, p in roles.policy.trained_parameters():
            p.add_(0.1 * p.grad)
    assert torch.equal(logp_of(roles.reference, forest), before), "a copy's forwards are its own"
    assert not torch.equal(logp_of(roles.policy, forest), before)
    if roles.reward is not None:
        with torch.no_grad():
            states = [forest_states(role.model, forest) for role in (roles.reward, roles.value)]
            torch.testing.assert_close(
                roles.value.values(states[1], forest), roles.reward.values(states[0], forest), rtol=0, atol=1e-5
            )


def test_a_copy_would_recompute_with_anothers_attention_so_it_is_not_made(tmp_path):
    policy = policy_on(base_of_run(tmp_path, "llama untied"))
    prepare_training(policy.model, activations="recompute")
    with pytest.raises(ValueError, match="prepare training after"):
        separate_models(policy, reward=None, with_value=False)


def test_an_adapter_is_merged_before_roles_are_given(tmp_path):
    adapted = opened(base_of_run(tmp_path, "llama untied"), tmp_path / "r", rank=2, new_tokens=(), stop_tokens=(END,))
    with pytest.raises(ValueError, match="merge it first"):
        roles_on_one_base(adapted, rank=3, alpha=6.0, seed=0, reward=None, with_value=False)
    with pytest.raises(ValueError, match="roles_on_one_base"):
        separate_models(adapted, reward=None, with_value=False)
