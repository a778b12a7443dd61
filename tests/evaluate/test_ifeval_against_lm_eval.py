"""The verdicts of IFEval beside lm-eval's own, on responses made for every prompt of the data.

lm-eval draws what it was not told, and reads languages with a random seed: its seed is fixed here, and the two prompts
that it answers by lot (`BY_LOT`) are left out. Otherwise all its code runs as it is, with the sentence model it wants.
"""

import importlib
import json
import random

import pytest

from heed.evaluate.checkers import open_checker
from heed.evaluate.checkers.ifeval import instructions_of
from heed.evaluate.checkers.ifeval.instructions import CHECKS
from heed.evaluate.checkers.ifeval.language import SEED
from heed.evaluate.checkers.ifeval.words import num_capital_words, num_sentences_in, num_words_in

punkt = pytest.importorskip("punkt")
load_model = punkt.load_model

SENTENCES = (
    "The old man walked along the river every morning.",
    "Dr. Smith, who lives in the U.S., met Mrs. Jones at 5 p.m. on Monday!",
    "Is it true that prices rose by 3.5% in Jan. and Feb. of that year?",
    'She said, "I don\'t know what you mean." Then she left.',
    "NASA and the FBI can't agree... It's a GREAT pity.",
    "Visit www.example.com, e.g. for help with section no. 4 of the manual.",
    "We've seen it all (and more) in New York City; nobody cared.",
    "J. R. R. Tolkien wrote many books, i.e. long ones.",
    "People often ask: why not? The answer is simple enough.",
    "The U.S. The U.K. agreed. He signed vs. nobody.",
    "Time flies - and so do we, at approx. 900 km/h.",
    "What a day!! Really?! Yes...",
    "1. First comes the plan. 2. Then comes the work.",
    "Mr. Brown Jr. works for Acme Corp. He likes it there.",
)
IN_OTHER_LANGUAGES = {
    "de": "Das ist eine kurze Geschichte über einen Hund, der in einem kleinen Haus am Fluss wohnte.",
    "vi": "Đây là một câu chuyện ngắn về một con chó sống trong ngôi nhà nhỏ bên dòng sông lớn.",
    "hi": "यह एक छोटी कहानी है जो एक कुत्ते के बारे में है और वह नदी के पास रहता था।",
    "fr": "Ceci est une courte histoire à propos d'un chien qui vivait dans une petite maison près de la rivière.",
    "ru": "Это короткая история о собаке, которая жила в маленьком доме у реки и любила плавать.",
    "ko": "이것은 강가의 작은 집에 살던 개에 관한 짧은 이야기입니다.",
    "pt": "Esta é uma pequena história sobre um cachorro que vivia numa casinha perto do rio.",
}
ODD = (
    "DON'T STOP. I CANNOT GO! WE'LL SEE, THEY'RE O.K., 'TIS DONE.",
    'A/B-TEST (FBI) "QUOTE" [NASA] {X} <Y> *BOLD*.',
    "WANNA GO? GONNA WIN... LEMME SEE; GIMME $5 & 50% OFF--NOW: A,B:C",
    "O’NEIL SAID: “GO” — AND ‘STOP’ – «NOW» `CODE` ``QUOTED''",
    "U.S.A. VS. U.K. AT 5 P.M., NO. 7. I. II. III.",
    "ONE.\nTWO.\n- THREE.\n* FOUR\n1. FIVE 2) SIX",
)
RESPONSES_EACH, READINGS = 5, ("strict:", "loose:")
BY_LOT = {"!", "#"}
"""letters that lm-eval replaces by one drawn at random, since they are none"""


def body(draw, num_sentences):
    return " ".join(draw.choice(SENTENCES) for _ in range(num_sentences))


def with_words(draw, text, words):
    parts = text.split(" ")
    for word in words:
        parts.insert(draw.randrange(len(parts) + 1), word)
    return " ".join(parts)


def enough(text, count):
    words = text.split(" ")
    return " ".join((words * (count // max(len(words), 1) + 2))[:count])


def shaped(draw, name, arguments, text):
    """The text, changed so that it follows an instruction, or nearly does."""
    off = draw.choice((0, 0, 0, -1, 1))
    kind = name.partition(":")[2]
    if kind in ("existence", "forbidden_words"):
        words = arguments.get("keywords") or arguments["forbidden_words"]
        return with_words(
            draw, text, draw.sample(words, max(len(words) + min(off, 0), 0)) if draw.random() < 0.7 else []
        )
    if kind == "frequency":
        return with_words(draw, text, [arguments["keyword"]] * max(arguments["frequency"] + off, 0))
    if kind == "letter_frequency":
        return text + " " + arguments["letter"] * max(arguments["let_frequency"] + off, 0)
    if kind == "response_language":
        return IN_OTHER_LANGUAGES.get(arguments["language"], text) if off == 0 else text
    if kind == "number_sentences":
        return body(draw, max(arguments["num_sentences"] + draw.choice((-3, -1, 0, 1)), 1))
    if kind == "number_paragraphs":
        count = max(arguments["num_paragraphs"] + off, 1)
        return draw.choice(("\n***\n", "***", "\n\n***\n\n")).join(body(draw, 1) for _ in range(count)) + "\n***" * (
            off == 1
        )
    if kind == "number_words":
        return enough(text, max(arguments["num_words"] + off * draw.choice((1, 20)), 1))
    if kind == "nth_paragraph_first_word":
        paragraphs = [body(draw, 1) for _ in range(max(arguments["num_paragraphs"] + off, 1))]
        at = min(arguments["nth_paragraph"], len(paragraphs)) - 1
        paragraphs[at] = (
            draw.choice(("", '"', "'")) + arguments["first_word"].title() + draw.choice((" ", ", ", ": ")) + "x"
        )
        return "\n\n".join(paragraphs)
    if kind == "number_placeholders":
        return with_words(draw, text, ["[name]"] * max(arguments["num_placeholders"] + off, 0))
    if kind == "postscript":
        return text + "\n\n" + draw.choice((arguments["postscript_marker"], "p. s. ", "P.P.S.", "PS")) + " Bye"
    if kind == "number_bullet_lists":
        return text + "\n" + "\n".join([draw.choice(("* x", "- y", "  * z"))] * max(arguments["num_bullets"] + off, 0))
    if kind == "constrained_response":
        return draw.choice(
            ("My answer is yes.", "My answer is no.", "My answer is perhaps.", "Well. My answer is maybe.")
        )
    if kind == "number_highlighted_sections":
        return with_words(
            draw, text, [draw.choice(("*so*", "**so**", "* *"))] * max(arguments["num_highlights"] + off, 0)
        )
    if kind == "multiple_sections":
        count = max(arguments["num_sections"] + off, 0)
        return "\n".join(f"{arguments['section_spliter']} {n + 1}\n{body(draw, 1)}" for n in range(count)) or text
    if kind == "json_format":
        written = json.dumps({"answer": text[:200]})
        return draw.choice(
            (written, f"```json\n{written}\n```", f"```\n{written}\n```", f"Here: {written}", written[:-1])
        )
    if kind == "title":
        return draw.choice(("<<A title>>\n", "<a title>\n", "<< >>\n", "")) + text
    if kind == "two_responses":
        return text + draw.choice(("\n******\n", "******", "***", "\n******\nx\n******\n")) + body(draw, 1)
    if kind == "repeat_prompt":
        return draw.choice(("", "", "Sure! ")) + arguments["prompt_to_repeat"] + "\n" + text
    if kind == "end_checker":
        return text + " " + arguments["end_phrase"] + draw.choice(("", "", '"', " Bye"))
    if kind == "quotation":
        return draw.choice(('"{}"', '"{}"', "{}", '"{}')).format(text)
    if kind == "capital_word_frequency":
        return with_words(draw, text.lower(), ["LOUD"] * max(arguments["capital_frequency"] + off, 0))
    if kind == "english_capital":
        return text.upper() if off == 0 else text
    if kind == "english_lowercase":
        return text.lower() if off == 0 else text
    assert kind == "no_comma"
    return text.replace(",", "") if off == 0 else text


LAST = ("quotation", "end_checker", "title", "repeat_prompt", "no_comma", "english_lowercase", "english_capital")


def responses_to(record, number):
    draw = random.Random(number)
    instructions = instructions_of(record)
    for _ in range(RESPONSES_EACH):
        text = body(draw, draw.randrange(1, 9))
        for name, arguments in sorted(instructions, key=lambda one: one[0].endswith(LAST)):
            text = shaped(draw, name, arguments, text)
        if draw.random() < 0.2:
            text = "Sure, here it is:\n" + text + "\n" + draw.choice(("", "I hope it helps, friend."))
        yield text


@pytest.fixture(scope="module")
def lm_evals(tmp_path_factory):
    """Its `utils` module, with Punkt's English model where nltk looks for it."""
    for module in ("lm_eval", "nltk", "immutabledict"):
        pytest.importorskip(module)
    import nltk
    from langdetect import DetectorFactory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(nltk_data(tmp_path_factory.mktemp("nltk_data")))])
        patch.setattr(DetectorFactory, "seed", SEED)
        yield importlib.import_module("lm_eval.tasks.ifeval.utils")


def nltk_data(folder):
    """The package `punkt_tab`, which nltk would download, written from the copy of it that a library brings."""
    model = load_model("english")
    tab = folder / "tokenizers" / "punkt_tab" / "english"
    tab.mkdir(parents=True)
    (tab / "abbrev_types.txt").write_text("\n".join(sorted(model.abbrev_types)), "utf-8")
    (tab / "sent_starters.txt").write_text("\n".join(sorted(model.sent_starters)), "utf-8")
    (tab / "collocations.tab").write_text("\n".join("\t".join(pair) for pair in sorted(model.collocations)), "utf-8")
    context = (f"{word}\t{int(flags)}" for word, flags in sorted(model.ortho_context.items()))
    (tab / "ortho_context.tab").write_text("\n".join(context), "utf-8")
    return folder


def records_of(shared):
    lines = (shared / "eval" / "ifeval-en.jsonl").read_text("utf-8").strip().split("\n")
    return [json.loads(line) for line in lines]


def as_on_the_hub(record):
    """With the names that lm-eval knows."""
    return {**record, "instruction_id_list": [name.removeprefix("en:") for name in record["instruction_id_list"]]}


def is_by_lot(record):
    return any(arguments.get("letter") in BY_LOT for arguments in record["kwargs"])


@pytest.mark.slow
def test_verdicts_equal_lm_evals_on_responses_to_all_prompts(shared, lm_evals):
    check = open_checker("ifeval")
    differ, followed, broken = [], set(), set()
    compared = 0
    for number, record in enumerate(records_of(shared)):
        if is_by_lot(record):
            continue
        names = [name for name, _ in instructions_of(record)]
        for response in responses_to(record, number):
            ours = check(response, record, ()).verdict
            theirs = lm_evals.process_results(as_on_the_hub(record), [response])
            strict, loose = ([value for key, value in ours.items() if key.startswith(each)] for each in READINGS)
            found = {
                "prompt_level_strict_acc": ours["prompt_strict"],
                "inst_level_strict_acc": strict,
                "prompt_level_loose_acc": ours["prompt_loose"],
                "inst_level_loose_acc": loose,
            }
            compared += 1
            if found != theirs:
                differ.append((record["key"], names, response, found, theirs))
            followed |= {name for name, holds in zip(names, strict, strict=True) if holds}
            broken |= {name for name, holds in zip(names, strict, strict=True) if not holds}
    assert differ == []
    assert compared == RESPONSES_EACH * (541 - 2)
    assert followed == set(CHECKS)  # the responses hold something of everything
    assert broken == set(CHECKS)


def test_sentences_and_words_in_capitals_are_counted_as_nltk_counts_them(lm_evals):
    import nltk

    util = importlib.import_module("lm_eval.tasks.ifeval.instructions_util")
    draw = random.Random(0)
    pieces = [*SENTENCES, *(sentence.upper() for sentence in SENTENCES), *IN_OTHER_LANGUAGES.values(), *ODD]
    for _ in range(400):
        text = draw.choice((" ", "\n", "", "\n\n")).join(draw.choices(pieces, k=draw.randrange(1, 7)))
        assert num_sentences_in(text) == util.count_sentences(text), text
        assert num_words_in(text) == util.count_words(text), text
        capital = sum(word.isupper() for word in nltk.word_tokenize(text))
        assert num_capital_words(text) == capital, (text, nltk.word_tokenize(text))


def lm_evals_verdict(lm_evals, response, name, arguments):
    record = {"key": 1, "prompt": "?", "instruction_id_list": [name], "kwargs": [arguments]}
    return lm_evals.process_results(record, [response])["prompt_level_strict_acc"]


@pytest.mark.parametrize(
    ("name", "arguments", "response", "is_followed"),
    [
        ("keywords:frequency", {"keyword": "cat", "frequency": 0, "relation": "less than"}, "a dog", False),
        ("length_constraints:number_words", {"num_words": 0, "relation": "at least"}, "two words", True),
        ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "!!", True),
        ("keywords:existence", {"keywords": ["a.b"]}, "axb", False),
        ("keywords:existence", {"keywords": ["c++"]}, "ccc", False),
        ("keywords:forbidden_words", {"forbidden_words": ["a.b"]}, "axb", True),
    ],
)
def test_where_lm_eval_is_at_fault_we_differ(lm_evals, name, arguments, response, is_followed):
    ours = open_checker("ifeval")(response, {"instruction_id_list": [name], "kwargs": [arguments]}, ()).verdict
    assert ours["prompt_strict"] is is_followed
    assert lm_evals_verdict(lm_evals, response, name, arguments) is not is_followed


def test_what_lm_eval_fails_at_is_told_here(lm_evals):
    deep = "[" * 100_000
    with pytest.raises(RecursionError):
        lm_evals_verdict(lm_evals, deep, "detectable_format:json_format", {})
    record = {
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 3, "relation": None}],
    }
    assert "lacks 'relation'" in open_checker("ifeval")("a b c", record, ()).problem
    drawn = {
        lm_evals_verdict(lm_evals, "a b c", *record["instruction_id_list"], record["kwargs"][0]) for _ in range(64)
    }
    assert drawn == {True, False}
