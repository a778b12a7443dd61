"""A model without weights: it holds what the real one holds, and a step of it what a real step does, to the byte."""

from pathlib import Path

import pytest
import torch
import transformers as t
from families import FOREST
from tiny import CPU

from heed.models.adapters.lora import add_adapter
from heed.models.blank import LiveBytes
from heed.models.blank_model import blank_model, forest_of, held_by, measure_step, step_memory
from heed.models.four_bits import packed_layers, scales_of
from heed.models.intake.access import Access
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, load_model, prepare_training
from heed.models.score import forest_states

SAYS_NOTHING = Access(say=lambda line: None)
EVERYTHING = {"rank": 0, "targets": ("all-linear",), "train": ("all",), "quantise": False, "recompute": False}
WHAT = {
    "all": EVERYTHING,
    "recomputed": EVERYTHING | {"recompute": True},
    "the last layer": EVERYTHING | {"train": ("last:1",)},
    "adapter": EVERYTHING | {"rank": 4},
    "four bits": EVERYTHING | {"rank": 4, "quantise": True, "recompute": True},
}
LENGTHS = {"short": [20, 9, 9, 7], "long": [60]}
EXPERTS = {"gpt-oss"}
"""families whose forward asks which expert is meant, which a blank model cannot tell"""
QUICK = ["gpt2", "llama tied with biases", "gemma2", "mistral with a window"]
CASES = [
    pytest.param(family, "all", "short", "float32", "nll", marks=[] if family in QUICK else [pytest.mark.slow])
    for family in FOREST
    if family not in EXPERTS
] + [
    ("llama", "recomputed", "long", "float32", "nll"),
    ("llama", "all", "long", "bfloat16", "nll"),
    ("gpt2", "recomputed", "short", "bfloat16", "logp"),
    ("qwen3", "adapter", "short", "float32", "reward"),
    ("llama", "four bits", "short", "float32", "logp"),
    ("qwen3", "four bits", "long", "bfloat16", "nll"),
    ("gpt2", "the last layer", "long", "float32", "logp"),
]
pytestmark = pytest.mark.filterwarnings("ignore:.*kernels-community.*")


def write(folder: Path, family: str, **changes: object) -> str:
    torch.manual_seed(0)
    config = FOREST[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    t.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def real(name: str, what: dict) -> t.PreTrainedModel:
    """The same model with its weights, by the functions that a run calls."""
    model = load_model(name, CPU, access=SAYS_NOTHING, quantise=what["quantise"])
    if what["rank"]:
        model = add_adapter(LoadedModel(model, None), rank=4, alpha=8.0, new_token_ids=(), seed=0).model
    elif what["train"] == ("last:1",):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in model.transformer.h[-1].parameters():
            parameter.requires_grad_(True)
    speed_up(model)
    prepare_training(model, activations="recompute" if what["recompute"] else "keep")
    return model


@pytest.mark.parametrize(("family", "what", "length", "dtype", "loss"), CASES)
def test_a_step_without_numbers_holds_what_a_real_step_holds(tmp_path, family, what, length, dtype, loss):
    name, how = write(tmp_path, family), WHAT[what]
    model, lengths = real(name, how), LENGTHS[length]
    made = blank_model(name, SAYS_NOTHING, **how)
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [scale for module in packed_layers(model).values() for scale in scales_of(module).values()]
    assert sum(x.size * x.itemsize for x in held_by(made.model)) == sum(x.nbytes for x in tensors)
    trained = sum(x.size for x in held_by(made.model) if x.is_trained)
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
    expected = measure_step(model, forest_of(lengths), loss=loss, dtype=dtype)
    assert step_memory(made, lengths, loss=loss, dtype=dtype, kernel=False, whole=True) == expected
    assert expected.activations > 0
    assert expected.logits > 0


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_what_is_counted_as_activations_is_what_autograd_keeps(tmp_path, family):
    name = write(tmp_path, family)
    model, forest = real(name, EVERYTHING), forest_of([40, 17])
    counted = step_memory(
        blank_model(name, SAYS_NOTHING, **EVERYTHING), [40, 17], loss="nll", dtype="float32", kernel=False
    )
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = forest_states(model, forest)
    held = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    saved = sum(storage.nbytes() for at, storage in kept.items() if at not in held)
    assert saved <= counted.activations <= 1.1 * saved + states.nbytes


@pytest.mark.parametrize(("what", "dtype"), [("recomputed", "bfloat16"), ("adapter", "float32")])
def test_layers_that_are_alike_are_added_and_not_followed(tmp_path, what, dtype):
    name = write(tmp_path, "llama", num_hidden_layers=5)
    found = [
        step_memory(
            blank_model(name, SAYS_NOTHING, **WHAT[what]), [50, 30], loss="nll", dtype=dtype, kernel=True, whole=whole
        )
        for whole in (False, True)
    ]
    assert found[0] == found[1]


def test_attention_by_one_kernel_keeps_what_attention_on_a_cpu_keeps_of_whole_sequences(tmp_path):
    name = write(tmp_path, "llama", max_position_embeddings=600)
    by_cpu, by_kernel = (
        step_memory(
            blank_model(name, SAYS_NOTHING, **EVERYTHING), [300, 280], loss="nll", dtype="float32", kernel=kernel
        )
        for kernel in (False, True)
    )
    assert by_kernel.activations == by_cpu.activations


def test_tensors_are_counted_once_while_they_live_and_the_peak_stays():
    held = torch.zeros(1000)
    with LiveBytes([held]) as counted:
        a = torch.ones(100) + 1.0
        b = a.view(10, 10)
        held.add_(1.0)
        assert counted.live == a.nbytes
        c = torch.cat([a, a])
        del a
        assert counted.live == b.nbytes + c.nbytes
        del b, c
        assert counted.live == 0
    assert counted.peak == 400 + 800


def test_nothing_of_a_blank_model_is_in_memory_or_drawn(tmp_path):
    folder = tmp_path / "big"
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 4, "num_attention_heads": 64}
    t.LlamaConfig(vocab_size=128_256, num_key_value_heads=8, tie_word_embeddings=False, **sizes).save_pretrained(folder)
    before = torch.random.get_rng_state()
    made = blank_model(str(folder), SAYS_NOTHING, **WHAT["adapter"])
    assert torch.equal(torch.random.get_rng_state(), before)
    # 4 layers of 2 x 8192^2 + 2 x 8192 x 1024 + 3 x 8192 x 28672 and two norms; two tables and a norm.
    layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    frozen = [x for x in held_by(made.model) if not x.is_trained and x.is_divided]
    assert sum(x.size for x in frozen) == 4 * layer + 2 * 128_256 * 8192 + 8192
    assert {x.layer for x in frozen} == {None, 0, 1, 2, 3}
