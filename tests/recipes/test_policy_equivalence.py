"""No way of cutting, sharing or chunking changes what PPO and GRPO learn; and what holds before anything is learnt.

The reference is transformers' own eager forward in float64, one sequence at a time, with surrogate, value loss, KL,
advantages and every mean written out by hand.
"""

import itertools
import json
import math
import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_equivalence import ASSISTANT, BOS, END, FAMILIES, VOCABULARY, CastsToFloat64, tiny, words
from test_preference_equivalence import (
    ALL,
    LARGE_CHUNK,
    ONE_GROUP,
    RANK,
    SCORES,
    SEVERAL,
    check,
    every_way,
    gradient_of_a_step,
    gradients,
    logp_of,
    question,
)

from heed.data.prompts import PromptTokens
from heed.dist.world import World
from heed.models.decode.answers import Answer
from heed.models.decode.sample import Completion
from heed.models.heads import language as language_head
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, prepare_training
from heed.models.roles import roles_on_one_base, separate_models
from heed.models.score import trunk_of
from heed.models.self_check import ChosenScore
from heed.objectives.policy import constant_length_weights, sequence_mean_weights, token_mean_weights
from heed.objectives.reward_scale import RewardScale
from heed.recipes import grpo, ppo
from heed.recipes.policy.rollout import (
    RoleOutputs,
    Rollout,
    RolloutModels,
    answers_at_a_time,
    draw_rollout,
    role_outputs,
    rollout_metrics,
    score_rollout,
)
from heed.recipes.policy.update import (
    Experience,
    experiences_of,
    micro_batches_of,
    policy_loss_of,
    shuffled_minibatches,
)
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.setup import Opened
from heed.train.step import Term
from heed.types import Message, Origin

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TEMPERATURE, CLIP, KL_WEIGHT, LENGTH = 1.4, 0.2, 0.3, 12
GAE = {"gamma": 0.9, "lam": 0.95}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def chunk_elements_stay(monkeypatch):
    monkeypatch.setattr(language_head, "CHUNK_ELEMENTS", language_head.CHUNK_ELEMENTS)


# -- answers that somebody drew ---------------------------------------------------------------------------------------


def prompt(ids):
    messages = (Message("user", "made up"),)
    return PromptTokens(np.array([*ids, ASSISTANT], dtype=np.int32), messages, {}, Origin("made up", 1))


def answered(to, ids, *, stopped):
    nothing = [0.0] * len(ids)
    return Answer.of(to.ids.tolist(), Completion(list(ids), nothing, nothing, stopped), "made up")


def made_up_rollout():
    """Answers of one token and of many, stopped and not, alone and in groups, two of a group the same."""
    first, second = prompt(question(1, 4)), prompt(question(2, 9))
    third, fourth = prompt(question(3, 2, [BOS])), prompt(question(4, 5))
    same = answered(second, [*words(30, 3), END], stopped=True)
    groups = [
        [answered(first, [*words(10, 7), END], stopped=True), answered(first, words(11, 12), stopped=False)],
        [same, answered(second, [END], stopped=True), same, answered(second, [*words(31, 8), END], stopped=True)],
        [answered(third, words(40, 1), stopped=False)],
        [answered(fourth, [*words(50, n), END], stopped=True) for n in (2, 5, 9)],
    ]
    return Rollout([first, second, third, fourth], groups)


ROLLOUT = made_up_rollout()
GROUPS, ANSWERS = ROLLOUT.groups, ROLLOUT.answers
LENGTHS = [answer.num_tokens for answer in ANSWERS]


def made(family, dtype, *, adapter, attention="sdpa", with_value=True):
    """Roles that have left their start, the same every time."""
    nothing: Any = None
    policy = LoadedModel(tiny(family, dtype, attention), nothing)
    if adapter:
        roles = roles_on_one_base(policy, rank=RANK, alpha=2.0 * RANK, seed=0, reward=None, with_value=with_value)
    else:
        roles = separate_models(policy, reward=None, with_value=with_value)
    generator = torch.Generator().manual_seed(9)
    if roles.value is not None:
        roles.value.head.to(dtype)
    with torch.no_grad():
        for role in (roles.policy, roles.value):
            for name, parameter in role.trained_parameters() if role is not None else ():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                if adapter or name.startswith("score"):
                    parameter.copy_(0.1 * noise)
                else:
                    parameter.add_(0.02 * noise)
    return roles


def models_of(roles, *, way="forest", share=True, max_tokens=ALL, temperature=1.0, reward_function=None, stops=(END,)):
    """The recipe's own models, with nothing loaded from disk."""
    nothing: Any = None

    class Backend:
        def decode(self, ids, *, skip_special_tokens):
            return " ".join(map(str, ids))

    class OwnTokenizer:
        """Token ids are their own names, and none of them is special."""

        backend = Backend()
        all_special_ids: tuple[int, ...] = ()
        added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

        def convert_tokens_to_ids(self, token):
            return token

    tokenizer: Any = OwnTokenizer()
    present = [role for role in (roles.policy, roles.reference, roles.value) if role is not None]
    forwards = {role.model: ChosenScore(role.model, SCORES[way], share, "") for role in present}
    opened = Opened(replace(roles.loaded, tokenizer=tokenizer), nothing, tokenizer, stops, ())
    batching = MicroBatching(max_tokens, share, World())
    return RolloutModels(roles, opened, forwards, batching, "float32", temperature, reward_function)


def ready(family, dtype, way):
    """The models as a recipe has them when it begins to learn."""
    language_head.CHUNK_ELEMENTS = way.chunk_elements
    roles = made(family, dtype, adapter=way.adapter)
    for role in {id(r.model): r for r in (roles.policy, roles.reference, roles.value)}.values():
        speed_up(role.model)
        prepare_training(role.model, activations="recompute" if way.checkpointing else "keep")
    return models_of(roles, way=way.score, share=way.share, max_tokens=way.max_tokens, temperature=TEMPERATURE)


# -- the reference ----------------------------------------------------------------------------------------------------


@cache
def reference_roles(family, adapter):
    return made(family, torch.float64, adapter=adapter, attention="eager")


def tempered_logp(model, tokens):
    logits = model(input_ids=torch.tensor([tokens.ids.tolist()]), use_cache=False).logits[0] / TEMPERATURE
    logp = torch.log_softmax(logits, dim=-1)
    return torch.stack([logp[at - 1, int(tokens.ids[at])] for at in np.flatnonzero(tokens.weight).tolist()])


def plain_values(role, model, tokens):
    trunk = trunk_of(model)
    states = trunk(input_ids=torch.tensor([tokens.ids.tolist()]), use_cache=False).last_hidden_state[0]
    before = torch.from_numpy(np.flatnonzero(tokens.weight) - 1)
    return states[before] @ role.head.weight[0]


@cache
def experienced(family, adapter):
    """What is learnt from, near enough to what the roles compute now for some tokens to be clipped and others not."""
    roles, rng = reference_roles(family, adapter), np.random.default_rng(3)
    experiences = []
    with torch.no_grad(), CastsToFloat64():
        for each in ANSWERS:
            with roles.policy.active() as model:
                logp = tempered_logp(model, each.tokens).numpy()
            with roles.value.active() as model:
                value = plain_values(roles.value, model, each.tokens).numpy()
            n = len(logp)
            old_logp = logp + rng.normal(0, 0.25, n)
            reference_logp = logp + rng.normal(0, 1, n)
            old_value = value + rng.normal(0, 0.25, n)
            advantage, returns = rng.normal(0, 1, n), value + rng.normal(0, 1, n)
            columns = map(torch.from_numpy, (old_logp, reference_logp, advantage, old_value, returns))
            experiences.append(Experience(each, *columns, importance=torch.ones(each.num_tokens)))
    each = iter(experiences)
    return [[next(each) for _ in group] for group in GROUPS]


def mean_of(losses, mean_over):
    """The formula: over all tokens; over answers of their own mean; or over answers of the sum over a fixed length."""
    if mean_over == "token":
        return sum(each.sum() for each in losses) / sum(len(each) for each in losses)
    return sum(each.sum() / (len(each) if mean_over == "sequence" else LENGTH) for each in losses) / len(losses)


@cache
def expected_policy_gradient(family, adapter, mean_over, kl_weight):
    roles = reference_roles(family, adapter)
    losses, num_clipped = [], 0
    with CastsToFloat64(), roles.policy.active() as model:
        for each in (e for group in experienced(family, adapter) for e in group):
            logp = tempered_logp(model, each.answer.tokens)
            ratio = torch.exp(logp - each.old_logp)
            of_tokens = []
            for r, a in zip(ratio, each.advantage.tolist(), strict=True):
                held = min(max(float(r.detach()), 1 - CLIP), 1 + CLIP)
                is_clipped = -a * held > float(-a * r.detach())
                num_clipped += is_clipped
                of_tokens.append(r * 0 - a * held if is_clipped else -a * r)
            loss = torch.stack(of_tokens)
            losses.append(loss + kl_weight * (logp - each.reference_logp) ** 2 / 2)
        loss = mean_of(losses, mean_over)
        found = gradients(roles.policy.trained_parameters(), loss)
    return float(loss.detach()), found, num_clipped / sum(len(each) for each in losses)


@cache
def expected_value_gradient(family, adapter):
    roles = reference_roles(family, adapter)
    losses, num_clipped = [], 0
    with CastsToFloat64(), roles.value.active() as model:
        for each in (e for group in experienced(family, adapter) for e in group):
            value = plain_values(roles.value, model, each.answer.tokens)
            of_tokens = []
            for v, old, target in zip(value, each.old_value.tolist(), each.returns.tolist(), strict=True):
                held = min(max(float(v.detach()), old - 0.2), old + 0.2)
                is_clipped = abs(held - target) > abs(float(v.detach()) - target)
                num_clipped += is_clipped
                of_tokens.append(v * 0 + (held - target) ** 2 / 2 if is_clipped else (v - target) ** 2 / 2)
            losses.append(torch.stack(of_tokens))
        loss = mean_of(losses, "token")
        found = gradients(roles.value.trained_parameters(), loss)
    return float(loss.detach()), found, num_clipped / sum(len(each) for each in losses)


# -- the matrix -------------------------------------------------------------------------------------------------------


@every_family
@every_way()
def test_the_gradient_of_ppos_policy_is_the_formulas(way, dtype, family):
    models = ready(family, dtype, way)
    batches = micro_batches_of(experienced(family, way.adapter), models.batching, token_mean_weights)
    named = models.roles.policy.trained_parameters()
    found = gradient_of_a_step(named, [Term(batches, policy_loss_of(models, clip=CLIP))], dtype)
    loss, gradient, clip_fraction = expected_policy_gradient(family, way.adapter, "token", 0.0)
    check(found, (loss, gradient), dtype)
    assert 0.05 < clip_fraction < 0.6
    assert found[0]["clip_fraction"] == pytest.approx(clip_fraction)


@every_family
@every_way(lambda way: way.chunk_elements == LARGE_CHUNK)
def test_the_gradient_of_ppos_values_is_the_formulas(way, dtype, family):
    models = ready(family, dtype, way)
    batches = micro_batches_of(experienced(family, way.adapter), models.batching, token_mean_weights)
    named = models.roles.value.trained_parameters()
    found = gradient_of_a_step(named, [Term(batches, ppo.value_loss_of(models, models.roles.value, clip=0.2))], dtype)
    loss, gradient, clip_fraction = expected_value_gradient(family, way.adapter)
    check(found, (loss, gradient), dtype)
    assert 0.05 < clip_fraction < 0.6
    assert found[0]["value_clip_fraction"] == pytest.approx(clip_fraction)


def test_clip_higher_lets_better_tokens_rise_further_and_worse_ones_fall_no_further():
    models = models_of(made("llama", torch.float64, adapter=True), temperature=TEMPERATURE)
    [batch] = micro_batches_of(experienced("llama", True), models.batching, token_mean_weights)
    with CastsToFloat64(), torch.no_grad():
        now = models.logp(models.roles.policy, batch.forest).logp
        shares = {high: policy_loss_of(models, clip=CLIP, clip_high=high)(batch)[1] for high in (None, CLIP, 0.5)}
    ratio = (now - batch.old_logp).exp()
    expected = ((batch.advantage > 0) & (ratio > 1.5)) | ((batch.advantage < 0) & (ratio < 0.8))
    assert shares[0.5]["clip_fraction"] == (float(expected.sum()), len(expected))
    assert shares[None]["clip_fraction"] == shares[CLIP]["clip_fraction"]
    assert shares[None]["clip_fraction"][0] > expected.sum() > 0


WEIGHTS = {
    "token": token_mean_weights,
    "sequence": sequence_mean_weights,
    "length": partial(constant_length_weights, length=LENGTH),
}


@every_family
@every_way()
def test_the_gradient_of_grpo_is_the_formulas(way, dtype, family):
    models = ready(family, dtype, way)
    batches = micro_batches_of(experienced(family, way.adapter), models.batching, WEIGHTS["sequence"])
    term = Term(batches, policy_loss_of(models, clip=CLIP, kl_weight=KL_WEIGHT))
    found = gradient_of_a_step(models.roles.policy.trained_parameters(), [term], dtype)
    check(found, expected_policy_gradient(family, way.adapter, "sequence", KL_WEIGHT)[:2], dtype)


@every_family
@pytest.mark.parametrize("mean_over", ["token", "length"])
@every_way(lambda way: way.max_tokens == SEVERAL and not way.checkpointing, float32=False)
def test_grpos_other_means_are_the_formulas(way, dtype, mean_over, family):
    models = ready(family, dtype, way)
    batches = micro_batches_of(experienced(family, way.adapter), models.batching, WEIGHTS[mean_over])
    term = Term(batches, policy_loss_of(models, clip=CLIP, kl_weight=KL_WEIGHT))
    found = gradient_of_a_step(models.roles.policy.trained_parameters(), [term], dtype)
    check(found, expected_policy_gradient(family, way.adapter, mean_over, KL_WEIGHT)[:2], dtype)


def test_the_settings_name_each_mean():
    sequence = torch.tensor([0, 0, 0, 1])
    for name, weights in WEIGHTS.items():
        settings = grpo.GrpoSettings(
            model="none", reward="none", data=["none"], out="none", mean_over=name, max_new_tokens=LENGTH
        )
        found = grpo.weights_of(settings)(sequence, 2)
        expected = weights(sequence, 2)
        assert found.weight.tolist() == expected.weight.tolist()
        assert found.total == expected.total


# -- what the roles compute -------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("way", "share", "max_tokens"),
    [("forest", True, ALL), ("forest", True, SEVERAL), ("forest", False, ONE_GROUP), ("padded rows", False, SEVERAL)],
)
def test_what_the_roles_compute_of_an_answer_does_not_depend_on_the_cut(family, adapter, way, share, max_tokens):
    roles = made(family, torch.float64, adapter=adapter)
    models = models_of(roles, way=way, share=share, max_tokens=max_tokens, temperature=TEMPERATURE)
    with CastsToFloat64():
        outputs = role_outputs(models, ROLLOUT)
    assert outputs.sequence.tolist() == [i for i, n in enumerate(LENGTHS) for _ in range(n)]
    columns = (outputs.logp, outputs.reference_logp, outputs.value, outputs.entropy)
    by_answer = zip(*(column.split(LENGTHS) for column in columns), strict=True)
    expected = reference_roles(family, adapter)
    for found, answer in zip(by_answer, ANSWERS, strict=True):
        with torch.no_grad(), CastsToFloat64():
            with expected.policy.active() as model:
                logits = model(input_ids=torch.tensor([answer.tokens.ids.tolist()])).logits[0] / TEMPERATURE
                logp = tempered_logp(model, answer.tokens)
            with expected.reference.active() as model:
                reference_logp = tempered_logp(model, answer.tokens)
            with expected.value.active() as model:
                value = plain_values(expected.value, model, answer.tokens)
        rows = torch.softmax(logits[answer.prompt_length - 1 : -1], dim=-1)
        entropy = -(rows * rows.log()).sum(-1)
        for column, theirs in zip(found, (logp, reference_logp, value, entropy), strict=True):
            torch.testing.assert_close(column, theirs, rtol=1e-9, atol=1e-9)


def fresh(family, *, adapter, temperature=1.0, dtype=torch.float32, max_tokens=ALL):
    """Roles as a run opens them: the policy is the reference."""
    nothing: Any = None
    policy = LoadedModel(tiny(family, dtype), nothing)
    if adapter:
        roles = roles_on_one_base(policy, rank=RANK, alpha=8.0, seed=0, reward=None, with_value=True)
    else:
        roles = separate_models(policy, reward=None, with_value=True)
    roles.value.head.to(dtype)
    for model in {id(r.model): r.model for r in (roles.policy, roles.reference, roles.value)}.values():
        speed_up(model)
        prepare_training(model, activations="keep")
    return models_of(roles, temperature=temperature, max_tokens=max_tokens)


PROMPTS = [prompt(question(i, 2 + i)) for i in range(6)]


@every_family
@pytest.mark.parametrize("adapter", [False, True])
def test_before_anything_is_learnt_the_kl_to_the_reference_is_exactly_0(family, adapter):
    models = fresh(family, adapter=adapter, temperature=0.8)
    outputs = role_outputs(models, draw_rollout(models, PROMPTS, num_samples=2, max_new_tokens=9, seed=0))
    assert torch.equal(outputs.logp, outputs.reference_logp)
    assert not outputs.value.any(), "a value that has learnt nothing is 0"


@every_family
@pytest.mark.parametrize("adapter", [False, True])
def test_the_first_minibatch_has_ratio_1_and_nothing_clipped(family, adapter):
    models = fresh(family, adapter=adapter, temperature=0.8, max_tokens=120)
    rollout = draw_rollout(models, PROMPTS, num_samples=2, max_new_tokens=9, seed=1)
    outputs = role_outputs(models, rollout)
    score = torch.from_numpy(np.random.default_rng(0).normal(size=len(rollout.answers)))
    experiences = experiences_of(rollout, outputs, *ppo.advantages_of(score, outputs, beta=0.1, **GAE))
    first = shuffled_minibatches(experiences, 2, seed=0, step=1, epoch=0)[0]
    batches = micro_batches_of(first, models.batching, token_mean_weights)
    term = Term(batches, policy_loss_of(models, clip=CLIP))
    numbers, _ = gradient_of_a_step(models.roles.policy.trained_parameters(), [term], torch.float32)
    assert numbers["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert numbers["ratio_square_mean"] == pytest.approx(1, abs=2e-5)
    assert numbers["approximate_kl"] == pytest.approx(0, abs=1e-8)
    assert numbers["clip_fraction"] == 0
    advantage = torch.cat([each.advantage for group in first for each in group]).numpy()
    assert numbers["loss"] == pytest.approx(-advantage.mean(), abs=1e-5)


# -- advantages -------------------------------------------------------------------------------------------------------


def by_definition(score, outputs, *, beta, gamma, lam):
    """(advantages before whitening, returns) of each answer: sums over all later tokens, written out."""
    advantages, returns = [], []
    for i, last in enumerate(score.tolist()):
        of_answer = outputs.sequence == i
        logp, reference, value = (x[of_answer].tolist() for x in (outputs.logp, outputs.reference_logp, outputs.value))
        n = len(logp)
        reward = [-beta * (logp[t] - reference[t]) for t in range(n)]
        reward[-1] += last
        after = [*value[1:], 0.0]
        surprise = [reward[t] + gamma * after[t] - value[t] for t in range(n)]
        advantage = [sum((gamma * lam) ** k * surprise[t + k] for k in range(n - t)) for t in range(n)]
        advantages.append(np.array(advantage))
        returns.append(np.array(advantage) + value)
    return advantages, returns


def outputs_of(lengths, seed):
    rng, total = np.random.default_rng(seed), sum(lengths)
    columns = rng.normal(-2, 1, total), rng.normal(-2, 1, total), rng.uniform(0, 3, total), rng.normal(0, 1, total)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return RoleOutputs(*map(torch.from_numpy, columns), sequence=sequence)


def scores(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=len(ANSWERS)))


def test_ppos_advantages_and_returns_are_the_definitions():
    outputs, score = outputs_of(LENGTHS, 4), scores(5)
    found = ppo.advantages_of(score, outputs, beta=0.3, **GAE)
    advantage, returns = map(np.concatenate, by_definition(score, outputs, beta=0.3, **GAE))
    whitened = (advantage - advantage.mean()) / math.sqrt(advantage.var() + 1e-8)
    np.testing.assert_allclose(found[0], whitened, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[1], returns, rtol=1e-9, atol=1e-9)


def test_a_new_size_of_rewards_leaves_what_the_values_say_of_rewards():
    models = models_of(made("llama", torch.float64, adapter=True))
    training: Any = SimpleNamespace(scale=RewardScale(), value=models.roles.value, models=models)
    with CastsToFloat64():
        before = role_outputs(models, ROLLOUT)
        found = ppo.count_in_size_of(training, torch.full((4,), 5.0, dtype=torch.float64), before)
        again = role_outputs(training.models, ROLLOUT)
    assert training.scale.size == pytest.approx(5.0)
    torch.testing.assert_close(5 * found.value, before.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again.value, found.value, rtol=1e-9, atol=1e-9)


def test_every_answer_gets_what_was_computed_of_it():
    outputs, column = outputs_of(LENGTHS, 4), torch.arange(float(sum(LENGTHS)))
    experiences = experiences_of(ROLLOUT, outputs, column, -column)
    assert [len(group) for group in experiences] == [len(group) for group in GROUPS]
    found = [each for group in experiences for each in group]
    assert [each.answer for each in found] == ANSWERS
    for i, each in enumerate(found):
        of_answer = outputs.sequence == i
        assert torch.equal(each.old_logp, outputs.logp[of_answer])
        assert torch.equal(each.reference_logp, outputs.reference_logp[of_answer])
        assert torch.equal(each.old_value, outputs.value[of_answer])
        assert torch.equal(each.advantage, column[of_answer])
        assert torch.equal(each.returns, -column[of_answer])


def test_the_score_is_credited_at_the_stop_token_and_nowhere_else():
    outputs = outputs_of(LENGTHS, 6)
    outputs = replace(outputs, value=torch.zeros_like(outputs.value))
    nothing, one = torch.zeros(len(ANSWERS), dtype=torch.float64), torch.zeros(len(ANSWERS), dtype=torch.float64)
    one[0] = 1.0
    # By how much returns change: with values of 0 that is 0.9 * 0.95 to the power of the distance to the end.
    before, after = (ppo.advantages_of(score, outputs, beta=0.3, **GAE)[1] for score in (nothing, one))
    n = ANSWERS[0].num_tokens
    assert ANSWERS[0].tokens.ids[-1] == END
    np.testing.assert_allclose((after - before)[:n], (0.9 * 0.95) ** np.arange(n - 1, -1, -1), rtol=1e-9)
    assert torch.equal(after[n:], before[n:])


def test_other_answers_change_an_answers_advantages_through_whitening_alone():
    outputs, score = outputs_of(LENGTHS, 7), scores(8)
    together, returns = ppo.advantages_of(score, outputs, beta=0.2, **GAE)
    num_first = len(GROUPS[0])
    n = sum(LENGTHS[:num_first])
    columns = (x[:n] for x in (outputs.logp, outputs.reference_logp, outputs.entropy, outputs.value, outputs.sequence))
    apart, returns_apart = ppo.advantages_of(score[:num_first], RoleOutputs(*columns), beta=0.2, **GAE)
    assert (together[:n] - apart).abs().max() > 0.05
    # The one is the other but for a shift and a scale.
    slope, shift = np.polyfit(apart, together[:n], 1)
    assert slope > 0
    np.testing.assert_allclose(together[:n], slope * apart + shift, atol=1e-9)
    np.testing.assert_array_equal(returns[:n], returns_apart)


@pytest.mark.parametrize("adapter", [False, True])
def test_advantages_do_not_depend_on_the_cut(adapter):
    advantages = []
    for max_tokens, share in ((ALL, True), (SEVERAL, True), (ONE_GROUP, False)):
        models = models_of(made("llama", torch.float64, adapter=adapter), share=share, max_tokens=max_tokens)
        with CastsToFloat64():
            outputs = role_outputs(models, ROLLOUT)
        advantages.append(ppo.advantages_of(scores(2), outputs, beta=0.1, **GAE)[0].numpy())
    np.testing.assert_allclose(advantages[1], advantages[0], atol=1e-9)
    np.testing.assert_allclose(advantages[2], advantages[0], atol=1e-9)
    assert advantages[0].mean() == pytest.approx(0, abs=1e-9)
    assert advantages[0].var() == pytest.approx(1)


GROUP_ADVANTAGES = {
    "group": lambda s: (s - s.mean()) / (s.std(ddof=1) + 1e-4) if len(s) > 1 else s * 0,
    "centred": lambda s: s - s.mean(),
    "leave-one-out": lambda s: np.array([x - (s.sum() - x) / (len(s) - 1) for x in s]) if len(s) > 1 else s * 0,
}


@pytest.mark.parametrize("kind", GROUP_ADVANTAGES)
def test_every_token_of_an_answer_has_its_advantage_in_the_group(kind):
    score, price, sequence = scores(10), scores(11), outputs_of(LENGTHS, 9).sequence
    found = grpo.advantages_of(score, price, ROLLOUT.group, sequence, kind=kind).split(LENGTHS)
    expected = [
        GROUP_ADVANTAGES[kind](score[of_group].numpy()) - GROUP_ADVANTAGES["leave-one-out"](price[of_group].numpy())
        for of_group in (ROLLOUT.group == i for i in range(len(GROUPS)))
    ]
    for of_tokens, advantage in zip(found, np.concatenate(expected), strict=True):
        np.testing.assert_allclose(of_tokens, np.full(len(of_tokens), advantage), atol=1e-12)


def test_the_spread_says_how_many_groups_teach_nothing():
    score = torch.tensor([1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 3.0, 1.0, 1.0, 4.0], dtype=torch.float64)
    numbers = grpo.spread(score, ROLLOUT.group)
    assert numbers["share_of_groups_without_signal"] == 2 / 4
    assert numbers["group_std"] == pytest.approx((math.sqrt(0.5) + 0 + 0 + math.sqrt(3)) / 4)


def test_a_rollout_knows_which_answers_stopped_and_whose_prompt_is_whose():
    assert ROLLOUT.stopped.tolist() == [each.stopped for each in ANSWERS]
    assert ROLLOUT.stopped.logical_not().sum() == 2
    assert ROLLOUT.group.tolist() == [0, 0, 1, 1, 1, 1, 2, 3, 3, 3]
    assert ROLLOUT.prompt_of == [ROLLOUT.prompts[i] for i in ROLLOUT.group.tolist()]


# -- drawing and learning are of one distribution ---------------------------------------------------------------------


def moved(models, seed):
    """Move what the policy learns, as steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in models.roles.policy.trained_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@every_family
@pytest.mark.parametrize("adapter", [False, True])
def test_the_sampler_says_what_the_training_forward_says_also_after_steps(family, adapter):
    models = fresh(family, adapter=adapter, temperature=0.7)
    for seed in range(3):
        rollout = draw_rollout(models, PROMPTS, num_samples=2, max_new_tokens=12, seed=seed)
        tempered_logp = np.concatenate([each.tempered_logp for each in rollout.answers])
        np.testing.assert_allclose(role_outputs(models, rollout).logp, tempered_logp, atol=1e-4)
        moved(models, seed)


def gap(drawn_by, trained_by):
    """How far the sampler's log p is from the training forward's: mean and largest, in nats."""
    rollout = draw_rollout(drawn_by, PROMPTS, num_samples=6, max_new_tokens=12, seed=0)
    outputs = role_outputs(trained_by, rollout)
    metrics = rollout_metrics(rollout, torch.zeros(len(rollout.answers)), outputs)
    difference = np.abs(np.concatenate([each.tempered_logp for each in rollout.answers]) - outputs.logp.numpy())
    assert metrics["sampler_gap_mean"] == pytest.approx(difference.mean())
    assert metrics["sampler_gap_max"] == pytest.approx(difference.max())
    return metrics["sampler_gap_mean"], metrics["sampler_gap_max"]


@every_family
@pytest.mark.parametrize("adapter", [False, True])
def test_the_sampler_computes_in_the_precision_of_the_training(family, adapter):
    models = fresh(family, adapter=adapter, temperature=0.8)
    moved(models, 0)
    low = replace(models, dtype="bfloat16")
    assert gap(models, models)[1] < 1e-4
    assert gap(low, models)[1] > 1e-2, "drawn in float32"
    assert gap(low, low)[1] < 0.4
    # An adapter is merged for sampling, so that its products are rounded otherwise than in training.
    assert adapter or gap(low, low)[0] < 0.97 * gap(models, low)[0]


def test_fewer_answers_are_drawn_at_a_time_where_less_memory_is_allowed_and_they_are_the_same():
    models = fresh("llama", adapter=True)
    found = {}
    for max_tokens in (1, 3, 5, 1000):
        lean = replace(models, batching=replace(models.batching, max_tokens=max_tokens))
        width = answers_at_a_time(lean, PROMPTS, 12)
        found[width] = [
            each.ids for each in draw_rollout(lean, PROMPTS, num_samples=3, max_new_tokens=12, seed=4).answers
        ]
    longest = max(map(len, PROMPTS)) + 12
    assert list(found) == [max(1, 20 // longest), 60 // longest, 100 // longest, 20_000 // longest]
    assert len({str(each) for each in found.values()}) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_answers_are_drawn_at_the_temperature_of_their_log_probabilities(temperature):
    models = fresh("llama", adapter=True, temperature=temperature)
    rollout = draw_rollout(models, PROMPTS, num_samples=60, max_new_tokens=4, seed=0)
    outputs = role_outputs(models, rollout)
    # On samples of its own a distribution's log p is, on average, its negative entropy; on another's it is not.
    surplus = (outputs.logp + outputs.entropy).numpy()
    error = surplus.std() / math.sqrt(len(surplus))
    assert abs(surplus.mean()) < 4 * error
    other = replace(models, temperature=1.2 if temperature == 1.0 else 1.0)
    of_other = role_outputs(other, rollout)
    wrong = (of_other.logp + of_other.entropy).numpy()
    assert abs(wrong.mean()) > 4 * error, "a wrong temperature must be seen"


def test_the_learning_sees_the_temperature():
    models = fresh("llama", adapter=False, temperature=TEMPERATURE, dtype=torch.float64)
    with CastsToFloat64():
        outputs = role_outputs(models, ROLLOUT)
        expected = [tempered_logp(models.roles.policy.model, each.tokens).detach().numpy() for each in ANSWERS]
        at_1 = [logp_of(models.roles.policy.model, each.tokens).detach().numpy() for each in ANSWERS]
    np.testing.assert_allclose(outputs.logp, np.concatenate(expected), atol=1e-9)
    assert np.abs(np.concatenate(expected) - np.concatenate(at_1)).max() > 0.1


def test_an_answer_ends_with_its_first_stop_token_and_its_text_leaves_it_out():
    models = fresh("llama", adapter=False)
    likeliest = replace(models, opened=replace(models.opened, stops=tuple(range(0, VOCABULARY, 5))))
    answers = draw_rollout(likeliest, PROMPTS, num_samples=8, max_new_tokens=6, seed=3).answers
    assert any(each.stopped for each in answers)
    assert any(not each.stopped for each in answers)
    for each in answers:
        ids = each.tokens.ids[each.prompt_length :].tolist()
        assert each.stopped == (ids[-1] % 5 == 0)
        assert not [token for token in ids[:-1] if token % 5 == 0]
        assert each.text == " ".join(map(str, ids[:-1] if each.stopped else ids))
        assert each.num_tokens == len(ids)
        assert each.stopped or each.num_tokens == 6
        assert np.flatnonzero(each.tokens.weight).tolist() == list(range(each.prompt_length, len(each.tokens)))


def test_what_is_drawn_depends_on_the_seed():
    models = fresh("llama", adapter=True)
    drawn = [draw_rollout(models, PROMPTS, num_samples=1, max_new_tokens=6, seed=seed) for seed in (1, 1, 2)]
    first, again, other = ([each.text for each in rollout.answers] for rollout in drawn)
    assert first == again
    assert first != other


def draws_of(world):
    models = fresh("llama", adapter=True)
    models = replace(models, batching=replace(models.batching, world=world))
    groups = draw_rollout(models, PROMPTS, num_samples=2, max_new_tokens=6, seed=5).groups
    return [[each.tokens.ids.tolist() for each in group] for group in groups]


def one_of_two(rank, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    world = World.from_environment(init_method=f"file://{folder}/meeting")
    (Path(folder) / f"drawn-{rank}.json").write_text(json.dumps(draws_of(world)))
    world.close()


def test_two_processes_draw_what_one_does(tmp_path):
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"drawn-{rank}.json").read_text()) for rank in range(2))
    assert first == second == draws_of(World())


def test_a_users_function_is_called_with_each_answer_its_prompt_and_record():
    calls = []

    def function(prompts, answers, records):
        calls.extend(zip(prompts, answers, records, strict=True))
        return [float(len(each)) for each in answers]

    reward_function: Any = function
    models = replace(fresh("llama", adapter=True), reward_function=reward_function)
    prompts = [replace(p, messages=(Message("user", f"q{i}"),), fields={"i": i}) for i, p in enumerate(PROMPTS)]
    rollout = draw_rollout(models, prompts, num_samples=2, max_new_tokens=3, seed=0)
    score = score_rollout(models, rollout)
    assert calls == [(f"q{i // 2}", each.text, {"i": i // 2}) for i, each in enumerate(rollout.answers)]
    assert score.tolist() == [float(len(each.text)) for each in rollout.answers]


# -- what the matrix means --------------------------------------------------------------------------------------------


def test_answers_to_one_prompt_share_it_and_are_never_cut_apart():
    sequences = [[each.tokens for each in group] for group in GROUPS]
    assert 2 <= len(MicroBatching(SEVERAL, True, World()).forwards(sequences)) < len(GROUPS)
    assert sorted(itertools.chain(*MicroBatching(ONE_GROUP, True, World()).forwards(sequences))) == [0, 1, 2, 3]
    forest = MicroBatching(ALL, True, World()).forest(sequences)
    assert forest.num_tokens < 0.6 * forest.num_unshared_tokens


def test_minibatches_are_new_in_every_pass_and_phase_and_hold_everything_once():
    parts = {
        (seed, step, epoch): shuffled_minibatches(list(range(10)), 3, seed=seed, step=step, epoch=epoch)
        for seed, step, epoch in itertools.product(range(2), range(1, 3), range(2))
    }
    assert len({str(each) for each in parts.values()}) == len(parts)
    for each in parts.values():
        assert sorted(itertools.chain(*each)) == list(range(10))
        assert [len(part) for part in each] == [4, 3, 3]
    assert shuffled_minibatches(list(range(10)), 3, seed=1, step=2, epoch=1) == parts[1, 2, 1]
    assert [len(part) for part in shuffled_minibatches([1, 2], 5, seed=0, step=1, epoch=0)] == [1, 1]
