"""Each model of a policy run is asked in a way that was proved on that very model, whatever the policy's own is.

The reward models here are transformers' own sequence classifiers, of other families than the policy, which is a Llama.
The forest serves GPT-2. Bloom accepts a forest and never looks at it: it is read one sequence per row.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tastes import heed, lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BloomConfig, GPT2Config

from heed.models.self_check import choose_score
from heed.preference_config import GrpoSettings, PpoSettings
from heed.recipes.policy import setup as policy_setup
from heed.recipes.policy.rollout import draw_rollout, role_outputs, score_rollout
from heed.recipes.policy.setup import open_policy
from heed.recipes.training.loop import in_run_folder

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.3}
FALLS_BACK = "attention was reached 0 times in 3 layers: one sequence per row, by the model's own forward"


@pytest.fixture(scope="module")
def rewards(tmp_path_factory, instruct) -> dict[str, str]:
    """Untrained classifiers of two families with the policy's tokenizer, their weights far enough from 0 to matter."""
    tokenizer = AutoTokenizer.from_pretrained(instruct)
    families = {"gpt2": GPT2Config(n_positions=200, **SIZES), "bloom": BloomConfig(**SIZES)}
    found = {}
    for name, config in families.items():
        config.vocab_size, config.num_labels, config.pad_token_id = len(tokenizer), 1, None
        config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("rewards") / name
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found[name] = str(folder)
    return found


@pytest.fixture
def opened(tmp_path, instruct, write):
    """Open a policy run on prompts that begin alike, and let it answer each twice."""

    def run(reward: str, *, rank: int, with_value: bool = True) -> Any:
        data = write([{"prompt": f"Which of all these colours is it, {i}?"} for i in range(8)])
        kind = PpoSettings if with_value else GrpoSettings
        settings = kind(
            model=str(instruct), reward=reward, data=[str(data)], out=str(tmp_path / kind.__name__),
            lora={"rank": rank}, max_new_tokens=9, device="cpu",
        )  # fmt: skip
        found = SimpleNamespace()

        def work(settings: Any, place: Any) -> None:
            setup = open_policy(settings, place, with_value=with_value)
            found.models, prompts = setup.models, setup.prompts.batch(1, 4, 4)
            found.rollout = draw_rollout(setup.models, prompts, num_samples=2, max_new_tokens=9, seed=0)
            found.score = score_rollout(setup.models, found.rollout)
            found.outputs = role_outputs(setup.models, found.rollout)

        in_run_folder(settings, work)
        found.answers = found.rollout.answers
        return found

    return run


def classified(folder: str, answers: Any) -> list[tuple[float, np.ndarray]]:
    """What the classifier itself says of each answer, one at a time: at its end, and before each of its tokens."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for answer in answers:
        ids = torch.tensor([answer.tokens.ids.tolist()])
        with torch.no_grad():
            score = float(classifier(input_ids=ids).logits[0, 0])
            states = classifier.transformer(input_ids=ids).last_hidden_state[0]
            everywhere = classifier.score(states)[:, 0].numpy()
        found.append((score, everywhere[answer.prompt_length - 1 : -1]))
    return found


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_a_reward_model_of_another_family_scores_as_it_does_alone(rewards, opened, family, rank):
    found = opened(rewards[family], rank=rank)
    scores, values = zip(*classified(rewards[family], found.answers), strict=True)
    assert np.std(scores) > 0.1
    np.testing.assert_allclose(found.score, scores, atol=1e-4)
    # With models of its own the value begins as the reward model, on an adapter of another base as 0.
    expected = np.concatenate(values)
    np.testing.assert_allclose(found.outputs.value, expected if rank == 0 else 0 * expected, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_the_policy_says_the_same_whatever_family_scores_it(tmp_path, rewards, opened, family, rank):
    found = opened(rewards[family], rank=rank)
    model = found.models.roles.policy.model
    expected = []
    for answer in found.answers:
        ids = torch.tensor([answer.tokens.ids.tolist()])
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        at = np.arange(answer.prompt_length, len(answer.tokens))
        expected.append(logp[at - 1, ids[0, at]].numpy())
    np.testing.assert_allclose(found.outputs.logp, np.concatenate(expected), atol=1e-4)
    assert torch.equal(found.outputs.logp, found.outputs.reference_logp)


def test_a_model_that_falls_back_is_named_and_no_other(rewards, opened, capsys):
    opened(rewards["bloom"], rank=0)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("self-check")]
    assert notes == [
        "self-check: the forest computes what the model computes",
        f"self-check of the reward: {FALLS_BACK}",
        f"self-check of the value: {FALLS_BACK}",
    ]


def test_models_that_the_forest_serves_are_told_of_once(rewards, opened, capsys):
    opened(rewards["gpt2"], rank=0)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("self-check")]
    assert notes == ["self-check: the forest computes what the model computes"]


def test_a_reward_model_read_by_rows_leaves_the_policys_prompts_shared(rewards, opened):
    found = opened(rewards["bloom"], rank=2, with_value=False)
    assert found.models.batching.share
    assert not found.models.forwards[found.models.roles.reward.model].shares_prefixes
    forest = found.models.batching.forest(found.rollout.sequences)
    assert forest.num_tokens < 0.8 * forest.num_unshared_tokens


def test_what_a_value_read_by_rows_reads_is_not_shared(rewards, opened):
    assert not opened(rewards["bloom"], rank=0).models.batching.share
    assert opened(rewards["bloom"], rank=0, with_value=False).models.batching.share


@pytest.mark.parametrize(("rank", "reward", "count"), [(2, "regex: e", 1), (2, "bloom", 2), (0, "gpt2", 4)])
def test_each_model_is_checked_once_however_many_roles_it_plays(rewards, opened, monkeypatch, rank, reward, count):
    checked = []

    def noted(model: Any, *arguments: Any, **options: Any) -> Any:
        checked.append(model)
        return choose_score(model, *arguments, **options)

    monkeypatch.setattr(policy_setup, "choose_score", noted)
    models = opened(rewards.get(reward, reward), rank=rank).models
    roles = models.roles
    present = [role for role in (roles.policy, roles.reference, roles.reward, roles.value) if role]
    assert len(checked) == len(set(checked)) == count
    assert set(checked) == {role.model for role in present} == set(models.forwards)


@pytest.mark.parametrize(("command", "rank"), [("ppo", 0), ("ppo", 2), ("grpo", 0), ("grpo", 2)])
def test_a_run_learns_from_a_reward_model_that_shares_nothing(tmp_path, instruct, write, rewards, command, rank):
    out = tmp_path / "run"
    data = write([{"prompt": f"Which is it, {i}?"} for i in range(6)])
    options = {"steps": 2, "batch_size": 4, "max_new_tokens": 5} | ({"group_size": 2} if command == "grpo" else {})
    status = heed(command, model=instruct, data=data, out=out, reward=rewards["bloom"], rank=rank, lr=1e-3, **options)
    assert status == 0
    last = lines(out / "metrics.jsonl", "train")[-1]
    assert np.isfinite(last["policy_loss"])
    assert last["policy_loss"] != 0
    if command == "ppo":
        assert last["value_loss"] > 0
        assert last["value_grad_norm"] > 0
