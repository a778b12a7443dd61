"""A labelled record is said as its wordings say it, each wording once before one repeats."""

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.data.wordings import SLOT, Wording, draw, load_wordings, say
from heed.errors import UserError
from heed.types import Labelled, Origin

ORIGIN = Origin("a.jsonl", 7)
RTE = {"premise": "Mèo ngủ.", "hypothesis": "Nó {thức}.", "options": ["yes", "no"], "answer": "no"}


def labelled(**fields) -> Labelled:
    return Labelled(fields, ORIGIN)


def asked(pattern: str, **fields) -> str:
    return say(labelled(**fields), Wording(pattern, "x")).messages[0].content


# ---- the file


def test_every_wording_of_the_61_flan_tasks_can_be_said(shared):
    wordings = load_wordings(str(shared / "instruct/flan2021_templates.json"))
    assert len(wordings.tasks) == 61
    assert {len(listed) for listed in wordings.tasks.values()} == {10}
    for task, listed in wordings.tasks.items():
        slots = {slot for wording in listed for slot in SLOT.findall(wording.input + wording.target)}
        record = labelled(task=task, options=["a", "b"], **{slot: f"<{slot}>" for slot in slots - {"options"}})
        assert wordings.of(record) == listed
        for wording in listed:
            question, answer = say(record, wording).messages
            expected = wording.input
            for slot in slots:
                block = "OPTIONS:\n- a\n- b" if slot.startswith("options") else f"<{slot}>"
                expected = expected.replace(f"{{{slot}}}", block)
            assert question.content == expected
            assert answer.content
            assert "{" not in question.content + answer.content


def test_a_flan_record_reads_as_flan_writes_it(shared):
    wordings = load_wordings(str(shared / "instruct/flan2021_templates.json"))
    conversation = say(labelled(**RTE), wordings.tasks["rte"][0])
    assert [(m.role, m.content) for m in conversation.messages] == [
        (
            "user",
            'Mèo ngủ.\n\nBased on the paragraph above can we conclude that "Nó {thức}."?\n\nOPTIONS:\n- yes\n- no',
        ),
        ("assistant", "no"),
    ]
    assert conversation.origin == ORIGIN


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.json", '[["{q}", "{answer}"]]'),
        ("w.json", '\ufeff[{"input": "{q}", "target": "{answer}"}]'),
        ("w.yaml", "- ['{q}', '{answer}']"),
        ("w.yml", "- input: '{q}'\n  target: '{answer}'"),
    ],
)
def test_a_plain_list_is_a_single_task_that_needs_no_name(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    wordings = load_wordings(str(tmp_path / name))
    assert wordings.of(labelled(task="whatever")) == wordings.of(labelled()) == (Wording("{q}", "{answer}"),)


def test_the_field_task_names_the_task(tmp_path):
    (tmp_path / "w.json").write_text('{"rte": [["1", "x"]], "cola": [["2", "x"]]}')
    wordings = load_wordings(str(tmp_path / "w.json"))
    assert wordings.task_of(labelled(task="cola")) == "cola"
    with pytest.raises(
        UserError, match=r"unknown task 'coal'[\s\S]*record 7[\s\S]*rte, cola[\s\S]*did you mean 'cola'"
    ):
        wordings.task_of(labelled(task="coal"))
    with pytest.raises(UserError, match=r"names no task[\s\S]*the fields question[\s\S]*\"task\": \"rte\""):
        wordings.task_of(labelled(question="q"))


def test_a_file_with_one_named_task_is_used_unless_the_record_names_another(tmp_path):
    (tmp_path / "w.json").write_text('{"rte": [["1", "x"]]}')
    wordings = load_wordings(str(tmp_path / "w.json"))
    assert wordings.task_of(labelled()) == "rte"
    with pytest.raises(UserError, match="unknown task 'cola'"):
        wordings.task_of(labelled(task="cola"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"\xff", "not UTF-8"),
        (b"{", "is broken"),
        (b"{}", "holds no tasks"),
        (b"[]", "holds no list"),
        (b"3", "holds no list"),
        (b'{"rte": []}', "task 'rte' has no list"),
        (b'{"rte": [["a", "b"], ["a"]]}', "wording 2 of task 'rte' is not a pair"),
        (b'{"rte": [{"input": "a", "output": "b"}]}', "wording 1 of task 'rte' is not a pair"),
        (b'{"rte": [{"input": "a", "target": "b", "x": 1}]}', "not a pair"),
        (b'{"rte": [["a", 3]]}', "not a pair"),
        (b'{"rte": [["a", " "]]}', "empty target"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_wordings_file_that_cannot_be_used_is_refused(tmp_path, content, problem, suffix):
    path = tmp_path / f"w.{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        load_wordings(str(path))
    assert caught.value.where == str(path)


# ---- saying


@pytest.mark.parametrize("slot", ["options", "options_", "options_str"])
@pytest.mark.parametrize(
    "fields",
    [{"options": ["yes", "không"]}, {"choices": ("yes", "không")}, {"options": '["yes", "không"]'}],
)
def test_choices_are_rendered_as_a_list_under_a_heading(slot, fields):
    assert asked(f"a\n{{{slot}}}", **fields) == "a\nOPTIONS:\n- yes\n- không"


def test_choices_already_written_as_text_are_put_in_as_they_are():
    assert asked("{options_}", options_="(A) yes (B) no") == "(A) yes (B) no"


@pytest.mark.parametrize("label", [1, "1"])
def test_the_answer_is_the_field_or_the_option_that_the_label_counts_to(label):
    wording = Wording("q", "{answer}")
    assert say(labelled(options=["a", "b"], label=label), wording).messages[1].content == "b"
    assert say(labelled(options=["a", "b"], label=label, answer="c"), wording).messages[1].content == "c"
    assert say(labelled(answer=42), wording).messages[1].content == "42"


@settings(deadline=None)  # the machine may be busy
@given(st.text(), st.text())
def test_braces_in_values_are_text(first, second):
    value = f"{first}{{b}}{{0}}{{{{a}}}}{second}"
    assert asked("<{a}|{b}>", a=value, b="{a}") == f"<{value}|{{a}}>"


def test_a_pattern_may_hold_braces_that_are_no_slot():
    assert asked("{} { a } {a-b} {a}", a="x") == "{} { a } {a-b} x"


@pytest.mark.parametrize(
    ("pattern", "fields", "message"),
    [
        ("{question}", {"q": "x"}, r"slot \{question\}[\s\S]*record 7[\s\S]*the fields q[\s\S]*add \"question\""),
        ("{q}", {"q": ["x"]}, r"slot \{q\}[\s\S]*q: \[\"x\"\]"),
        ("{q}", {"q": True}, r"slot \{q\}"),
        ("{q}", {"q": None}, r"slot \{q\}"),
        ("{options_}", {"q": "x"}, "the list 'options' or 'choices'"),
        ("{options_}", {"options": []}, "the list 'options' or 'choices'"),
        ("{answer}", {"q": "x"}, r"slot \{answer\}"),
        ("{answer}", {"label": 0}, r"the list 'options' or 'choices'"),
        ("{answer}", {"label": 2, "options": ["a", "b"]}, r"label names no option[\s\S]*label: 2 of 2 options"),
        ("{answer}", {"label": -1, "options": ["a", "b"]}, "from 0 to 1"),
        ("{answer}", {"label": True, "options": ["a", "b"]}, "label names no option"),
        ("{answer}", {"label": "b", "options": ["a", "b"]}, "label names no option"),
        ("{answer}", {"answer": 1, "options": ["1", "2"]}, "may be the answer or count the options"),
        ("{answer}", {"answer": ["a"], "label": 0, "options": ["a"]}, r"slot \{answer\}"),
    ],
)
def test_a_slot_without_a_value_names_slot_record_and_fields(pattern, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        asked(pattern, **fields)
    assert caught.value.where == str(ORIGIN)


# ---- drawing


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**70), st.integers(0, 10**9), st.integers(1, 30), st.integers(0, 5))
def test_every_wording_is_said_once_before_one_repeats(seed, record, num_wordings, rounds):
    start = rounds * num_wordings
    drawn = [draw(seed, record, epoch, num_wordings) for epoch in range(start, start + num_wordings)]
    assert sorted(drawn) == list(range(num_wordings))


def test_records_and_seeds_have_orders_of_their_own_and_every_wording_is_equally_likely():
    counts = Counter(draw(0, record, 0, 10) for record in range(5000))
    assert len(counts) == 10
    assert max(abs(count - 500) for count in counts.values()) < 90  # over four standard deviations
    pairs = Counter(tuple(draw(0, record, epoch, 3) for epoch in range(3)) for record in range(6000))
    assert len(pairs) == 6
    assert max(abs(count - 1000) for count in pairs.values()) < 120
    assert [draw(1, record, 0, 10) for record in range(50)] != [draw(0, record, 0, 10) for record in range(50)]


def test_the_draw_is_the_same_in_every_process():
    code = "from heed.data.wordings import draw; print([draw(3, r, e, 10) for r in range(5) for e in range(3)])"
    env = {"PYTHONHASHSEED": "123", "PATH": ""}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout
    assert json.loads(printed) == [draw(3, r, e, 10) for r in range(5) for e in range(3)]
