"""Rankings and judged answers on disk: what is trained in each sequence, what is left out and why, and what stops."""

import json
import unicodedata

import numpy as np
import pytest
from letter_tokens import FORGETFUL, preparation, text_of, trained_text_of, write

from heed.data import parallel
from heed.data.answers import repeated
from heed.data.preferences import open_judged, open_rankings, prepare_judged, prepare_rankings
from heed.data.prepare import account_json, left_out_lines, open_prepared, prepare
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError


def ranked(tmp_path, *records, template=None, **changes):
    path = write(tmp_path, *records)
    given = preparation(template, **changes) if template else preparation(**changes)
    account = prepare_rankings(path, tmp_path / "store", given, fingerprint="f")
    return account, open_rankings(path, tmp_path / "store")


def judged(tmp_path, *records, **changes):
    path = write(tmp_path, *records)
    account = prepare_judged(path, tmp_path / "store", preparation(**changes), fingerprint="f")
    return account, open_judged(path, tmp_path / "store")


def pair(chosen: str, rejected: str, prompt: str = "p", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def trained_in(prepared, record: int) -> list[str]:
    return [trained_text_of(tokens) for tokens in prepared.ranking(record).sequences]


def reasons(account) -> list[str]:
    return [json.loads(line)["reason"] for line in left_out_lines(account)]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


# ---- what is trained


def test_each_answer_is_a_sequence_that_trains_the_answer_and_its_stop_token_and_ends_there(tmp_path):
    account, prepared = ranked(tmp_path, pair("good one", "bad"), {"prompt": "q", "answers": ["1", "22", "333"]})
    first, second = prepared.ranking(0), prepared.ranking(1)
    assert [text_of(t) for t in first.sequences] == ["Q:p\nA:good one</s>", "Q:p\nA:bad</s>"]
    assert [trained_text_of(t) for t in first.sequences] == ["good one</s>", "bad</s>"]
    assert [trained_text_of(t) for t in second.sequences] == ["1</s>", "22</s>", "333</s>"]
    assert all(t.weight[-1] == 1 for t in (*first.sequences, *second.sequences))
    assert (first.scores.tolist(), second.scores.tolist()) == ([1, 0], [2, 1, 0])
    assert not first.has_margins
    assert (first.origin.record, second.origin.record) == (1, 2)
    numbers = account_json(account)
    assert numbers["read"] == "read 1 ranking as ranked answers and 1 as preference"
    assert (numbers["num_records"], numbers["num_kept"], numbers["num_answers"]) == (2, 2, 5)
    assert numbers["num_trained_tokens"] == 9 + 4 + 2 + 3 + 4
    assert {name: sum(h["counts"]) for name, h in numbers["lengths"].items()} == {
        "prompt": 2,
        "chosen": 2,
        "rejected": 3,
    }


def test_earlier_answers_are_context_even_where_the_record_asks_to_train_them(tmp_path):
    earlier = [*turns("u", "earlier", "v")]
    earlier[1]["train"] = True
    _, prepared = ranked(tmp_path, {"prompt": earlier, "chosen": "good", "rejected": "bad"})
    assert text_of(prepared.ranking(0).sequences[0]) == "Q:u\nA:earlier</s>\nQ:v\nA:good</s>"
    assert trained_in(prepared, 0) == ["good</s>", "bad</s>"]


def test_dialogues_that_part_early_train_every_turn_that_was_compared(tmp_path):
    _, prepared = ranked(tmp_path, {"chosen": turns("u", "a", "v", "b"), "rejected": turns("u", "c")})
    assert trained_in(prepared, 0) == ["a</s>b</s>", "c</s>"]


def test_a_template_that_rewrites_earlier_turns_gives_the_sequence_that_trains_the_last(tmp_path):
    account, prepared = ranked(
        tmp_path,
        {"chosen": turns("u", "<think>hm</think>f", "v", "last"), "rejected": turns("u", "other")},
        {"prompt": turns("u", "<think>hm</think>b", "v"), "chosen": "good", "rejected": "bad"},
        template=FORGETFUL,
    )
    assert [text_of(t) for t in prepared.ranking(0).sequences] == [
        "Q:u\nA:f</s>\nQ:v\nA:last</s>",
        "Q:u\nA:other</s>",
    ]
    assert trained_in(prepared, 0) == ["last</s>", "other</s>"]
    assert text_of(prepared.ranking(1).sequences[0]) == "Q:u\nA:b</s>\nQ:v\nA:good</s>"
    assert account.num_branches == 1


def test_scores_come_sorted_with_ties_kept_and_say_whether_they_are_distances(tmp_path):
    _, prepared = ranked(
        tmp_path,
        {"prompt": "p", "answers": ["b", "a", "c", "d"], "scores": [1, 4.5, 1, -2]},
        {"prompt": "p", "answers": ["b", "a"], "ranks": [2, 1]},
        pair("a", "b", margin=0.5),
        pair("a", "b", score_chosen=3, score_rejected=1),
        {"prompt": "p", "answers": ["b", "a", "c"], "ranks": [3, 1, 3]},
    )
    found = [prepared.ranking(i) for i in range(5)]
    assert [text_of(t)[-5] for t in found[0].sequences] == ["a", "b", "c", "d"]
    assert [each.scores.tolist() for each in found] == [[4.5, 1, 1, -2], [1, 0], [0.5, 0], [3, 1], [1, 0, 0]]
    assert [each.has_margins for each in found] == [True, False, True, True, False]
    assert all(each.scores.dtype == np.float64 for each in found)


# ---- what teaches nothing is left out, counted and listed, and never stops


NOTHING = [
    (pair("same", " same\n"), "answer 2 of 2 says the same as answer 1"),
    (
        pair(unicodedata.normalize("NFC", "Tiếng Việt"), unicodedata.normalize("NFD", "Tiếng Việt")),
        "answer 2 of 2 says the same as answer 1",
    ),
    (pair("", "bad"), "answer 1 of 2 is empty"),
    (pair("good", " \n"), "answer 2 of 2 is empty"),
    ({"prompt": "p", "answers": ["only"]}, "a single answer"),
    ({"prompt": "p", "answers": ["a", "b"], "scores": [1, 1]}, "the 2 answers tie"),
    (pair("a", "b", margin=0), "the 2 answers tie"),
    (
        {"prompt": "p", "answers": ["a", "", "b"], "scores": [1, 2, 1]},
        "answer 1 of 3 is empty; the other 2 answers tie",
    ),
]


@pytest.mark.parametrize(("record", "found"), NOTHING)
def test_a_record_that_compares_nothing_is_left_out_without_stopping(tmp_path, record, found):
    account, prepared = ranked(tmp_path, record, pair("good", "bad"))
    assert (account.num_records, account.num_kept, account.num_findings) == (2, 1, 0)
    assert account.further["num_uninformative"] == 1
    [line] = [json.loads(line) for line in left_out_lines(account)]
    assert (line["record"], line["reason"]) == (1, f"nothing to compare: {found}")
    assert trained_in(prepared, 0) == ["good</s>", "bad</s>"]
    assert "  1 with nothing to learn left out" in "\n".join(account.lines(None, "error"))


def test_an_answer_that_is_empty_or_repeated_leaves_the_others_to_be_compared(tmp_path):
    account, prepared = ranked(
        tmp_path,
        {"prompt": "p", "answers": ["a", "", "b", "b"]},
        {"prompt": "p", "answers": ["a", "b", "a", "c"]},
        {"prompt": "p", "answers": ["a", "b", "a", "c"], "scores": [9, 8, 9, 7]},
    )
    assert [trained_in(prepared, i) for i in range(3)] == [
        ["a</s>", "b</s>"],
        ["b</s>", "c</s>"],
        *[["a</s>", "b</s>", "c</s>"]],
    ]
    assert prepared.ranking(0).scores.tolist() == [1, 0]
    assert prepared.ranking(2).scores.tolist() == [9, 8, 7]
    assert reasons(account) == [
        "answer 2 of 4 is empty",
        "answer 4 of 4 says the same as answer 3",
        "answer 3 of 4 says the same as answer 1, and is ranked apart from it",
        "answer 1 of 4 says the same as answer 3, and is ranked apart from it",
        "answer 2 of 4 says the same as answer 1",
    ]
    assert account.further["num_answers_left_out"] == 5


@pytest.mark.parametrize(
    ("texts", "scores", "lost"),
    [
        ("aab", (2, 1, 0), {1}),
        ("aba", (2, 1, 0), {0, 2}),
        ("aba", (1, 1, 1), {2}),
        ("aba", (2, 1, 1), {0, 2}),
        ("abcb", (3, 2, 1, 0), {1, 3}),
        ("aaa", (2, 1, 0), {1, 2}),
        ("abc", (2, 1, 0), set()),
    ],
)
def test_copies_that_contradict_one_another_all_go_and_others_leave_the_best(texts, scores, lost):
    assert set(repeated(dict(enumerate(texts)), scores)) == lost


# ---- what is broken


BROKEN = [
    ({"prompt": [{"role": "system", "content": "s"}], "chosen": "a", "rejected": "b"}, "no user message"),
    (pair("a", "b", prompt="  "), "the prompt is empty"),
    (pair("a", "b</s>"), "special-token text"),
    (pair("a", "b", prompt="x</s>"), "special-token text"),
    (pair("a", "\ud83d"), "text cannot be used"),
    (pair("a", "b", margin=-1), "scores contradict"),
    (pair("a", "b", score_chosen=1, score_rejected=2), "scores contradict"),
    ({"chosen": turns("u", "a", "v", "b"), "rejected": turns("u", "a", "w", "b")}, "not the assistant's"),
    ({"prompt": "p", "chosen": [{**turns("", "a")[1], "weight": 0.5}], "rejected": "b"}, "weight of its own"),
]


@pytest.mark.parametrize(("record", "problem"), BROKEN)
def test_a_broken_record_stops_the_run_unless_few_are_allowed(tmp_path, record, problem):
    path = write(tmp_path, pair("good", "bad"), record)
    with pytest.raises(UserError, match=problem) as caught:
        prepare_rankings(path, tmp_path / "store", preparation(), fingerprint="f")
    assert caught.value.where == f"{path}, record 2"
    assert "--max-bad-records 0.5" in caught.value.fix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]
    account, _ = ranked(tmp_path, pair("good", "bad"), record, max_bad_records=0.5)
    assert (account.num_kept, account.num_findings) == (1, 1)
    assert problem in reasons(account)[0]


def test_a_record_without_anything_to_compare_by_is_refused_with_the_way_to_write_it(tmp_path):
    with pytest.raises(UserError, match=r"compares no answers[\s\S]*prompt/response[\s\S]*\"chosen\"") as caught:
        ranked(tmp_path, pair("a", "b"), {"prompt": "p", "response": "r"})
    assert caught.value.where.endswith("record 2")
    with pytest.raises(UserError, match="compares no answers"):
        ranked(tmp_path, {"prompt": "p", "completion": "r", "label": True})


# ---- too long: 'Q:p\nA:' takes 6 tokens and '</s>' one


LONG = [
    pair("abc", "a" * 20),
    {"prompt": "p", "answers": ["abc", "b" * 20, "de"]},
    pair("abc", "de", prompt="p" * 20),
    pair("abc", "de"),
]


def test_answers_that_are_too_long_stop_the_run(tmp_path):
    with pytest.raises(UserError) as caught:
        ranked(tmp_path, *LONG, max_length=12)
    assert caught.value.where.endswith("record 1")
    assert caught.value.found == "27 tokens, and 2 further conversations too long"


def test_dropping_keeps_a_ranking_that_still_has_two_answers(tmp_path):
    account, prepared = ranked(tmp_path, *LONG, max_length=12, too_long="drop")
    assert [trained_in(prepared, i) for i in range(2)] == [["abc</s>", "de</s>"]] * 2
    assert [prepared.ranking(i).origin.record for i in range(2)] == [2, 4]
    assert (account.num_kept, account.num_too_long, account.further["num_too_long_left_out"]) == (2, 3, 2)
    assert reasons(account) == [
        "too long: answer 2 of 2; nothing is left to compare",
        "too long: answer 2 of 3",
        "too long: answer 1, 2 of 2; nothing is left to compare",
    ]
    assert account.num_cut_tokens == (10 + 27) + 27 + (29 + 28)
    assert "  1 of the too long keep answers to compare (listed in left_out.jsonl)" in account.lines(12, "drop")


def test_truncating_cuts_answers_and_never_the_prompt_and_trains_no_stop_token_there(tmp_path):
    account, prepared = ranked(tmp_path, *LONG, max_length=12, too_long="truncate")
    assert [trained_in(prepared, i) for i in range(3)] == [
        ["abc</s>", "aaaaaa"],
        ["abc</s>", "bbbbbb", "de</s>"],
        ["abc</s>", "de</s>"],
    ]
    assert (account.num_kept, account.num_too_long, account.further["num_too_long_left_out"]) == (3, 3, 1)
    assert account.num_cut_tokens == 15 + 15 + (29 + 28)


def test_answers_that_part_only_beyond_the_cut_compare_nothing(tmp_path):
    account, _ = ranked(tmp_path, pair("abcdefX", "abcdefY"), pair("a", "b"), max_length=12, too_long="truncate")
    assert account.num_kept == 1
    assert reasons(account) == ["too long: answer 1, 2 of 2; nothing is left to compare"]


# ---- judged answers


def test_judged_answers_and_both_sides_of_a_preference_become_single_sequences(tmp_path):
    account, prepared = judged(
        tmp_path,
        {"prompt": "p", "completion": "yes", "label": True},
        {"prompt": "p", "response": "no", "label": 0},
        pair("good", "bad"),
        {"prompt": "p", "answers": ["1", "2", "3", "4"], "scores": [5, 5, 2, 0]},
    )
    found = [prepared.judged(i) for i in range(7)]
    assert [trained_text_of(each.tokens) for each in found] == [
        f"{text}</s>" for text in ("yes", "no", "good", "bad", "1", "2", "4")
    ]
    assert [each.is_desirable for each in found] == [True, False, True, False, True, True, False]
    assert text_of(found[1].tokens) == "Q:p\nA:no</s>"
    assert [each.origin.record for each in found] == [1, 2, 3, 3, 4, 4, 4]
    assert (account.further["num_desirable"], account.further["num_undesirable"]) == (4, 3)
    assert (account.further["num_between"], account.further["num_answers_left_out"]) == (1, 0)
    assert reasons(account) == ["answer 3 of 4 is neither the best nor the worst"]
    assert "judged answer" in account.read


def test_an_empty_judged_answer_and_a_pair_of_the_same_teach_nothing(tmp_path):
    account, prepared = judged(
        tmp_path, {"prompt": "p", "completion": " ", "label": True}, pair("a", "a"), pair("a", "b")
    )
    assert (account.num_kept, account.further["num_uninformative"]) == (2, 2)
    assert reasons(account)[0] == "nothing to learn: the answer is empty"
    assert prepared.is_desirable.tolist() == [True, False]


def test_a_record_that_judges_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"does not say how good[\s\S]*\"label\": true"):
        judged(tmp_path, {"prompt": "p", "completion": "c"})


def test_a_label_that_is_no_truth_value_is_left_out_and_counted_among_the_unusable(tmp_path):
    good = {"prompt": "p", "completion": "c", "label": "yes"}
    for label in (2, "maybe", None):
        record = {"prompt": "p", "completion": "c", "label": label}
        with pytest.raises(UserError, match="not a truth value"):
            judged(tmp_path, good, record)
        account, _ = judged(tmp_path, good, record, max_bad_records=0.5)
        assert (account.num_kept, account.num_findings) == (1, 1)


def test_a_judged_answer_that_is_too_long_is_dropped_or_cut(tmp_path):
    record = {"prompt": "p", "completion": "a" * 20, "label": True}
    good = {"prompt": "p", "completion": "b", "label": False}
    account, _ = judged(tmp_path, record, good, max_length=12, too_long="drop")
    assert (account.num_kept, account.num_too_long, account.num_cut_tokens) == (1, 1, 27)
    _, prepared = judged(tmp_path, record, good, max_length=12, too_long="truncate")
    assert trained_text_of(prepared.judged(0).tokens) == "aaaaaa"


def test_supervised_tuning_imitates_what_is_desirable_and_stops_at_what_is_not(tmp_path):
    yes = {"prompt": "p", "completion": "yes", "label": True}
    no = {"prompt": "p", "completion": "no", "label": False}
    path = write(tmp_path, yes, no)
    with pytest.raises(UserError, match="labelled as one not to give") as caught:
        prepare(path, None, tmp_path / "store", preparation(), fingerprint="f")
    assert caught.value.where == f"{path}, record 2"
    account = prepare(path, None, tmp_path / "store", preparation(max_bad_records=0.5), fingerprint="f")
    prepared = open_prepared(path, tmp_path / "store")
    assert (account.num_kept, account.num_findings) == (1, 1)
    assert account.read == "read 2 judged answers as prompt/completion/label"
    assert [trained_text_of(tokens) for tokens in prepared.conversation(0)] == ["yes</s>"]


# ---- sides, and many records


def test_the_same_prompt_never_lies_on_both_sides_whatever_the_answers(tmp_path):
    records = [pair(f"a{i}", f"b{i}", prompt=f"prompt {i % 20}") for i in range(80)]
    account, prepared = ranked(tmp_path, *records, held_out_share=0.4)
    sides = {}
    for record in range(80):
        sides.setdefault(record % 20, set()).add(record in prepared.held_out)
    assert all(len(side) == 1 for side in sides.values())
    assert 0 < account.num_held_out == len(prepared.held_out) < 80
    held_out = {f"prompt {record % 20}" for record in prepared.held_out}
    _, by_judgement = judged(tmp_path, *records, held_out_share=0.4)
    asked = {text_of(by_judgement.judged(int(i)).tokens)[2:].partition("\n")[0] for i in by_judgement.held_out}
    assert asked == held_out


def test_several_processes_prepare_what_one_does(tmp_path, monkeypatch):
    odd = [record for record, _ in NOTHING] + [BROKEN[0][0]]
    records = [pair(f"a{i}", "b" * (i % 30)) if i % 8 else odd[i // 8] for i in range(70)]
    path = write(tmp_path, *records)
    given = preparation(max_length=30, too_long="drop", max_bad_records=0.05, held_out_share=0.2)
    alone = prepare_rankings(path, tmp_path / "one", given, fingerprint="f")
    monkeypatch.setattr(parallel, "NUM_ALONE", 10)
    monkeypatch.setattr(parallel, "CHUNK", 7)
    together = prepare_rankings(path, tmp_path / "many", given, fingerprint="f")
    assert alone == together
    assert min(alone.num_too_long, alone.num_findings, alone.further["num_uninformative"]) > 0
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes()


# ---- real data


def real(shared, tokenizer: str, limit: int, **changes):
    found = Tokenizer.from_folder(shared / tokenizer)
    template = fit_template(ChatTemplate.load("alpaca"), found)
    values = {"too_long": "drop", "max_bad_records": 0.0005, "held_out_share": 0.05, **changes}
    given = preparation(**values)
    return type(given)(**{**vars(given), "template": template, "tokenizer": found, "max_length": limit})


@pytest.mark.parametrize(
    ("name", "tokenizer", "limit", "num_records", "num_kept", "num_uninformative"),
    [
        ("hh-rlhf-harmless-test.jsonl.gz", "models/stories260K", 512, 2312, 1330, 4),
        ("hh-rlhf-harmless-test.jsonl.gz", "tokenizers/gpt2", 1024, 2312, 2305, 4),
        ("oasst-ranked-zh.json", "models/stories260K", 512, 775, 265, 3),
        ("rasbt-1100-preference.json", "models/stories260K", 512, 1100, 1094, 6),
    ],
)
def test_real_preferences_run_with_dropping_alone(
    shared, tmp_path, name, tokenizer, limit, num_records, num_kept, num_uninformative
):
    path = str(shared / "preference" / name)
    account = prepare_rankings(path, tmp_path / "store", real(shared, tokenizer, limit), fingerprint="f")
    further = account.further
    assert (account.num_records, account.num_kept, account.num_findings) == (num_records, num_kept, 0)
    assert further["num_uninformative"] == num_uninformative
    assert num_records == num_kept + num_uninformative + further["num_too_long_left_out"]
    prepared = open_rankings(path, tmp_path / "store")
    for record in range(0, num_kept, 7):
        ranking = prepared.ranking(record)
        assert len(ranking.sequences) == len(ranking.scores) >= 2
        edges = {int(t.weight.nonzero()[0][0]) for t in ranking.sequences}
        beginnings = {t.ids[: min(edges)].tobytes() for t in ranking.sequences}
        assert len(beginnings) == 1  # one prompt, token by token
        assert all(t.weight[-1] == 1 and len(t) <= limit for t in ranking.sequences)


def test_what_is_trained_in_real_pairs_is_the_answer_and_the_stop_token(shared, tmp_path):
    from heed.data.read import read

    path = str(shared / "preference" / "rasbt-1100-preference.json")
    given = real(shared, "tokenizers/gpt2", 1024)
    prepare_rankings(path, tmp_path / "store", given, fingerprint="f")
    prepared = open_rankings(path, tmp_path / "store")
    by_record = {noun.origin.record: noun for _, noun in read(path)}
    for index in range(0, 1094, 11):
        ranking = prepared.ranking(index)
        answers = [answer[0].content for answer in by_record[ranking.origin.record].answers]
        trained = [
            given.tokenizer.backend.decode(t.ids[t.weight > 0], skip_special_tokens=False) for t in ranking.sequences
        ]
        assert trained == [f"{answer}<|endoftext|>" for answer in answers]
