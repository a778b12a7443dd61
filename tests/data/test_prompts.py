"""Prompts on disk: the ids a model reads before it answers, and the record each came from."""

import datetime
import json

import numpy as np
import pytest
from letter_tokens import TOKENIZER, preparation, write

from heed.data import parallel
from heed.data.chat import masked
from heed.data.preferences import open_rankings, prepare_rankings
from heed.data.prepare import account_json, left_out_lines
from heed.data.prompts import open_prompts, prepare_prompts
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.errors import UserError
from heed.types import Conversation, Message, Origin


def prompts(tmp_path, *records, **changes):
    path = write(tmp_path, *records)
    account = prepare_prompts(path, tmp_path / "store", preparation(**changes), fingerprint="f")
    return account, open_prompts(path, tmp_path / "store")


def text(prompt) -> str:
    return TOKENIZER.backend.decode(prompt.ids.tolist(), skip_special_tokens=False)


def test_a_prompt_is_what_the_model_reads_before_it_answers_with_its_whole_record(tmp_path):
    records = [
        {"prompt": "12+30?", "answer": "42", "tags": ["sum"], "price": 1.5},
        {
            "messages": [
                {"role": role, "content": c} for role, c in (("user", "Chào"), ("assistant", "a"), ("user", "b"))
            ]
        },
        {"instruction": "i", "output": "not read"},
    ]
    account, prepared = prompts(tmp_path, *records)
    found = [prepared.prompt(i) for i in range(3)]
    assert [text(each) for each in found] == ["Q:12+30?\nA:", "Q:Chào\nA:a</s>\nQ:b\nA:", "Q:i\nA:"]
    assert [each.fields for each in found] == records
    assert [each.origin.record for each in found] == [1, 2, 3]
    assert [[m.role for m in each.messages] for each in found] == [["user"], ["user", "assistant", "user"], ["user"]]
    assert all(each.ids.dtype == np.int32 for each in found)
    numbers = account_json(account)
    assert numbers["read"] == "read 1 prompt as prompt, 1 as messages and 1 as alpaca (answers not read)"
    assert (numbers["num_records"], numbers["num_kept"], numbers["num_tokens"]) == (3, 3, sum(map(len, found)))
    assert sum(numbers["lengths"]["prompt"]["counts"]) == 3
    assert "tokens trained" not in account.lines(None, "error")[-1]


def test_a_record_comes_back_in_any_order_with_every_character(tmp_path):
    records = [{"prompt": f"{i}?", "note": "Tiếng Việt \u2028 \n" * i, "half": "\ud83d"} for i in range(5)]
    _, prepared = prompts(tmp_path, *records)
    for index in (4, 0, 3, 1, 2):
        assert prepared.prompt(index).fields == records[index]


def test_values_of_tables_that_json_does_not_know_become_text(tmp_path):
    from heed.data.prompts import prepare_prompt
    from heed.types import Prompt

    fields = {"day": datetime.date(2024, 1, 2), "count": np.int64(3), "list": np.array([1.5])}
    prompt = Prompt((Message("user", "p"),), Origin("a", 1), fields)
    line = json.loads(prepare_prompt(preparation(), ("prompt", prompt)).line)
    assert line["fields"] == {"day": "2024-01-02", "count": 3, "list": [1.5]}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": [{"role": "system", "content": "s"}]}, "no user message"),
        ({"messages": []}, "no user message"),
        ({"prompt": "a</s>b"}, "special-token text"),
        ({"prompt": "\ud83d"}, "text cannot be used"),
        ({"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}, "ends with an answer"),
    ],
)
def test_what_cannot_be_asked_stops_the_run_unless_few_are_allowed(tmp_path, record, problem):
    path = write(tmp_path, {"prompt": "p"}, record)
    with pytest.raises(UserError, match=problem) as caught:
        prepare_prompts(path, tmp_path / "store", preparation(), fingerprint="f")
    assert caught.value.where == f"{path}, record 2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]
    account, prepared = prompts(tmp_path, record, {"prompt": "p"}, max_bad_records=0.5)
    assert (account.num_kept, account.num_findings) == (1, 1)
    assert text(prepared.prompt(0)) == "Q:p\nA:"


def test_a_template_that_refuses_a_prompt_makes_a_finding(tmp_path):
    template = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}Q{{ eos_token }}"
    path = write(tmp_path, {"messages": [{"role": "user", "content": "a"}] * 2})
    with pytest.raises(UserError, match=r"cannot render[\s\S]*one only") as caught:
        prepare_prompts(path, tmp_path / "store", preparation(template), fingerprint="f")
    assert caught.value.where == f"{path}, record 1"


def test_a_prompt_that_leaves_no_room_stops_or_is_left_out_but_is_never_cut(tmp_path):
    records = [{"prompt": "p"}, {"prompt": "p" * 20}, {"prompt": "p" * 4}]  # 6, 25 and 9 tokens
    with pytest.raises(UserError, match="leaves no room") as caught:
        prompts(tmp_path, *records, max_length=8)
    assert (caught.value.found, caught.value.expected) == (
        "25 tokens, and 1 further prompts too long",
        "at most 8 tokens, so that an answer has room",
    )
    assert caught.value.fix == "--too-long drop leaves such prompts out and counts them"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]
    for too_long in ("drop", "truncate"):
        account, prepared = prompts(tmp_path, *records, max_length=9, too_long=too_long)
        assert [text(prepared.prompt(i)) for i in range(2)] == ["Q:p\nA:", "Q:pppp\nA:"]
        assert (account.num_kept, account.num_too_long, account.num_cut_tokens) == (2, 1, 25)
        assert [json.loads(line)["reason"] for line in left_out_lines(account)] == ["the prompt is too long"]


def test_a_prompt_longer_than_an_option_allows_is_told_so(tmp_path):
    with pytest.raises(UserError, match="a prompt is longer than --max-prompt-length allows") as caught:
        prompts(tmp_path, {"prompt": "p" * 4}, max_length=8, limited_by="--max-prompt-length")
    assert (caught.value.found, caught.value.expected) == (
        "9 tokens",
        "at most 8 tokens, as --max-prompt-length 8 says",
    )


def test_a_prompt_lies_on_the_side_that_it_lies_on_as_part_of_a_preference(tmp_path):
    records = [{"prompt": f"prompt {i}", "chosen": "a", "rejected": "b"} for i in range(60)]
    _, prepared = prompts(tmp_path, *records, held_out_share=0.3)
    path = write(tmp_path, *records)
    prepare_rankings(path, tmp_path / "pairs", preparation(held_out_share=0.3), fingerprint="f")
    assert prepared.held_out.tolist() == open_rankings(path, tmp_path / "pairs").held_out.tolist()
    assert 0 < len(prepared.held_out) < 60


def test_several_processes_prepare_what_one_does(tmp_path, monkeypatch):
    path = write(tmp_path, *({"prompt": "é" * (i % 40) or "-", "i": i} for i in range(80)))
    given = preparation(max_length=60, too_long="drop", held_out_share=0.2)
    alone = prepare_prompts(path, tmp_path / "one", given, fingerprint="f")
    monkeypatch.setattr(parallel, "NUM_ALONE", 10)
    monkeypatch.setattr(parallel, "CHUNK", 7)
    assert prepare_prompts(path, tmp_path / "many", given, fingerprint="f") == alone
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("tokenizer", ["models/stories260K", "tokenizers/gpt2"])
def test_prompts_of_real_preferences_are_those_that_the_answers_follow(shared, tmp_path, tokenizer):
    found = Tokenizer.from_folder(shared / tokenizer)
    template = fit_template(ChatTemplate.load("alpaca"), found)
    given = preparation()
    given = type(given)(**{**vars(given), "template": template, "tokenizer": found})
    path = str(shared / "preference" / "rasbt-1100-preference.json")
    account = prepare_prompts(path, tmp_path / "store", given, fingerprint="f")
    assert (account.num_records, account.num_kept) == (1100, 1100)
    prepared = open_prompts(path, tmp_path / "store")
    bos = found.token_id("bos_token") if found.adds_bos else None
    for index in range(0, 1100, 50):
        prompt = prepared.prompt(index)
        answered = (*prompt.messages, Message("assistant", str(prompt.fields["chosen"])))
        rendered = masked(Conversation(answered, prompt.origin), template)
        tokens = tokenise(rendered[0], found).tokens
        assert prompt.ids.tolist() == tokens.ids[: tokens.weight.nonzero()[0][0]].tolist()
        assert bos is None or prompt.ids.tolist().count(bos) == 1
