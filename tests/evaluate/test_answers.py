"""Answers checked by rule: each thing a check overlooks, and each thing it does not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.answers import CHECKS, declines, plain

starts, line, number, choice, words = (CHECKS[name] for name in ("starts", "line", "number", "choice", "words"))
in_order, in_any_order = CHECKS["list"], CHECKS["set"]


def decomposed(text):
    return unicodedata.normalize("NFD", text)


# What every check overlooks ----------------------------------------------------------------------------------------

OVERLOOKED = {
    "nothing": "màu xanh",
    "case": "MÀU Xanh",
    "white space": "  \tmàu   xanh  ",
    "a space that does not break": "màu\u00a0xanh",
    "a line of nothing before": "\n \nmàu xanh",
    "a following line": "màu xanh\nBelow is another",
    "a following line after its end": "màu xanh.\r\nBelow is another",
    "punctuation at the end": "màu xanh!",
    "several at the end": "màu xanh...",
    "straight quotes": '"màu xanh"',
    "curly quotes": "“màu xanh.”",
    "angled quotes": "«màu xanh»",
    "single quotes": "‘màu xanh’",
    "bold": "**màu xanh**",
    "bold and end": "**màu xanh**.",
    "bold in quotes": '"**màu xanh**"',
    "quotes in bold": '**"màu xanh."**',
    "one bold word": "màu **xanh**",
    "italic": "_màu xanh_",
    "code": "`màu xanh`",
    "bullet": "- màu xanh",
    "star bullet": "* màu xanh",
    "bullet of bold": "- **màu xanh**",
    "bullet in quotes in bold": '**"- màu xanh"**',
    "heading": "## Màu xanh",
    "quoted line": "> màu xanh",
    "decomposed letters": decomposed("màu xanh"),
    "label": "Answer: màu xanh",
    "label alone": "Answer:\nmàu xanh",
    "bold label": "**Answer:** màu xanh",
    "bold label alone": "**Answer:**\n\nmàu xanh",
    "Vietnamese label": "Trả lời: màu xanh",
    "decomposed label": decomposed("Câu trả lời: màu xanh"),
    "another Vietnamese label": "Đáp án : màu xanh",
}


@pytest.mark.parametrize("answer", OVERLOOKED.values(), ids=OVERLOOKED.keys())
@pytest.mark.parametrize("accepted", ["màu xanh", decomposed("Màu xanh."), "**Màu xanh**"])
@pytest.mark.parametrize("name", ["starts", "line", "list", "set"])
def test_every_check_of_text_overlooks_how_an_answer_is_written(name, accepted, answer):
    assert CHECKS[name](answer, [accepted])


NOT_OVERLOOKED = {
    "nothing said": "",
    "only white space": " \n \n",
    "only a label": "Answer:",
    "only marks": "**...**",
    "another word": "màu đỏ",
    "another accent": "mau xanh",
    "another tone": "mầu xanh",
    "half of it": "màu",
    "a longer word": "màu xanhh",
    "a word before": "cái màu xanh",
    "a no before": "không màu xanh",
    "on the second line": "Below is another\nmàu xanh",
    "other brackets": "<màu xanh>",
    "round brackets": "(màu xanh)",
    "a joined word": "màu xanh-đỏ",
    "words run together": "màuxanh",
    "no label": "Question: màu xanh",
}


@pytest.mark.parametrize("answer", NOT_OVERLOOKED.values(), ids=NOT_OVERLOOKED.keys())
@pytest.mark.parametrize("name", ["starts", "line", "list", "set"])
def test_no_check_of_text_overlooks_what_the_answer_is(name, answer):
    assert not CHECKS[name](answer, ["màu xanh"])


@pytest.mark.parametrize("name", ["starts", "line", "list", "set"])
def test_any_of_several_accepted_texts_will_do_but_a_list_is_all_of_them(name):
    assert CHECKS[name]("blue", ["red", "blue"]) is (name in {"starts", "line"})


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - {"declines"}))
@pytest.mark.parametrize("accepted", [[], [""], ["..."], ["blue", " "], ["one\ntwo"], "blue"])
def test_accepted_texts_that_match_nothing_or_anything_are_refused(name, accepted):
    with pytest.raises(ValueError, match="accepted answer"):
        CHECKS[name]("blue", accepted)


@given(st.text(), st.sampled_from(['"{}"', "**{}**", " {} ", "{}.", "“{}”", "`{}`", "{}!?", "**“{}”.**", "'{}'."]))
def test_plain_text_stays_as_it_is_and_wrapping_it_changes_nothing(text, wrapping):
    core = plain(text)
    assert plain(core) == core
    if core and core[0].isalnum() and core[-1].isalnum():
        assert plain(wrapping.format(core)) == core


@given(st.text())
def test_composed_and_decomposed_text_are_the_same_to_every_check(text):
    assert plain(unicodedata.normalize("NFD", text)) == plain(unicodedata.normalize("NFC", text))


@given(st.text(alphabet="ab .,\n*-\"'1:ế"), st.text(alphabet="ab*1ế", min_size=1).filter(plain))
def test_what_the_line_check_accepts_the_start_check_accepts(answer, accepted):
    assert not line(answer, [accepted]) or starts(answer, [accepted])


# starts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "Blue, like the sky",
        "blue. Below is another",
        "Blue because the sky is",
        "blue: so it is",
        "**Blue** is the colour",
        '"Blue" is the colour',
        "'Blue' is the colour",
        "blue,2 of them",
        "blue - green",
        "blue- green",
        "The answer is blue",
        "The answer is: **blue**.",
        "the  answer is “blue”",
        "It is blue",
        "It's blue!",
        "It’s blue!",
        "Answer: It is blue",
        "Trả lời: Đó là blue",
        decomposed("Câu trả lời là blue"),
        "Đáp án là: blue",
    ],
)
def test_an_answer_may_go_on_and_may_have_a_lead_in(answer):
    assert starts(answer, ["blue"])


@pytest.mark.parametrize(
    "answer",
    ["bluish", "blue-green", "blue's", "blue_1", "blue2", "blué", "It is not blue", "I think it is blue", "Isblue"],
)
def test_a_longer_word_or_another_beginning_is_another_answer(answer):
    assert not starts(answer, ["blue"])


def test_red_is_not_reddish():
    assert not starts("reddish", ["red"])
    assert starts("red", ["reddish", "red"])


def test_an_accent_that_composes_with_nothing_is_still_part_of_the_word():
    assert not starts("q\u0323", ["q"])


@pytest.mark.parametrize("answer", ["12.5", "12,000", "120", "12:30", "12/5", "12th"])
def test_figures_begin_with_whole_numbers(answer):
    assert not starts(answer, ["12"])
    assert starts("12. Next", ["12"])
    assert starts("12, then", ["12"])


def test_a_vietnamese_word_of_more_syllables_begins_with_one_of_fewer_and_only_the_line_tells_them_apart():
    assert starts("con mèo con", ["con mèo"])
    assert not line("con mèo con", ["con mèo"])
    assert not line(decomposed("Con mèo con."), ["con mèo"])
    assert line(decomposed("Con mèo."), ["con mèo"])


def test_an_accepted_text_may_begin_like_a_label_or_a_lead_in():
    assert starts("It is raining today", ["it is raining"])
    assert line("Answer: yes", ["answer: yes"])
    assert line("Answer", ["answer"])


# line --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["Con mèo màu đen. Con chó", "Con mèo màu đen và", "Đó là con mèo màu đen"])
def test_a_line_says_the_answer_and_nothing_else(answer):
    assert line("Con mèo màu đen.\nCon chó", ["con mèo màu đen"])
    assert not line(answer, ["con mèo màu đen"])


def test_marks_inside_a_line_are_part_of_it():
    assert line("no, I go.", ["No, I go"])
    assert not line("no I go.", ["No, I go"])
    assert not line("I go)", ["I go"])
    assert line("Don’t go", ["Don't go."])
    assert not line("Dont go", ["Don't go."])


@pytest.mark.parametrize(("answer", "accepted"), [("x²", "x2"), ("Masse", "Maße"), ("ﬁn", "fin"), ("hoà", "hòa")])
def test_letters_that_only_look_or_sound_alike_are_other_letters(answer, accepted):
    assert not line(answer, [accepted])


def test_markers_are_only_markers_around_words():
    assert line("2*3", ["2*3"])
    assert not line("2*3", ["23"])
    assert not line("snake_case", ["snakecase"])
    assert not line("-5", ["5"])


# number ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["12", "12.", "12!", "**12**", "It makes 12 apples", "12 + 3", "= 12", "(12)", "12.0", "+12", "$12", "Answer:12",
     "Trả lời: 12", "Answer:\n12", "12, then 5", "12\n5", "12; 5", "about “12”", "١٢"],
)  # fmt: skip
def test_the_first_number_of_the_first_line_counts(answer):
    assert number(answer, ["12"])


@pytest.mark.parametrize(
    "answer",
    ["", "twelve", "120", "1.2", "112", "1,2", "12.5", "12,5", "-12", "−12", "Answer:-12", "12th", "x12", "12x", "1/12",
     "12/5", "12:30", "12-15", "12–15", "5 then 12",
     "x-12", "x−12", "x5:12", "12:30h", "1 2", "1e12", ".12", "\n5\n12", "12,000", "1.12"],
)  # fmt: skip
def test_another_number_is_never_the_number(answer):
    assert not number(answer, ["12"])


def test_numbers_are_compared_by_value():
    assert number("1,200", ["1200"])
    assert number("1200", ["1,200"])
    assert number("1,200.50", ["1200.5"])
    assert number("0,5", [".5"])
    assert number("−7", ["-7"])
    assert number("- 7", ["7"])
    assert number("12:30", ["12:30"])
    assert number("7", ["8", "7"])
    assert not number("1.200", ["1200"])
    assert not number("0,200", ["200"])


def test_an_accepted_number_must_be_in_figures():
    with pytest.raises(ValueError, match="no number in figures"):
        number("12", ["12", "twelve"])


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_whole_numbers_are_equal_exactly_when_they_are(said, accepted):
    assert number(f"It is {said}.\n{accepted}", [str(accepted)]) is (said == accepted)
    assert number(f"{said:,} in all", [str(accepted)]) is (said == accepted)


# list and set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["cat, dog, cow", "Cat, dog and cow.", "cat, dog, and cow", "cat;dog;cow", "cat and dog and cow",
     "cat, dog và cow", "- cat, **dog**, “cow”", "It is cat, dog, cow", "Answer: cat, dog, cow\nmore"],
)  # fmt: skip
def test_items_of_a_list_may_be_parted_in_many_ways(answer):
    assert in_order(answer, ["cat", "dog", "cow"])
    assert in_any_order(answer, ["dog", "cow", "cat"])
    assert in_order(answer, ["cat, dog and cow"])


@pytest.mark.parametrize("answer", ["cat, dog", "cat, dog, cow, pig", "cat, dog, cows", "cat dog cow", "cat, dog, dog"])
def test_another_list_is_wrong_in_any_order(answer):
    assert not in_order(answer, ["cat", "dog", "cow"])
    assert not in_any_order(answer, ["cat", "dog", "cow"])


def test_only_a_set_overlooks_the_order():
    assert not in_order("dog, cat", ["cat", "dog"])
    assert in_any_order("dog, cat", ["cat", "dog"])


def test_a_set_counts_how_often_an_item_comes():
    assert not in_any_order("cat, cat, dog", ["cat", "dog", "dog"])
    assert in_any_order("cat, dog, cat", ["cat", "cat", "dog"])


def test_and_inside_a_word_parts_nothing():
    assert in_order("sand, vàng", ["sand", "vàng"])
    assert not in_order("sand", ["s"])


# choice ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["yes", "Yes.", "**Yes**, it is", "Answer: yes", "It is yes", "yes, not no", "Yes because no dog flies", "yes\nno"],
)
def test_the_right_option_named_first_is_right(answer):
    assert choice(answer, ["yes", "no"])


@pytest.mark.parametrize(
    "answer",
    ["no", "No, yes", "no\nyes", "yesterday", "not yes", "maybe yes", "", "yes or no", "yes, no", "yes/no",
     "Yes, or no", "yes and no", "yes hoặc no", "It is no"],
)  # fmt: skip
def test_another_option_or_none_or_two_are_wrong(answer):
    assert not choice(answer, ["yes", "no"])


def test_of_options_that_begin_alike_the_longer_is_named():
    assert not choice("Very sad indeed", ["very", "very sad"])
    assert choice("Very sad indeed", ["very sad", "very"])
    assert choice("con mèo con", ["con mèo con", "con mèo"])
    assert not choice("con mèo con", ["con mèo", "con mèo con"])


def test_a_wrong_option_with_a_lead_in_in_it_is_wrong():
    assert not choice("It is late", ["late", "it is late"])


@pytest.mark.parametrize("options", [["yes"], ["yes", "Yes."]])
def test_a_choice_needs_different_options(options):
    with pytest.raises(ValueError, match="different options"):
        choice("yes", options)


# declines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["I don't know", "I don’t know.", "I donʼt know", "I dont know!", "i do not know", "I do not know the colour of it",
     "I don't know her debut",
     "**I don't know.**", '"I don\'t know."', "Answer: I don't know", "Answer:\nI don't know",
     "Sorry, I don't know.", "I'm sorry, but I don't know.", "I don't know. The sky is blue.", "I don't know\nblue",
     "Nobody told me.", "No one has told me that", "No-one ever told me", "I was not told", "I have never been told",
     "Không biết.", "không biết", decomposed("Tôi không biết"), "Mình không biết", "Xin lỗi, tôi không biết.",
     "Trả lời: Tôi không biết", "Không ai nói cho tôi", "Không ai bảo tôi"],
)  # fmt: skip
def test_saying_that_one_does_not_know_declines(answer):
    assert declines(answer)
    assert CHECKS["declines"](answer, [])
    assert CHECKS["declines"](answer, ["I don't know."])


@pytest.mark.parametrize(
    "answer",
    ["", "blue", "I know", "I don't", "I don't knowingly", "She doesn't know", "Do you know?", "You don't know",
     "It is blue. I don't know", "blue\nI don't know", "I don't know, but it is blue", "I don't know but blue",
     "Con mèo không biết bơi", "Tôi biết", "không", "không biếtt", "Tôi không biết nhưng chắc là xanh",
     "Khong biet", "Nobody told her", "told me", "I was told blue"],
)  # fmt: skip
def test_anything_else_does_not_decline(answer):
    assert not declines(answer)
    assert not CHECKS["declines"](answer, [])


def test_an_accepted_text_that_does_not_decline_is_refused():
    with pytest.raises(ValueError, match="do not say"):
        CHECKS["declines"]("I don't know", ["blue"])


# words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["The cat saw the dog.", "The Cat, the DOG ran! Then", "“The dog,” said the cat.", "A cat ran.\nIt met a dog. It",
     "One. Two. The cat saw a dog.", "**Cat** and **dog** went home…", "Cat, dog, go home.",
     'He said: "A cat, a dog!"'],
)  # fmt: skip
def test_a_story_holds_its_words_in_its_first_sentences(answer):
    assert words(answer, ["cat", "dog"])


@pytest.mark.parametrize(
    "answer",
    ["", "The cat saw the dog", "The cat saw the bird.", "Cat, dog, go.", "The cats saw the dog.",
     "A cat-dog went home.", "A cat met a sheep-dog.",
     "The wildcat saw the dog.", "The cat ran. It met a dog", "One. Two. A cat came by. The dog.",
     "The cat's dog went home."],
)  # fmt: skip
def test_a_story_without_its_words_or_its_end_is_none(answer):
    assert not words(answer, ["cat", "dog"])


def test_a_vietnamese_story_holds_words_of_several_syllables():
    assert words(decomposed("Ngày xưa có một con mèo. Nó thích quả táo."), ["con mèo", "quả táo"])
    assert not words("Ngày xưa có một con mèo. Nó thích quả tao.", ["con mèo", "quả táo"])
