"""Nearly the same: every pair from the threshold on is found and verified, as comparing all with all finds them."""

import functools
import itertools
import json
import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from heed.types import Conversation, Document, Judged, Message, Origin, Ranking
from heed.workshop.clusters import NONE, clusters_of
from heed.workshop.near import Groups, Sets, near_pairs, num_first_of
from heed.workshop.shingles import NUM_IN_ANSWERS, SIZE, compared
from heed.workshop.words import folded, runs_of, words_of

HERE = Origin("d.jsonl", 1)


def said(prompt: str, answer: str) -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)), HERE)


def sets_of(records, by="record", with_shingles=True) -> tuple[np.ndarray, Sets]:
    found = compared(by, with_shingles, [[record] for record in records])
    start = np.concatenate([[0], np.cumsum(found.rows[:, SIZE].astype(np.int64))])
    return found.rows, Sets(found.shingles.tobytes(), start, found.rows[:, NUM_IN_ANSWERS].astype(np.int64))


def plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+|[^\w\s]|_", unicodedata.normalize("NFC", text).casefold())


@functools.cache
def plain_shingles(text: str) -> set[tuple[str, ...]]:
    words = plain_words(text)
    return {tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))} if words else set()


def plain_similarity(a: Conversation, b: Conversation) -> float:
    """By Python's own sets of tuples of words."""
    answers = [plain_shingles(each.messages[1].content) for each in (a, b)]
    wholes = [
        {("asked", *s) for s in plain_shingles(each.messages[0].content)} | {("said", *s) for s in answer}
        for each, answer in zip((a, b), answers, strict=True)
    ]
    return min(len(x & y) / len(x | y) if x | y else 1.0 for x, y in (answers, wholes))


def components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The lowest number of each component, by spreading it until nothing changes."""
    label = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(label[a], label[b])
            changed |= label[a] != low or label[b] != low
            label[a] = label[b] = low
    return label


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Xin chào, các bạn!", ["xin", "chào", ",", "các", "bạn", "!"]),
        ("你好，世界 ok", ["你", "好", "，", "世", "界", "ok"]),
        ("2 + 2 = 4", ["2", "+", "2", "=", "4"]),
        ("zero\u200bwidth \u2764\ufe0f STRASSE straße", ["zero\u200bwidth", "\u2764", "strasse", "strasse"]),
        ("ภาษา a_b", ["ภ", "า", "ษ", "า", "a", "_", "b"]),
        (" \n\t", []),
    ],
)
def test_words_are_what_a_reader_takes_for_words_in_every_script(text, words):
    text = folded(text)
    found = words_of([text], with_signs=True)
    assert [text[a:b] for a, b in zip(found.start, found.stop, strict=True)] == words
    unsigned = words_of([text], with_signs=False)
    assert len(unsigned.hash) == sum(any(map(str.isalnum, word)) for word in words)


def test_canonically_equal_texts_have_equal_words_and_others_do_not():
    text = "Tiếng Việt rất đẹp, phải không?"
    texts = [text, unicodedata.normalize("NFD", text), text.upper(), text.replace("ế", "e")]
    runs = [runs_of(words_of([folded(each)], with_signs=True), 3, short=True)[0].tolist() for each in texts]
    assert runs[0] == runs[1] == runs[2]
    assert set(runs[0]) & set(runs[3]) == set(runs[0][1:])


def test_runs_stay_within_their_text_and_a_short_text_is_one_run():
    words = words_of(["a b c d", "", "e f", "a b c"], with_signs=True)
    runs, first = runs_of(words, 3, short=True)
    assert words.text[first].tolist() == [0, 0, 2, 3]
    assert runs[0] == runs[3]
    assert len(np.unique(runs)) == 3
    assert words.text[runs_of(words, 3, short=False)[1]].tolist() == [0, 0, 3]


def test_clusters_are_those_of_comparing_all_with_all(tmp_path):
    rng = random.Random(1)
    vocabulary = [f"w{n}" for n in range(400)]
    records = []
    for _ in range(50):
        prompt, answer = (rng.choices(vocabulary, k=rng.randint(0, 60)) for _ in range(2))
        for _ in range(rng.randint(1, 5)):
            words = [list(prompt), list(answer)]
            for text in words:
                for _ in range(rng.choice([0, 0, 1, 3]) if text else 0):
                    text[rng.randrange(len(text))] = rng.choice(vocabulary)
            records.append(said(*map(" ".join, words)))
    rng.shuffle(records)
    rows, sets = sets_of(records)
    near = {
        (a, b): similarity
        for a, b in itertools.combinations(range(len(records)), 2)
        if (similarity := plain_similarity(records[a], records[b])) >= 0.3
    }
    for threshold, at_least in ((0.3, 100), (0.5, 60), (0.8, 15), (0.95, 5), (1.0, 5)):
        pairs = [pair for pair, similarity in near.items() if similarity >= threshold]
        found = clusters_of(rows, len(records), threshold, sets, tmp_path)
        assert found.root.tolist() == components(len(records), pairs)
        assert (found.held_out == NONE).all()
        assert len(pairs) >= at_least


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_many_noisy_copies_of_a_few_texts_are_clustered_as_by_comparing_all_with_all(tmp_path_factory, seed):
    """Frequent elements that sets of several clusters share, which is where places of elements matter."""
    rng = random.Random(seed)
    bases = [[f"b{base}w{n}" for n in range(20)] for base in range(6)]
    texts = []
    for _ in range(80):
        words = list(rng.choice(bases))
        for _ in range(rng.randint(0, 7)):
            words[rng.randrange(20)] = f"x{rng.randrange(30)}"
        texts.append(" ".join(words))
    records = [said("", text) for text in texts]
    rows, sets = sets_of(records)
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(records)), 2)
        if plain_similarity(records[a], records[b]) >= 0.6
    ]
    found = clusters_of(rows, len(records), 0.6, sets, tmp_path_factory.mktemp("near"))
    assert found.root.tolist() == components(len(records), pairs)


def test_every_similarity_is_the_exact_one_and_no_pair_is_told_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("heed.workshop.near.ENTRIES", 50)  # many parts
    monkeypatch.setattr("heed.workshop.near.AT_ONCE", 100)
    monkeypatch.setattr("heed.workshop.near.COMPARED", 100)
    rng = random.Random(2)
    records = [said(" ".join(rng.choices("abcdefgh", k=5)), " ".join(rng.choices("abc", k=6))) for _ in range(80)]
    _, sets = sets_of(records)
    everything = np.array(list(itertools.combinations(range(80), 2)))
    expected = [plain_similarity(records[a], records[b]) for a, b in everything.tolist()]
    assert sets.similarity(everything[:, 0], everything[:, 1]).tolist() == pytest.approx(expected, abs=0)
    batches = list(near_pairs(sets, np.arange(80), 0.3, Groups.apart(80), tmp_path))
    told = {(int(a), int(b)): s for x, y, z in batches for a, b, s in zip(x, y, z, strict=True)}
    assert told == {(a, b): s for (a, b), s in zip(map(tuple, everything.tolist()), expected, strict=True) if s >= 0.3}


@given(st.integers(1, 300), st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0]))
def test_the_first_elements_are_enough_and_no_more_than_needed(size, threshold):
    # Two sets of this size that share `enough` elements are near; one element fewer may lie behind the first ones.
    first = int(num_first_of(np.array([size]), threshold)[0])
    enough = next(k for k in range(size + 1) if k / size >= threshold)
    assert first == size - enough + 1


def test_planted_pairs_of_known_similarity_are_all_found(tmp_path):
    # Chains of n words of which the last one differs: n - 2 shingles, one of them another; J = (n - 3) / (n - 1).
    records, known = [], []
    for number, n in enumerate(range(5, 60)):
        words = [f"p{number}x{k}" for k in range(n)]
        records += [Document(" ".join(words), HERE), Document(" ".join([*words[:-1], "other"]), HERE)]
        known.append((n - 3) / (n - 1))
    rows, sets = sets_of(records)
    pairs = np.arange(0, len(records), 2)
    assert sets.similarity(pairs, pairs + 1).tolist() == known
    for threshold in (0.5, 0.8, 0.9):
        found = clusters_of(rows, len(records), threshold, sets, tmp_path)
        assert (found.root[1::2] == pairs).tolist() == [each >= threshold for each in known]
        assert known.count(threshold) == 1  # the border itself is near


def test_a_long_prompt_in_common_makes_no_duplicates_of_opposite_answers(tmp_path):
    prompt = (Message("user", " ".join(f"word{n}" for n in range(300))),)
    good, bad = (Message("assistant", "It is good."),), (Message("assistant", "It is bad."),)
    records = [
        Conversation(prompt + good, HERE),
        Conversation(prompt + bad, HERE),
        Ranking(prompt, (good, bad), HERE),
        Ranking(prompt, (bad, good), HERE),
        Judged(prompt, good, True, HERE),
        Judged(prompt, good, False, HERE),
    ]
    rows, sets = sets_of(records)
    assert clusters_of(rows, 4, 0.8, sets, tmp_path).root.tolist() == [0, 1, 2, 3]
    assert sets.similarity(np.array([4]), np.array([5])).tolist() == [0.0]
    rows, sets = sets_of(records, by="prompt")
    assert clusters_of(rows, 6, 0.8, sets, tmp_path).root.tolist() == [0] * 6


def test_what_is_near_held_out_data_goes_and_links_no_others(tmp_path):
    base = [f"w{n}" for n in range(40)]
    texts = [base, [*base[:-2], "x", "y"], ["z", "z", "z", *base[3:-2], "x", "y"]]
    texts = [" ".join(words) for words in texts]
    train = [Document(texts[1], HERE), Document(texts[2], HERE), Document("alone " * 5, HERE), Document(texts[1], HERE)]
    rows, sets = sets_of([*train, Document(texts[0], HERE), Document("nothing like it", HERE)])
    found = clusters_of(rows, 4, 0.8, sets, tmp_path)
    assert found.held_out.tolist() == [4, NONE, NONE, 4]
    assert sets.similarity(np.array([0]), np.array([1]))[0] >= 0.8 > sets.similarity(np.array([1]), np.array([4]))[0]
    assert found.similarity[0] == sets.similarity(np.array([0]), np.array([4]))[0] >= 0.8
    assert found.root.tolist()[1:3] == [1, 2]


@pytest.mark.slow
def test_five_thousand_real_records_are_clustered_as_by_comparing_all_with_all(tmp_path, shared):
    raw = json.loads((shared / "instruct" / "alpaca-5000.json").read_text(encoding="utf-8"))
    rng = random.Random(3)
    records = [said(f"{each['instruction']}\n\n{each['input']}", each["output"]) for each in raw]
    for at in rng.sample(range(len(records)), 300):
        words = records[at].messages[1].content.split(" ")
        for _ in range(rng.randint(0, 4)):
            words[rng.randrange(len(words))] = rng.choice(["other", "word", "here"])
        records.append(said(records[at].messages[0].content, " ".join(words)))
    wholes, answers = (all_against_all(records, with_prompt) for with_prompt in (True, False))
    rows, sets = sets_of(records)
    for threshold, at_least in ((0.5, 200), (0.8, 100)):
        near = [pair for pair, near in wholes.items() if near >= threshold and answers.get(pair, 0) >= threshold]
        found = clusters_of(rows, len(records), threshold, sets, tmp_path)
        assert found.root.tolist() == components(len(records), near)
        assert len(near) >= at_least


def all_against_all(records: list[Conversation], with_prompt: bool) -> dict[tuple[int, int], float]:
    """The similarity of every two records that have a shingle in common, by one product of matrices."""
    numbers: dict[object, int] = {}
    rows, columns = [], []
    for row, record in enumerate(records):
        shingles = {
            (place, s) for place in (0, 1)[not with_prompt :] for s in plain_shingles(record.messages[place].content)
        }
        rows += [row] * len(shingles)
        columns += [numbers.setdefault(each, len(numbers)) for each in shingles]
    has = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(records), len(numbers)))
    size = has.sum(1)
    shared = (has @ has.T).tocoo()
    jaccard = shared.data / (size[shared.coords[0]] + size[shared.coords[1]] - shared.data)
    pairs = zip(*(each.tolist() for each in shared.coords), strict=True)
    return {pair: near for pair, near in zip(pairs, jaccard.tolist(), strict=True) if pair[0] < pair[1] and near >= 0.5}
