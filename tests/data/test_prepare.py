"""From a file to tokens on disk, with an account of every record: each number here is counted by hand."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from heed.data import parallel
from heed.data.prepare import Preparation, account_json, left_out_lines, open_prepared, prepare
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError


def letters() -> Tokenizer:
    """A tokenizer whose tokens are single bytes, so that tokens can be counted by counting letters; and `</s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return Tokenizer.wrap(backend, {"eos_token": "</s>"})


TOKENIZER = letters()
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' %}Q:{{ m.content }}\n{% else %}A:"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
"""a template that leaves out the thoughts of earlier answers"""


def preparation(template: ChatTemplate | str = "plain", **changes) -> Preparation:
    settings = {"max_length": None, "too_long": "error", "max_bad_records": 0.0, "held_out_share": 0.0, **changes}
    template = ChatTemplate.load(template) if isinstance(template, str) else template
    return Preparation(template=fit_template(template, TOKENIZER), tokenizer=TOKENIZER, **settings)


def write(folder: Path, *records: object, name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def text_of(prepared, record: int, wording: int = 0) -> list[str]:
    decode = TOKENIZER.backend.decode
    return [decode(t.ids.tolist(), skip_special_tokens=False) for t in prepared.conversation(record, wording)]


def trained_text_of(prepared, record: int, wording: int = 0) -> list[str]:
    decode = TOKENIZER.backend.decode
    return [
        decode(t.ids[t.weight > 0].tolist(), skip_special_tokens=False) for t in prepared.conversation(record, wording)
    ]


def ask(question: str, answer: str) -> dict[str, str]:
    return {"prompt": question, "response": answer}


def test_a_data_set_becomes_tokens_and_an_account(tmp_path):
    path = write(
        tmp_path,
        ask("12345", "abc"),
        {"messages": [{"role": "user", "content": "Xin"}, {"role": "assistant", "content": "Chào"}]},
        {"prompt": "Best?", "chosen": "yes", "rejected": "no"},
    )
    counts = []
    account = prepare(path, None, tmp_path / "store", preparation(), fingerprint="f", progress=counts.append)
    prepared = open_prepared(path, tmp_path / "store")
    assert [text_of(prepared, i) for i in range(3)] == [["12345\nabc</s>"], ["Xin\nChào</s>"], ["Best?\nyes</s>"]]
    assert [trained_text_of(prepared, i) for i in range(3)] == [["abc</s>"], ["Chào</s>"], ["yes</s>"]]
    assert account_json(account) == {
        "notes": {},
        "path": path,
        "read": "read 1 conversation as prompt/response, 1 as messages and 1 ranking as preference; "
        "supervised tuning uses the best answer of each ranking",
        "num_records": 3,
        "num_kept": 3,
        "num_held_out": 0,
        "num_tokens": (5 + 1 + 3 + 1) + (3 + 1 + 5 + 1) + (5 + 1 + 3 + 1),
        "num_trained_tokens": (3 + 1) + (5 + 1) + (3 + 1),
        "num_findings": 0,
        "num_too_long": 0,
        "num_cut_tokens": 0,
        "num_split_edges": 0,
        "num_branches": 0,
        "lengths": {
            "prompt": {"edges": [0, 1, 2, 3, 4, 5, 6, 7], "counts": [0, 0, 0, 0, 1, 0, 2]},
            "response": {"edges": [0, 1, 2, 3, 4, 5, 6, 7], "counts": [0, 0, 0, 0, 2, 0, 1]},
        },
    }
    assert counts == [1, 2, 3]
    assert list(left_out_lines(account)) == []


def test_bytes_of_accents_are_kept_as_they_were_written(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Tiếng Việt") for form in ("NFC", "NFD"))
    path = write(tmp_path, ask("?", composed), ask("?", decomposed))
    prepare(path, None, tmp_path / "store", preparation(), fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert [trained_text_of(prepared, i) for i in range(2)] == [[f"{composed}</s>"], [f"{decomposed}</s>"]]
    assert composed != decomposed


def test_turns_that_the_template_rewrites_are_counted_as_branches(tmp_path):
    thought = "<think>hm</think>f"
    turns = [("user", "one"), ("assistant", thought), ("user", "two"), ("assistant", "second")]
    path = write(tmp_path, {"messages": [{"role": role, "content": content} for role, content in turns]})
    account = prepare(path, None, tmp_path / "store", preparation(ChatTemplate(FORGETFUL, "own")), fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert text_of(prepared, 0) == ["Q:one\nA:f</s>\nQ:two\nA:second</s>\n", f"Q:one\nA:{thought}</s>"]
    assert trained_text_of(prepared, 0) == ["second</s>", f"{thought}</s>"]
    assert account.num_branches == 1
    assert account.num_kept == account.num_records == 1


# ---- records that cannot be used


BAD = {"prompt": "bad?", "response": "  "}


@pytest.mark.parametrize(("share", "num_bad"), [(0.1, 1), (0.3, 3), (1.0, 10), (0.0005, 0)])
def test_a_few_unusable_records_are_left_out_and_listed(tmp_path, share, num_bad):
    path = write(tmp_path, *[BAD] * num_bad, *[ask("good?", "yes")] * (10 - num_bad))
    account = prepare(path, None, tmp_path / "store", preparation(max_bad_records=share), fingerprint="f")
    assert (account.num_records, account.num_kept, account.num_findings) == (10, 10 - num_bad, num_bad)
    lines = [json.loads(line) for line in left_out_lines(account)]
    assert [(line["path"], line["record"]) for line in lines] == [(path, i + 1) for i in range(num_bad)]
    assert all(line["reason"].startswith("the conversation has an empty response") for line in lines)
    told = "\n".join(account.lines(None, "error"))
    assert (f"  {num_bad} unusable left out (listed in left_out.jsonl)" in told) == (num_bad > 0)


@pytest.mark.parametrize(("share", "num_bad"), [(0.0, 1), (0.0999, 1), (0.1, 2), (0.9, 10)])
def test_more_unusable_records_stop_the_run_and_leave_nothing(tmp_path, share, num_bad):
    path = write(tmp_path, *[ask("good?", "yes")] * (10 - num_bad), *[BAD] * num_bad)
    with pytest.raises(UserError) as caught:
        prepare(path, None, tmp_path / "store", preparation(max_bad_records=share), fingerprint="f")
    assert caught.value.where == f"{path}, record {11 - num_bad}"
    if num_bad > 1:
        assert f"(and {num_bad - 1} more like it, {num_bad / 10:.2%} of the records)" in caught.value.found
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]


@pytest.mark.parametrize(("num_bad", "num_good"), [(1, 9), (3, 26), (1, 1), (2, 1), (7, 993)])
def test_the_share_that_the_error_says_to_type_is_enough(tmp_path, num_bad, num_good):
    path = write(tmp_path, *[BAD] * num_bad, *[ask("good?", "yes")] * num_good)
    with pytest.raises(UserError) as caught:
        prepare(path, None, tmp_path / "store", preparation(), fingerprint="f")
    typed = float(caught.value.fix.split("--max-bad-records ")[1].split()[0])
    share = num_bad / (num_bad + num_good)
    assert share <= typed <= min(1, 1.1 * share)
    account = prepare(path, None, tmp_path / "store", preparation(max_bad_records=typed), fingerprint="f")
    assert account.num_findings == num_bad


def test_where_no_record_is_good_leaving_them_out_is_no_cure(tmp_path):
    path = write(tmp_path, BAD, BAD)
    with pytest.raises(UserError) as caught:
        prepare(path, None, tmp_path / "store", preparation(), fingerprint="f")
    assert "--max-bad-records" not in caught.value.fix


def test_an_error_leaves_what_was_prepared_before_as_it_was(tmp_path):
    path = write(tmp_path, ask("good?", "yes"))
    prepare(path, None, tmp_path / "store", preparation(), fingerprint="f")
    before = {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir()}
    write(tmp_path, ask("good?", "yes"), BAD)
    with pytest.raises(UserError):
        prepare(path, None, tmp_path / "store", preparation(), fingerprint="g")
    assert {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir()} == before


# ---- too long


LONG = [ask("12345", "abc"), ask("123", "a" * 20), ask("q" * 30, "abc"), ask("123", "abcdef")]
"""10, 25, 35 and 11 tokens"""


def test_conversations_that_are_too_long_stop_the_run(tmp_path):
    path = write(tmp_path, *LONG)
    with pytest.raises(UserError) as caught:
        prepare(path, None, tmp_path / "store", preparation(max_length=11), fingerprint="f")
    assert caught.value.where == f"{path}, record 2"
    assert caught.value.found == "25 tokens, and 1 further conversations too long"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]


def test_conversations_that_are_too_long_are_dropped_and_counted(tmp_path):
    path = write(tmp_path, *LONG)
    account = prepare(path, None, tmp_path / "store", preparation(max_length=11, too_long="drop"), fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert [text_of(prepared, i) for i in range(account.num_kept)] == [["12345\nabc</s>"], ["123\nabcdef</s>"]]
    assert (account.num_too_long, account.num_cut_tokens, account.num_tokens) == (2, 25 + 35, 10 + 11)
    assert [json.loads(line) for line in left_out_lines(account)] == [
        {"path": path, "record": 2, "reason": "too long", "num_tokens": 25},
        {"path": path, "record": 3, "reason": "too long", "num_tokens": 35},
    ]
    assert "  2 longer than 11 tokens left out (60 tokens)" in account.lines(11, "drop")


def test_conversations_that_are_too_long_are_cut_and_do_not_train_to_stop_there(tmp_path):
    path = write(tmp_path, *LONG)
    account = prepare(path, None, tmp_path / "store", preparation(max_length=11, too_long="truncate"), fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert account.num_kept == 3  # of the third record, no token is left to train
    assert [trained_text_of(prepared, i) for i in range(3)] == [["abc</s>"], ["aaaaaaa"], ["abcdef</s>"]]
    assert (account.num_too_long, account.num_cut_tokens, account.num_tokens) == (2, 14 + 35, 10 + 11 + 11)
    assert "  2 longer than 11 tokens cut to fit (49 tokens)" in account.lines(11, "truncate")


def test_a_branch_that_is_too_long_takes_its_conversation_with_it(tmp_path):
    turns = [("user", "one"), ("assistant", f"<think>{'h' * 34}</think>f"), ("user", "two"), ("assistant", "second")]
    path = write(tmp_path, {"messages": [{"role": role, "content": content} for role, content in turns]})
    given = preparation(ChatTemplate(FORGETFUL, "own"), max_length=40, too_long="drop")
    account = prepare(path, None, tmp_path / "store", given, fingerprint="f")
    assert (account.num_kept, account.num_too_long) == (0, 1)
    first, second = len("Q:one\nA:_") + 50, len("Q:one\nA:f_\nQ:two\nA:second_\n")
    assert first > 40 > second
    assert account.num_cut_tokens == first + second


# ---- wordings, and sides


def test_a_labelled_record_has_a_row_for_each_of_its_wordings(tmp_path):
    (tmp_path / "wordings.json").write_text(
        '{"sum": [["{a}+{b}?", "{answer}"], ["Add {a} to {b}.", "It is {answer}."]], "hi": [["Hi {a}", "Hello {a}"]]}'
    )
    path = write(
        tmp_path,
        {"task": "sum", "a": 1, "b": 2, "answer": "3"},
        {"task": "hi", "a": "An"},
        {"task": "sum", "a": 4, "b": 5, "answer": "9" * 30},
        {"task": "sum", "a": 5, "b": 5, "answer": "10"},
    )
    given = preparation(max_length=20, too_long="drop")
    account = prepare(path, str(tmp_path / "wordings.json"), tmp_path / "store", given, fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert account.read == "read 4 records as labelled"
    # Both wordings of the third record are too long, and the second of the first and last.
    assert [prepared.num_wordings(i) for i in range(account.num_kept)] == [1, 1, 1]
    assert [text_of(prepared, i) for i in range(3)] == [["1+2?\n3</s>"], ["Hi An\nHello An</s>"], ["5+5?\n10</s>"]]
    assert account.num_too_long == 4
    given = preparation()
    prepare(path, str(tmp_path / "wordings.json"), tmp_path / "store", given, fingerprint="g")
    prepared = open_prepared(path, tmp_path / "store")
    assert [prepared.num_wordings(i) for i in range(4)] == [2, 1, 2, 2]
    assert text_of(prepared, 3, 1) == ["Add 5 to 5.\nIt is 10.</s>"]


def test_all_wordings_of_a_record_are_on_one_side(tmp_path):
    (tmp_path / "wordings.json").write_text('[["{a}?", "{a}!"], ["Say {a}.", "{a}"]]')
    path = write(tmp_path, *({"a": f"word {i}"} for i in range(40)))
    given = preparation(held_out_share=0.5)
    account = prepare(path, str(tmp_path / "wordings.json"), tmp_path / "store", given, fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert 5 < account.num_held_out < 35
    assert sorted([*prepared.training, *prepared.held_out]) == list(range(40))
    held_out = np.repeat(np.isin(np.arange(40), prepared.held_out), 2)
    assert (prepared.store.held_out == held_out).all()


@pytest.mark.parametrize(("share", "side"), [(0.0, "training"), (1.0, "held_out")])
def test_a_share_of_nothing_or_all_is_exact(tmp_path, share, side):
    path = write(tmp_path, *(ask(f"{i}?", "yes") for i in range(30)))
    prepare(path, None, tmp_path / "store", preparation(held_out_share=share), fingerprint="f")
    assert len(getattr(open_prepared(path, tmp_path / "store"), side)) == 30


# ---- many records


def test_several_processes_prepare_what_one_does(tmp_path, monkeypatch):
    path = write(
        tmp_path, *(BAD if i == 70 else ask(f"{i}?", "yes" * (i % 9)) if i % 9 else ask("?", "no") for i in range(90))
    )
    given = preparation(max_length=24, too_long="drop", max_bad_records=0.05, held_out_share=0.2)
    alone = prepare(path, None, tmp_path / "one", given, fingerprint="f")
    monkeypatch.setattr(parallel, "NUM_ALONE", 10)
    monkeypatch.setattr(parallel, "CHUNK", 7)
    together = prepare(path, None, tmp_path / "many", given, fingerprint="f")
    assert alone == together
    assert together.num_too_long > 0
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes()


def test_a_broken_record_among_many_is_told_as_among_few(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "NUM_ALONE", 10)
    monkeypatch.setattr(parallel, "CHUNK", 7)
    path = write(tmp_path, *[ask("good?", "yes")] * 50, {"neither": 1}, *[ask("good?", "yes")] * 50)
    with pytest.raises(UserError, match="unknown shape") as caught:
        prepare(path, None, tmp_path / "store", preparation(), fingerprint="f")
    assert caught.value.where == f"{path}, record 51"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]


WORK_FOR_EVER = """
    import os, sys, time
    from heed.data import parallel

    def work(number):
        time.sleep(0.01)
        return os.getpid()

    if __name__ == "__main__":
        parallel.NUM_ALONE, parallel.CHUNK = 1, 1
        parallel.processors = lambda: 2
        for number, process in enumerate(parallel.map_in_processes(work, iter(int, 1))):
            print(process, flush=True)
"""


def test_a_first_process_that_is_killed_leaves_no_others_behind(tmp_path):
    (tmp_path / "work.py").write_text(textwrap.dedent(WORK_FOR_EVER))
    with subprocess.Popen([sys.executable, tmp_path / "work.py"], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        others: set[int] = set()
        while len(others) < 2:
            others |= {int(first.stdout.readline())} - {first.pid}
        first.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + 20
    while any(is_alive(process) for process in others):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
