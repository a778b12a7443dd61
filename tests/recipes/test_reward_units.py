"""The unit of rewards is nobody's business: rewards times 100, and what is priced in them, teach the same policy."""

import numpy as np
import pytest
from safetensors.torch import load_file
from tastes import heed, lines

RULE = """
def score(prompts, answers, records):
    return [{factor} * (len(answer) % 5 - 2 + 0.5 * len(prompt)) for prompt, answer in zip(prompts, answers)]
"""
ASKED = [{"prompt": f"Which is it, {'i' * i}?"} for i in range(12)]
OPTIONS = {"steps": 8, "batch_size": 16, "max_new_tokens": 8, "lora_rank": 4, "lr": 5e-3, "value_lr": 2e-2}
OWN_UNITS = ("score", "score_std", "reward", "reward_scale", "beta")


@pytest.fixture
def learn(tmp_path, instruct, write):
    """Run PPO with rewards times a factor; the run's folder."""

    def run(factor, **options):
        out = tmp_path / f"times {factor} {len(list(tmp_path.iterdir()))}"
        rule = tmp_path / f"rule_{factor}.py"
        rule.write_text(RULE.format(factor=factor))
        data = write(ASKED)
        assert heed("ppo", model=instruct, data=data, reward=f"{rule}:score", out=out, **(OPTIONS | options)) == 0
        return out

    return run


@pytest.mark.parametrize("factor", [100, 1e-3])
def test_rewards_times_a_factor_teach_the_same_policy(learn, factor):
    one = learn(1, kl_beta=0.05, kl_target=2, missing_stop=1)
    other = learn(factor, kl_beta=0.05 * factor, kl_target=2, missing_stop=factor)
    ours, theirs = (lines(run / "metrics.jsonl", "train") for run in (one, other))
    for a, b in zip(ours, theirs, strict=True):
        for name in a.keys() - {"step", "phase", "seconds_sampling", "seconds_learning"}:
            expected = a[name] * (factor if name in OWN_UNITS else 1)
            assert b[name] == pytest.approx(expected, rel=2e-3, abs=2e-5 * (factor if name in OWN_UNITS else 1)), name
    answers = [[line["answer"] for line in lines(run / "samples.jsonl")] for run in (one, other)]
    assert answers[0] == answers[1]
    weights = [load_file(run / "adapter_model.safetensors") for run in (one, other)]
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weights[1][name], weight, atol=2e-4)


def test_without_prices_in_their_unit_rewards_alone_may_be_larger(learn):
    runs = [learn(factor, kl_beta=0, missing_stop=0) for factor in (1, 100)]
    answers = [[line["answer"] for line in lines(run / "samples.jsonl")] for run in runs]
    assert answers[0] == answers[1]


def test_the_values_of_large_rewards_foresee_them(learn):
    run = learn(100, steps=20, lr=1e-5, value_lr=3e-2)
    found = [line["explained_variance"] for line in lines(run / "metrics.jsonl", "train")]
    assert np.mean(found[-3:]) > 0.2
    assert found[0] == 0


def test_the_size_of_rewards_is_that_of_all_answers_so_far(learn):
    run = learn(1, kl_beta=0, missing_stop=0)
    sizes = [line["reward_scale"] for line in lines(run / "metrics.jsonl", "train")]
    scores = np.array([line["score"] for line in lines(run / "samples.jsonl")]).reshape(len(sizes), -1)
    for phase, size in enumerate(sizes, start=1):
        assert size == pytest.approx(np.sqrt(np.mean(scores[:phase] ** 2)))


def test_the_critic_has_a_learning_rate_and_a_share_of_phases_of_its_own(learn):
    run = learn(1, value_warmup=0.5, gamma=0.9, gae_lambda=0.8, value_clip=0.5, clip_high=0.28)
    found = lines(run / "metrics.jsonl", "train")
    for line in found:
        assert line["value_learning_rate"] == pytest.approx(4 * line["learning_rate"])
        assert ("policy_loss" in line) == (line["step"] > 4)
    assert {line["kl_per_sequence"] for line in found[:5]} == {0}
    config = (run / "config.yaml").read_text()
    assert "gamma: 0.9" in config


@pytest.mark.parametrize("changed", [{"gamma": 0.5}, {"gae_lambda": 0.5}, {"value_clip": 0.01}, {"value_lr": 1e-4}])
def test_every_setting_of_the_critic_changes_what_it_learns(learn, changed):
    before, after = (lines(learn(1, **some) / "metrics.jsonl", "train")[-1]["value_loss"] for some in ({}, changed))
    assert after != pytest.approx(before, rel=1e-4)
