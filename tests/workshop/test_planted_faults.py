# ruff: noqa: E501
"""Every kind of fault, planted a hundred times into real records, is found; clean records are left in peace."""

import json
import random
import re
import unicodedata
from collections.abc import Callable

import pytest
from code_pages import read_as

from heed.data.read import read_comparable_with_fields
from heed.data.shapes.names import annotator_of
from heed.data_faults import KINDS
from heed.recipes.workshop.check import look
from heed.types import Finding
from heed.workshop.corpus import Corpus
from heed.workshop.language import language_of

PLANTED = 100
CONJUNCTIONS = ("and the", "because of", "with the")
VIETNAMESE = (
    "Chúng tôi rất vui được giới thiệu với bạn về những món ăn truyền thống của miền Trung nước Việt, "
    "nơi có nhiều bãi biển đẹp và những con người hiếu khách."
)
Record = dict[str, str]


def with_answer(change: Callable[[str, random.Random], str]) -> Callable[[Record, random.Random], Record]:
    return lambda record, draw: {**record, "output": change(record["output"], draw)}


def inside(planted: str) -> Callable[[str, random.Random], str]:
    def change(text: str, draw: random.Random) -> str:
        place = draw.randrange(len(text) // 2, len(text))
        return f"{text[:place]}{planted}{text[place:]}"

    return change


def between_words(planted: str) -> Callable[[str, random.Random], str]:
    def change(text: str, draw: random.Random) -> str:
        words = text.split(" ")
        words.insert(draw.randrange(1, len(words)), planted)
        return " ".join(words)

    return change


def cut(text: str, draw: random.Random) -> str:
    sentence = "This went on for a long time before anybody in the whole village noticed what had happened "
    return f"{text.strip()} {sentence * 2}{draw.choice(CONJUNCTIONS)}"


SINGLE: dict[str, Callable[[Record, random.Random], Record]] = {
    "broken-encoding": with_answer(lambda t, d: f"{t} {read_as(VIETNAMESE, d.choice(('cp1252', 'cp1251', 'cp850')))}"),
    "doubled-encoding": with_answer(lambda t, d: f"{t} {read_as(read_as(VIETNAMESE, 'cp1252'), 'cp1252')}"),
    "lost-bytes": with_answer(lambda t, d: f"{t} {read_as(VIETNAMESE, 'cp1252', undefined='replaced')} h\ufffdc"),
    "control-characters": with_answer(lambda t, d: inside(d.choice(["\x00", "\x08", "\x1b[31m", "\x85", "\x7f"]))(t, d)),
    "empty-answer": with_answer(lambda t, d: d.choice(["", " ", "\n\n", "\u00a0"])),
    "empty-prompt": lambda r, d: {**r, "instruction": d.choice(["", "  "]), "input": ""},
    "not-composed": with_answer(lambda t, d: f"{t} {unicodedata.normalize('NFD', VIETNAMESE)}"),
    "zero-width": with_answer(lambda t, d: inside(d.choice("\u200b\u2060\ufeff\u202e\u00ad"))(t, d)),
    "prompt-in-answer": lambda r, d: {**r, "output": f"{asked(r)}\n\n{r['output']}"},
    "cut-off": with_answer(cut),
    "repetition": with_answer(lambda t, d: t + " and then again and again" * d.randint(6, 12)),
    "refusal": with_answer(lambda t, d: d.choice(["I'm sorry, but I can't help with that. ", "Tôi xin lỗi, tôi không thể trả lời. "]) + t),
    "boilerplate": with_answer(lambda t, d: f"As an AI language model, I do not have opinions. {t}"),
    "placeholder": with_answer(lambda t, d: between_words(d.choice(["[Your Name]", "[Insert Date]", "<noinput>", "[Tên của bạn]"]))(t, d)),
    "special-token-text": with_answer(lambda t, d: inside(d.choice(["<|im_end|>", "<|eot_id|>", "[/INST]", "<end_of_turn>"]))(t, d)),
    "other-language": lambda r, d: {"instruction": "Explain why the sky looks blue at noon and red in the evening.", "output": VIETNAMESE},
    "card-number": with_answer(lambda t, d: between_words(luhn("411111" + str(d.randrange(10**9)).zfill(9)))(t, d)),
    "bank-account": with_answer(lambda t, d: between_words(iban("DE", str(d.randrange(10**18)).zfill(18)))(t, d)),
    "entities": with_answer(lambda t, d: between_words(d.choice(["R&amp;D", "don&#39;t", "&quot;so&quot;", "a&nbsp;b"]))(plain(t), d)),
    "email": with_answer(lambda t, d: between_words(f"nguyen.{d.randrange(999)}@vnu.edu.vn")(t, d)),
    "phone": with_answer(lambda t, d: between_words(f"+84 91 234 {d.randrange(1000, 9999)}")(t, d)),
    "answer-only-url": with_answer(lambda t, d: between_words(f"https://site{d.randrange(999)}.vn/page")(t, d)),
}  # fmt: skip
PAIRS: dict[str, Callable[[Record, random.Random], Record]] = {
    "identical-answers": lambda r, d: {**r, "rejected": r["chosen"] + d.choice(["", " ", "\n"])},
    "identical-but-for-form": lambda r, d: {**r, "rejected": r["chosen"].upper() + "!!"},
    "near-identical-answers": lambda r, d: {**r, "rejected": (r["chosen"] + " It was so.") * 3, "chosen": (r["chosen"] + " It was so.") * 3 + " x1"},
    "empty-answer": lambda r, d: {**r, "rejected": ""},
    "contradicting-scores": lambda r, d: {**r, "score_chosen": 1, "score_rejected": 5},
}  # fmt: skip


def asked(record: Record) -> str:
    return f"{record['instruction']}\n{record['input']}".strip()


def plain(text: str) -> str:
    return re.sub(r"[<>`&]", "", text) or "words of an answer"


def luhn(digits: str) -> str:
    total = sum(sum(divmod(2 * int(c), 10)) if i % 2 == 0 else int(c) for i, c in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def iban(country: str, account: str) -> str:
    number = "".join(str(int(c, 36)) for c in account + country + "00")
    return f"{country}{98 - int(number) % 97:02d}{account}"


@pytest.fixture(scope="module")
def instructions(shared) -> list[Record]:
    records = json.loads((shared / "instruct" / "rasbt-1100.json").read_text(encoding="utf-8"))
    return [r for r in records if len(asked(r)) > 30 and len(r["output"]) > 60 and r["output"].isascii()]


@pytest.fixture(scope="module")
def preferences(shared) -> list[Record]:
    records = json.loads((shared / "preference" / "rasbt-1100-preference.json").read_text(encoding="utf-8"))
    return [
        {"prompt": asked(r), "chosen": r["chosen"], "rejected": r["rejected"]} for r in records if len(r["chosen"]) > 60
    ]


@pytest.fixture
def write(tmp_path):
    def to_file(records: list[object]):
        path = tmp_path / "records.jsonl"
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        return path

    return to_file


@pytest.mark.parametrize("kind", SINGLE)
def test_a_fault_planted_into_instructions_is_found(instructions, write, kind):
    draw = random.Random(kind)
    planted = [SINGLE[kind](record, draw) for record in draw.sample(instructions, PLANTED)]
    found = kinds_by_record(write(planted))
    assert sum(kind in each for each in found) >= 0.99 * PLANTED


@pytest.mark.parametrize("kind", PAIRS)
def test_a_fault_planted_into_preferences_is_found(preferences, write, kind):
    draw = random.Random(kind)
    planted = [PAIRS[kind](record, draw) for record in draw.sample(preferences, PLANTED)]
    found = kinds_by_record(write(planted))
    assert sum(kind in each for each in found) >= 0.99 * PLANTED


def kinds_by_record(path) -> list[set[str]]:
    found = []
    for item in read_comparable_with_fields(str(path)):
        (_, faults), _ = look(None, item if isinstance(item, Finding) else (item[0], None))
        found.append({fault.kind for fault in faults})
    return found


@pytest.mark.parametrize(
    "order",
    [
        ["user", "user", "assistant"],
        ["assistant", "user"],
        ["user", "system", "assistant"],
        ["user", "assistant", "assistant"],
    ],
)
def test_turns_in_an_order_that_no_conversation_has_are_found(write, order):
    messages = [{"role": role, "content": f"words of the {role}, number {place}"} for place, role in enumerate(order)]
    assert "role-order" in kinds_by_record(write([{"messages": messages}]))[0]


def test_letters_that_differ_in_their_marks_are_no_same_answer(write):
    pairs = [("यह राम की किताब है", "यह राम का किताब है"), ("ก่อนหน้านี้ดี", "กอนหนานดี")]
    records = [{"prompt": f"Question {a}?", "chosen": a, "rejected": b} for a, b in pairs]
    assert [each & {"identical-but-for-form"} for each in kinds_by_record(write(records))] == [set(), set()]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ro", "Președintele României a declarat astăzi că situația economică a țării este bună și că va crește"),
        ("fr", "Être maître de soi-même, c'est être prêt à connaître la forêt, la fenêtre et la tête du bâtiment"),
        ("pt", "Você não pôde ver o avô e a avó, três português têm ânimo e ciência às câmaras econômicas da Amazônia"),
        ("vi", VIETNAMESE),
    ],
)
def test_letters_that_others_have_too_make_no_text_vietnamese(language, text):
    assert language_of(text) in {language, None} | ({"gl"} if language == "pt" else set())


def test_a_number_whose_checksum_is_wrong_is_nobodys_card(write):
    right = luhn("411111123456789")
    wrong = right[:-1] + str((int(right[-1]) + 1) % 10)
    records = [{"prompt": "Which number?", "completion": f"It is {number} and no other."} for number in (right, wrong)]
    assert ["card-number" in each for each in kinds_by_record(write(records))] == [True, False]


def test_among_clean_records_hardly_any_is_called_an_error(shared, write):
    records = (shared / "instruct" / "vi-alpaca-5000.jsonl").read_text(encoding="utf-8").splitlines()[:250]
    english = json.loads((shared / "instruct" / "rasbt-1100.json").read_text(encoding="utf-8"))[:250]
    found = kinds_by_record(write([*map(json.loads, records), *english]))
    assert len(found) == 500
    assert sum(any(KINDS[kind].level == "error" for kind in each) for each in found) <= 2


def of_all(path) -> list[tuple[str, int]]:
    corpus = Corpus()
    for item in read_comparable_with_fields(str(path)):
        _, digest = look(None, (item[0], annotator_of(item[1])))
        corpus.add(digest)
    return [(fault.kind, fault.origin.record) for fault in corpus.faults()]


def test_duplicates_and_other_answers_to_a_prompt_are_found_in_any_composition_of_accents(instructions, write):
    base = instructions[:50]
    again = [{**r, "output": unicodedata.normalize("NFD", f"{r['output']} ")} for r in base]
    other = [{**r, "instruction": f"{r['instruction'].upper()}  ", "output": "It depends."} for r in base]
    found = of_all(write([*base, *again, *other]))
    assert [record for kind, record in found if kind == "duplicate"] == list(range(51, 101))
    assert [record for kind, record in found if kind == "another-answer"] == list(range(101, 151))


def test_preferences_that_contradict_one_another_are_found(write):
    def pair(better: str, worse: str) -> Record:
        return {"prompt": "Which of these words is the best one here?", "chosen": better, "rejected": worse}

    records = [pair("alpha", "beta"), pair("beta", "gamma"), pair("beta", "alpha"), pair("gamma", "alpha")]
    assert of_all(write(records)) == [("reversed-preference", 3), ("preference-cycle", 4)]


def test_a_preference_that_length_alone_tells_is_told_with_its_share(write):
    records = [
        {"prompt": f"Question number {n}", "chosen": "long " * (5 + n % 7), "rejected": "short " * (n % 4 + 1)}
        for n in range(60)
    ]
    assert of_all(write(records)) == [("length-decides", 1)]
    mixed = [r if n % 2 else {**r, "chosen": r["rejected"], "rejected": r["chosen"]} for n, r in enumerate(records)]
    assert of_all(write(mixed)) == []


def test_an_annotator_who_likes_length_more_than_the_others_is_told_and_one_like_the_others_is_not(write):
    def choice(n: int, who: str, takes_longer: bool) -> Record:
        answers = [f"long {'words ' * (3 + n % 5)}{n}", f"short {n}"]
        chosen, rejected = answers if takes_longer else answers[::-1]
        return {"prompt": f"Question {n}", "chosen": chosen, "rejected": rejected, "annotator": who}

    fair = [choice(n, who, n % 2 == 0) for n, who in enumerate(["an", "binh", "chi"] * 40)]
    eager = [choice(200 + n, "dung", n % 10 != 0) for n in range(40)]
    assert of_all(write(fair)) == []
    assert ("annotator-habit", 121) in of_all(write([*fair, *eager]))
    assert [kind for kind, _ in of_all(write([*fair, *eager]))].count("annotator-habit") == 1
    assert of_all(write([*fair, *eager[:15]])) == []  # too few to say


def test_tone_marks_in_both_places_are_a_note(write):
    assert of_all(write([{"text": "Cộng hòa xã hội, thúy"}, {"text": "Cộng hoà xã hội"}])) == [("tone-marks", 1)]
    assert of_all(write([{"text": "Cộng hòa xã hội, quý, thuế"}, {"text": "Thủy, hòa"}])) == []
