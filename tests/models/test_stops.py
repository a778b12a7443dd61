"""Where generation stops: the template's stop tokens joined with the checkpoint's, by one rule everywhere."""

import datetime
import json

import pytest
from tiny import CHATML_TOKENS, CPU, END, write_base
from transformers import AutoModelForCausalLM, GenerationConfig

from heed.config import ChatSettings
from heed.models.intake.access import Access
from heed.models.load import LoadedModel, add_tokens, load_model, load_tokenizer, save
from heed.models.stops import stop_ids, stop_ids_of
from heed.recipes.chat import open_chat
from heed.recipes.training.setup import open_base

EXTRA = ("<|eom|>", "<|im_end|>", "<|im_start|>")


def with_eos(folder, eos_token_id, config_eos: int | None = None):
    """A base with further special tokens (ids from 280 on), whose generation config ends at these ids."""
    base = write_base(folder, "llama tied")
    model, tokenizer = load_model(base, CPU), load_tokenizer(base)
    add_tokens(model, tokenizer, EXTRA, seed=0)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    (folder / "generation_config.json").write_text(
        GenerationConfig(eos_token_id=eos_token_id).to_json_string(use_diff=True)
    )
    if config_eos is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": config_eos}))
    return base


def tokens_of(ids, base) -> list[str]:
    return load_tokenizer(base).convert_ids_to_tokens(list(ids))


def test_the_stops_of_a_checkpoint_are_joined_and_not_replaced(tmp_path):
    known = load_tokenizer(with_eos(tmp_path / "base", 0)).convert_tokens_to_ids("<|eom|>")
    base = with_eos(tmp_path / "base", [0, known])
    loaded = LoadedModel(load_model(base, CPU), load_tokenizer(base))
    (tmp_path / "run").mkdir()
    save(loaded, tmp_path / "run", template="{{ messages }}", stop_tokens=["<|im_end|>"])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert tokens_of(stop_ids_of(again), base) == ["<|im_end|>", END, "<|eom|>"]


def test_saving_twice_changes_nothing(tmp_path):
    base = with_eos(tmp_path / "base", [0])
    loaded = LoadedModel(load_model(base, CPU), load_tokenizer(base))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save(loaded, tmp_path / name, template="{{ messages }}", stop_tokens=["<|im_end|>"])
    one, two = ((tmp_path / name / "generation_config.json").read_text() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("unreal", [7, 100_000, -1], ids=["a word", "no row", "no token"])
def test_an_end_that_is_a_word_or_no_token_of_this_model_does_not_count(tmp_path, unreal):
    base = with_eos(tmp_path / "base", [0], config_eos=unreal)
    model = load_model(base, CPU)
    assert tokens_of(stop_ids(model, load_tokenizer(base), ["<|im_end|>"]), base) == ["<|im_end|>", END]
    model.generation_config.eos_token_id = [unreal, 0]
    assert tokens_of(stop_ids(model, load_tokenizer(base)), base) == [END]


def test_the_config_counts_where_the_generation_config_names_another_end(tmp_path):
    base = with_eos(tmp_path / "base", [0])
    known = load_tokenizer(base).convert_tokens_to_ids("<|eom|>")
    with_eos(tmp_path / "base", [0], config_eos=known)
    assert tokens_of(stop_ids(load_model(base, CPU), load_tokenizer(base)), base) == [END, "<|eom|>"]


def test_sampling_chatting_and_the_saved_model_stop_at_the_same_tokens(tmp_path):
    base = with_eos(tmp_path / "base", 0)
    with_eos(tmp_path / "base", [0, load_tokenizer(base).convert_tokens_to_ids("<|eom|>")])
    opened = open_base(base, "chatml", CPU, datetime.date(2026, 1, 1), 0, Access(False, lambda line: None))
    assert tokens_of(opened.stop_ids, base) == ["<|im_end|>", END, "<|eom|>"]
    (tmp_path / "run").mkdir()
    save(opened.loaded, tmp_path / "run", template=opened.saved_template(), stop_tokens=opened.stops)
    run = str(tmp_path / "run")
    chat = open_chat(ChatSettings(model=run, device="cpu"), lambda line: None)
    assert sorted(chat.stop_ids) == sorted(opened.stop_ids) == sorted(stop_ids_of(load_model(run, CPU)))
    of_base = open_chat(ChatSettings(model=base, template="chatml", device="cpu"), lambda line: None)
    assert of_base.stop_ids == opened.stop_ids
    assert set(CHATML_TOKENS) <= set(EXTRA)
