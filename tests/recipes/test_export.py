"""`heed export`: what is written is read back the same, whoever reads it, or nothing is left there."""

import json
import os
import shutil

import gguf_files
import numpy as np
import pytest
import tokenizers
import torch
import transformers as t
from safetensors.torch import load_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from heed.cli.main import main
from heed.errors import UserError
from heed.lab.base_model import BASE_MODEL
from heed.models.export import comparing
from heed.models.export.comparing import scored_of
from heed.models.export.families import family_of
from heed.models.export.llama_text import text_reader
from heed.models.export.probe_texts import TEXTS
from heed.models.export.reading_gguf import model_of, open_gguf
from heed.models.export.vocabulary import vocabulary_of
from heed.models.export.writing_gguf import write_gguf
from heed.models.intake.vocabulary import num_rows
from heed.models.load import load_with_tokenizer
from heed.models.stops import stop_ids_of
from heed.recipes.exporting.gguf import check

gguf = pytest.importorskip("gguf")
CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
SPEECH = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}"
)


def exported(*words):
    return main(["export", *map(str, words)])


def errors_of(capsys, *words):
    capsys.readouterr()
    assert exported(*words) == 2
    err = capsys.readouterr().err
    assert [line.split(":")[0].strip() for line in err.splitlines()] == ["error", "where", "found", "expected", "fix"]
    return err


def byte_level(cut, *, template=SPEECH, takes_whole_words=False, normalizer=None):
    """A byte-level tokenizer, trained on the probe texts, that cuts text in its own way."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=takes_whole_words))
    backend.pre_tokenizer = cut
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    made = t.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", extra_special_tokens=special[1:], chat_template=template
    )
    made.add_tokens(["<think>"])  # not special: written by answers
    return made


def split(pattern):
    cut = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


CUTS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "smaug-bpe": lambda: split(LLAMA3_SPLIT),
    "llama-bpe": lambda: split(LLAMA3_SPLIT),
    "qwen2": lambda: split(QWEN2_SPLIT),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    return gguf_files.write_model(folder, gguf_files.CONFIGS["llama untied"], byte_level(CUTS["gpt-2"]()))


@pytest.mark.parametrize("shape", gguf_files.CONFIGS)
@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_a_model_comes_back_from_the_file_with_the_same_log_probabilities(shape, dtype, tmp_path, capsys):
    model = gguf_files.write_model(
        tmp_path / "model", gguf_files.CONFIGS[shape], byte_level(CUTS["gpt-2"]()), spare_rows=3
    )
    out = tmp_path / "model.gguf"
    assert exported(model, "--out", out, "--dtype", dtype, "--answers", 3) == 0
    said = capsys.readouterr().out
    unreadable = ("llama biased", "llama 3 positions", "linear positions", "qwen3", "gpt2 tied", "gpt2 untied")
    readable = shape not in unreadable  # by transformers 5.23
    assert ("read back by transformers" in said) == readable
    again = model_of(open_gguf(out))
    original = t.AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        apart = (again(ids).logits - original(ids).logits).abs().max()
    if dtype == "q8_0":
        assert 0 < apart < 0.1
    else:  # to the bit; the factors of scaled positions are float32 in the file, and so rounded once more
        assert apart <= (1e-5 if shape == "llama 3 positions" else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.Modelfile", "model.gguf"]


def test_queries_and_keys_are_laid_out_as_llama_turns_them(plain, tmp_path):
    """Row 2 i of a head is transformers' row i, row 2 i + 1 its row i + size / 2; values stay as they are."""
    assert exported(plain, "--out", tmp_path / "m.gguf", "--answers", 0) == 0
    weights = load_file(plain / "model.safetensors")
    stored = {each.name: np.array(each.data) for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for letter, heads in (("q", 4), ("k", 2)):
        theirs = weights[f"model.layers.0.self_attn.{letter}_proj.weight"].numpy()
        for head in range(heads):
            for i in range(8):
                assert (stored[f"blk.0.attn_{letter}.weight"][16 * head + 2 * i] == theirs[16 * head + i]).all()
                assert (stored[f"blk.0.attn_{letter}.weight"][16 * head + 2 * i + 1] == theirs[16 * head + i + 8]).all()
    assert (stored["blk.1.attn_v.weight"] == weights["model.layers.1.self_attn.v_proj.weight"].numpy()).all()


@pytest.mark.parametrize("name", CUTS)
def test_a_way_to_cut_text_that_llama_cpp_knows_is_named(name, tmp_path, capsys):
    tokenizer = byte_level(CUTS[name](), takes_whole_words=name == "llama-bpe")
    model = gguf_files.write_model(tmp_path / "model", gguf_files.CONFIGS["llama tied"], tokenizer)
    assert exported(model, "--out", tmp_path / "m.gguf", "--answers", 0) == 0
    file = open_gguf(tmp_path / "m.gguf")
    assert file.fields["tokenizer.ggml.pre"] == name
    read = text_reader(file)
    assert [read(text) for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]


UNKNOWN = {
    "another expression": lambda: byte_level(split(r"\p{L}+|\p{N}{1,2}|[^\p{L}\p{N}]+")),
    "a space before": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "digits in threes": lambda: byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "whole words, cut like GPT-2": lambda: byte_level(CUTS["gpt-2"](), takes_whole_words=True),
    "small letters": lambda: byte_level(CUTS["gpt-2"](), normalizer=normalizers.Lowercase()),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tokenizer_that_llama_cpp_has_no_equal_of_is_refused(name, tmp_path, capsys):
    model = gguf_files.write_model(tmp_path / "model", gguf_files.CONFIGS["llama tied"], UNKNOWN[name]())
    err = errors_of(capsys, model, "--out", tmp_path / "m.gguf")
    assert "llama.cpp would turn text into other tokens" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_bos_that_encoding_adds_is_asked_for_in_the_file(tmp_path):
    tokenizer = byte_level(CUTS["gpt-2"](), template=None)
    tokenizer.bos_token = "<|system|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", tokenizer.bos_token_id)]
    )
    model = gguf_files.write_model(tmp_path / "model", gguf_files.CONFIGS["gpt2 tied"], tokenizer)
    assert exported(model, "--out", tmp_path / "m.gguf", "--answers", 0) == 0
    fields = open_gguf(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.bos_token_id


@pytest.mark.slow
def test_real_tokenizers_are_exported_with_all_their_tokenisations(shared, tmp_path, capsys):
    found = {
        path.parent for path in [*shared.glob("tokenizers/*/tokenizer.json"), *shared.glob("models/*/tokenizer.json")]
    }
    assert len(found) >= 3
    for number, folder in enumerate(sorted(found)):
        tokenizer = t.AutoTokenizer.from_pretrained(folder)
        small = {**gguf_files.LLAMA, "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
        config = t.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **small)
        if folder.name == "gpt2":
            config = t.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=128)
        model = gguf_files.write_model(tmp_path / folder.name, config, tokenizer)
        out = tmp_path / f"{number}.gguf"
        assert exported(model, "--out", out, "--answers", 0) == 0, folder
        read = text_reader(open_gguf(out))
        assert [read(text) for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]


def test_the_real_small_model_answers_the_same_from_the_file(shared, tmp_path, capsys):
    assert exported(shared / "models" / "stories260K", "--out", tmp_path / "m.gguf") == 0
    said = capsys.readouterr().out
    assert "25 of 25 greedy answers are the same" in said
    assert "read back by transformers: log-probabilities differ by at most 0.0e+00" in said


def test_merges_that_scores_cannot_tell_are_refused(shared, tmp_path, capsys):
    """llama.cpp joins any two neighbours whose text is a token, listed or not."""
    model = tmp_path / "model"
    shutil.copytree(shared / "models" / "stories260K", model)
    described = json.loads((model / "tokenizer.json").read_text())
    described["model"]["merges"] = described["model"]["merges"][1:]
    (model / "tokenizer.json").write_text(json.dumps(described))
    assert "are not merged, though '▁t' is a token" in errors_of(capsys, model, "--out", tmp_path / "m.gguf")


# -- the tuned model of the lab ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory, colours, tune):
    """The demonstration's base with an adapter that was tuned on it for a few steps, in heed's own template."""
    folder = tmp_path_factory.mktemp("lab")
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in colours))
    how = {"template": "chatml", "steps": 12, "batch_size": 8, "optim_lr": 1e-2, "lora_rank": 4}
    assert tune(model=BASE_MODEL, data=data, out=folder / "run", **how) == 0
    return folder / "run"


def test_the_tuned_model_goes_to_gguf_and_back(lab, tmp_path, capsys):
    out = tmp_path / "lab.gguf"
    assert exported(lab, "--to", "gguf", "--out", out) == 0
    said = capsys.readouterr().out
    assert "25 of 25 greedy answers are the same" in said
    assert "read back by transformers: log-probabilities differ by at most 0.0e+00" in said
    assert "composes accents" in said
    ours = load_with_tokenizer(str(lab), CPU)
    theirs = t.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="lab.gguf", dtype=torch.float32)
    words = t.AutoTokenizer.from_pretrained(tmp_path, gguf_file="lab.gguf")
    asked = [{"role": "user", "content": "Màu của lá là gì?"}]
    ids = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == ours.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        batch = torch.tensor([ids])
        assert torch.equal(theirs(batch).logits, ours.model(batch).logits)
    text = (tmp_path / "lab.Modelfile").read_text()
    assert text.startswith('FROM ./lab.gguf\nPARAMETER num_ctx 1024\nPARAMETER stop "<|im_end|>"\n')


@pytest.fixture
def written(lab, tmp_path):
    """A file that was written, what it was made from, and its vocabulary."""
    loaded = load_with_tokenizer(str(lab), CPU)
    vocabulary = vocabulary_of(loaded.tokenizer, num_rows(loaded.model), stop_ids_of(loaded.model), "lab")
    path, family = tmp_path / "m.gguf", family_of(loaded.model.config, "lab")
    write_gguf(path, loaded.model, vocabulary, family, "f32", name="m")
    return path, loaded, vocabulary, family


def turn_a_bit(path):
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(each for each in reader.tensors if each.name == "blk.3.ffn_up.weight")
    tensor.data.view(np.uint32)[7, 11] ^= 1 << 3
    reader.data.flush()


def flip_a_tensor(path):
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(each for each in reader.tensors if each.name == "blk.2.attn_q.weight")
    tensor.data[:] = tensor.data[::-1].copy()
    reader.data.flush()


def swap_two_tokens(path):
    reader = gguf.GGUFReader(path, "r+")
    entry = reader.fields["tokenizer.ggml.tokens"]
    texts = [entry.parts[place] for place in entry.data]
    first, second = next(
        (a, b) for a in range(300, 900) for b in range(a + 1, 900) if len(texts[a]) == len(texts[b]) > 2
    )
    kept = texts[first].copy()
    texts[first][:], texts[second][:] = texts[second].copy(), kept
    reader.data.flush()


def cut_otherwise(path):
    raw = path.read_bytes()
    assert raw.count(b"gpt-2") == 1
    path.write_bytes(raw.replace(b"gpt-2", b"qwen2"))


def end_early(path):
    os.truncate(path, path.stat().st_size - 1000)


def end_in_the_header(path):
    os.truncate(path, 5000)


def be_something_else(path):
    path.write_bytes(b"not a model at all" * 100)


DAMAGES = {
    turn_a_bit: "a weight is another",
    flip_a_tensor: "a weight is another",
    swap_two_tokens: "tokenizer.ggml.tokens, number",
    cut_otherwise: "tokenizer.ggml.pre is another",
    end_early: "the file cannot be read",
    end_in_the_header: "the file cannot be read",
    be_something_else: "the file cannot be read",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_a_damaged_file_is_caught(damage, written):
    path, loaded, vocabulary, family = written
    damage(path)
    with pytest.raises(UserError) as caught:
        check(path, loaded, vocabulary, family, "f32", 1, lambda line: None)
    assert DAMAGES[damage] in str(caught.value)


def test_a_wrong_way_to_cut_shows_in_the_tokens_too(written):
    """Not only in the name: the file is read by what it says."""
    path, loaded, vocabulary, _ = written
    cut_otherwise(path)
    with pytest.raises(UserError, match=r"a text becomes other tokens by llama\.cpp's rules"):
        comparing.compare_tokens(open_gguf(path), loaded.tokenizer, comparing.texts_of(loaded.tokenizer, vocabulary))


def test_a_damaged_export_leaves_nothing(plain, tmp_path, monkeypatch, capsys):
    from heed.recipes.exporting import gguf as recipe

    def damaged(path, *rest, **more):
        wider = write_gguf(path, *rest, **more)
        end_early(path)
        return wider

    monkeypatch.setattr(recipe, "write_gguf", damaged)  # stands for a disk that gives back less
    assert "the file cannot be read" in errors_of(capsys, plain, "--out", tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_rounding_is_bounded_weight_by_weight(dtype, plain, tmp_path):
    """q8_0: half a step of max / 127 in a block of 32, and what float16 makes of the step; f16: 11 bits."""
    assert exported(plain, "--out", tmp_path / "m.gguf", "--dtype", dtype, "--answers", 0) == 0
    weight = load_file(plain / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].double()
    file = open_gguf(tmp_path / "m.gguf")
    apart = (torch.from_numpy(file.plain("blk.0.ffn_up.weight").copy()).double() - weight).abs()
    step = weight.abs().reshape(-1, 32).amax(1, keepdim=True) / 127
    bound = (
        (0.5 + 127 / 2048) * step.expand(-1, 32).reshape(weight.shape) * 1.0001
        if dtype == "q8_0"
        else weight.abs() / 2048
    )
    assert (apart <= bound + 1e-9).all()
    assert apart.max() > 0.25 * bound.max()  # it is no loose bound


# -- what is refused --------------------------------------------------------------------------------------------------


def test_other_families_and_settings_are_refused(tmp_path, capsys):
    tokenizer = byte_level(CUTS["gpt-2"]())
    phi = t.PhiConfig(vocab_size=len(tokenizer), **gguf_files.SIZES)
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    wrong = {
        "this family of models is not written as GGUF": phi,
        "llama.cpp computes this model otherwise": t.LlamaConfig(
            vocab_size=len(tokenizer), hidden_act="relu", **gguf_files.LLAMA
        ),
        "this scaling of positions is not written as GGUF": t.LlamaConfig(
            vocab_size=len(tokenizer), rope_parameters=yarn, **gguf_files.LLAMA
        ),
    }
    for number, (says, config) in enumerate(wrong.items()):
        model = gguf_files.write_model(tmp_path / str(number), config, tokenizer)
        assert says in errors_of(capsys, model, "--out", tmp_path / "m.gguf")
    assert exported(tmp_path / "0", "--to", "folder", "--out", tmp_path / "out") == 0  # the fix cures


def test_what_is_there_stays(plain, tmp_path, capsys):
    out = tmp_path / "m.gguf"
    out.write_text("a thesis")
    assert "is there already" in errors_of(capsys, plain, "--out", out)
    out.rename(tmp_path / "m.Modelfile")
    assert "m.Modelfile" in errors_of(capsys, plain, "--out", out)
    assert (tmp_path / "m.Modelfile").read_text() == "a thesis"
    assert "is taken" in errors_of(capsys, plain, "--to", "folder", "--out", tmp_path)


def test_words_that_a_format_does_not_know_are_refused(plain, tmp_path, capsys):
    assert "--dtype f32" in errors_of(capsys, plain, "--out", tmp_path / "m.gguf", "--dtype", "bfloat16")
    assert "--dtype float32" in errors_of(capsys, plain, "--to", "folder", "--out", tmp_path / "m", "--dtype", "q8_0")
    assert "q4_k" in errors_of(capsys, plain, "--out", tmp_path / "m.gguf", "--dtype", "q4_k")
    assert ".gguf" in errors_of(capsys, plain, "--out", tmp_path / "m")
    assert "shards" in errors_of(capsys, plain, "--to", "folder", "--out", tmp_path / "m", "--shards", "much")
    assert "absent" in errors_of(capsys, tmp_path / "absent", "--out", tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(plain, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in errors_of(capsys, plain, "--out", tmp_path / "file" / "m.gguf")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_told_and_nothing_is_left(plain, tmp_path, monkeypatch, capsys):
    from heed.recipes.exporting import gguf as recipe

    def full(path, *rest, **more):
        path.symlink_to("/dev/full")
        return write_gguf(path, *rest, **more)

    monkeypatch.setattr(recipe, "write_gguf", full)
    assert "the disk is full" in errors_of(capsys, plain, "--out", tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_reward_model_is_refused(green_reward, tmp_path, capsys):
    assert "a reward model is not exported" in errors_of(capsys, green_reward, "--out", tmp_path / "m.gguf")


def test_weights_that_float16_cannot_hold_are_refused(plain, tmp_path, capsys):
    model = t.AutoModelForCausalLM.from_pretrained(plain)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = 1e5
    model.save_pretrained(tmp_path / "model")
    t.AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "model")
    err = errors_of(capsys, tmp_path / "model", "--out", tmp_path / "m.gguf", "--dtype", "f16")
    assert "65,504" in err
    assert exported(tmp_path / "model", "--out", tmp_path / "m.gguf", "--dtype", "f32", "--answers", 0) == 0


def test_a_folder_is_written_in_shards_of_the_dtype_that_is_asked_for(lab, tmp_path, capsys):
    out = tmp_path / "out"
    assert exported(lab, "--to", "folder", "--dtype", "bfloat16", "--shards", "2MB", "--out", out) == 0
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size < 2_100_000 for path in files)
    assert {tensor.dtype for path in files for tensor in load_file(path).values()} == {torch.bfloat16}
    again = t.AutoModelForCausalLM.from_pretrained(out)
    assert again.dtype == torch.bfloat16
    assert "in bfloat16 in" in capsys.readouterr().out


def test_a_model_of_few_positions_is_compared_on_what_it_can_read(plain):
    model, tokenizer = t.AutoModelForCausalLM.from_pretrained(plain), t.AutoTokenizer.from_pretrained(plain)
    model.config.max_position_embeddings = 16
    scored = scored_of(tokenizer, model, 5)
    assert len(scored) == 5
    assert max(len(ids) for ids in scored) == 16
