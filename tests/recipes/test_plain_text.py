"""Going on with pre-training on plain text: every token is trained, once, and long documents are cut."""

import itertools
import json

import numpy as np
import pytest

from heed.cli.main import main
from heed.data.documents import cut, rendered_document
from heed.data.prepare import Preparation, open_prepared, prepare
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.errors import UserError
from heed.recipes.training.setup import open_tokenizer
from heed.types import Document, Finding, Origin, Rendered, Tokens

ORIGIN = Origin("a.jsonl", 1)


@pytest.fixture(scope="module")
def tokenizer(instruct) -> Tokenizer:
    return open_tokenizer(str(instruct))


@pytest.fixture(scope="module")
def template(tokenizer):
    return fit_template(tokenizer.template, tokenizer)


@pytest.mark.parametrize("max_length", [2, 3, 7, 10, 11, 12, None])
def test_every_token_but_the_first_is_trained_exactly_once_in_pieces_that_fit(max_length):
    ids = np.arange(11, dtype=np.int32)
    weight = np.ones(11, dtype=np.float32)
    weight[0] = 0
    pieces = cut(Tokens(ids, weight), max_length)
    assert all(len(piece) <= (max_length or 11) for piece in pieces)
    assert [int(i) for piece in pieces for i in piece.ids[piece.weight > 0]] == list(range(1, 11))
    assert all(piece.ids[0] == before.ids[-1] for before, piece in itertools.pairwise(pieces))


def test_a_document_is_its_text_with_eos_behind_it_and_bos_before_it_where_the_tokenizer_begins_texts_so(
    tokenizer, template
):
    rendered = rendered_document(Document("The sky is blue.", ORIGIN), template, tokenizer)
    assert isinstance(rendered, Rendered)
    eos, bos = tokenizer.variables["eos_token"], tokenizer.variables["bos_token"] if tokenizer.adds_bos else ""
    assert rendered.text == f"{bos}The sky is blue.{eos}"
    tokens = tokenise(rendered, tokenizer).tokens
    assert tokens.ids[-1] == tokenizer.token_id("eos_token")
    assert tokens.weight.tolist() == [0] + [1] * (len(tokens) - 1)


@pytest.mark.parametrize("text", ["", " \n", "a<|user|>b", "half \ud83d"])
def test_a_text_that_is_none_or_spells_special_tokens_is_a_finding(tokenizer, template, text):
    assert isinstance(rendered_document(Document(text, ORIGIN), template, tokenizer), Finding)


def test_pieces_are_records_of_their_own_on_the_side_of_their_document(tokenizer, template, write, tmp_path):
    long = " ".join(f"word {i}" for i in range(60))
    path = write([{"text": f"{i} {long}"} for i in range(40)])
    preparation = Preparation(template, tokenizer, 32, "error", 0.0, 0.3)
    account = prepare(str(path), None, tmp_path / "store", preparation, fingerprint="f")
    prepared = open_prepared(str(path), tmp_path / "store")
    assert account.num_records == 40
    assert account.num_kept == len(prepared.training) + len(prepared.held_out) > 200
    assert account.num_too_long == 0
    sides = [{prepared.store.origin(int(i)).record for i in side} for side in (prepared.training, prepared.held_out)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(range(1, 41))
    assert "40 documents as text; every token of a document is trained" in account.read


def test_sft_goes_on_with_pre_training_on_plain_text(base, tune, tmp_path, lines_of):
    (tmp_path / "text").mkdir()
    for i in range(6):
        (tmp_path / "text" / f"{i}.txt").write_text(f"The sky over town {i} is blue. " * 30)
    options = {"model": base, "data": tmp_path / "text", "out": tmp_path / "run", "max_length": 64, "steps": 12}
    assert tune(**options, held_out_share=0.2, batch_size=8, optim_lr=3e-3) == 0
    losses = [line["nll_per_token"] for line in lines_of(tmp_path / "run" / "metrics.jsonl", "train")]
    assert losses[-1] < 0.8 * losses[0]
    [account] = json.loads((tmp_path / "run" / "data.json").read_text())
    assert account["num_records"] == 6
    tables = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (base, tmp_path / "run")]
    assert tables[0] == tables[1]  # no tokens of a chat were added
    assert account["num_kept"] > 12
    assert account["num_trained_tokens"] > 0.95 * account["num_tokens"]


def test_preferences_cannot_be_learnt_from_plain_text(tmp_path):
    from heed.data.read import read_judged, read_rankings

    (tmp_path / "a.txt").write_text("Some text.")
    for read in (read_rankings, read_judged):
        with pytest.raises(UserError, match=r"the shape text"):
            list(read(str(tmp_path / "a.txt")))


def test_ppo_rehearses_plain_text_beside_the_reward(tmp_path, instruct, write):
    (tmp_path / "text.txt").write_text("The sky over the town is blue. " * 60)
    prompts = write(
        [{"prompt": f"What colour is {thing}?", "wanted": "blue"} for thing in ("snow", "grass", "coal", "milk")]
    )
    options = {"model": instruct, "data": prompts, "reward": "contains: wanted", "steps": 1, "batch_size": 4}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    more = ["--max-new-tokens", "8", "--ptx.data", str(tmp_path / "text.txt")]
    code = main(["ppo", *words, *more, "--device", "cpu", "--out", str(tmp_path / "run"), "--minibatches", "1"])
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert next(line["ptx_nll"] for line in lines if "ptx_nll" in line) > 0
