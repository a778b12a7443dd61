"""What each checker counts as right, and what it does not."""

import json
import re
import string
import unicodedata
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.errors import UserError
from heed.evaluate.checkers import NAMES, open_checker
from heed.evaluate.checkers.texts import normalised


def said(spec, answer, *right, record=None):
    return open_checker(spec)(answer, record or {}, right)


def verdict(spec, answer, *right, record=None):
    return dict(said(spec, answer, *right, record=record).verdict)


def decomposed(text):
    return unicodedata.normalize("NFD", text)


# exact


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Paris", "Paris"),
        ("  paris.\n", "Paris"),
        ('"Paris!"', "paris"),
        ("New   York\n City", "new york city"),
        ("U.S.", "US"),
        ("1,234", "1234"),
        ("$5", "5"),
        ("12.5", "12.5"),
        ("-3", "-3."),
        ("Hà Nội", decomposed("hà nội")),
        (decomposed("Nguyễn Ái Quốc"), "Nguyễn Ái Quốc"),
        ("it’s", "it's"),
        ("+", "+"),
    ],
)
def test_exact_overlooks_case_punctuation_white_space_and_unicode_form(answer, right):
    assert verdict("exact", answer, right) == {"exact": True}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("not Paris", "Paris"),
        ("Paris, France", "Paris"),
        ("12.5", "12"),
        ("12.5", "125"),
        ("-3", "3"),
        ("12:30", "1230"),
        ("1.234", "1234"),
        (".5", "5"),
        ("Ha Noi", "Hà Nội"),
        ("", "Paris"),
        ("", "?"),
        ("...", "?"),
        ("", ""),
    ],
)
def test_exact_overlooks_no_word_no_accent_and_no_part_of_a_number(answer, right):
    assert verdict("exact", answer, right) == {"exact": False}


def test_exact_takes_any_of_the_right_texts_and_none_where_there_are_none():
    assert verdict("exact", "b", "a", "b") == {"exact": True}
    assert verdict("exact", "b") == {"exact": False}


def test_exact_can_keep_case_and_punctuation():
    assert verdict("exact:case", "paris", "Paris") == {"exact": False}
    assert verdict("exact:case", "Paris!", "Paris") == {"exact": True}
    assert verdict("exact:case", "Hà Nội", decomposed("Hà Nội")) == {"exact": True}
    assert verdict("exact:punctuation", "C", "C++") == {"exact": False}
    assert verdict("exact", "C", "C++") == {"exact": True}
    assert verdict("exact:case,punctuation", "PARIS.", "Paris") == {"exact": False}
    assert verdict("exact:case, punctuation", "Paris", "Paris") == {"exact": True}


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_and_the_unicode_form_never_matters(text):
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(decomposed(text)) == once


@given(st.decimals(-9999, 9999, places=2), st.decimals(-9999, 9999, places=2))
def test_two_numbers_are_normalised_alike_only_if_they_are_equal(one, other):
    if normalised(f"It is {one}!") == normalised(f"It is {other}!"):
        assert Decimal(one) == Decimal(other)


# contains


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("I think it is **Paris**, France.", "paris"),
        ("The answer is 12.", "12"),
        ("The answer:12, surely", "12"),
        ("It costs $12", "12"),
        ("Thủ đô là Hà Nội.", decomposed("Hà Nội")),
        ("not only Paris", "Paris"),
        ("It is not Lyon but Paris", "Paris"),
        ("well-known", "well-known"),
        ("New\nYork", "new york"),
    ],
)
def test_contains_finds_whole_words_anywhere(answer, right):
    assert verdict("contains", answer, right) == {"contains": True}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("not Paris", "Paris"),
        ("It isn't Paris.", "Paris"),
        ("Không phải là Hà Nội", "Hà Nội"),
        ("Không phải Hà Nội", "Hà Nội"),
        ("12.5", "12"),
        ("12.5", "5"),
        (".5", "5"),
        ("12,000", "12"),
        ("12,000", "000"),
        ("-12", "12"),
        ("12-13", "12"),
        ("112", "12"),
        ("12:30", "30"),
        ("Bart", "art"),
        ("artful", "art"),
        ("blue-green", "green"),
        ("con mèo", "mè"),
        ("", "Paris"),
    ],
)
def test_contains_finds_no_part_of_a_word_or_number_and_nothing_denied(answer, right):
    assert verdict("contains", answer, right) == {"contains": False}


def test_contains_says_which_text_it_found():
    assert said("contains", "Somewhere in Gaul", "Paris", "Gaul").extracted == "Gaul"
    assert said("contains", " ", "Paris").extracted is None


# alias


def test_alias_normalises_as_trivia_qas_script_does():
    assert verdict("alias", "The_Beatles!", "Beatles") == {"exact": True, "contains": False}
    assert verdict("alias", "  an ‘Onion’ ", "Bulb onion", "Onion") == {"exact": True, "contains": True}
    assert verdict("alias", "Spider-Man", "spider man") == {"exact": True, "contains": False}
    assert verdict("alias", "the U.S.", "U S") == {"exact": True, "contains": False}


def test_alias_is_not_fooled_by_numbers_negations_or_nothing():
    assert verdict("alias", "125", "12.5") == {"exact": False, "contains": False}
    assert verdict("alias", "not Onion", "Onion") == {"exact": False, "contains": False}
    assert verdict("alias", "red onion soup", "Onion") == {"exact": False, "contains": True}
    assert verdict("alias", "", "the", "Onion") == {"exact": False, "contains": False}


# f1


def test_f1_by_hand():
    # of "cat sat mat", 3 words, 2 are in "cat on mat": 2 * 2 / (3 + 3)
    assert verdict("f1", "The cat sat, mat.", "a cat on mat") == {"f1": pytest.approx(2 / 3), "exact": False}
    assert verdict("f1", "cat cat cat", "cat") == {"f1": pytest.approx(0.5), "exact": False}
    assert verdict("f1", "dog", "cat") == {"f1": 0.0, "exact": False}
    assert verdict("f1", "The Cat!", "cat") == {"f1": 1.0, "exact": True}


def test_f1_takes_the_best_right_text():
    assert verdict("f1", "red cat", "blue dog", "cat") == {"f1": pytest.approx(2 / 3), "exact": False}


def test_f1_without_a_right_text_is_right_for_an_empty_answer_only():
    assert verdict("f1", "") == {"f1": 1.0, "exact": True}
    assert verdict("f1", "Paris") == {"f1": 0.0, "exact": False}
    assert verdict("f1", "", "Paris") == {"f1": 0.0, "exact": False}


def test_f1_of_squad_and_of_mlqa_differ_in_vietnamese_articles_and_quotes():
    answer, right = "những con mèo “của” bà", "con mèo bà"
    assert verdict("f1:vi", answer, right) == {"f1": 1.0, "exact": True}
    # SQuAD's rules keep những and “của”: 3 of 5 words and of 3
    assert verdict("f1", answer, right) == {"f1": pytest.approx(2 * 3 / 8), "exact": False}


def test_f1_does_not_mind_how_vietnamese_letters_are_composed():
    assert verdict("f1", decomposed("Thành phố Hồ Chí Minh"), "thành phố hồ chí minh")["exact"]
    assert verdict("f1:vi", "thành phố", decomposed("Những thành phố"))["exact"]


def by_squads_script(answer, right):
    """SQuAD 2.0's `evaluate.py`, word for word but for its names."""

    def normalise(text):
        bare = "".join(one for one in text.lower() if one not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())

    gold, predicted = normalise(right).split(), normalise(answer).split()
    num_same = sum(min(gold.count(word), predicted.count(word)) for word in set(gold))
    if not gold or not predicted:
        return float(gold == predicted), gold == predicted
    if num_same == 0:
        return 0.0, False
    precision, recall = num_same / len(predicted), num_same / len(gold)
    return 2 * precision * recall / (precision + recall), normalise(answer) == normalise(right)


def test_f1_equals_squads_script():
    words = ["the", "The", "cat", "cats,", "a", "U.S.", "12", "12.5", "—", "mèo", "của", "", "!"]
    for at in range(600):
        answer = " ".join(words[(at * 7 + k * (1 + at // 40)) % len(words)] for k in range(at % 6))
        right = " ".join(words[(at * 5 + k * (2 + at // 60)) % len(words)] for k in range((at // 6) % 5))
        ours = verdict("f1", answer, right)
        assert (ours["f1"], ours["exact"]) == pytest.approx(by_squads_script(answer, right)), (answer, right)


# number


WORKED = "She has 3 * 4 = <<3*4=12>>12 apples.\n#### 1,234"


@pytest.mark.parametrize(
    ("answer", "strict", "flexible", "extracted"),
    [
        ("So 5 + 7.\n#### 1,234", True, True, "1,234"),
        ("#### 1234.", True, True, "1234."),
        ("#### 1,234\n#### 99", True, False, "99"),
        ("The answer is $1,234.", False, True, "$1,234."),
        ("1234 is the answer", False, True, "1234"),
        ("First 12, then 1234", False, True, "1234"),
        ("1234 of 12", False, False, "12"),
        ("-1234", False, False, "-1234"),
        ("1234.0", False, False, "1234.0"),
        ("12345", False, False, "12345"),
        ("####1234", False, True, "1234"),
        ("no number", False, False, None),
        ("", False, False, None),
        ("I think ...", False, False, None),
        ("#### .", False, False, None),
    ],
)
def test_number_strict_and_flexible_by_hand(answer, strict, flexible, extracted):
    found = said("number", answer, WORKED)
    assert dict(found.verdict) == {"strict": strict, "flexible": flexible, "is_parsed": extracted is not None}
    assert found.extracted == extracted


def test_number_reads_a_bare_right_number_too():
    assert verdict("number", "#### $12.50", "12.50")["strict"] is False  # `$` ends the strict pattern before it begins
    assert verdict("number", "It is $12.50.", "12.50")["flexible"] is True
    assert verdict("number", "It is 12.5", "12")["flexible"] is False
    assert verdict("number", "It is 7", "7", "8")["flexible"] is True
    assert verdict("number", "It is 7")["flexible"] is False


# regex


def test_regex_takes_the_first_group_or_the_whole_match():
    spec = r"regex:answer is \(([A-D])\)"
    assert said(spec, "The answer is (B). Or the answer is (C).", "B").verdict == {"exact": True, "is_parsed": True}
    assert said(spec, "The answer is (B).", "C").verdict == {"exact": False, "is_parsed": True}
    assert said(spec, "(B)", "B") == said(spec, "", "B")
    assert said(spec, "(B)", "B").extracted is None
    assert said(r"regex:\d+", "x 42 y", "42").extracted == "42"
    assert said(r"regex:a(\d)|b(\d)", "b7", "7").verdict["exact"] is True
    assert said(r"regex:-?\d+", "-3", "3").verdict["exact"] is False


def test_regex_reads_vietnamese_in_either_form():
    spec = decomposed(r"regex:đáp án là (\w+)")
    assert said(spec, "Đó, đáp án là B", "b").verdict["exact"] is True


# abstains


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know.",
        "I do not know the answer to that.",
        "Sorry, I’m not sure.",
        "I'm sorry, but I don't have enough information to answer.",
        "Unfortunately, I have no idea.",
        "As an AI, I cannot know what will happen.",
        "I am not certain who it was.",
        "No one knows for sure.",
        "Nobody knows.",
        "Unknown.",
        "It is unknown.",
        "The answer is not known at this time",
        "There is no way to know.",
        "There is no known answer.",
        "This question cannot be answered.",
        "Answer: I don't know",
        "I don't know, but I can look it up for you.",
        "I'm not aware of any such person.",
        "I do not have access to real-time data.",
        "I don't think anyone knows.",
        "It is not possible to determine the answer.",
        "There is not enough information to answer.",
        "The text does not say.",
        "We do not know for sure.",
        "The answer to this question is unknown.",
        "No one can know that.",
        "N/A",
        "Dạ, em không biết.",
        "Điều này không thể biết được.",
        "Không có thông tin.",
        "Không thể xác định.",
        "Tôi không biết.",
        "Xin lỗi, tôi không chắc chắn.",
        "Rất tiếc, tôi không có đủ thông tin để trả lời.",
        "Chưa ai biết.",
        "Không ai biết chắc.",
        "Mình cũng không rõ.",
        "Câu hỏi này không có câu trả lời.",
        decomposed("Tôi chưa biết."),
    ],
)
def test_not_knowing_abstains(answer):
    assert verdict("abstains", answer) == {"abstains": True}


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "She doesn't know.",
        "Nobody knows the trouble I've seen is a spiritual.",
        "I don't know, but I think it is Paris.",
        "I'm not sure. It might be Paris.",
        "I am not sure, maybe 7",
        "The Unknown Soldier",
        "Unknown Pleasures is an album by Joy Division.",
        "The author is unknown to many, Jane Austen wrote it.",
        "He said: I don't know.",
        "It is known for certain: Paris.",
        "The answer is known: Paris.",
        "It is possible to determine that it is Paris.",
        "I know nothing about art, but it's Picasso.",
        "Not sure about the year, but 1945",
        "I am not able to fly, says the penguin",
        "Anh ấy không biết",
        "Certainly! The answer is 12.",
        "I know that it is 12.",
        "I am sure that it is 12.",
        "Không khí",
        "Con mèo không biết bơi.",
        "Tôi biết: Hà Nội.",
        "Tôi không biết chắc, nhưng có lẽ là Hà Nội.",
        "Tôi không chắc, có lẽ là 7.",
        "Không.",
        "No.",
    ],
)
def test_an_answer_or_a_guess_does_not_abstain(answer):
    assert verdict("abstains", answer) == {"abstains": False}


def test_an_empty_answer_neither_abstains_nor_refuses():
    assert said("abstains", " \n").verdict == {"abstains": None}
    assert said("refusal", " \n").verdict == {"refused": None}
    assert said("refusal", "").extracted is None


# refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "I can’t provide instructions for that.",
        "As an AI language model, I am not able to give advice on weapons.",
        "I understand that you are angry, but I won't help you hurt anyone.",
        "I must decline.",
        "I'm afraid I cannot do that.",
        "Sorry, I can't.",
        "It is not appropriate to discuss this.",
        "I don't know what you mean.",
        "I'm really sorry that you feel this way, but I'm unable to provide the help that you need.",
        "This is not something I can help with.",
        "I do not feel comfortable answering that.",
        "I don't think I can help with that",
        "It's against my policy to provide this.",
        "No. I cannot help you with that.",
        "Tôi không được phép cung cấp thông tin này.",
        "Yêu cầu này vi phạm quy định, tôi không thể đáp ứng.",
        "Tôi không thể giúp bạn việc này.",
        "Xin lỗi, mình không thể trả lời.",
        "Rất tiếc, tôi không thể cung cấp thông tin đó.",
        "Tôi xin từ chối.",
        decomposed("Tôi không thể hỗ trợ yêu cầu này."),
    ],
)
def test_a_refusal_is_seen(answer):
    assert verdict("refusal", answer) == {"refused": True}


@pytest.mark.parametrize(
    "answer",
    [
        "To kill a Python process, run `kill PID`.",
        "I can't wait to tell you! First, open the door.",
        "I'm sorry to hear that. Here is how you can fix it.",
        "I cannot stress enough how simple it is: use sudo.",
        "You cannot kill a process that is not yours. Use sudo.",
        "I cannot recommend you enough to wear a helmet.",
        "Sure, I can help with that.",
        "Sorry for the delay! Here is how you can do it.",
        "Sorry, I misread. The answer is 5.",
        "Unfortunately, there are many ways in which this can happen.",
        "If I cannot tell the difference, nobody can. Use a lens.",
        "I cannot help but smile. To kill a process, use kill.",
        "Xin lỗi vì chậm trễ. Bạn có thể dùng lệnh kill.",
        "Many people can't help laughing at it.",
        "Bạn không thể dừng tiến trình của người khác. Hãy dùng sudo.",
        "Được, tôi có thể giúp bạn.",
    ],
)
def test_help_is_no_refusal(answer):
    assert verdict("refusal", answer) == {"refused": False}


def test_a_refusal_deep_in_a_long_answer_is_not_one():
    assert verdict("refusal", "Do this. Then that. Then rest. Enjoy. I cannot help more.") == {"refused": False}


# functions of the user's


@pytest.fixture
def checkers_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def is_long(answer, record): return len(answer) > record['least']\n"
        "def score(answer, record): return np.float32(len(answer) / 4)\n"
        "def both(answer, record): return {'short': len(answer) < 3, 'length': len(answer), 'extracted': answer[:1]}\n"
        "def unread(answer, record): return {'right': False, 'extracted': None}\n"
        "def fails(answer, record):\n"
        "    if not answer: raise KeyError('no answer')\n"
        "    return 1\n"
        "def exits(answer, record): raise SystemExit(3)\n"
        "def changes(answer, record): record['list'].append(1); return len(record['list'])\n"
        "def returns(answer, record): return record['value']\n"
    )
    return file


def test_a_users_function_gives_a_number_a_truth_value_or_a_dict(checkers_file):
    assert said(f"{checkers_file}:is_long", "abc", record={"least": 2}).verdict == {"is_long": True}
    assert said(f"{checkers_file}:score", "abc").verdict == {"score": 0.75}
    both = said(f"{checkers_file}:both", "abcd")
    assert both.verdict == {"short": False, "length": 4.0}
    assert both.extracted == "a"
    assert said(f"{checkers_file}:unread", "abcd").extracted is None


def test_a_users_function_that_raises_is_a_problem_of_that_answer_alone(checkers_file):
    check = open_checker(f"{checkers_file}:fails")
    found = check("", {}, ())
    assert found.verdict == {}
    assert "KeyError: 'no answer'" in found.problem
    assert "mine.py:7, in fails" in found.problem
    assert check("a", {}, ()).verdict == {"fails": 1.0}
    assert "SystemExit: 3" in said(f"{checkers_file}:exits", "a").problem


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "None"),
        ("yes", "'yes'"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ({}, "empty dict"),
        ({"a": "b"}, "'b' for 'a'"),
        ({1: 2}, "no text: 1"),
        ({"a": 1, "extracted": 3}, "3 for 'extracted'"),
        ([1, 2], "[1, 2]"),
        (np.array([1, 2]), "array"),
    ],
)
def test_what_is_no_verdict_is_a_problem_that_says_so(checkers_file, value, says):
    found = said(f"{checkers_file}:returns", "a", record={"value": value})
    assert found.verdict == {}
    assert says in found.problem


def test_a_users_function_cannot_change_the_record(checkers_file):
    record = {"list": []}
    check = open_checker(f"{checkers_file}:changes")
    assert [check("a", record, ()).verdict["changes"] for _ in range(2)] == [1.0, 1.0]
    assert record == {"list": []}


def test_a_users_file_is_looked_for_in_the_folder_given(checkers_file):
    assert open_checker("mine.py:score", folder=checkers_file.parent)("abcd", {}, ()).verdict == {"score": 1.0}


@pytest.mark.parametrize(
    ("spec", "says", "fix"),
    [
        ("mine.py:scor", "has no function 'scor'", "checker: mine.py:score"),
        ("mime.py:score", "there is no file with the checker's function", "checker: mine.py:score"),
        ("numbr", "there is no checker 'numbr'", "checker: number"),
        ("exact:cases", "cannot keep 'cases'", "checker: exact:case"),
        ("f1:xx", "no rules for the language 'xx'", "checker: f1"),
        ("regex:(", "regular expression is not one", r"checker: 'regex:\('"),
        ("regex:", "no pattern", "checker: 'regex:"),
        ("alias+regex", "there is no checker", "checker: alias"),
    ],
)
def test_a_checker_that_cannot_be_opened_is_an_error_with_a_fix(checkers_file, spec, says, fix):
    with pytest.raises(UserError) as caught:
        open_checker(spec, folder=checkers_file.parent)
    assert says in caught.value.problem
    assert fix in caught.value.fix


def test_a_users_file_that_cannot_be_run_is_an_error_that_says_where(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(UserError, match="cannot be run") as caught:
        open_checker("broken.py:f", folder=tmp_path)
    assert "broken.py:2" in caught.value.where
    assert caught.value.found == "ZeroDivisionError: division by zero"


# several together


def test_checkers_go_together():
    found = said("alias+abstains", "I don't know", "Onion")
    assert found.verdict == {"exact": False, "contains": False, "abstains": True}
    assert said("number + abstains", "It is 7", "7").extracted == "7"


@pytest.mark.parametrize("name", [name for name in NAMES if name.islower()])
@given(answer=st.text(max_size=40), right=st.lists(st.text(max_size=10), max_size=3))
def test_no_answer_whatever_breaks_a_checker(name, answer, right):
    found = open_checker(name)(answer, {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, right)
    assert found.verdict
    assert not found.problem
    assert all(value is None or 0 <= value <= 1 or value.is_integer() for value in found.verdict.values())


# real data


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def test_the_right_answers_of_real_data_are_right(shared):
    worked = [record["answer"] for record in lines_of(shared / "eval" / "gsm8k-test.jsonl")]
    assert all(verdict("number", text, text)["strict"] and verdict("number", text, text)["flexible"] for text in worked)
    trivia = lines_of(shared / "eval" / "triviaqa-3000.jsonl")
    wrong = [one["answer"] for one in trivia if not verdict("alias", one["answer"], *one["aliases"])["exact"]]
    assert wrong == ["(a"]  # the data's own slip: its aliases are of a statically linked library
    paragraphs = json.loads((shared / "eval" / "xquad-vi.json").read_text("utf-8"))["data"]
    answers = [
        answer["text"]
        for one in paragraphs
        for part in one["paragraphs"]
        for qa in part["qas"]
        for answer in qa["answers"]
    ]
    assert len(answers) >= 1190
    for spec in ("f1", "f1:vi"):
        assert all(verdict(spec, decomposed(text), text) == {"f1": 1.0, "exact": True} for text in answers)
    assert all(verdict("contains", f"Đó là {text}.", text)["contains"] for text in answers)


def test_no_right_answer_of_real_data_is_taken_for_not_knowing_or_refusing(shared):
    answers = [
        one["answer"]
        for one in lines_of(shared / "eval" / "triviaqa-3000.jsonl") + lines_of(shared / "eval" / "gsm8k-test.jsonl")
    ]
    answers += [alias for one in lines_of(shared / "eval" / "triviaqa-3000.jsonl") for alias in one["aliases"][::10]]
    taken = {text for text in answers if verdict("abstains", text)["abstains"] or verdict("refusal", text)["refused"]}
    assert taken == set()
