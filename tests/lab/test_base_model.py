"""The embedded base model: small, a base model, and as good a reader as its card says."""

import json
import re
import unicodedata
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.dist.world import World
from heed.forest.build import build
from heed.lab import words
from heed.lab.base_model import BASE_MODEL
from heed.lab.base_text import base_text
from heed.lab.world import make_world, nouns
from heed.models.score import forest_score
from heed.train.step import evaluate, likelihood
from heed.types import Tokens

CARD = (BASE_MODEL / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32), AutoTokenizer.from_pretrained(
        BASE_MODEL
    )


def test_the_package_holds_at_most_eight_megabytes_of_bfloat16():
    assert sum(path.stat().st_size for path in BASE_MODEL.iterdir()) <= 8e6
    with safe_open(BASE_MODEL / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_the_shape_is_the_one_on_the_card(base):
    model, _ = base
    assert f"{model.num_parameters():,} parameters" in CARD
    config = json.loads((BASE_MODEL / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert 2e6 <= model.num_parameters() <= 4e6


def test_the_perplexity_is_the_one_on_the_card(base):
    model, tokenizer = base
    ids = [i for text in held_out_text() for i in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    blocks = np.array(ids[: len(ids) // 512 * 512], dtype=np.int32).reshape(-1, 512)
    weight = np.ones(512, dtype=np.float32)
    weight[0] = 0
    forests = [build([Tokens(block, weight)], share=False) for block in blocks]
    measured = evaluate(forests, likelihood(partial(forest_score, model)), world=World())["nll_per_token"]
    stated = re.search(r"([\d.]+) nats per token", CARD)
    assert stated is not None
    assert measured == pytest.approx(float(stated[1]), rel=0.05)  # of other documents, and after rounding to bfloat16


def held_out_text():
    return base_text(make_world(), seed=1, num_documents=200, with_rare_facts=False)


def test_it_has_no_tokens_for_turns_of_a_chat_and_no_template(base):
    _, tokenizer = base
    assert tokenizer.chat_template is None
    assert not [token for token in tokenizer.get_vocab() if token.startswith("<|") and token != "<|endoftext|>"]


def test_vietnamese_is_read_alike_composed_and_decomposed_and_comes_back_composed(base):
    _, tokenizer = base
    for noun in nouns():
        composed, decomposed = (unicodedata.normalize(form, noun.classified) for form in ("NFC", "NFD"))
        assert tokenizer(composed).input_ids == tokenizer(decomposed).input_ids
        assert tokenizer.decode(tokenizer(decomposed).input_ids) == composed


def test_asked_to_translate_it_goes_on_with_text_and_does_not_stop_after_an_answer(base):
    model, tokenizer = base
    prompt = "Translate this sentence into Vietnamese: The nurse washed a bowl.\n"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert tokenizer.decode(out).strip() not in ("Y tá đã rửa một cái bát.", "")


def test_it_completes_what_it_was_told_often(base):
    model, tokenizer = base
    world = make_world()
    homes = [fact for fact in world.told("often") if fact.attribute == "home"][:30]
    right = 0
    for fact in homes:
        ids = tokenizer(f"{fact.entity} lives in", return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        right += tokenizer.decode(out).strip().startswith(fact.value)
    assert right >= 24
    assert set(words.TOWNS) >= {fact.value for fact in homes}
