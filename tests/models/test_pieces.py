"""A model that is read in pieces: the same bits as one that is read whole, whatever is done to it before."""

import copy

import pytest
import tiny
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from heed.models.adapters.lora import add_adapter, keep_base
from heed.models.heads.scalar import trunk_fingerprint
from heed.models.intake.access import Access
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, add_tokens, load_model, load_tokenizer, save
from heed.models.pieces import PIECES, complete, is_in_pieces, value_of
from heed.models.score import layers_of

IDS = torch.arange(1, 30)[None]


def read(base, *, in_pieces, dtype=torch.float32, told=None):
    said = [] if told is None else told
    return load_model(base, tiny.CPU, dtype, Access(say=said.append), for_tuning=True, in_pieces=in_pieces)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [*tiny.SHAPES, "phi untied"])
def test_what_is_read_in_pieces_and_completed_is_what_is_read_whole(tmp_path, shape, dtype):
    """Files of 16 bits, of several parts: widened, or kept."""
    base = tiny.write_base(tmp_path / "base", shape, dtype=torch.bfloat16, temperature=0.5, do_sample=True)
    t.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base, max_shard_size="20KB")
    (tmp_path / "base" / "model.safetensors").unlink()
    said: list[str] = []
    whole, pieces = read(base, in_pieces=False, dtype=dtype), read(base, in_pieces=True, dtype=dtype, told=said)
    assert is_in_pieces(pieces)
    assert not said
    assert pieces.config.to_dict() == whole.config.to_dict()
    assert pieces.generation_config.to_dict() == whole.generation_config.to_dict()
    assert pieces.name_or_path == whole.name_or_path == base
    with torch.no_grad():
        assert torch.equal(pieces(IDS).logits, whole(IDS).logits), "a layer is read for its forward"
    assert is_in_pieces(pieces), "and let go after"
    first = layers_of(pieces)[0]
    complete(pieces, first)
    assert all(torch.isfinite(p).all() for p in first.parameters())
    complete(pieces)
    assert_same(pieces.state_dict(), whole.state_dict())
    assert not is_in_pieces(pieces)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers_of(pieces))


def test_before_it_is_completed_a_model_in_pieces_takes_the_memory_of_its_tables(tmp_path):
    model = read(tiny.write_base(tmp_path / "base", "llama tied"), in_pieces=True)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in layers_of(model)[0].parameters()}
    assert max(storages.values()) == 32 * 4, "a norm"
    matrices = [p for p in layers_of(model)[0].parameters() if p.dim() > 1]
    assert len(matrices) == 7
    assert all(torch.isnan(p).all() for p in matrices), "what is read by mistake is no number"


@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied"])
def test_new_rows_adapters_and_the_run_s_own_base_are_those_of_a_whole_model(tmp_path, shape):
    base = tiny.write_base(tmp_path / "base", shape)
    made = {}
    for in_pieces in (False, True):
        model, tokenizer = read(base, in_pieces=in_pieces), load_tokenizer(base)
        ids = add_tokens(model, tokenizer, tiny.CHATML_TOKENS, seed=0)
        loaded = LoadedModel(model, tokenizer)
        fingerprint = trunk_fingerprint(model)
        assert is_in_pieces(model) == in_pieces
        kept = tmp_path / f"run-{in_pieces}" / "base"
        keep_base(copy.copy(loaded), kept, new_token_ids=ids, stop_tokens=["<|im_end|>"])
        assert not is_in_pieces(model), "to be written it is completed"
        if in_pieces:
            model = read(base, in_pieces=True)
            add_tokens(model, load_tokenizer(base), tiny.CHATML_TOKENS, seed=0)
            loaded = LoadedModel(model, tokenizer)
        adapted = add_adapter(loaded, rank=2, alpha=4.0, new_token_ids=ids, seed=3)
        speed_up(adapted.model)
        assert is_in_pieces(adapted.model) == in_pieces
        with torch.no_grad():
            logits = adapted.model(IDS).logits
        complete(adapted.model)
        made[in_pieces] = logits, adapted.model.state_dict(), load_file(kept / "model.safetensors"), fingerprint
    assert torch.equal(made[True][0], made[False][0])
    assert_same(made[True][1], made[False][1])
    assert_same(made[True][2], made[False][2])
    assert made[True][3] == made[False][3]


def test_a_model_in_another_dtype_than_it_was_read_in_is_completed_in_that_one(tmp_path):
    base = tiny.write_base(tmp_path / "base", "llama untied")
    pieces, whole = read(base, in_pieces=True).to(torch.float64), read(base, in_pieces=False).to(torch.float64)
    with torch.no_grad():
        assert torch.equal(pieces(IDS).logits, whole(IDS).logits)
    name, weight = next((n, p) for n, p in pieces.named_parameters() if id(p) in getattr(pieces, PIECES).pieces)
    assert torch.equal(value_of(pieces, weight), whole.get_parameter(name))
    complete(pieces)
    assert_same(pieces.state_dict(), whole.state_dict())


def test_numbers_are_rounded_to_the_dtype_of_the_load_before_they_are_widened(tmp_path):
    base = tiny.write_base(tmp_path / "base", "llama untied")
    pieces, whole = (read(base, in_pieces=way, dtype=torch.bfloat16).to(torch.float32) for way in (True, False))
    complete(pieces)
    assert_same(pieces.state_dict(), whole.state_dict())
    assert not torch.equal(whole.lm_head.weight, read(base, in_pieces=False).lm_head.weight)


def test_what_is_saved_of_a_model_in_pieces_is_whole(tmp_path):
    base = tiny.write_base(tmp_path / "base", "llama tied")
    model = read(base, in_pieces=True)
    (tmp_path / "out").mkdir()
    save(LoadedModel(model, load_tokenizer(base)), tmp_path / "out", template=tiny.CHATML, stop_tokens=[tiny.END])
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors"))


def mixture(folder):
    """Experts that transformers joins into one matrix a layer."""
    config = t.MixtralConfig(
        vocab_size=280,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=96,
    )
    torch.manual_seed(0)
    t.MixtralForCausalLM(config).save_pretrained(folder)


def wrapped(folder):
    """Names as data parallelism leaves them."""
    tiny.write_base(folder, "llama untied")
    file = folder / "model.safetensors"
    save_file({f"module.{name}": w for name, w in load_file(file).items()}, file, metadata={"format": "pt"})


def pickled(folder):
    tiny.write_base(folder, "llama untied")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("write", [mixture, wrapped, pickled])
def test_what_cannot_be_read_in_pieces_is_read_whole_and_that_is_said(tmp_path, write):
    write(tmp_path / "base")
    said: list[str] = []
    pieces = read(str(tmp_path / "base"), in_pieces=True, told=said)
    assert not is_in_pieces(pieces)
    assert "every process reads the whole model before it is divided" in said[0]
    assert_same(pieces.state_dict(), read(str(tmp_path / "base"), in_pieces=False).state_dict())


def test_what_is_missing_in_the_files_of_a_model_in_pieces_is_told_as_ever(tmp_path):
    from heed.errors import UserError

    base = tiny.write_base(tmp_path / "base", "llama untied")
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    gone = "model.layers.1.mlp.down_proj.weight"
    save_file({name: w for name, w in weights.items() if name != gone}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=gone):
        read(base, in_pieces=True)
    save_file({**weights, gone: weights[gone][:, :-1].contiguous()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"config\.json"):
        read(base, in_pieces=True)
