"""How likely many sequences are: transformers' own logits one by one say the same, and no prefix is computed twice."""

import numpy as np
import pytest
import torch
from families import FALLBACK, FOREST, VOCABULARY, WINDOW, casts_in, tiny
from transformers import AttentionInterface

from heed.models import likelihood
from heed.models.heads import language
from heed.models.heads.likelihood import likely_of_logits
from heed.models.kernels.plain import SWITCH
from heed.models.kernels.speed import speed_up
from heed.models.likelihood import carries, likelihoods
from heed.models.score import BY_FOREST, BY_OWN_HEAD, BY_ROWS, ONE_BY_ONE
from heed.models.self_check import ChosenScore
from heed.types import Tokens

SHOTS = 40  # tokens of a few-shot prefix: longer than the shortest that is handed over, and than any window


def asked(ids, positions):
    """A sequence of which the tokens at these positions are asked for."""
    weight = np.zeros(len(ids), dtype=np.float32)
    weight[list(positions)] = 1
    return Tokens(np.asarray(ids, dtype=np.int32), weight)


def few_shot_task(seed=0):
    """Questions behind one long prefix, each with options of several tokens; and other sequences among them."""
    rng = np.random.default_rng(seed)

    def some(count):
        return rng.integers(3, VOCABULARY, count).tolist()

    shots, sequences = some(SHOTS), []
    for _ in range(5):
        question = shots + some(rng.integers(2, 9))
        stem = some(1)  # the options of a question begin alike
        for length in (1, 2, 3, 0):
            option = stem + some(length)
            sequences.append(asked(question + option, range(len(question), len(question) + len(option))))
    sequences.append(asked(shots + some(3), [20, 30, 42]))  # asked for inside the prefix, too
    sequences.append(asked(some(12), range(1, 12)))  # a text of its own, rolling
    sequences.append(asked(shots[:36] + some(9), [44]))
    sequences.append(asked(sequences[0].ids.tolist(), [len(sequences[0]) - 1]))  # the same again, asked otherwise
    sequences.append(asked(some(2), [1]))
    return [sequences[i] for i in rng.permutation(len(sequences))]


def one_by_one(model, sequence):
    """log p of each token asked for and whether all are the argmax, by the model alone on this sequence."""
    ids = torch.tensor(sequence.ids.tolist())
    with torch.no_grad(), casts_in(model.dtype):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    at = np.flatnonzero(sequence.weight)
    logp = torch.log_softmax(logits, -1)[at - 1, ids[at]]
    return logp.numpy(), bool((logits[at - 1].argmax(-1) == ids[at]).all())


def with_greedy_answers(model, sequences):
    """The sequences, some of which end with what the model itself would write."""
    changed = list(sequences)
    for number in range(0, len(sequences), 3):
        ids, at = sequences[number].ids.tolist(), np.flatnonzero(sequences[number].weight)
        if at[-1] - at[0] + 1 != len(at):
            continue
        for position in at:
            with torch.no_grad(), casts_in(model.dtype):
                logits = model(input_ids=torch.tensor([ids[:position]]), use_cache=False).logits[0, -1]
            ids[position] = int(logits.argmax())
        changed[number] = asked(ids, at)
    return changed


def by_number(model, way, sequences, max_tokens, shares=True):
    score = ChosenScore(model, way, shares, "")
    with casts_in(model.dtype):
        found = list(likelihoods(score, sequences, max_tokens=max_tokens))
    assert sorted(number for number, _, _ in found) == list(range(len(sequences)))
    return {number: (logp, is_greedy) for number, logp, is_greedy in found}


def agree(model, way, sequences, max_tokens, *, shares=True, expected):
    found = by_number(model, way, sequences, max_tokens, shares)
    for number, (logp, is_greedy) in enumerate(expected):
        assert found[number][0].dtype == np.float64
        np.testing.assert_allclose(found[number][0], logp, atol=1e-10)
        assert found[number][1] == is_greedy


@pytest.mark.parametrize("family", FOREST)
def test_a_family_says_what_its_own_logits_say_one_by_one_however_the_forwards_are_cut(family):
    model = tiny(family, attention="eager")
    sequences = with_greedy_answers(model, few_shot_task())
    expected = [one_by_one(model, each) for each in sequences]
    assert {is_greedy for _, is_greedy in expected} == {True, False}, "or greediness is not tested"
    speed_up(model)
    for max_tokens in (1, 17, 60, 10_000):
        agree(model, BY_FOREST, sequences, max_tokens, expected=expected)
    with casts_in(model.dtype):
        assert carries(ChosenScore(model, BY_FOREST, True, ""), sequences[0].ids), "or the cuts were not tested"


@pytest.mark.parametrize("family", FALLBACK)
def test_a_family_that_takes_no_forest_says_it_by_its_own_forward(family):
    model = tiny(family)
    sequences = with_greedy_answers(model, few_shot_task())
    expected = [one_by_one(model, each) for each in sequences]
    for way in (ONE_BY_ONE, BY_OWN_HEAD) if "longrope" not in family else (ONE_BY_ONE,):
        for max_tokens in (60, 10_000):
            agree(model, way, sequences, max_tokens, shares=False, expected=expected)


def test_rows_unshared_forests_and_plain_kernels_say_the_same(monkeypatch):
    model = tiny("llama", attention="eager")
    sequences = with_greedy_answers(model, few_shot_task())
    expected = [one_by_one(model, each) for each in sequences]
    for way in (BY_ROWS, BY_FOREST):
        agree(model, way, sequences, 100, shares=False, expected=expected)
    monkeypatch.setenv(SWITCH, "1")
    agree(model, BY_FOREST, sequences, 30, expected=expected)


def computed_tokens(model, sequences, max_tokens):
    """Tokens that went through the model, and forwards."""
    counts = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, out: counts.append(out.shape[-2]))
    by_number(model, BY_FOREST, sequences, max_tokens)
    hook.remove()
    return counts


def test_no_prefix_is_computed_twice_whatever_the_number_of_forwards():
    model = tiny("llama", dtype=torch.float32)
    sequences = [each for each in few_shot_task() if len(each) > SHOTS]
    reads = [each.ids[: np.flatnonzero(each.weight)[-1]].tolist() for each in sequences]
    prefixes = {tuple(read[:length]) for read in reads for length in range(1, len(read) + 1)}
    by_number(model, BY_FOREST, sequences, 60)  # the probe, which is computed once
    for max_tokens, fewest in ((60, 2), (20, 4), (10_000, 1)):
        counts = computed_tokens(model, sequences, max_tokens)
        assert len(counts) >= fewest
        assert sum(counts) == len(prefixes)
        assert all(count <= max(max_tokens, SHOTS + 9) for count in counts)


def test_the_last_token_asked_for_is_never_read():
    """Four options of one token cost what their question costs."""
    model = tiny("gpt2", dtype=torch.float32)
    question = list(range(3, 13))
    sequences = [asked([*question, option], [10]) for option in (20, 21, 22, 23)]
    by_number(model, BY_FOREST, sequences, 60)
    assert computed_tokens(model, sequences, 10_000) == [10]


def wrong_below(module, query, key, value, mask, *, beginning, forest, **others):
    """Of a family that does something else with a beginning."""
    out, _ = likelihood.attention_below(module, query, key, value, mask, beginning=beginning, forest=forest, **others)
    return (out * 1.1 if beginning.length else out), None


def refusing(*args, **kwargs):
    raise NotImplementedError("of a family")


@pytest.mark.parametrize("wrong", [wrong_below, refusing])
def test_a_model_that_cannot_hang_below_computed_tokens_computes_them_again(monkeypatch, wrong):
    model = tiny("llama")
    sequences = few_shot_task()
    expected = [one_by_one(model, each) for each in sequences]
    monkeypatch.setitem(AttentionInterface._global_mapping, likelihood.NAME, wrong)
    assert not carries(ChosenScore(model, BY_FOREST, True, ""), sequences[0].ids)
    agree(model, BY_FOREST, sequences, 30, expected=expected)


def test_a_window_that_only_long_sequences_outgrow_is_probed_for_them(monkeypatch):
    model = tiny("mistral with a window")
    score = ChosenScore(model, BY_FOREST, True, "")
    assert carries(score, np.arange(3, WINDOW))

    def without_window(module, *args, sliding_window=None, **others):
        return likelihood.attention_below(module, *args, **others)

    monkeypatch.setitem(AttentionInterface._global_mapping, likelihood.NAME, without_window)
    assert not carries(score, np.arange(3, 40))


def test_the_first_of_equal_logits_is_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    row, target = torch.zeros(4, dtype=torch.long), torch.arange(4)
    logp, is_greedy = likely_of_logits(logits.clone(), row, target)
    assert is_greedy.tolist() == [False, True, False, False]
    torch.testing.assert_close(logp, torch.log_softmax(logits, -1)[0])


def test_logits_are_made_a_few_rows_at_a_time(monkeypatch):
    model = tiny("gemma2", attention="eager")  # with a soft-cap on its logits
    sequences = few_shot_task()
    expected = [one_by_one(model, each) for each in sequences]
    made = []
    own = language.Head.logits

    def counting(head, rows):
        made.append(len(rows))
        return own(head, rows)

    monkeypatch.setattr(language.Head, "logits", counting)
    monkeypatch.setattr(language, "CHUNK_ELEMENTS", 3 * VOCABULARY)
    agree(model, BY_FOREST, sequences, 10_000, expected=expected)
    assert max(made) == 3
    made.clear()
    agree(model, BY_OWN_HEAD, sequences, 10_000, shares=False, expected=expected)
    assert not made


def test_where_nothing_is_asked_for_nothing_is_answered():
    model = tiny("llama")
    sequences = [asked([5, 6, 7], []), asked([5, 6, 7], [2]), asked([], [])]
    found = by_number(model, BY_FOREST, sequences, 10)
    assert [len(found[number][0]) for number in range(3)] == [0, 1, 0]
    assert found[0][1]
    assert list(likelihoods(ChosenScore(model, BY_FOREST, True, ""), [], max_tokens=10)) == []


def test_a_first_token_cannot_be_asked_for():
    with pytest.raises(ValueError, match="nothing stands before"):
        by_number(tiny("llama"), BY_FOREST, [asked([5, 6], [0])], 10)


def test_a_model_that_predicts_nothing_says_so_in_its_numbers():
    model = tiny("llama", dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    found = by_number(model, BY_FOREST, [asked([5, 6, 7], [1, 2])], 10)
    assert np.isnan(found[0][0]).all()
    assert not found[0][1]


def test_nothing_is_recorded_for_a_gradient():
    model = tiny("llama", dtype=torch.float32)
    recorded = []
    model.lm_head.register_forward_hook(lambda *args: recorded.append(args[-1].requires_grad))
    model.model.norm.register_forward_hook(lambda *args: recorded.append(args[-1].requires_grad))
    by_number(model, BY_FOREST, few_shot_task(), 30)
    by_number(model, BY_OWN_HEAD, few_shot_task(), 100, shares=False)
    assert recorded
    assert not any(recorded)
