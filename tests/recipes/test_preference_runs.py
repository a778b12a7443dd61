"""`heed reward`, `dpo`, `ppo` and `grpo` end to end on tiny models: what they learn, write and say."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tastes
import torch
from peft import AutoPeftModelForCausalLM
from tastes import QUESTIONS, answer, heed, lines
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from heed.data.preferences import open_rankings
from heed.models.heads.scalar import load_reward_model
from heed.recipes import dpo

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

POLICY = {"batch_size": 24, "max_new_tokens": 14, "lr": 1e-2, "rank": 4}
"""options of a policy run of a few phases"""
LEARNS = {"steps": 16, "batch_size": 32, "max_new_tokens": 14, "lr": 2e-2, "rank": 8, "minibatches": 1}
"""options of a run of PPO that gets far in them"""


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Path:
    return tastes.write(tmp_path_factory.mktemp("data") / "ranked.jsonl", tastes.liking_green())


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return tastes.write(tmp_path_factory.mktemp("data") / "prompts.jsonl", tastes.prompts())


def numbers_of(run: Path, phase: str, name: str) -> list[float]:
    return [line[name] for line in lines(run / "metrics.jsonl", phase) if name in line]


def all_finite(run: Path) -> bool:
    return all(
        math.isfinite(value)
        for line in lines(run / "metrics.jsonl")
        for value in line.values()
        if isinstance(value, int | float)
    )


# ---- the reward model


def test_a_reward_model_ranks_what_is_held_out(green_reward):
    before, after = lines(green_reward / "metrics.jsonl", "held_out")
    assert before["accuracy"] < 0.9
    assert after["accuracy"] > 0.9
    assert after["accuracy_low"] < after["accuracy"] <= after["accuracy_high"] <= 1
    assert after["loss"] < before["loss"] / 2
    assert after["num_comparisons"] == before["num_comparisons"] > 5
    assert all_finite(green_reward)


def test_a_reward_run_tells_of_every_step(green_reward):
    train = lines(green_reward / "metrics.jsonl", "train")
    assert [line["step"] for line in train] == list(range(1, len(train) + 1))
    assert {"loss", "accuracy", "margin", "learning_rate", "grad_norm", "tokens_per_second"} <= train[0].keys()
    assert train[-1]["margin"] > train[0]["margin"] + 1
    measured = json.loads((green_reward / "reward_measurements.json").read_text())
    after = lines(green_reward / "metrics.jsonl", "held_out")[-1]
    assert measured["accuracy"] == {
        "accuracy": after["accuracy"], "low": after["accuracy_low"], "high": after["accuracy_high"],
        "count": after["num_comparisons"], "num_prompts": after["num_prompts"],
    }  # fmt: skip
    # Lists of four have more than one comparison: those of a prompt are not taken as independent.
    assert after["num_prompts"] < after["num_comparisons"]
    assert measured["length_correlation"] == after["length_correlation"]
    assert after["length_correlation_low"] <= after["length_correlation"] <= after["length_correlation_high"]
    assert after["brier_low"] < after["brier"] < after["brier_high"]
    assert measured["calibration"]["ece"] == after["ece"]
    assert sum(each["count"] for each in measured["length_bins"]) > 10
    assert (green_reward / "report.html").is_file()


def plain_scores(model, tokenizer, folder, pairs):
    """What a sequence classifier of transformers says of each question with its answer, one at a time."""
    template = AutoTokenizer.from_pretrained(folder)
    found = []
    for question, text in pairs:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        rendered = template.apply_chat_template(messages, tokenize=False).removesuffix("\n")
        ids = tokenizer(rendered, return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(float(model(input_ids=ids).logits[0, 0]))
    return found


PAIRS = [(question, answer(colour)) for question in QUESTIONS[:4] for colour in tastes.COLOURS]


@pytest.fixture(scope="module")
def whole_reward(tmp_path_factory, tuned, ranked) -> Path:
    """A reward model all of whose parameters were trained."""
    out = tmp_path_factory.mktemp("whole") / "run"
    options = {"epochs": 2, "batch_size": 6, "optim_lr": 3e-3, "held_out_share": 0.2, "eval_every": 0}
    assert heed("reward", model=tuned, data=ranked, out=out, **options) == 0
    return out


def test_transformers_reads_the_reward_model_and_scores_alike_up_to_the_offset(whole_reward):
    classifier = AutoModelForSequenceClassification.from_pretrained(whole_reward)
    tokenizer = AutoTokenizer.from_pretrained(whole_reward)
    theirs = plain_scores(classifier, tokenizer, whole_reward, PAIRS)
    ours = load_reward_model(str(whole_reward), torch.device("cpu"))
    assert ours.offset == json.loads((whole_reward / "reward.json").read_text())["offset"] != 0
    trunk, found = ours.loaded.model.model, []
    for question, text in PAIRS:
        rendered = f"<|user|>\n{question}<|end|>\n<|assistant|>\n{text}<|end|>"
        ids = tokenizer(rendered, return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(float(ours.head(trunk(input_ids=ids).last_hidden_state[0, -1])) - ours.offset)
    np.testing.assert_allclose(found, np.array(theirs) - ours.offset, atol=1e-4)
    greens = [score for score, (_, text) in zip(theirs, PAIRS, strict=True) if "green" in text]
    others = [score for score, (_, text) in zip(theirs, PAIRS, strict=True) if "green" not in text]
    assert min(greens) > max(others)


def test_the_best_answers_of_the_data_have_a_mean_reward_of_0(whole_reward):
    classifier = AutoModelForSequenceClassification.from_pretrained(whole_reward)
    tokenizer = AutoTokenizer.from_pretrained(whole_reward)
    offset = json.loads((whole_reward / "reward.json").read_text())["offset"]
    # Which questions were trained on, and not held out, is in the prepared data.
    prepared = open_rankings("", whole_reward / "data" / "rankings-train-0")
    best = [prepared.ranking(int(record)).sequences[0].ids for record in prepared.training]
    with torch.no_grad():
        scores = [float(classifier(input_ids=torch.tensor([ids.tolist()])).logits[0, 0]) - offset for ids in best]
    assert tokenizer.decode(best[0]).endswith(f"{answer('green')}<|end|>")
    assert np.mean(scores) == pytest.approx(0, abs=1e-4)
    assert np.std(scores) > 1e-4


def test_margins_and_centring_change_what_is_learnt(tmp_path, tuned, ranked):
    options = {"epochs": 1, "batch_size": 6, "optim_lr": 3e-3, "held_out_share": 0}
    losses = {}
    for name, more in {"plain": {"centring": 0}, "margin": {"centring": 0, "margin": 3}, "centred": {}}.items():
        assert heed("reward", model=tuned, data=ranked, out=tmp_path / name, **options, **more) == 0
        losses[name] = numbers_of(tmp_path / name, "train", "loss")[0]
        assert lines(tmp_path / name / "metrics.jsonl", "held_out") == []
    # Only the lists have scores, so only they have margins.
    assert losses["margin"] > losses["plain"] + 0.01
    assert losses["centred"] > losses["plain"]


# ---- direct preference optimisation


@pytest.mark.parametrize("objective", ["dpo", "ipo", "simpo"])
def test_direct_optimisation_prefers_what_people_prefer(tmp_path, tuned, ranked, objective):
    options = {"epochs": 2, "batch_size": 6, "optim_lr": 3e-3, "held_out_share": 0.2, "eval_every": 0}
    assert heed("dpo", model=tuned, data=ranked, out=tmp_path / "run", objective=objective, **options) == 0
    before, after = lines(tmp_path / "run" / "metrics.jsonl", "held_out")
    assert after["margin"] > before["margin"] + 0.05
    assert after["accuracy"] > 0.9
    assert after["loss"] < before["loss"]
    assert after["chosen_logp"] - after["rejected_logp"] > before["chosen_logp"] - before["rejected_logp"] + 1
    assert after["accuracy_low"] < after["accuracy"] <= after["accuracy_high"] <= 1
    assert after["num_prompts"] <= after["num_comparisons"]
    assert all_finite(tmp_path / "run")
    if objective == "dpo":
        page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
        assert "Learning from pairs" in page
        assert "The policy prefers the chosen answer in" in page
        assert "reward model picks" not in page
    if objective == "dpo":  # the model is its own reference until its first step
        assert before["loss"] == pytest.approx(math.log(2), rel=1e-5)
        assert before["margin"] == pytest.approx(0, abs=1e-4)
    if objective == "ipo":
        # What it is asked to keep apart is 1 / (2 beta); ties, of which there are three of six in a list, lose nothing.
        assert 1 / (2 * 0.1) ** 2 / 2 < before["loss"] < 1 / (2 * 0.1) ** 2


@pytest.mark.parametrize("rank", [0, 4])
def test_kto_learns_from_single_answers(tmp_path, tuned, rank):
    data = tastes.write(tmp_path / "judged.jsonl", tastes.judged())
    rate = 1e-2 if rank else 1e-3
    options = {"epochs": 2, "batch_size": 9, "optim_lr": rate, "held_out_share": 0.2, "lora_rank": rank}
    assert heed("dpo", model=tuned, data=data, out=tmp_path / "run", objective="kto", **options) == 0
    before, after = lines(tmp_path / "run" / "metrics.jsonl", "held_out")
    assert before["kl_reference_point"] == pytest.approx(0, abs=1e-4)
    assert before["margin"] == pytest.approx(0, abs=1e-4)
    assert after["margin"] > 0.05
    assert after["loss"] < before["loss"]
    assert after["chosen_reward"] > after["rejected_reward"] + 0.05
    assert after["accuracy_low"] < after["accuracy"] <= after["accuracy_high"]
    assert after["num_prompts"] < 10  # three answers to each are one cluster
    if rank == 0:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
        messages = [{"role": "user", "content": QUESTIONS[0]}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**prompt, do_sample=False, max_new_tokens=20)
        assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == f"{answer('green')}<|end|>"


def test_the_reference_is_asked_once_and_kept(tmp_path, tuned, ranked, monkeypatch):
    options = {"model": tuned, "data": ranked, "out": tmp_path / "run", "epochs": 1, "batch_size": 6, "save_every": 1}
    real, asked = dpo.take_step, []

    def stops_after_one(*arguments):
        asked.append(arguments[1])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(dpo, "take_step", stops_after_one)
    assert heed("dpo", **options) == 130
    kept = (tmp_path / "run" / "reference_logp.bin").read_bytes()
    monkeypatch.undo()
    assert heed("dpo", **options) == 0
    assert (tmp_path / "run" / "reference_logp.bin").read_bytes() == kept


# ---- PPO and GRPO: learning a rule


def share_of_green(run: Path, first: int, last: int) -> float:
    found = [line for line in lines(run / "samples.jsonl") if first <= line["step"] <= last]
    return sum("green" in line["answer"] for line in found) / len(found)


@pytest.fixture(scope="module")
def ppo_run(tmp_path_factory, tuned, prompts) -> Path:
    out = tmp_path_factory.mktemp("ppo") / "run"
    assert heed("ppo", model=tuned, data=prompts, out=out, reward="contains: wanted", **LEARNS) == 0
    return out


def test_ppo_raises_the_score_of_a_rule(ppo_run):
    score = numbers_of(ppo_run, "train", "score")
    assert np.mean(score[-4:]) > np.mean(score[:2]) + 0.3
    assert share_of_green(ppo_run, 1, 2) < 0.4 < 0.5 < share_of_green(ppo_run, 13, 16)
    assert all_finite(ppo_run)


def test_ppo_tells_of_every_phase(ppo_run):
    train, held_out = (lines(ppo_run / "metrics.jsonl", phase) for phase in ("train", "held_out"))
    assert [line["step"] for line in train] == list(range(1, 17))
    assert [line["step"] for line in held_out] == [0, 16]
    wanted = """score score_std kl_per_sequence entropy_per_token clip_fraction value_clip_fraction explained_variance
        stop_rate response_length ratio_mean ratio_variance approximate_kl beta reward policy_loss value_loss grad_norm
        learning_rate seconds_sampling seconds_learning"""
    assert set(wanted.split()) <= train[-1].keys()
    assert {"score", "kl_per_sequence", "stop_rate", "response_length"} <= held_out[0].keys()
    assert train[0]["kl_per_sequence"] == held_out[0]["kl_per_sequence"] == 0
    assert train[-1]["kl_per_sequence"] > 0
    for line in train:
        assert line["reward"] == pytest.approx(
            line["score"] - (1 - line["stop_rate"]) * 1.0 - line["beta"] * line["kl_per_sequence"]
        )


def test_ppo_keeps_every_answer_of_every_phase(ppo_run):
    samples, train = lines(ppo_run / "samples.jsonl"), lines(ppo_run / "metrics.jsonl", "train")
    assert len(samples) == 16 * 32
    for line in train:
        of_phase = [each for each in samples if each["step"] == line["step"]]
        assert np.mean([each["score"] for each in of_phase]) == pytest.approx(line["score"])
        assert np.mean([each["kl"] for each in of_phase]) == pytest.approx(line["kl_per_sequence"], abs=1e-6)
        assert np.mean([each["stopped"] == "true" for each in of_phase]) == pytest.approx(line["stop_rate"])
    assert {each["prompt"] for each in samples} <= set(QUESTIONS)
    assert {each["score"] for each in samples} == {0.0, 1.0}
    assert all("green" in each["answer"].lower() for each in samples if each["score"] == 1)
    assert all("<|end|>" not in each["answer"] for each in samples if each["stopped"] == "true")


def test_the_value_learns_alone_at_first_and_the_policy_does_not_move(ppo_run):
    train = lines(ppo_run / "metrics.jsonl", "train")
    assert "policy_loss" not in train[0]
    assert train[0]["value_loss"] > 0
    assert train[1]["kl_per_sequence"] == 0, "the policy must not have moved in the first phase"
    assert train[1]["policy_loss"] != 0
    assert train[2]["kl_per_sequence"] != 0


def test_the_policys_folder_is_read_by_transformers(ppo_run):
    model = AutoPeftModelForCausalLM.from_pretrained(ppo_run)
    tokenizer = AutoTokenizer.from_pretrained(ppo_run)
    greens = 0
    for question in QUESTIONS[:8]:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**prompt, do_sample=False, max_new_tokens=20)
        greens += tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == f"{answer('green')}<|end|>"
    assert greens >= 5


@pytest.mark.parametrize(
    ("advantage", "mean_over"),
    [
        ("group", "sequence"),
        ("leave-one-out", "token"),
        pytest.param("centred", "length", marks=pytest.mark.slow),
        pytest.param("group", "length", marks=pytest.mark.slow),
    ],
)
def test_grpo_raises_the_score_of_a_rule(tmp_path, tuned, prompts, advantage, mean_over):
    status = heed(
        "grpo", model=tuned, data=prompts, out=tmp_path / "run", reward="contains: wanted", steps=16, group_size=6,
        advantage=advantage, mean_over=mean_over, **POLICY,
    )  # fmt: skip
    assert status == 0
    score = numbers_of(tmp_path / "run", "train", "score")
    assert np.mean(score[-4:]) > np.mean(score[:3]) + 0.2
    assert all_finite(tmp_path / "run")
    last = lines(tmp_path / "run" / "metrics.jsonl", "train")[-1]
    wanted = """score score_std kl_per_sequence entropy_per_token clip_fraction stop_rate response_length ratio_mean
        ratio_variance approximate_kl beta policy_loss grad_norm learning_rate group_std share_of_groups_without_signal
        seconds_sampling seconds_learning"""
    assert set(wanted.split()) <= last.keys()


@pytest.mark.slow
def test_grpo_with_all_parameters_and_a_function_of_the_users(tmp_path, tuned, prompts):
    rule = tmp_path / "rule.py"
    rule.write_text("def green(prompts, answers, records):\n    return [float('green' in a) for a in answers]\n")
    options = {**POLICY, "rank": 0, "lr": 2e-3}
    status = heed(
        "grpo", model=tuned, data=prompts, out=tmp_path / "run", reward=f"{rule}:green", steps=12, group_size=6,
        epochs=2, minibatches=2, kl_beta=0.01, **options,
    )  # fmt: skip
    assert status == 0
    score = numbers_of(tmp_path / "run", "train", "score")
    assert np.mean(score[-3:]) > np.mean(score[:2]) + 0.2
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_one_prompt_is_answered_anew_in_every_phase(tmp_path, tuned, command):
    data = tastes.write(tmp_path / "one.jsonl", [{"prompt": QUESTIONS[0]}])
    # So small a rate leaves the policy where it is: only the draws can differ.
    options = {**POLICY, "steps": 3, "lr": 1e-12, "batch_size": 8} | ({"group_size": 4} if command == "grpo" else {})
    assert heed(command, model=tuned, data=data, out=tmp_path / "run", reward="regex: e", **options) == 0
    samples = lines(tmp_path / "run" / "samples.jsonl")
    drawn = {tuple(each["answer"] for each in samples if each["step"] == step) for step in (1, 2, 3)}
    assert len(drawn) == 3


# ---- PPO with a reward model


@pytest.fixture(scope="module")
def on_one_base(tmp_path_factory, tuned, prompts, green_reward) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    assert heed("ppo", model=tuned, data=prompts, out=out, reward=green_reward, steps=16, **POLICY) == 0
    return out


def test_ppo_learns_from_a_reward_model_on_the_same_base(on_one_base):
    score = numbers_of(on_one_base, "train", "score")
    assert np.mean(score[-4:]) > np.mean(score[:2]) + 0.5
    assert share_of_green(on_one_base, 13, 16) > share_of_green(on_one_base, 1, 3) + 0.15


def test_the_scores_are_the_reward_models(on_one_base, green_reward):
    ours = load_reward_model(str(green_reward), torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(green_reward)
    samples = [s for s in lines(on_one_base / "samples.jsonl") if s["stopped"] == "true" and s["step"] in (1, 16)]
    assert len(samples) > 20

    def reward_of(text):
        with torch.no_grad():
            state = ours.loaded.model.model(input_ids=tokenizer(text, return_tensors="pt").input_ids)
            return float(ours.head(state.last_hidden_state[0, -1])) - ours.offset

    for each in samples[:: len(samples) // 10]:
        asked = f"<|user|>\n{each['prompt']}<|end|>\n<|assistant|>\n{each['answer']}"
        # An answer ends with the template's stop token, or with that of the checkpoint.
        assert each["score"] == pytest.approx(reward_of(asked + "<|end|>"), abs=1e-3) or each["score"] == pytest.approx(
            reward_of(asked + tokenizer.eos_token), abs=1e-3
        )


def test_the_value_starts_as_the_reward_model(on_one_base, ppo_run):
    # A value that starts as the reward has something to say in the first phase; one that starts at 0 has not.
    assert numbers_of(ppo_run, "train", "explained_variance")[0] == 0
    assert numbers_of(on_one_base, "train", "explained_variance")[0] != 0


@pytest.mark.slow
def test_ppo_learns_with_models_of_their_own(tmp_path, tuned, prompts, whole_reward, capsys):
    options = {**POLICY, "rank": 0, "lr": 2e-3}
    status = heed("ppo", model=tuned, data=prompts, out=tmp_path / "run", reward=whole_reward, steps=14, **options)
    assert status == 0
    score = numbers_of(tmp_path / "run", "train", "score")
    assert np.mean(score[-3:]) > np.mean(score[:2]) + 0.3
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert "the tuned model is in" in capsys.readouterr().err


def test_a_reward_model_of_its_own_serves_adapters_and_the_run_says_so(tmp_path, tuned, prompts, whole_reward, capsys):
    status = heed("ppo", model=tuned, data=prompts, out=tmp_path / "run", reward=whole_reward, steps=2, **POLICY)
    assert status == 0
    assert "is no adapter on this base: the reward model has weights of its own" in capsys.readouterr().err


# ---- KL: budget, target, and what it costs


def test_the_kl_budget_ends_the_run_before_it_learns_from_the_phase_that_broke_it(
    tmp_path, tuned, prompts, capsys, ppo_run
):
    kls = numbers_of(ppo_run, "train", "kl_per_sequence")
    budget = max(kls[:6]) * 0.9
    out = tmp_path / "run"
    options = {"model": tuned, "data": prompts, "reward": "contains: wanted", **LEARNS}
    assert heed("ppo", out=out, kl_budget=budget, **options) == 0
    train = lines(out / "metrics.jsonl", "train")
    over = next(step for step, kl in enumerate(kls, start=1) if kl > budget)
    assert [line["step"] for line in train] == list(range(1, over + 1))
    assert train[-1]["kl_per_sequence"] > budget
    assert "policy_loss" not in train[-1]
    assert "value_loss" not in train[-1]
    assert lines(out / "metrics.jsonl", "held_out")[-1]["step"] == over
    told = capsys.readouterr().err
    assert f"ended early: the KL of {train[-1]['kl_per_sequence']:.2f} nats per answer is over the budget" in told
    assert heed("ppo", out=out, kl_budget=budget, **options) == 0
    assert "is finished" in capsys.readouterr().err


def test_grpo_has_a_kl_budget_too(tmp_path, tuned, prompts, capsys):
    out = tmp_path / "run"
    options = {"model": tuned, "data": prompts, "reward": "contains: wanted", "steps": 20, "group_size": 6, **POLICY}
    assert heed("grpo", out=out, kl_budget=0.05, **options) == 0
    train = lines(out / "metrics.jsonl", "train")
    assert 1 < len(train) < 20
    assert train[-1]["kl_per_sequence"] > 0.05
    assert "policy_loss" not in train[-1]
    assert "ended early: the KL of" in capsys.readouterr().err


def test_grpo_pays_for_the_kl_in_the_loss_or_in_the_reward(tmp_path, tuned, prompts):
    options = {"model": tuned, "data": prompts, "reward": "contains: wanted", "steps": 12, "group_size": 6, **POLICY}
    kl = {}
    for within, beta in (("loss", 0), ("reward", 0), ("loss", 2), ("reward", 2)):
        out = tmp_path / f"{within} {beta}"
        assert heed("grpo", out=out, kl_within=within, kl_beta=beta, **options) == 0
        kl[within, beta] = numbers_of(out, "train", "kl_per_sequence")
    assert kl["loss", 0] == kl["reward", 0]
    assert kl["reward", 2] != kl["loss", 2]
    for within in ("loss", "reward"):
        assert np.mean(kl[within, 2][-4:]) < np.mean(kl[within, 0][-4:]) / 2


def test_beta_is_adapted_to_the_target(tmp_path, tuned, prompts):
    out = tmp_path / "run"
    options = {"model": tuned, "data": prompts, "reward": "contains: wanted", "steps": 6, **POLICY}
    assert heed("ppo", out=out, kl_beta=0.2, kl_target=0.01, **options) == 0
    train = lines(out / "metrics.jsonl", "train")
    assert train[0]["beta"] == 0.2
    for line, after in itertools.pairwise(train):
        error = min(max(line["kl_per_sequence"] / 0.01 - 1, -0.2), 0.2)
        assert after["beta"] == pytest.approx(line["beta"] * (1 + error * 24 / 10_000), rel=1e-12)
    assert train[1]["beta"] < train[0]["beta"], "no KL at first is less than the target"
    assert train[-1]["beta"] > min(line["beta"] for line in train)


@pytest.mark.slow
def test_a_price_on_the_kl_keeps_the_policy_nearer(tmp_path, tuned, prompts):
    kl = {}
    for beta in (0.0, 2.0):
        options = {"model": tuned, "data": prompts, "reward": "contains: wanted", **LEARNS, "steps": 8}
        assert heed("ppo", out=tmp_path / str(beta), kl_beta=beta, **options) == 0
        kl[beta] = np.mean(numbers_of(tmp_path / str(beta), "train", "kl_per_sequence")[-4:])
    assert kl[2.0] < kl[0.0] / 2


# ---- PPO-ptx


@pytest.mark.slow
def test_ptx_keeps_the_loss_of_its_data_lower_than_without(tmp_path, tuned, prompts):
    # What is imitated beside the reward speaks of white alone, which the reward does not want.
    beside = tastes.write(
        tmp_path / "ptx.jsonl", [{"instruction": question, "output": answer("white")} for question in QUESTIONS]
    )
    options = {"model": tuned, "data": prompts, "reward": "contains: wanted", "steps": 8, **POLICY}
    nll = {}
    for name, more in {"with": {"ptx_data": beside, "ptx_weight": 0.5}, "without": {}}.items():
        out = tmp_path / name
        assert heed("ppo", out=out, **options, **more) == 0
        nll[name] = nll_of_white(out)
    told = numbers_of(tmp_path / "with", "train", "ptx_nll")
    assert len(told) == 8
    assert told[-1] < told[0]
    assert numbers_of(tmp_path / "without", "train", "ptx_nll") == []
    assert nll["with"] < nll["without"] - 0.1


def nll_of_white(run: Path) -> float:
    """Mean NLL per token of what was imitated beside, by plain transformers."""
    model, tokenizer = AutoPeftModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    total, count = 0.0, 0
    for question in QUESTIONS[::4]:
        prompt = tokenizer(f"<|user|>\n{question}<|end|>\n<|assistant|>\n").input_ids
        ids = prompt + tokenizer(f"{answer('white')}<|end|>").input_ids
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
        for at in range(len(prompt), len(ids)):
            total, count = total - float(logp[at - 1, ids[at]]), count + 1
    return total / count


# ---- stops


def test_a_sampler_that_never_stops_ends_at_the_limit_and_pays_for_it(tmp_path, instruct, prompts):
    # An untrained model knows no stop token.
    out = tmp_path / "run"
    options = {"model": instruct, "data": prompts, "reward": "regex: e", "steps": 2, **POLICY, "max_new_tokens": 3}
    assert heed("ppo", out=out, missing_stop=2.5, **options) == 0
    for line in lines(out / "metrics.jsonl", "train"):
        assert line["stop_rate"] < 0.1
        expected = line["score"] - 2.5 * (1 - line["stop_rate"]) - line["beta"] * line["kl_per_sequence"]
        assert line["reward"] == pytest.approx(expected)
    samples = lines(out / "samples.jsonl")
    assert {each["stopped"] for each in samples} >= {"false"}
    assert all_finite(out)


def test_ppo_measures_a_sample_of_the_held_out_prompts_and_says_how_many(tmp_path, tuned, capsys):
    records = [{"prompt": f"{question} {i}"} for i in range(10) for question in QUESTIONS]
    data = tastes.write(tmp_path / "prompts.jsonl", records)
    options = {"steps": 1, "batch_size": 8, "max_new_tokens": 4, "rank": 4, "eval_limit": 3}
    assert heed("ppo", model=tuned, data=data, out=tmp_path / "run", reward="regex: green", **options) == 0
    line = lines(tmp_path / "run" / "metrics.jsonl", "held_out")[0]
    assert line["num_measured"] == 3 < line["num_held_out"]
    assert f"measured are 3 of {line['num_held_out']}" in capsys.readouterr().err
    assert ">measured<" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
