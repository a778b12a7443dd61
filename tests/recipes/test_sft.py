"""`heed sft` end to end on tiny models: what it computes, what it writes, and what the tuned model then does."""

import datetime
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.config import SftSettings, load_settings
from heed.dist.world import World
from heed.models.adapters.folder import load_adapter
from heed.recipes.sft import Tuning, prepare_tuning, run
from heed.recipes.training.loop import Place
from heed.train.environment import environment
from heed.train.progress import Progress
from heed.train.run import open_run
from heed.train.step import Term, accumulate_gradient

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
CPU = torch.device("cpu")

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def open_tuning(settings: SftSettings) -> Tuning:
    """What a run settles before its first step."""
    settings = settings.model_copy(update={"date": datetime.date(2024, 5, 17)})
    folder = open_run(settings.out, "{}", environment(CPU), world=World())
    return prepare_tuning(settings, Place(folder, CPU, World(), Progress("", shown=False)))


def first_gradient(tuning: Tuning) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradient of every parameter in the first step, and the step's numbers."""
    conversations = tuning.data.training.batch(1, tuning.settings.batch_size, tuning.num_draws)
    numbers = accumulate_gradient([Term(tuning.forests(conversations), tuning.loss_of)], world=World())
    return {name: p.grad.clone() for name, p in tuning.opened.loaded.trained_parameters()}, numbers


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of all tensors together, over the norm of all of them."""
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    return math.sqrt(difference / sum(float(tensor.double().square().sum()) for tensor in theirs.values()))


# ---- a whole run


@pytest.fixture(scope="module")
def learned(tmp_path_factory, instruct, colours, tune) -> Path:
    """A run of 60 steps on the colours, and measured every 20."""
    folder = tmp_path_factory.mktemp("learned")
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in colours))
    out = folder / "run"
    status = tune(
        model=instruct, data=data, out=out, steps=60, batch_size=12, eval_every=20, optim_lr=1e-2, held_out_share=0.1
    )
    assert status == 0
    return out


def test_every_step_leaves_a_line_of_numbers(learned, lines_of):
    train = lines_of(learned / "metrics.jsonl", "train")
    assert [line["step"] for line in train] == list(range(1, 61))
    for line in train:
        assert 0 < line["num_trained_tokens"] < line["num_computed_tokens"] < line["num_tokens"]
        assert line["nll_per_token"] == pytest.approx(line["loss"], rel=1e-5)
        assert line["grad_norm"] > 0
        assert line["tokens_per_second"] > 0
    rates = [line["learning_rate"] for line in train]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] < 1e-4
    assert rates[0] < rates[1] < rates[2]


def test_the_loss_goes_down_in_training_and_on_what_is_held_out(learned, lines_of):
    train = lines_of(learned / "metrics.jsonl", "train")
    held_out = lines_of(learned / "metrics.jsonl", "held_out")
    assert train[0]["loss"] > 5
    assert train[-1]["loss"] < 0.1
    assert [line["step"] for line in held_out] == [0, 20, 40, 60]
    assert held_out[-1]["nll_per_token"] < held_out[0]["nll_per_token"] / 3
    for line in held_out:
        assert line["nll_per_token colours.jsonl"] == line["nll_per_token"]
        assert line["perplexity"] == pytest.approx(math.exp(line["nll_per_token"]))


def test_a_run_folder_holds_the_settings_and_they_load_back(learned):
    settings = load_settings(SftSettings, learned / "config.yaml", {})
    assert settings.model_dump(mode="json") == yaml.safe_load((learned / "config.yaml").read_text())
    assert (settings.steps, settings.epochs, settings.optim.lr, settings.eval_every) == (60, None, 1e-2, 20)
    assert settings.date is not None


def test_a_run_folder_says_what_it_ran_in_and_what_it_was_fed(learned, lines_of):
    assert json.loads((learned / "environment.json").read_text())["torch"] == torch.__version__
    (account,) = json.loads((learned / "data.json").read_text())
    assert account["read"] == "read 24 conversations as alpaca"
    assert account["num_records"] == account["num_kept"] == 24
    assert 0 < account["num_held_out"] < 12
    assert lines_of(learned / "left_out.jsonl") == []
    samples = lines_of(learned / "samples.jsonl")
    assert {line["step"] for line in samples} == {0, 60}
    assert all(line["prompt"].endswith("<|assistant|>\n") for line in samples)
    assert [line["stopped"] for line in samples if line["step"] == 60] == ["true"] * (len(samples) // 2)


def test_the_tuned_model_answers_and_stops_in_plain_transformers(learned):
    model = AutoModelForCausalLM.from_pretrained(learned)
    tokenizer = AutoTokenizer.from_pretrained(learned)
    stops = ["<|end|>", "<|endoftext|>"]  # the template's, and the one at which the checkpoint stopped before
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(stops)
    messages = [{"role": "user", "content": "Màu của snow là gì?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, do_sample=False, max_new_tokens=40)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert answer == "It is white.<|end|>"


def test_a_finished_run_says_so_and_stays_as_it_is(learned, tune, capsys):
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file() and path.name != ".lock"}
    settings = yaml.safe_load((learned / "config.yaml").read_text())
    assert tune(learned / "config.yaml", out=settings["out"]) == 0
    assert "is finished: there is nothing left to do" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


# ---- the first step is that of transformers


def transformers_loss(model: Path, pairs: list[tuple[str, str]]) -> float:
    """Transformers' own loss on one padded batch, its labels masked by hand; shares no code with heed."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    net = AutoModelForCausalLM.from_pretrained(model).eval()
    rows = []
    for prompt, response in pairs:
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        after = tokenizer(response, add_special_tokens=False).input_ids
        rows.append((before + after, [-100] * len(before) + after))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    with torch.no_grad():
        return float(net(input_ids=ids, attention_mask=mask, labels=labels).loss)


def first_loss(tune, lines_of, out: Path, **options) -> float:
    assert tune(out=out, steps=1, batch_size=24, held_out_share=0, **options) == 0
    return lines_of(out / "metrics.jsonl", "train")[0]["loss"]


@pytest.mark.parametrize("options", [{}, {"max_tokens": 450}, {"share_prefixes": False}, {"max_tokens": 1}])
def test_the_first_loss_is_transformers_own_on_a_template_without_new_tokens(
    base, colours, write, tune, lines_of, tmp_path, options
):
    pairs = [
        (f"{ALPACA}### Instruction:\n{r['instruction']}\n\n### Response:\n", f"{r['output']}<|endoftext|>")
        for r in colours
    ]
    ours = first_loss(tune, lines_of, tmp_path / "run", model=base, data=write(colours), template="alpaca", **options)
    assert ours == pytest.approx(transformers_loss(base, pairs), rel=1e-6)


def test_the_first_loss_is_transformers_own_on_the_models_template(instruct, colours, write, tune, lines_of, tmp_path):
    pairs = [(f"<|user|>\n{r['instruction']}<|end|>\n<|assistant|>\n", f"{r['output']}<|end|>") for r in colours]
    ours = first_loss(tune, lines_of, tmp_path / "run", model=instruct, data=write(colours))
    assert ours == pytest.approx(transformers_loss(instruct, pairs), rel=1e-6)


def test_a_mean_over_sequences_is_the_mean_of_each_conversations_own_loss(
    base, colours, write, tune, lines_of, tmp_path
):
    records = [{**r, "output": r["output"] + " Yes." * (i % 5)} for i, r in enumerate(colours)]
    pairs = [
        (f"{ALPACA}### Instruction:\n{r['instruction']}\n\n### Response:\n", f"{r['output']}<|endoftext|>")
        for r in records
    ]
    one_by_one = [transformers_loss(base, [pair]) for pair in pairs]
    ours = first_loss(
        tune, lines_of, tmp_path / "run", model=base, data=write(records), template="alpaca", loss_mean_over="sequence"
    )
    assert ours == pytest.approx(sum(one_by_one) / len(one_by_one), rel=1e-6)
    assert abs(ours - transformers_loss(base, pairs)) > 1e-4  # the mean over tokens is another number


def test_only_trained_turns_of_a_long_conversation_carry_loss(instruct, write, tune, lines_of, tmp_path):
    say = [
        {"role": "user", "content": "Xin chào!"},
        {"role": "assistant", "content": "Chào bạn!", "train": False},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
    ]
    data = write([{"messages": say}])
    assert tune(model=instruct, data=data, out=tmp_path / "run", steps=1, batch_size=1, held_out_share=0) == 0
    (line,) = lines_of(tmp_path / "run" / "metrics.jsonl", "train")
    prompt = (
        "<|user|>\nXin chào!<|end|>\n<|assistant|>\nChào bạn!<|end|>\n<|user|>\nName a colour.<|end|>\n<|assistant|>\n"
    )
    assert line["loss"] == pytest.approx(transformers_loss(instruct, [(prompt, "Blue.<|end|>")]), rel=1e-6)


# ---- however a step is cut, it is the same step


WAYS = {
    "two forwards or more": {"max_tokens": 450},
    "nothing shared": {"share_prefixes": False},
    "one conversation to a forward": {"max_tokens": 1, "share_prefixes": False},
    "activations computed twice": {"activations": "recompute"},
}


@pytest.fixture(scope="module")
def reports(colours) -> list[dict[str, str]]:
    """24 records of very different lengths, in two languages, and one asked twice with different answers."""
    words = ["blue", "green", "white", "đỏ", "vàng", "tím"]
    more = [
        {"instruction": f"List {n} colours.", "output": ", ".join(words[i % 6] for i in range(n)) + "."}
        for n in range(1, 23)
    ]
    return [
        *more,
        {"instruction": "Name a colour.", "output": "Blue."},
        {"instruction": "Name a colour.", "output": "Đỏ."},
    ]


@pytest.mark.parametrize("mean_over", ["token", "sequence"])
@pytest.mark.parametrize("way", WAYS)
def test_the_first_gradient_does_not_depend_on_how_the_step_is_cut(
    base, reports, write, settings_of, tmp_path, way, mean_over
):
    data = write(reports)
    common = {"model": base, "data": [str(data)], "template": "alpaca", "batch_size": 16, "loss_mean_over": mean_over}
    whole = open_tuning(settings_of(**common, out=tmp_path / "whole", max_tokens=100_000))
    cut = open_tuning(settings_of(**common, out=tmp_path / "cut", **WAYS[way]))
    if "max_tokens" in WAYS[way]:
        conversations = cut.data.training.batch(1, 16, cut.num_draws)
        assert len(cut.forests(conversations)) > len(whole.forests(conversations)) == 1
    ours, numbers = first_gradient(cut)
    theirs, expected = first_gradient(whole)
    assert numbers["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    for name in theirs:
        assert float(theirs[name].norm()) > 1e-3, name
        assert distance({name: ours[name]}, {name: theirs[name]}) < 1e-5, name


@pytest.mark.parametrize("way", [{"max_tokens": 450}, {"share_prefixes": False}])
def test_the_weights_after_five_steps_do_not_depend_on_how_steps_are_cut(base, reports, write, tune, tmp_path, way):
    common = {"model": base, "data": write(reports), "template": "alpaca", "steps": 5, "batch_size": 16}
    assert tune(**common, out=tmp_path / "whole", max_tokens=100_000) == 0
    assert tune(**common, out=tmp_path / "cut", **way) == 0
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert distance(load_file(tmp_path / "cut" / "model.safetensors"), whole) < 1e-5
    assert distance(load_file(base / "model.safetensors"), whole) > 1e-3  # they have moved by a hundred times that


# ---- what is trained


def texts_by_step(tuning: Tuning) -> list[list[str]]:
    """The conversations of every step as text."""
    decode = tuning.opened.tokenizer.backend.decode
    return [
        [
            decode(conversation[0].ids.tolist(), skip_special_tokens=False)
            for conversation in tuning.data.training.batch(step, tuning.settings.batch_size, tuning.num_draws)
        ]
        for step in range(1, tuning.total_steps + 1)
    ]


def test_an_epoch_trains_every_record_once_and_none_that_is_held_out(instruct, colours, write, settings_of, tmp_path):
    settings = settings_of(
        model=instruct, data=[str(write(colours))], out=tmp_path / "run", epochs=3, batch_size=5, held_out_share=0.2
    )
    tuning = open_tuning(settings)
    decode = tuning.opened.tokenizer.backend.decode
    held_out = {decode(c[0].ids.tolist(), skip_special_tokens=False) for c in tuning.data.held_out["data.jsonl"]}
    asked = {f"<|user|>\n{r['instruction']}<|end|>\n<|assistant|>\n{r['output']}<|end|>\n" for r in colours}
    assert 0 < len(held_out) < 12
    assert held_out < asked
    drawn = [text for step in texts_by_step(tuning) for text in step]
    num_training = 24 - len(held_out)
    assert tuning.total_steps == math.ceil(3 * num_training / 5)
    epochs = [drawn[i * num_training : (i + 1) * num_training] for i in range(3)]
    assert len(drawn) == 3 * num_training
    assert all(set(epoch) == asked - held_out for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_copies_of_a_conversation_are_on_one_side(instruct, colours, write, settings_of, tmp_path):
    data = write(colours * 3)
    tuning = open_tuning(settings_of(model=instruct, data=[str(data)], out=tmp_path / "run", held_out_share=0.2))
    (prepared,) = tuning.data.training.sets
    sides = [
        {prepared.conversation(int(i))[0].ids.tobytes() for i in side}
        for side in (prepared.training, prepared.held_out)
    ]
    assert not sides[0] & sides[1]
    assert len(prepared.held_out) == 3 * len(sides[1]) > 0


def test_data_of_its_own_is_measured_and_never_trained(instruct, colours, write, settings_of, tune, lines_of, tmp_path):
    options = {"model": instruct, "steps": 2, "batch_size": 4}
    data, other = write(colours[:12]), write(colours[12:], "other.jsonl")
    tuning = open_tuning(settings_of(**options, data=[str(data)], eval_data=[str(other)], out=tmp_path / "a"))
    assert tuning.data.training.draws_in_epoch == 12
    assert {name: len(c) for name, c in tuning.data.held_out.items()} == {"other.jsonl": 12}
    assert tune(**options, data=data, eval_data=[other, data], out=tmp_path / "b") == 0
    for line in lines_of(tmp_path / "b" / "metrics.jsonl", "held_out"):
        first, second = line["nll_per_token other.jsonl"], line["nll_per_token data.jsonl"]
        assert min(first, second) < line["nll_per_token"] < max(first, second)


def test_each_data_set_of_a_mixture_is_measured_under_its_own_name(instruct, colours, write, tune, lines_of, tmp_path):
    (tmp_path / "deeper").mkdir()
    data = [write(colours[:12]), write(colours[12:], "deeper/data.jsonl")]
    assert tune(model=instruct, data=data, out=tmp_path / "run", steps=1, batch_size=2, held_out_share=0.3) == 0
    line = lines_of(tmp_path / "run" / "metrics.jsonl", "held_out")[0]
    assert {key for key in line if key.startswith("nll_per_token ")} == {
        "nll_per_token data.jsonl (1)",
        "nll_per_token data.jsonl (2)",
    }


# ---- other ways to tune


def test_an_adapter_is_trained_and_the_base_is_not(instruct, colours, write, tune, lines_of, tmp_path):
    out = tmp_path / "run"
    status = tune(
        model=instruct,
        data=write(colours),
        out=out,
        steps=40,
        batch_size=12,
        optim_lr=3e-2,
        lora_rank=4,
        held_out_share=0,
    )
    assert status == 0
    train = lines_of(out / "metrics.jsonl", "train")
    assert train[-1]["loss"] < train[0]["loss"] - 2
    assert not (out / "model.safetensors").exists()
    assert all("lora_" in name for name in load_file(out / "adapter_model.safetensors"))
    plain = AutoModelForCausalLM.from_pretrained(out)  # transformers puts the adapter on its base by itself
    ours = load_adapter(str(out), CPU)
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, ours(ids).logits)


def test_chatml_brings_its_tokens_to_a_base_model_and_trains_them(base, colours, write, tune, tmp_path, capsys):
    out = tmp_path / "run"
    assert tune(model=base, data=write(colours), out=out, steps=60, batch_size=12, optim_lr=1e-2, held_out_share=0) == 0
    told = capsys.readouterr().err
    assert "template: chatml, for this model has none of its own" in told
    assert "added the tokens <|im_end|> <|im_start|>" in told
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (
        model.get_input_embeddings().weight.shape[0] == len(tokenizer) == len(AutoTokenizer.from_pretrained(base)) + 2
    )
    before = tokenizer.convert_tokens_to_ids("<|endoftext|>")  # at which the checkpoint stopped already
    assert model.generation_config.eos_token_id == [stop, before]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name the colour of coal."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=30)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == "It is black.<|im_end|>"


def test_an_adapter_with_new_tokens_loads_in_plain_transformers(base, colours, write, tune, tmp_path):
    out = tmp_path / "run"
    status = tune(
        model=base, data=write(colours), out=out, steps=60, batch_size=12, optim_lr=3e-2, lora_rank=8, held_out_share=0
    )
    assert status == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What colour is snow?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=30)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]).endswith("<|im_end|>")


def test_bfloat16_is_for_activations_and_the_weights_stay_float32(instruct, colours, write, tune, lines_of, tmp_path):
    common = {"model": instruct, "data": write(colours), "steps": 3, "batch_size": 12, "held_out_share": 0}
    assert tune(**common, out=tmp_path / "short", dtype="bfloat16") == 0
    assert tune(**common, out=tmp_path / "long") == 0
    short, long = (lines_of(tmp_path / name / "metrics.jsonl", "train") for name in ("short", "long"))
    assert short[0]["loss"] == pytest.approx(long[0]["loss"], rel=1e-2)
    assert short[0]["loss"] != long[0]["loss"]
    assert {t.dtype for t in load_file(tmp_path / "short" / "model.safetensors").values()} == {torch.float32}


def test_the_same_command_gives_the_same_bytes_and_another_seed_does_not(instruct, colours, write, tune, tmp_path):
    common = {"model": instruct, "data": write(colours), "steps": 3, "batch_size": 4}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert tune(**common, out=tmp_path / name, seed=seed) == 0
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == again
    assert first != other


# ---- too long


def test_what_is_too_long_is_left_out_and_counted(instruct, colours, write, tune, lines_of, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(instruct)
    records = [{**r, "output": r["output"] + " Yes." * 30} if i in (3, 17) else r for i, r in enumerate(colours)]
    lengths = [
        len(tokenizer(f"<|user|>\n{r['instruction']}<|end|>\n<|assistant|>\n{r['output']}<|end|>\n").input_ids)
        for r in records
    ]
    assert [i for i, n in enumerate(lengths) if n > 60] == [3, 17]
    data = write(records)
    assert tune(model=instruct, data=data, out=tmp_path / "run", steps=1, max_length=60, too_long="drop") == 0
    (account,) = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (account["num_records"], account["num_kept"], account["num_too_long"]) == (24, 22, 2)
    assert account["num_cut_tokens"] == lengths[3] + lengths[17]
    assert account["num_tokens"] == sum(lengths) - lengths[3] - lengths[17]
    assert lines_of(tmp_path / "run" / "left_out.jsonl") == [
        {"path": str(data), "record": i + 1, "reason": "too long", "num_tokens": lengths[i]} for i in (3, 17)
    ]


def test_a_response_that_is_cut_does_not_train_to_stop_there(instruct, colours, write, settings_of, tmp_path):
    records = [{**r, "output": r["output"] + " Yes." * 30} if i in (3, 17) else r for i, r in enumerate(colours)]
    # The prompt alone is longer than the limit: nothing of it can be trained.
    records[5] = {"instruction": "Name the colours. " * 40, "output": "Blue."}
    settings = settings_of(
        model=instruct,
        data=[str(write(records))],
        out=tmp_path / "run",
        max_length=60,
        too_long="truncate",
        held_out_share=0,
    )
    tuning = open_tuning(settings)
    (account,) = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (account["num_kept"], account["num_too_long"]) == (23, 3)
    stop = tuning.opened.tokenizer.backend.token_to_id("<|end|>")
    (prepared,) = tuning.data.training.sets
    cut = [prepared.conversation(i)[0] for i in range(23) if len(prepared.conversation(i)[0]) == 60]
    assert len(cut) == 2
    for tokens in cut:
        assert tokens.weight[-1] == 1
        assert stop not in tokens.ids[tokens.weight > 0]
    whole = [prepared.conversation(i)[0] for i in range(23) if len(prepared.conversation(i)[0]) < 60]
    assert all(tokens.ids[tokens.weight > 0][-1] == stop for tokens in whole)


def test_settings_from_the_command_line_and_the_recipe_alone_agree(
    instruct, colours, write, tune, settings_of, tmp_path
):
    data = write(colours)
    assert tune(model=instruct, data=data, out=tmp_path / "a", steps=2, batch_size=3, optim_lr=1e-3) == 0
    run(settings_of(model=instruct, data=[str(data)], out=tmp_path / "b", steps=2, batch_size=3, optim_lr=1e-3))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


# ---- real data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "how_long"),
    [
        ("rasbt-1100.json", {"epochs": 2}),
        ("alpaca-5000.json", {"steps": 150}),
        ("vi-alpaca-5000.jsonl", {"steps": 150}),
        ("t0-train-50k.jsonl.gz", {"steps": 150}),
    ],
)
def test_a_small_real_model_learns_from_real_data_and_stops_by_itself(shared, tune, lines_of, tmp_path, data, how_long):
    model, out = shared / "models" / "stories260K", tmp_path / "run"
    path = shared / "instruct" / data
    assert tune(model=model, data=path, out=out, template="alpaca", too_long="drop", **how_long) == 0
    first, *_, last = lines_of(out / "metrics.jsonl", "held_out")
    assert last["nll_per_token"] < first["nll_per_token"] - 0.3
    net, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    stopped = 0
    torch.manual_seed(0)
    for asked in ("Name a colour.", "What is 2 + 2?", "Is the sky blue?", "Rewrite: the cat sat.", "Say hello."):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = net.generate(**prompt, do_sample=True, max_new_tokens=300)
        stopped += int(output[0, -1]) == net.generation_config.eos_token_id
    assert stopped >= 3
