"""What IFEval's instructions ask, case by case, and how their verdicts are pooled."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest

from heed.errors import UserError
from heed.evaluate.checkers import open_checker
from heed.evaluate.checkers.ifeval import instructions_of, variants_of
from heed.evaluate.checkers.ifeval.instructions import ARGUMENTS, CHECKS
from heed.evaluate.checkers.ifeval.language import language_of
from heed.evaluate.checkers.ifeval.words import num_capital_words, num_sentences_in, num_words_in
from heed.evaluate.items import Scored
from heed.evaluate.measures import MEASURES

ENGLISH = "this is a short story about a dog who lived in a small house near the river and liked to swim every day"
GERMAN = "Das ist eine kurze Geschichte über einen Hund, der in einem kleinen Haus am Fluss wohnte und gern schwamm."
VIETNAMESE = "Đây là một câu chuyện ngắn về một con chó sống trong ngôi nhà nhỏ bên sông và thích bơi mỗi ngày."

CASES = [
    ("keywords:existence", {"keywords": ["cat", "Dog"]}, ["A CAT and a dog", "category, dogma"], ["a cat", "dog"]),
    ("keywords:existence", {"keywords": ["c++", "(a"]}, ["C++ and (A"], ["c and a", "ccc (b"]),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, ["Cat, scatter"], ["one cat"]),
    ("keywords:frequency", {"keyword": " cat ", "frequency": 2, "relation": "less than"}, ["cat"], ["cat cats"]),
    ("keywords:frequency", {"keyword": "cat", "frequency": 0, "relation": "at least"}, ["dog"], []),
    ("keywords:frequency", {"keyword": "cat", "frequency": 0, "relation": "less than"}, [], ["dog", "cat"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "BC"]}, ["category abc"], ["a cat.", "in 5 bc"]),
    ("keywords:forbidden_words", {"forbidden_words": ["c++"]}, ["c", "xc++"], ["I like C++."]),
    ("keywords:letter_frequency", {"letter": "A", "let_frequency": 3, "let_relation": "at least"}, ["aAa"], ["aA"]),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, ["!!"], ["!"]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["Q"]),
    ("language:response_language", {"language": "de"}, [GERMAN, "1234"], [VIETNAMESE, ENGLISH]),
    ("language:response_language", {"language": "vi"}, [VIETNAMESE], [GERMAN]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["A b. C d!"], ["A b, c."]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, ["Mr. Fox ate."], ["A. B?"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***a***b***"], ["a", "a***b***c"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a *** b"], ["a***\n***b", "******", "a\n\nb"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["it's me", "a b c"], ["two words"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["a-b"], ["a b c"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Cats"},
        ["Dogs.\n\ncats, always", 'Dogs.\n\n"Cats" are', "a\n\nCATS"],
        ["Dogs.\n\nThe cats", "cats", "a\n\nb\n\ncats", "cats\n\ndogs", "\n\na\n\ncats"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b] [c]"], ["[a", "[a]", "[a\n] [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye\nP.S. Hi", "x p. s. y"], ["PS hi", "P.P.S"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S hi", "p. p. s"], ["P.S. hi"]),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["n.b. hi"], ["nxbx"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b", "* a\nx\n- b"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "a * b"],
    ),
    ("detectable_format:constrained_response", {}, ["I say: My answer is no. "], ["my answer is no.", "No"]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "**a** **b**"],
        ["*a*", "**a**", "* * **"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1Section2 Section 3"],
        ["Section 1", "SECTION 1 SECTION 2", "Section one Section two"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', "```json\n[1]\n```", "```\n1```"], ["{a: 1}", 'Here: {"a": 1}']),
    ("detectable_format:json_format", {}, [], ["[" * 100_000]),
    ("detectable_format:title", {}, ["<<Joy>>\nText"], ["<Joy>", "<<  >>", "<<Joy\n>>"]),
    ("combination:two_responses", {}, ["a******b", "******a******b******"], ["a", "a******a", "a******b******c"]),
    ("combination:two_responses", {}, [], ["a************b", "a***b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": " Say Hi. "}, ["say hi. Hi!", " Say Hi."], ["Hi! Say hi."]),
    ("startend:end_checker", {"end_phrase": "The End."}, ["Once. the end.", '"Once. The End."\n'], ["The End. Bye"]),
    ("startend:quotation", {}, ['"a"', ' "a" "b"\n'], ['"', '"a', "'a'", "“a”"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["I AM here", "DON'T", "U.S. GDP"],
        ["I am", "Hello World", "12 34 A"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["I am", "GPT-4 wins"],
        ["YES SIR"],
    ),
    ("change_case:english_lowercase", {}, [ENGLISH, ENGLISH + " 12!"], [ENGLISH.title(), GERMAN.lower()]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, VIETNAMESE.upper()]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


def checked(answer, *instructions):
    names, arguments = zip(*instructions, strict=True)
    return open_checker("ifeval")(answer, {"instruction_id_list": list(names), "kwargs": list(arguments)}, ())


@pytest.mark.parametrize(("name", "arguments", "followed", "broken"), CASES)
def test_an_instruction_by_hand(name, arguments, followed, broken):
    for answer in followed:
        assert checked(answer, (name, arguments)).verdict["prompt_strict"] is True, answer
    for answer in broken:
        assert checked(answer, (name, arguments)).verdict["prompt_strict"] is False, answer


def test_every_instruction_has_cases_of_both_kinds():
    followed = {name for name, _, good, _ in CASES if good}
    broken = {name for name, _, _, bad in CASES if bad}
    assert followed == broken == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize("answer", ["", " ", "\n\n"])
@pytest.mark.parametrize("name", ["punctuation:no_comma", "detectable_format:json_format"])
def test_an_empty_answer_follows_nothing(name, answer):
    found = checked(answer, (name, {}))
    assert found.verdict["prompt_loose"] is False
    assert found.extracted is None


def test_loose_forgives_a_first_and_a_last_line_and_asterisks():
    ask = ("startend:quotation", {})
    for answer in ('Sure!\n"Hi"', '"Hi"\nBye', 'Sure!\n"Hi"\nBye', '*"Hi"*', 'Sure!\n**"Hi"**\nBye'):
        verdict = checked(answer, ask).verdict
        assert (verdict["prompt_strict"], verdict["prompt_loose"]) == (False, True), answer
    assert checked('Well\nSure!\n"Hi"', ask).verdict["prompt_loose"] is False


def test_the_loose_variants_are_those_of_the_source():
    assert variants_of("*a*\nb\n*c*") == ["a\nb\nc", "b\n*c*", "*a*\nb", "b", "b\nc", "a\nb"]
    assert variants_of("a") == [""]


def test_a_verdict_counts_instructions_and_tells_each():
    found = checked(
        "no comma", ("en:punctuation:no_comma", {}), ("startend:quotation", {}), ("punctuation:no_comma", {})
    )
    assert found.verdict == {
        "prompt_strict": False,
        "prompt_loose": False,
        "num_instructions": 3.0,
        "num_strict": 2.0,
        "num_loose": 2.0,
        "strict:punctuation:no_comma": True,
        "loose:punctuation:no_comma": True,
        "strict:startend:quotation": False,
        "loose:startend:quotation": False,
        "strict:punctuation:no_comma#2": True,
        "loose:punctuation:no_comma#2": True,
    }


def test_records_are_read_with_prefix_without_and_with_nulls():
    hub = {
        "instruction_id_list": ["keywords:frequency", "punctuation:no_comma"],
        "kwargs": [
            {"keyword": "cat", "frequency": 0, "relation": "less than", "num_words": None, "letter": None},
            {"keyword": None, "frequency": None, "relation": None},
        ],
    }
    read = [
        ("keywords:frequency", {"keyword": "cat", "frequency": 0, "relation": "less than"}),
        ("punctuation:no_comma", {}),
    ]
    assert instructions_of(hub) == read
    prefixed = {**hub, "instruction_id_list": [f"en:{name}" for name in hub["instruction_id_list"]]}
    assert instructions_of(prefixed) == read
    assert instructions_of({key: json.dumps(value) for key, value in hub.items()}) == read
    assert instructions_of({**hub, "kwargs": [json.dumps(hub["kwargs"][0]), None]}) == read


@pytest.mark.parametrize(
    ("ids", "arguments", "says"),
    [
        (None, None, "`instruction_id_list` is None"),
        ([], [], "`instruction_id_list` is []"),
        (["punctuation:no_comma"], [], "`kwargs` is []"),
        (["punctuation:no_comma"], None, "`kwargs` is None"),
        (["punctuation:no_commas"], [{}], "the nearest is punctuation:no_comma"),
        (["en:punctuation:no_comma"], [{"num_words": 3}], "has an unknown 'num_words'"),
        (["length_constraints:number_words"], [{"num_words": 3}], "lacks 'relation'"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "at most"}], "'at most' for 'relation'"),
        (["length_constraints:number_words"], [{"num_words": "3", "relation": "at least"}], "'3' for 'num_words'"),
        (["keywords:existence"], [{"keywords": "cat"}], "'cat' for 'keywords', which is a list of words"),
        (["keywords:existence"], [{"keywords": []}], "[] for 'keywords'"),
        (["punctuation:no_comma"], ["x"], "the arguments of punctuation:no_comma are 'x'"),
    ],
)
def test_instructions_that_cannot_be_read_are_a_problem_that_says_why(ids, arguments, says):
    found = open_checker("ifeval")("a", {"instruction_id_list": ids, "kwargs": arguments}, ())
    assert found.verdict == {}
    assert says in found.problem


def test_all_prompts_of_the_data_can_be_read_and_have_every_kind(shared):
    records = [
        json.loads(line) for line in (shared / "eval" / "ifeval-en.jsonl").read_text("utf-8").strip().split("\n")
    ]
    read = [instructions_of(record) for record in records]
    assert len(read) == 541
    assert not [problem for problem in read if isinstance(problem, str)]
    assert {name for one in read for name, _ in one} == set(CHECKS)
    assert sum(map(len, read)) == 834


def test_arguments_are_those_of_the_checks():
    assert ARGUMENTS["length_constraints:nth_paragraph_first_word"] == ("num_paragraphs", "nth_paragraph", "first_word")
    assert ARGUMENTS["punctuation:no_comma"] == ()


# without anything from outside


def test_it_works_in_an_empty_home_and_asks_no_network(tmp_path):
    code = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    if event.startswith(('socket.connect', 'socket.getaddrinfo', 'urllib')): raise SystemExit(event)\n"
        "sys.addaudithook(watch)\n"
        "from heed.evaluate.checkers import open_checker\n"
        "record = {'instruction_id_list': ['change_case:english_lowercase', 'length_constraints:number_sentences'],\n"
        "          'kwargs': [{}, {'num_sentences': 2, 'relation': 'at least'}]}\n"
        f"print(open_checker('ifeval')('{ENGLISH}. and so on.', record, ()).verdict['prompt_strict'])\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("heed.evaluate.checkers.ifeval.NEEDED", ("langdetect", "no_such_module"))
    with pytest.raises(UserError) as caught:
        open_checker("ifeval")
    assert caught.value.found == "no no_such_module"
    assert caught.value.fix == "pip install 'heed-lm[ifeval]'"


# counting


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("one", 1),
        ("it's", 2),
        ("a_b c-d 12.5", 5),
        ("Xin chào thế giới!", 4),
        (unicodedata.normalize("NFD", "Xin chào thế giới!"), 4),
        ("यह एक छोटी कहानी है", 5),
    ],
)
def test_words_are_runs_of_letters_digits_and_underscores(text, count):
    assert num_words_in(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Mr. Smith met Dr. Jones at 5 p.m. on Monday.", 1),
        ("He lives in the U.S. now.", 1),
        ("It costs 3.50 dollars. Cheap.", 2),
        ('He said "Stop." Then he left.', 2),
        ("No end here\nnor here", 1),
        ("Wait... what? Yes.", 2),
        ("Visit example.com today.", 1),
        ("Use it, e.g. this.", 2),  # an abbreviation that Punkt's English model does not know
        ("Really?! Yes.", 2),
        ("1. First step.\n2. Second step.", 4),
        ("Xin chào. Tôi là An.", 2),
        ("J. K. Rowling wrote it.", 1),
        ("(It was late.) She left.", 2),
    ],
)
def test_sentences_end_at_points_that_end_no_abbreviation(text, count):
    assert num_sentences_in(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("I AM HERE", 3),
        ("DON'T STOP", 3),
        ("Say DON'T. Now", 2),
        ("A-B GPT-4 U.S.", 3),
        ("A/B A,B A:B", 5),
        ('*BOLD* (PAREN) "QUOTE"', 3),
        ("Hello World 12", 0),
        ("CANNOT", 2),
        ("ĐÂY LÀ", 2),
    ],
)
def test_words_in_capital_letters_are_tokens(text, count):
    assert num_capital_words(text) == count


def test_a_language_is_told_the_same_way_every_time():
    texts = ["Hi", "no", "la la la", ENGLISH, GERMAN, VIETNAMESE, "HELLO WORLD", "मेरा नाम राम है और मैं दिल्ली में रहता हूँ"]
    first = [language_of(text) for text in texts]
    assert first[3:6] == ["en", "de", "vi"]
    assert first[7] == "hi"
    for _ in range(5):
        assert [language_of(text) for text in texts] == first
    assert language_of("123 !!!") is None


# measures


def scored(number, cluster=None, **verdict):
    return Scored(str(number), verdict, {}, cluster=cluster)


def test_instructions_are_pooled_over_items_and_told_apart_by_kind():
    items = [
        scored(1, **{"strict:a:b": True, "loose:a:b": True, "strict:c:d": False, "loose:c:d": True}),
        scored(2, **{"strict:a:b": False, "loose:a:b": False, "strict:a:b#2": True, "loose:a:b#2": True}),
        scored(3, **{"strict:c:d": False, "loose:c:d": True, "prompt_strict": False}),
    ]
    strict = {figure.group: figure for figure in MEASURES["instruction_strict"](items)}
    loose = {figure.group: figure for figure in MEASURES["instruction_loose"](items)}
    assert list(strict) == [None, "instruction=a:b", "instruction=c:d"]
    assert (strict[None].value, strict[None].count) == (2 / 5, 5)
    assert (strict["instruction=a:b"].value, strict["instruction=a:b"].count) == (pytest.approx(2 / 3), 3)
    assert (strict["instruction=c:d"].value, strict["instruction=c:d"].count) == (0, 2)
    assert loose[None].value == 4 / 5
    assert strict[None].measure == "instruction_strict"
    assert loose[None].unit == "share"
    assert strict[None].low < 2 / 5 < strict[None].high


def test_instructions_of_one_prompt_go_together_in_the_interval():
    together = [scored(n, **{f"strict:k:{kind}": n % 2 == 0 for kind in "abcd"}) for n in range(20)]
    apart = [scored((n, kind), **{f"strict:k:{kind}": n % 2 == 0}) for n in range(20) for kind in "abcd"]
    [wide, *_], [narrow, *_] = MEASURES["instruction_strict"](together), MEASURES["instruction_strict"](apart)
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    clustered = [scored((n, kind), n, **{f"strict:k:{kind}": n % 2 == 0}) for n in range(20) for kind in "abcd"]
    assert MEASURES["instruction_strict"](clustered)[0] == wide


def test_items_without_instructions_are_counted_and_none_at_all_is_undefined():
    [figure] = MEASURES["instruction_strict"]([scored(1, acc=1.0)])
    assert figure.value is None
    assert "1 of 1 items have no instructions" in figure.why
    [figure, *_] = MEASURES["instruction_strict"]([scored(1), scored(2, **{"strict:a:b": True})])
    assert (figure.value, figure.count) == (1.0, 1)
    assert figure.why == "1 of 2 items have no instructions"
