"""A frozen base in four bits: the numbers and gradients of its unpacked copy, in a seventh of the memory."""

import json
import subprocess
import sys
from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import torch
import transformers as t
from damage import change_config
from safetensors.torch import load_file
from tiny import CHATML_TOKENS, CPU, SHAPES, write_base

from heed.errors import UserError
from heed.forest.build import build
from heed.models.adapters.effective import effective_linear
from heed.models.adapters.lora import add_adapter, keep_base
from heed.models.decode.fast_step import FastStep
from heed.models.decode.sample import greedy
from heed.models.four_bits import (
    is_packed,
    num_parameters,
    packed_layers,
    rounded,
    scales_of,
    unpacked,
    unpacked_weight,
)
from heed.models.heads.scalar import trunk_fingerprint
from heed.models.intake import quantise
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, add_tokens, load_model, load_tokenizer, prepare_training, save
from heed.models.score import forest_score, plain_score
from heed.models.trained import how_many_learn
from heed.types import Tokens

IDS = [5, 6, 7, 8, 9, 5, 7, 11, 3]
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip
"""of Dettmers et al. 2023, appendix E"""
pytestmark = [
    pytest.mark.filterwarnings("ignore:base in NF4:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*its base is quantised as it was trained:UserWarning"),
]


def by_hand(weight):
    """What the library's codes and scales of a weight stand for, looked up one by one."""
    codes, state = bitsandbytes.functional.quantize_4bit(
        weight.float().contiguous(), quant_type="nf4", compress_statistics=True, blocksize=64
    )
    pairs = codes.reshape(-1)
    values = NF4[torch.stack([pairs >> 4, pairs & 15], dim=1).reshape(-1).long()][: weight.numel()]
    scales = state.state2.code[state.absmax.long()]
    scales = scales * state.state2.absmax.repeat_interleave(256)[: len(scales)] + state.offset
    return (values * scales.repeat_interleave(64)[: len(values)]).view(weight.shape)


def unpack_by_hand(model):
    """Put in place of every packed layer of a plain copy what it stands for."""
    for layer in model.model.layers if hasattr(model, "model") else model.transformer.h:
        for module in layer.modules():
            is_conv = type(module) is t.pytorch_utils.Conv1D
            if type(module) is torch.nn.Linear or is_conv:
                weight = module.weight.data.t() if is_conv else module.weight.data
                module.weight.data = by_hand(weight).t().contiguous() if is_conv else by_hand(weight)
    return model


def adapted(model, tokenizer, new_tokens=(), rank=3):
    """An adapter that is away from its start, the same every time."""
    ids = add_tokens(model, tokenizer, new_tokens, seed=0)
    loaded = add_adapter(LoadedModel(model, tokenizer), rank=rank, alpha=6.0, new_token_ids=ids, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.trained_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return loaded


def both(folder, shape, dtype=torch.float32, new_tokens=()):
    """The quantised base with an adapter, and its unpacked copy with the same."""
    base = write_base(folder, shape, dtype=dtype)
    packed = load_model(base, CPU, dtype, quantise=True)
    whole = unpack_by_hand(load_model(base, CPU))
    return tuple(adapted(model, load_tokenizer(base), new_tokens) for model in (packed, whole))


def gradients(loaded, score, ids=IDS):
    loaded.model.zero_grad(set_to_none=True)
    weight = np.ones(len(ids), dtype=np.float32)
    weight[:3] = 0.0
    others = [[*ids[:4], *range(20 + k, 26 + k)] for k in range(2)]
    sequences = [Tokens(np.array(each, dtype=np.int32), np.resize(weight, len(each))) for each in (ids, *others)]
    loss, _ = score(loaded.model, build(sequences, share=score is forest_score))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in loaded.trained_parameters()}


def check(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=0)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        assert float((found[1][name] - grad).norm()) <= tolerance * float(grad.norm()), name
        assert float(grad.norm()) > 0, name


# -- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["keep", "recompute", "selective"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["", "a checkpoint of 16 bits"])
@pytest.mark.parametrize("shape", [*SHAPES, "phi untied"])
def test_loss_and_gradient_are_those_of_the_unpacked_model(shape, dtype, kept, tmp_path):
    packed, whole = both(tmp_path, shape, dtype)
    assert len(packed_layers(packed.model)) == {"llama": 14, "gpt2": 8, "phi": 12}[shape.split()[0]]
    for loaded in (packed, whole):
        speed_up(loaded.model)
        prepare_training(loaded.model, activations=kept)
    for score in (forest_score, plain_score):
        check(gradients(packed, score), gradients(whole, score))


@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied"])
def test_new_tokens_learn_beside_a_base_in_four_bits(shape, tmp_path):
    packed, whole = both(tmp_path, shape, torch.bfloat16, CHATML_TOKENS)
    with torch.no_grad():  # a table of 16 bits starts its new rows rounded
        for (_, ours), (_, theirs) in zip(packed.trained_parameters(), whole.trained_parameters(), strict=True):
            theirs.copy_(ours)
    ids = [*IDS, *packed.tokenizer.convert_tokens_to_ids(list(CHATML_TOKENS)), *IDS]
    check(gradients(packed, forest_score, ids), gradients(whole, forest_score, ids))
    assert any("trainable_tokens" in name for name, _ in packed.trained_parameters())


def test_under_autocast_it_is_what_the_unpacked_model_computes_there(tmp_path):
    packed, whole = both(tmp_path, "llama untied")
    with torch.autocast("cpu", torch.bfloat16):
        check(gradients(packed, forest_score), gradients(whole, forest_score), 2e-2)


def test_each_weight_is_the_nearest_of_16_values_times_the_largest_of_its_block(tmp_path):
    base = write_base(tmp_path, "llama untied")
    model, plain = load_model(base, CPU, quantise=True), load_model(base, CPU)
    for name, layer in packed_layers(model).items():
        blocks = plain.get_submodule(name).weight.detach().reshape(-1, 64)
        largest = blocks.abs().amax(1, keepdim=True)
        nearest = (blocks[..., None] / largest[..., None] - NF4).abs().argmin(-1)
        found = unpacked_weight(layer).reshape(-1, 64)
        scale = (found.abs().amax(1, keepdim=True)).clamp(min=1e-9)
        torch.testing.assert_close(scale, largest, rtol=0.02, atol=0.02 * float(largest.max()))
        torch.testing.assert_close(found / scale, NF4[nearest], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (10, 96), (7, 33), (128, 100), (96, 64)])
def test_a_weight_of_any_shape_is_unpacked_with_the_scales_of_its_own_blocks(shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 9, shape[1])
    codes, state = bitsandbytes.functional.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True, blocksize=64
    )
    found = unpacked(codes, state, dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, by_hand(weight).to(dtype), rtol=1e-6 if dtype != torch.bfloat16 else 8e-3, atol=0)
    torch.testing.assert_close(rounded(weight), by_hand(weight), rtol=1e-6, atol=0)
    assert float((found - weight).norm() / weight.norm()) < 0.15


def test_the_graph_keeps_the_packed_weight_and_no_other(tmp_path):
    layer = next(iter(packed_layers(load_model(write_base(tmp_path, "llama tied"), CPU, quantise=True)).values()))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        layer(torch.randn(2, layer.in_features, requires_grad=True))
    assert [x.dtype for x in kept] == [torch.uint8]
    assert kept[0].data_ptr() == layer.weight.data_ptr()


@pytest.mark.parametrize("shape", ["llama tied", "gpt2 tied"])
def test_what_reads_weights_reads_the_unpacked_ones_and_decoding_steps_aside(shape, tmp_path):
    packed, whole = both(tmp_path, shape)
    for (name, ours), theirs in zip(packed.model.named_modules(), whole.model.modules(), strict=True):
        if is_packed(ours) or ".base_layer" in f".{name}" or not hasattr(ours, "lora_A"):
            continue
        for found, expected in zip(effective_linear(ours), effective_linear(theirs), strict=True):
            if expected is not None:
                torch.testing.assert_close(found, expected)
    assert FastStep.of(packed.model, 8) is None
    assert FastStep.of(whole.model, 8) is not None
    answers = [greedy(each.model, IDS, stop_ids=[], max_new_tokens=12) for each in (packed, whole)]
    assert answers[0] == answers[1]


# -- the library's trap -----------------------------------------------------------------------------------------------


def has_bfloat16_instructions():
    return bool(bitsandbytes.functional.has_avx512bf16())


@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit. an autograd kernel was not registered:UserWarning")
@pytest.mark.skipif(not has_bfloat16_instructions(), reason="a processor without AVX512-BF16 has no such trap")
def test_the_librarys_own_forward_loses_the_gradient_after_one_without_it_in_evaluation():
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer = layer.to("cpu").eval()
    x = torch.randn(3, 64, requires_grad=True)
    layer(x).sum().backward()
    expected, x.grad = x.grad, None
    with torch.no_grad():
        layer(x.detach())
    layer(x).sum().backward()
    assert x.grad is None or not torch.allclose(x.grad, expected)


def test_sampling_between_steps_changes_neither_the_weights_nor_the_gradient(tmp_path):
    packed, whole = both(tmp_path, "llama tied")
    packed.model.eval()
    before = {name: layer.weight.clone() for name, layer in packed_layers(packed.model).items()}
    expected = gradients(whole, forest_score)
    for _ in range(2):
        with torch.no_grad():
            packed.model(torch.tensor([IDS]))
        greedy(packed.model, IDS, stop_ids=[], max_new_tokens=5)
        check(gradients(packed, forest_score), expected)
    assert all(torch.equal(layer.weight, before[name]) for name, layer in packed_layers(packed.model).items())


# -- memory -----------------------------------------------------------------------------------------------------------


def bytes_of(model):
    """Storage of everything in a model, each part once."""
    tensors = [*model.parameters(), *(x for layer in packed_layers(model).values() for x in scales_of(layer).values())]
    return sum(x.numel() * x.element_size() for x in {id(x): x for x in tensors}.values())


def test_a_packed_weight_takes_4_bits_and_its_share_of_the_scales(tmp_path):
    config = t.LlamaConfig(
        vocab_size=300, hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4
    )
    t.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), CPU, torch.bfloat16, quantise=True)
    layers = packed_layers(model).values()
    num_bytes = sum(
        x.numel() * x.element_size() for layer in layers for x in (layer.weight, *scales_of(layer).values())
    )
    count = sum(layer.in_features * layer.out_features for layer in layers)
    assert num_bytes / count == pytest.approx((4 + 8 / 64 + 32 / (64 * 256)) / 8, rel=1e-3)
    plain = load_model(str(tmp_path), CPU, torch.bfloat16)
    assert num_parameters(model) == num_parameters(plain) == plain.num_parameters()
    assert how_many_learn(plain.requires_grad_(False)) == how_many_learn(model.requires_grad_(False))


# -- files ------------------------------------------------------------------------------------------------------------


def saved(loaded, folder):
    folder.mkdir()
    save(loaded, folder, template="{{ messages }}", stop_tokens=["<|endoftext|>"])
    return str(folder)


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_is_read_back_on_a_base_that_is_quantised_again_to_the_bit(shape, dtype, tmp_path):
    packed, _ = both(tmp_path / "base", shape, dtype)
    run = saved(packed, tmp_path / "run")
    with pytest.warns(UserWarning, match=r"quantised as it was trained.*NF4"):
        again = load_model(run, CPU)
    assert packed_layers(again).keys() == packed_layers(packed.model).keys()
    assert torch.equal(logits(again), logits(packed.model))
    assert not any(p.requires_grad for p in again.parameters())
    assert trunk_fingerprint(again) == trunk_fingerprint(packed.model)
    whole = load_model(run, CPU, for_tuning=True)
    assert not packed_layers(whole)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in whole.parameters())
    torch.testing.assert_close(logits(whole), logits(packed.model), rtol=1e-4, atol=1e-4)


def test_a_fingerprint_sees_scales_as_well_as_codes(tmp_path):
    folders = [write_base(tmp_path / str(k), "llama tied") for k in range(2)]
    twice = t.AutoModelForCausalLM.from_pretrained(folders[1])
    with torch.no_grad():
        twice.model.layers[0].mlp.up_proj.weight.mul_(2)
    twice.save_pretrained(folders[1])
    models = [load_model(folder, CPU, quantise=True) for folder in folders]
    codes = [model.model.layers[0].mlp.up_proj.weight for model in models]
    assert torch.equal(*codes)
    assert trunk_fingerprint(models[0]) != trunk_fingerprint(models[1])
    assert trunk_fingerprint(models[0]) != trunk_fingerprint(load_model(folders[0], CPU))


@pytest.mark.parametrize("kind", ["one file", "shards", "other names", "no safetensors"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_base_that_a_run_keeps_has_the_weights_of_the_files_and_the_new_rows(shape, kind, tmp_path):
    base = write_base(tmp_path / "base", shape, dtype=torch.bfloat16)
    plain = t.AutoModelForCausalLM.from_pretrained(base)
    if kind == "shards":
        (tmp_path / "base" / "model.safetensors").unlink()
        plain.save_pretrained(base, max_shard_size="20KB")
    elif kind == "other names":  # as trunks are published
        (tmp_path / "base" / "model.safetensors").unlink()
        from safetensors.torch import save_file

        prefix = plain.base_model_prefix + "."
        weights = {name.removeprefix(prefix): w.contiguous() for name, w in plain.state_dict().items()}
        tied = "untied" not in shape
        save_file(
            {n: w for n, w in weights.items() if not (tied and n == "lm_head.weight")}, f"{base}/model.safetensors"
        )
    elif kind == "no safetensors":
        (tmp_path / "base" / "model.safetensors").unlink()
        torch.save(plain.state_dict(), f"{base}/pytorch_model.bin")
    model, tokenizer = load_model(base, CPU, torch.bfloat16, quantise=True), load_tokenizer(base)
    ids = add_tokens(model, tokenizer, CHATML_TOKENS, seed=0)
    (tmp_path / "run").mkdir()
    keep_base(LoadedModel(model, tokenizer), tmp_path / "run" / "base", new_token_ids=ids, stop_tokens=["<|im_end|>"])
    kept = t.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "base")
    assert kept.dtype == (torch.float32 if kind == "no safetensors" else torch.bfloat16)
    rows = len(plain.get_input_embeddings().weight)
    state = kept.state_dict()
    for name, weight in plain.state_dict().items():
        found = state[name]
        assert torch.equal(found[: len(weight)] if len(found) > len(weight) else found, weight), name
    for ours, theirs in zip(
        (kept.get_input_embeddings(), kept.get_output_embeddings()),
        (model.get_input_embeddings(), model.get_output_embeddings()),
        strict=True,
    ):
        assert torch.equal(ours.weight[rows:], theirs.weight[rows:])
    for file in (tmp_path / "run" / "base").glob("*.safetensors"):
        load_file(file)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_no_adapter_no_library_or_an_adapters_folder_is_told_before_anything_is_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"cannot be trained") as caught:
        quantise.refuse_quantising("anything", 0)
    assert caught.value.fix == "--lora.rank 16"
    packed, _ = both(tmp_path / "base", "llama tied")
    run = saved(packed, tmp_path / "run")
    with pytest.raises(UserError, match=r"merged into its base") as caught:
        quantise.refuse_quantising(run, 4)
    assert "heed merge" in caught.value.fix
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed") as caught:
        quantise.refuse_quantising("anything", 4)
    assert caught.value.found == "no bitsandbytes and no accelerate"
    assert caught.value.fix == "pip install 'heed-lm[quantise]'"
    with pytest.raises(UserError, match=r"not installed"):
        load_model(run, CPU)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_base_with_a_weight_that_is_no_number_is_refused_while_it_is_read(bad, tmp_path):
    base = write_base(tmp_path / "base", "llama tied")
    model = load_model(base, CPU)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 7] = bad
    model.save_pretrained(base)
    with pytest.raises(UserError, match="not finite") as caught:
        load_model(base, CPU, quantise=True)
    assert caught.value.where == f"{tmp_path / 'base'}: model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_a_model_that_is_quantised_already_is_not_tuned(method, tmp_path):
    base = write_base(tmp_path, "llama tied")
    quantise.refuse_quantised(base)
    change_config(tmp_path, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UserError, match=r"quantised already") as caught:
        quantise.refuse_quantised(base)
    assert method in caught.value.found
    assert caught.value.fix == "--model ORIGINAL --quantise nf4 --lora.rank 16"


def test_a_model_that_the_library_quantised_is_read_and_one_that_only_says_so_is_not(tmp_path):
    base = write_base(tmp_path / "base", "llama tied")
    config = t.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    theirs = t.AutoModelForCausalLM.from_pretrained(base, quantization_config=config, device_map="cpu")
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(str(tmp_path / "theirs"), CPU)
    assert len(packed_layers(model)) == 14
    torch.testing.assert_close(logits(model), logits(load_model(base, CPU, quantise=True)))
    change_config(tmp_path / "base", quantization_config=config.to_dict())
    with pytest.raises(UserError, match=r"not quantised as its config says"):
        load_model(base, CPU)


def test_a_note_of_another_way_or_of_other_layers_is_refused(tmp_path):
    packed, _ = both(tmp_path / "base", "llama tied")
    run = saved(packed, tmp_path / "run")
    note = json.loads((tmp_path / "run" / quantise.NOTE).read_text())
    for change, says in (
        ({"block_size": 128}, "a way that heed does not know"),
        ({"layers": note["layers"][1:]}, "other layers"),
    ):
        (tmp_path / "run" / quantise.NOTE).write_text(json.dumps({**note, **change}))
        with pytest.raises(UserError, match=says):
            load_model(run, CPU)


# -- loading a realistic shape ----------------------------------------------------------------------------------------

LOADING = """
import json, sys, threading, time
from pathlib import Path
import bitsandbytes, torch
from heed.allocator import keep_freed_memory
from heed.models.intake.access import Access
from heed.models.load import load_model
sys.path.insert(0, {here!r})
from test_four_bits import bytes_of, num_parameters

def resident():
    # Without the pages of the checkpoint that are mapped from its file, which the system takes back at will.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

keep_freed_memory()  # as the commands do
before, peak, done = resident(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
model = load_model({folder!r}, torch.device("cpu"), torch.bfloat16, Access(say=lambda line: None), quantise=True)
done = True
watcher.join()
print(json.dumps([num_parameters(model), bytes_of(model), resident() - before, peak - before]))
"""


@pytest.mark.slow
def test_a_base_of_88_million_parameters_takes_less_than_6_tenths_of_a_byte_each_and_is_never_whole(tmp_path):
    """The shape of a small model, with the share of tables that one of 7 billion parameters has (4%)."""
    config = t.LlamaConfig(
        vocab_size=2048, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        tie_word_embeddings=False,
    )  # fmt: skip
    t.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    code = LOADING.format(folder=str(tmp_path), here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, stored, stays, peak = json.loads(done.stdout.splitlines()[-1])
    per = [number / count for number in (stored, stays, peak)]
    print("{:,} parameters: {:.3f} bytes each stored, {:.3f} resident, {:.2f} at the peak".format(count, *per))
    assert count > 88e6
    assert stored <= 0.6 * count
    assert stays <= 0.6 * count
    largest = 4 * 768 * 2048
    assert peak <= stays + 10 * largest < 1.5 * count
