"""Rewards that the user gives: what each scores, and how everything that can be wrong with one is said."""

import json
import os
import sys
import time

import numpy as np
import pytest
import torch

from heed.errors import UserError
from heed.evaluate.rewards import checked, kind_of, open_reward
from heed.evaluate.rules import composed, has_word


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def score(reward, answers, record=None):
    return open_reward(reward)(["a prompt"] * len(answers), answers, [record or {}] * len(answers))


def failure(reward, answers=("an answer", "another"), record=None):
    with pytest.raises(UserError) as caught:
        score(reward, list(answers), record)
    error = caught.value
    assert all((error.problem, error.where, error.found, error.expected, error.fix))
    assert "--reward" in error.where
    return error


# ---- which reward a text asks for


def test_a_text_says_which_reward_it_is(tmp_path):
    assert kind_of(str(tmp_path)) == "model"
    assert kind_of("score.py:length") == "function"
    assert kind_of("rewards/score.py:length") == "function"
    assert kind_of("command: python score.py:length") == "command"
    assert kind_of("regex:a.py:b") == "regex"
    assert kind_of("contains: words") == "contains"
    assert kind_of("equals:answer") == "equals"


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("regexp: a+", "--reward 'regex: a+'"),
        ("Contains: words", "--reward 'contains: words'"),
        ("score.py", "score.py:FUNCTION"),
        ("no/such/folder", "heed reward"),
        ("", "heed reward"),
    ],
)
def test_what_is_no_reward_is_refused_with_what_it_may_have_meant(text, fix):
    with pytest.raises(UserError, match="this is no reward") as caught:
        kind_of(text)
    assert fix in caught.value.fix


@pytest.mark.parametrize("text", ["regex:", "contains: ", "equals:", "command:  "])
def test_a_reward_that_says_nothing_after_its_kind_is_refused(text):
    assert "nothing after it" in failure(text).problem


def test_the_folder_of_a_reward_model_is_not_opened_here(tmp_path):
    with pytest.raises(ValueError, match="reward model"):
        open_reward(str(tmp_path))


def test_no_answers_are_no_scores_and_nothing_is_called(write):
    write("r.py", "def f(prompts, answers, records):\n    raise RuntimeError\n")
    assert open_reward("r.py:f")([], [], []) == []


def test_lists_of_different_lengths_are_our_mistake():
    with pytest.raises(ValueError, match="2 prompts, 1 answers"):
        open_reward("regex: a")(["p", "q"], ["a"], [{}])


# ---- a function


def test_a_function_gets_prompts_answers_and_records_in_their_order(write):
    write(
        "r.py",
        "def f(prompts, answers, records):\n"
        "    return [len(p) + 10 * len(a) + 100 * r['n'] for p, a, r in zip(prompts, answers, records)]\n",
    )
    assert open_reward("r.py:f")(["p", "pp"], ["aaa", "é"], [{"n": 1}, {"n": 2}]) == [131.0, 212.0]


def test_a_function_that_changes_its_lists_changes_nothing_of_ours(write):
    write(
        "r.py",
        "def f(prompts, answers, records):\n    records[0].clear(); prompts.clear(); answers.clear(); return [1, 2]\n",
    )
    prompts, answers, records = ["p", "q"], ["a", "b"], [{"n": 1}, {"n": 2}]
    assert open_reward("r.py:f")(prompts, answers, records) == [1.0, 2.0]
    assert (prompts, answers, records) == (["p", "q"], ["a", "b"], [{"n": 1}, {"n": 2}])


def test_a_file_may_import_what_lies_beside_it_but_not_hide_what_is_installed(write):
    write("beside_it.py", "VALUE = 7.0\n")
    write("json.py", "raise RuntimeError('the wrong json')\n")
    write(
        "r.py",
        "import beside_it\nimport json\ndef f(p, a, r):\n    return [beside_it.VALUE] * len(json.loads('[1]'))\n",
    )
    assert score("r.py:f", ["a"]) == [7.0]


def test_a_file_may_define_dataclasses(write):
    write(
        "r.py",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
        "def f(p, a, r):\n    return [A(3).x]\n",
    )
    assert score("r.py:f", ["a"]) == [3.0]


def test_a_missing_file_is_named_with_the_one_that_may_be_meant(write):
    write("reward.py", "")
    error = failure("rewad.py:f")
    assert "no file" in error.problem
    assert error.fix == "--reward reward.py:f"


def test_a_missing_function_is_named_with_those_that_are_there(write):
    write("r.py", "def length(p, a, r): ...\ndef other(p, a, r): ...\n")
    error = failure("r.py:lenght")
    assert "no function 'lenght'" in error.problem
    assert "length, other" in error.found
    assert error.fix == "--reward r.py:length"


def test_a_file_without_any_function_is_said_to_have_none(write):
    write("r.py", "f = 3\n")
    assert failure("r.py:f").found == "no function at all"


@pytest.mark.parametrize(
    ("source", "at", "found"),
    [
        ("x = 1\nraise KeyError('lost')\n", "r.py:2", "KeyError: 'lost'"),
        ("def f(:\n", "r.py:1", "SyntaxError"),
        ("import no_such_module_anywhere\n", "r.py:1", "ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "r.py:2", "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_run_says_where_it_failed(write, source, at, found):
    write("r.py", source)
    error = failure("r.py:f")
    assert "cannot be run" in error.problem
    assert at in error.where
    assert found in error.found


def test_a_function_that_raises_shows_its_last_line_and_where_in_the_users_file(write):
    write(
        "r.py", "import json\n\ndef g(a):\n    return json.loads(a)\n\ndef f(p, a, r):\n    return [g(x) for x in a]\n"
    )
    error = failure("r.py:f", ["no json"])
    assert "function failed" in error.problem
    assert "r.py:4, in g: return json.loads(a)" in error.where
    assert error.found.startswith("json.decoder.JSONDecodeError: Expecting value")
    assert "last checkpoint" in error.fix


def test_a_function_of_other_arguments_says_so(write):
    write("r.py", "def f(answers):\n    return [0.0]\n")
    error = failure("r.py:f")
    assert "TypeError: f() takes 1 positional argument but 3 were given" in error.found
    assert "called with (prompts, answers, records)" in error.where


# ---- what a reward returns


@pytest.mark.parametrize(
    "returned",
    [
        [0.5, -2],
        (0.5, -2),
        np.array([0.5, -2]),
        np.array([0.5, -2], dtype=np.float32),
        torch.tensor([0.5, -2]),
        [np.float32(0.5), np.int64(-2)],
        [torch.tensor(0.5), torch.tensor([-2.0])],
    ],
)
def test_lists_arrays_and_tensors_of_numbers_will_do(returned):
    scores = checked(returned, "r", ["p", "q"], ["a", "b"])
    assert scores == [0.5, -2.0]
    assert all(type(each) is float for each in scores)


def test_true_and_false_are_one_and_zero():
    assert checked([True, False], "r", ["p", "q"], ["a", "b"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("returned", "problem", "found"),
    [
        ([1.0], "wrong number of scores", "1 scores for 2 answers"),
        ([1.0, 2.0, 3.0], "wrong number of scores", "3 scores for 2 answers"),
        ([], "wrong number of scores", "0 scores"),
        (None, "did not return a list", "NoneType"),
        (1.0, "did not return a list", "1.0"),
        ("12", "did not return a list", "'12'"),
        ({0: 1.0, 1: 2.0}, "did not return a list", "dict"),
        ([1.0, float("nan")], "not finite", "nan for answer 2 of 2, 'b', to 'q'"),
        ([float("inf"), 1.0], "not finite", "inf for answer 1 of 2, 'a', to 'p'"),
        ([1.0, "2.0"], "no number", "'2.0', of type str, for answer 2"),
        ([None, 1.0], "no number", "None"),
        ([[1.0], [2.0]], "no number", "[1.0]"),
        (np.zeros((2, 3)), "no number", "[0.0, 0.0, 0.0]"),
        ([1.0, 1j], "no number", "1j"),
    ],
)
def test_anything_but_one_finite_number_for_each_answer_is_an_error(returned, problem, found):
    with pytest.raises(UserError) as caught:
        checked(returned, "r.py:f", ["p", "q"], ["a", "b"])
    assert problem in caught.value.problem
    assert found in caught.value.found
    assert "--reward r.py:f" in caught.value.where


def test_a_coroutine_is_no_list(write):
    write("r.py", "def f(p, a, r):\n    return (x for x in [1.0, 2.0])\n")
    assert "generator" in failure("r.py:f").found


# ---- a command


def program(write, source, name="s.py"):
    write(name, source)
    return f"command: {sys.executable} {name}"


def test_a_command_reads_json_lines_and_prints_a_number_for_each(write):
    reward = program(
        write,
        "import json, sys\nfor line in sys.stdin:\n    each = json.loads(line)\n"
        "    assert sorted(each) == ['answer', 'prompt', 'record']\n"
        "    print(len(each['answer']) + each['record']['n'])\n",
    )
    answers = ["mèo\nđen", "", "“\u2028”"]
    records = [{"n": 0.5}, {"n": -1}, {"n": 0}]
    assert open_reward(reward)(["p"] * 3, answers, records) == [7.5, -1.0, 3.0]


def test_what_a_command_reads_is_plain_unicode_with_one_line_for_each_answer(write):
    reward = program(
        write,
        "import sys\nread = sys.stdin.buffer.read()\nopen('read', 'wb').write(read)\nprint(1)\nprint(2)\n",
    )
    open_reward(reward)(["p", "q"], ["mèo\nđen", "b"], [{}, {"k": ["v"]}])
    with open("read", encoding="utf-8") as file:
        lines = file.read().split("\n")
    assert len(lines) == 3
    assert "mèo" in lines[0]
    assert json.loads(lines[1]) == {"prompt": "q", "answer": "b", "record": {"k": ["v"]}}


def test_a_command_need_not_read_its_input(write):
    assert score(program(write, "print(1)\nprint(-2e-3)\n"), ["a" * 100_000, "b"]) == [1.0, -0.002]


def test_a_program_that_is_not_there_is_found_out_before_the_first_answer(write):
    with pytest.raises(UserError, match="no program 'no-such-program'"):
        open_reward("command: no-such-program --x")


def test_a_file_that_may_not_be_executed_is_to_be_made_executable(write):
    write("score.sh", "#!/bin/sh\necho 1\n")
    error = failure("command: ./score.sh")
    assert error.fix == "chmod +x ./score.sh"
    os.chmod("score.sh", 0o755)
    assert score("command: ./score.sh", ["a"]) == [1.0]


def test_a_script_without_its_first_line_says_what_it_lacks(write):
    write("score.sh", "echo 1\n")
    os.chmod("score.sh", 0o755)
    assert "#!/bin/sh" in failure("command: ./score.sh").fix


def test_quotes_that_do_not_close_are_said(write):
    assert "No closing quotation" in failure("command: echo 'a").found


def test_a_command_that_fails_shows_its_status_and_last_message(write):
    error = failure(
        program(write, "import sys\nprint('one\\ntwo', file=sys.stderr)\nprint(1)\nprint(2)\nsys.exit(4)\n")
    )
    assert error.problem == "the reward's command failed"
    assert error.found == "exit status 4; 'two'"
    assert "echo '{" in error.fix


@pytest.mark.parametrize(
    ("printed", "problem", "found"),
    [
        ("print(1)", "wrong number of lines", "1 lines: '1'"),
        ("pass", "wrong number of lines", "0 lines"),
        ("print('1\\n2\\n3')", "wrong number of lines", "3 lines"),
        ("print('1\\n')", "no number", "line 2: ''"),
        ("print('1\\ngood')", "no number", "line 2: 'good'"),
        ("print('1\\nnan')", "not finite", "nan for answer 2"),
        ("print('1\\n-inf')", "not finite", "-inf for answer 2"),
    ],
)
def test_a_command_that_prints_anything_else_is_an_error(write, printed, problem, found):
    error = failure(program(write, printed))
    assert problem in error.problem
    assert found in error.found


def test_a_command_that_never_ends_is_ended_with_all_that_it_started(write):
    write("child.py", "import time\ntime.sleep(2)\nopen('alive', 'w').close()\n")
    source = f"import subprocess, time\nsubprocess.Popen([{sys.executable!r}, 'child.py'])\ntime.sleep(60)\n"
    reward = open_reward(program(write, source), command_seconds=0.7)
    began = time.monotonic()
    with pytest.raises(UserError, match="does not end") as caught:
        reward(["p"], ["a"], [{}])
    assert time.monotonic() - began < 10
    assert "0.7 seconds, at 1 answers" in caught.value.found
    time.sleep(2.5)
    assert not os.path.exists("alive")


@pytest.mark.parametrize("record", [{"n": float("nan")}, {"n": {1, 2}}, {"n": "\ud800"}])
def test_a_record_that_json_cannot_hold_is_an_error_and_not_changed(write, record):
    assert "cannot be written as JSON" in failure(program(write, "print(1)"), ["a"], record).problem


# ---- rules


def test_a_pattern_is_found_anywhere_in_the_answer():
    assert score(r"regex: \bowls?\b", ["two owls sat", "an owl", "Owl", "owlet", ""]) == [1, 1, 0, 0, 0]
    assert score("regex:^[A-Z]", ["Big", "small"]) == [1, 0]
    assert score(r"regex: (?i)^so: \d+$", ["SO: 12", "so: x"]) == [1, 0]


def test_a_pattern_matches_vietnamese_however_it_is_composed():
    decomposed = "me\u0300o"
    assert score("regex: mèo", [decomposed, "mèo", "meo"]) == [1, 1, 0]
    assert score(f"regex: {decomposed}", [decomposed, "mèo", "meo"]) == [1, 1, 0]
    assert score(r"regex: ^\w+$", [decomposed]) == [1]


def test_a_bad_pattern_says_where_and_how_to_take_it_as_it_is():
    error = failure("regex: a(b")
    assert "not one" in error.problem
    assert "character 2 of 'a(b'" in error.found
    assert r"regex: a\(b" in error.fix


WORDS = {"words": ["owl", "rice", "hammer", "old man"]}


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("The OWL eats rice. The old\nman has a hammer.", 1.0),
        ("owl, rice", 0.5),
        ("The owls and the rice-hammer", 0.5),
        ("owl owl owl", 0.25),
        ("The man is old", 0.0),
        ("", 0.0),
        ("_owl_ owl1 xowl", 0.0),
    ],
)
def test_the_share_of_the_words_that_an_answer_has(answer, share):
    assert score("contains: words", [answer], WORDS) == [share]


@pytest.mark.parametrize(
    "listed", [["owl", "rice"], "owl, rice", "owl rice", "Owl,RICE,", ["owl", "rice", "owl", " Owl"]]
)
def test_words_may_be_listed_in_several_ways_and_count_once(listed):
    assert score("contains: words", ["An owl."], {"words": listed}) == [0.5]


def test_text_with_commas_lists_what_is_between_them():
    assert score("contains: w", ["an old man"], {"w": "old man, owl"}) == [0.5]
    assert score("contains: w", ["an old man"], {"w": "old man owl"}) == [2 / 3]


def test_words_are_vietnamese_words_whole_and_with_their_accents():
    record = {"words": ["mèo", "đen"]}
    assert score("contains: words", ["Con me\u0300o ĐEN.", "Con meo den.", "con mèođen"], record) == [1, 0, 0]
    assert not has_word(composed("a x\u0323\u0301"), "x")  # an accent that composes with nothing belongs to its letter


def test_a_script_without_spaces_has_words_anywhere():
    assert score("contains: w", ["我喜欢猫和狗"], {"w": ["猫", "鸟"]}) == [0.5]
    assert score("contains: w", ["ฉันรักแมว"], {"w": ["แมว"]}) == [1]


def test_a_number_may_be_a_word():
    assert score("contains: w", ["It is 12 or 30."], {"w": [12, 3]}) == [0.5]


@pytest.mark.parametrize("listed", [[], "", " , ", None, 3, {"a": 1}, [["owl"]]])
def test_a_field_without_words_is_an_error(listed):
    error = failure("contains: words", record={"words": listed, "id": 3})
    assert "lists no words" in error.problem or "is empty" in error.problem


@pytest.mark.parametrize(
    ("result", "answer", "right"),
    [
        (12, "12", 1),
        (12, "So 7 + 5 is 12.", 1),
        (12, "12 apples, not 7", 0),
        (12, "12.0", 1),
        (12.5, "It is 12.5 kg", 1),
        ("12", "= 12", 1),
        ("1,200", "1200", 1),
        (1200, "$1,200.", 1),
        (-3, "5-8 = -3", 1),
        (3, "5-8 = -3", 0),
        (3, "8-5=3", 1),
        (-3, "8 \u2212 11 = \u22123", 1),
        (12, "120", 0),
        (12, "12th", 0),
        (12, "none", 0),
        (12, "", 0),
        ("7 and 5 are 12.\n#### 12", "I say 12", 1),
        ("7 and 5 are 12.\n#### 12", "I say 5", 0),
        ("Hà Nội", " ha\u0300  nội. ", 1),
        ("Hà Nội", "Ha Noi", 0),
        ("Hà Nội", " Hà  NỘI. ", 1),
        ("Hà Nội", "H\u0061\u0300 N\u1ed9i", 1),
        ("Hà Nội", "It is Hà Nội", 0),
        ("yes", "Yes!", 1),
        ("12 apples", "12", 0),
        ("12 apples", "12 Apples", 1),
    ],
)
def test_an_answer_comes_to_a_result_or_not(result, answer, right):
    assert score("equals: answer", [answer], {"answer": result}) == [right]


@pytest.mark.parametrize("value", [True, [12], {"a": 1}, "", "  ", "so: ####", None])
def test_a_field_without_a_result_is_an_error(value):
    error = failure("equals: answer", record={"answer": value})
    assert "holds no result" in error.problem or "is empty" in error.problem


@pytest.mark.parametrize("rule", ["contains", "equals"])
def test_a_missing_field_is_named_with_the_keys_that_are_there(rule):
    error = failure(f"{rule}: anser", record={"prompt": "p", "answer": 3})
    assert "no field 'anser'" in error.problem
    assert "prompt, answer" in error.found
    assert f"--reward '{rule}: answer'" in error.fix


def test_a_record_without_any_field_is_said_to_have_none():
    assert "(none)" in failure("equals: answer").found
