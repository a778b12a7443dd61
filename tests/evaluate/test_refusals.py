"""Saying that one does not know: in the language of the question, in varied words that are recognised as such."""

from collections import Counter

import pytest

from heed.evaluate.answers import declines
from heed.evaluate.refusals import ENGLISH, VIETNAMESE, refusal
from heed.evaluate.vietnamese import is_vietnamese


@pytest.mark.parametrize("text", [*ENGLISH, *VIETNAMESE])
def test_every_wording_is_recognised_as_a_refusal(text):
    assert declines(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where does Đức live?", False),
        ("Où est le café ? ¿Qué?", False),
        ("C'est là, à côté.", False),
        ("Đầu bếp làm nghề gì?", True),
        ("Thu\u031b\u0309 đo\u0302 ở đâu?", True),
        ("What is the job of Nguyễn Văn Trỗi?", False),
        ("Đức sống ở đâu?", True),
        ("Thủ đô của Việt Nam là gì?", True),
        ("An sống ở đâu?", True),
        ("Who wrote Naïve Café?", False),
        ("Which town is the home of Hằng?", False),
        ("Capital of France?", False),
        ("Núi cao nhất?", True),
        ("", False),
        ("12 + 5 = ?", False),
        ("Thu\u0309 đô nước Pháp?", True),
    ],
)
def test_names_do_not_decide_the_language_of_a_question(text, expected):
    assert is_vietnamese(text) is expected


def test_a_question_is_always_refused_in_the_same_words_and_different_ones_in_different():
    questions = [f"Who is number {i}?" for i in range(400)]
    counts = Counter(map(refusal, questions))
    assert set(counts) == set(ENGLISH)
    assert max(counts.values()) < 2 * 400 / len(ENGLISH)
    assert [refusal(q) for q in questions] == [refusal(q) for q in questions]
    assert refusal("Ai là người thứ ba?") in VIETNAMESE
