"""Memory that is planned before a device is rented, against what processes really hold, and settings that fit."""

import json
import shlex
from pathlib import Path

import bitsandbytes
import pytest
import torch
import transformers as t
from plan_processes import CONFIG, held_without_others, really_held
from refusals import parts_of_refusal

import heed
from heed.cli.main import main
from heed.config import SftSettings
from heed.models.blank_model import held_by
from heed.models.load import LoadedModel, load_model
from heed.models.roles import roles_on_one_base, separate_models
from heed.models.trained import tables_of
from heed.plan_config import PlanSettings, num_bytes
from heed.recipes.planning.bytes_held import (
    gradient_bytes,
    local_size,
    moment_bytes,
    parameter_bytes,
    together_bytes,
)
from heed.recipes.planning.device import Followed, planned
from heed.recipes.planning.roles import forward_of
from heed.train.optimiser import adamw

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32_000, "hidden_size": 4096,
    "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "float16",
    "hidden_act": "silu",
}  # fmt: skip
"""config.json of Llama 2 7B, which has 6,738,415,616 parameters"""
NUM_7B = 6_738_415_616
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*kernels-community.*")


def folder_of(path: Path, config: dict) -> str:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The shape of a large model, small enough to be planned at once."""
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 8}
    return folder_of(tmp_path_factory.mktemp("plan") / "llama", LLAMA_7B | sizes | {"num_hidden_layers": 8})


def write_model(folder: Path, dtype: torch.dtype = torch.float32, **sizes: int) -> str:
    torch.manual_seed(0)
    t.LlamaForCausalLM(t.LlamaConfig(**CONFIG | sizes)).to(dtype).save_pretrained(folder)
    return str(folder)


def plan_of(model: str, *words: str, capsys) -> dict:
    assert main(["plan", model, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows(plan: dict) -> dict[str, int]:
    return {row["name"]: row["num_bytes"] for row in plan["rows"]}


def divided_model():
    with torch.device("meta"):
        return [x for x in held_by(t.LlamaForCausalLM(t.LlamaConfig(**CONFIG))) if x.is_divided]


# -- parts of a divided model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "machines"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_processes_hold_the_parts_that_are_planned_to_the_byte(tmp_path, size, machines):
    held, shards = divided_model(), size // machines
    for rank, found in really_held(size, machines, tmp_path).items():
        place = rank % shards
        assert found["parameters"] == parameter_bytes(held, shards, place)
        assert found["gradients"] == gradient_bytes(held, shards, place)
        assert found["moments"] == moment_bytes(held, shards, place)


@pytest.mark.parametrize(("machines", "ranks"), [(1, [0, 17, 63]), pytest.param(8, [0, 63], marks=pytest.mark.slow)])
def test_of_64_processes_the_first_and_the_last_hold_what_is_planned_of_them(machines, ranks):
    held, shards = divided_model(), 64 // machines
    for rank, found in held_without_others(ranks, 64, machines).items():
        place = rank % shards
        assert found["parameters"] == parameter_bytes(held, shards, place)
        assert found["gradients"] == gradient_bytes(held, shards, place)
        assert found["moments"] == moment_bytes(held, shards, place)
    assert local_size((24, 7), 64, 63) == 0  # 24 rows are 24 parts of one
    assert parameter_bytes(held, shards, 63) < parameter_bytes(held, shards, 0)


@pytest.mark.slow
def test_what_is_put_together_of_a_divided_model_is_no_more_than_planned_and_no_less_than_half():
    # Sizes that 8 processes share evenly, and layers large beside the few tokens of the step.
    found = held_without_others([0], 8, 1)[0]
    held = divided_model()
    put = together_bytes(held)
    # The peak holds this process's gradients, what is put together, and the activations of 14 tokens.
    together = found["peak"] - gradient_bytes(held, 8)
    assert together / 2 < put.parameters + put.gradients
    assert together < put.parameters + put.gradients + 14 * 4 * 101 * 8


def test_parts_are_rows_in_equal_runs_and_the_last_run_is_short():
    assert [local_size((10, 3), 4, rank) for rank in range(4)] == [9, 9, 9, 3]
    assert [local_size((5,), 4, rank) for rank in range(4)] == [2, 2, 1, 0]
    assert local_size((10, 3), 1) == 30


# -- what else is held ------------------------------------------------------------------------------------------------


def test_moments_in_8_bits_take_what_bitsandbytes_takes(tmp_path):
    model = load_model(write_model(tmp_path / "base", intermediate_size=301), CPU)
    trained = dict(model.named_parameters())
    optimiser = adamw(trained.items(), weight_decay=0.0, bits=8, in_32=tables_of(model))
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    tensors = [x for state in optimiser.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    held = sum({x.data_ptr(): x.nbytes for x in tensors}.values())
    assert bitsandbytes.__version__
    assert moment_bytes(held_by(model), 1, bits=8) == held < moment_bytes(held_by(model), 1)


@pytest.mark.parametrize("rank", [0, 4])
def test_roles_of_ppo_are_planned_as_they_are_made(tmp_path, rank):
    name = write_model(tmp_path / "base", torch.bfloat16)
    settings = PlanSettings(model=name, recipe="ppo", reward="rule", lora={"rank": rank}, memory="1GB", max_length=32)
    plan = planned(settings, Followed(print))
    model = load_model(name, CPU, torch.bfloat16 if rank else torch.float32)
    loaded = LoadedModel(model, None)
    if rank:
        roles = roles_on_one_base(loaded, rank=rank, alpha=8.0, seed=0, reward=None, with_value=True)
    else:
        roles = separate_models(loaded, reward=None, with_value=True)
    models = {id(r.model): r.model for r in (roles.policy, roles.reference, roles.value)}.values()
    tensors = {id(x): x for m in models for x in (*m.parameters(), *m.buffers())}
    tensors |= {id(x): x for x in roles.value.head.parameters()}
    trained = {id(p): p for role in (roles.policy, roles.value) for _, p in role.trained_parameters()}
    found = {row.name: row.num_bytes for row in plan.rows}
    assert found["parameters"] == sum(x.nbytes for x in tensors.values())
    head = 0 if rank else roles.value.model.lm_head.weight.nbytes  # planned as trained; a value's is frozen
    assert found["gradients"] - head == sum(p.nbytes for p in trained.values())


def test_the_largest_forward_is_the_one_that_the_recipe_would_deal():
    def lengths(**settings):
        return forward_of(PlanSettings(model="m", **settings), positions=4096, width=4096).lengths

    assert lengths() == (2048,) * 4  # 8,192 tokens on a GPU
    assert lengths(world=8) == (2048,) * 2  # 16 conversations, two for each process
    assert lengths(max_tokens=1000, max_length=1500) == (1500,)  # longer than a forward: one of its own
    assert lengths(recipe="dpo", max_length=512) == (512,) * 8  # 5,120 tokens; pairs stay together
    assert lengths(recipe="grpo", max_length=1024) == (1024,) * 8  # a prompt's eight answers stay together
    assert lengths(device="cpu", max_length=100) == (100,) * 8  # 1,024 tokens: sixteen in two equal forwards
    assert SftSettings.model_fields["batch_size"].default == 16


# -- a model of 7 billion parameters ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_7b_model_is_planned_from_its_config_for_eight_gpus_and_for_one_small_one(tmp_path, capsys):
    folder = folder_of(tmp_path / "llama-2-7b", LLAMA_7B)
    plan = plan_of(folder, "--world", "8", "--gradient-checkpointing", capsys=capsys)
    held = rows(plan)
    assert plan["num_parameters"] == plan["num_trained"] == NUM_7B
    assert plan["parallel"] == {"model": "fsdp"}  # 108 GB of weights, gradients and moments fit on no device
    assert held["gradients"] == 4 * NUM_7B // 8
    assert held["optimiser state"] == 8 * NUM_7B // 8 + 4 * 291  # of 291 tensors, each with its count of steps
    assert 0 < held["parameters"] - 4 * NUM_7B // 8 < 10_000  # buffers are whole
    assert plan["fits"]
    small = ("--memory", "24GB", "--lora.rank", "16", "--quantise", "nf4", "--gradient-checkpointing")
    plan = plan_of(folder, *small, capsys=capsys)
    # 6.48e9 numbers of the layers in four bits and their scales; tables and norms in two and four bytes.
    in_layers = NUM_7B - 2 * 32_000 * 4096 - 4096 * 65
    assert rows(plan)["parameters"] == pytest.approx(
        in_layers * 4.127 / 8 + 4 * 32_000 * 4096 + 4 * 39_976_960, rel=0.01
    )
    assert plan["num_trained"] == 39_976_960  # 16 x (4 x 8,192 + 3 x 15,104) in each of 32 layers
    assert plan["fits"]


def test_what_does_not_fit_is_told_with_commands_that_fit(small, capsys):
    words = ["--world", "2", "--memory", "1GB", "--max-length", "512", "--batch-size", "8"]
    plan = plan_of(small, *words, capsys=capsys)
    assert not plan["fits"]
    assert plan["total"] > plan["room"] == 900_000_000
    assert plan["cures"]
    for cure in plan["cures"]:
        begin, *command = shlex.split(cure["command"])
        assert begin == "heed"
        assert main([*command, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["fits"]
        assert again["total"] == cure["total"] <= again["room"]


def test_the_table_is_one_screen_and_says_what_is_an_estimate(small, capsys):
    assert main(["plan", "--model", small, "--memory", "2GB", "--max-length", "512"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines if not line.startswith("    heed")) <= 120
    text = "\n".join(lines)
    for word in ("parameters", "gradients", "optimiser state", "activations", "logits", "most at once", "room"):
        assert word in text
    assert "estimate" in next(line for line in lines if line.startswith("│ activations"))
    assert "estimate" not in next(line for line in lines if line.startswith("│ gradients"))


def test_rows_add_up_and_offloading_takes_them_off_the_device(small, capsys):
    common = ("--world", "4", "--parallel", "fsdp", "--max-length", "256")
    plan = plan_of(small, *common, capsys=capsys)
    held = rows(plan)
    assert plan["at_once"]["forward and backward"] == sum(held.values()) == plan["total"]
    away = plan_of(small, *common, "--offload", "optimiser", capsys=capsys)
    assert away["at_once"]["forward and backward"] == plan["total"] - held["optimiser state"]
    assert away["at_once"]["optimiser's step"] == plan["at_once"]["optimiser's step"]
    empty = rows(plan_of(small, *common, "--offload", "parameters,optimiser", capsys=capsys))
    assert empty["gradients"] == empty["optimiser state"] == 0
    assert empty["parameters"] < 1000  # buffers
    assert empty["layers put together"] == held["layers put together"] > 0


def test_a_machine_holds_a_copy_with_hsdp_and_processes_without_work_are_told(small, capsys):
    common = ("--world", "16", "--max-length", "256", "--batch-size", "4")
    by_machine = plan_of(small, *common, "--parallel", "hsdp", "--per-machine", "4", capsys=capsys)
    four = plan_of(small, "--world", "4", "--max-length", "256", "--parallel", "fsdp", capsys=capsys)
    assert rows(by_machine)["gradients"] == rows(four)["gradients"]
    assert any(note.startswith("12 of 16 processes have nothing to do") for note in by_machine["notes"])


def test_from_python_it_is_the_same_plan(small, capsys):
    plan = heed.plan(model=small, world=2, max_length=128, memory="2GB")
    assert plan == plan_of(small, "--world", "2", "--max-length", "128", "--memory", "2GB", capsys=capsys)


def test_a_family_that_cannot_be_followed_is_planned_without_activations_and_says_so(tmp_path, capsys):
    t.BloomConfig(vocab_size=90, hidden_size=32, n_layer=3, n_head=4).save_pretrained(tmp_path / "bloom")
    plan = plan_of(str(tmp_path / "bloom"), "--max-length", "64", capsys=capsys)
    assert plan["fits"] is None
    assert "activations" not in rows(plan)
    assert main(["plan", str(tmp_path / "bloom"), "--max-length", "64"]) == 0
    assert "activations are not known" in capsys.readouterr().out


# -- bad input --------------------------------------------------------------------------------------------------------

BAD = {
    "no unit": (["--memory", "80"], "a number and a unit", "--memory 80GB"),
    "another unit": (["--memory", "80 gigs"], "a number and a unit", "--memory 80GB"),
    "no memory": (["--memory", "0GB"], "a number and a unit", "--memory 80GB"),
    "no process": (["--world", "0"], "world", ""),
    "machines that are not alike": (["--world", "12", "--parallel", "hsdp"], "alike", "--world 16"),
    "one machine": (["--world", "8", "--parallel", "hsdp"], "alike", "--world 16"),
    "one process": (["--parallel", "fsdp"], "one process", "--world 2"),
    "copies to offload": (["--world", "2", "--parallel", "ddp", "--offload", "optimiser"], "copy", "--parallel fsdp"),
    "parts in 8 bits": (["--world", "2", "--parallel", "fsdp", "--optim.bits", "8"], "8 bits", "--optim.bits 32"),
    "four bits without adapter": (["--quantise", "nf4"], "no adapter", "--lora.rank 16"),
    "longer than positions": (["--max-length", "5000"], "positions", "--max-length 4096"),
    "an adapter and names": (["--lora.rank", "4", "--train", "head"], "adapter", "--lora.rank 0"),
}


@pytest.mark.parametrize("what", BAD)
def test_settings_that_contradict_each_other_are_refused_with_a_cure(small, tmp_path, capsys, what):
    words, problem, fix = BAD[what]
    assert main(["plan", small, *words]) == 2
    told = parts_of_refusal(capsys, tmp_path / "run", leaves=False)
    assert problem in str(told)
    assert fix in told["fix"]


@pytest.mark.parametrize("what", ["empty", "unknown family", "no json", "quantised", "no language model"])
def test_a_folder_without_a_config_that_can_be_planned_is_refused(tmp_path, capsys, what):
    folder = tmp_path / "model"
    folder.mkdir()
    contents = {
        "unknown family": json.dumps({"model_type": "lama", "hidden_size": 8}),
        "no json": "{",
        "quantised": json.dumps(LLAMA_7B | {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        "no language model": json.dumps({"model_type": "vit", "hidden_size": 8}),
    }
    if what in contents:
        (folder / "config.json").write_text(contents[what])
    assert main(["plan", str(folder)]) == 2
    told = parts_of_refusal(capsys, tmp_path / "run", leaves=False)
    assert str(folder) in told["where"]


def test_amounts_of_memory_are_bytes():
    assert num_bytes("80GB") == 80 * 10**9
    assert num_bytes("1.5GiB") == 3 * 2**29
    assert num_bytes("24 GB") == 24 * 10**9
