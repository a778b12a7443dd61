"""The mismatched answers of KTO: within the length that the data keeps to, counted, and found in linear time."""

import time

import numpy as np
import pytest
import tastes
from tastes import heed, lines
from transformers import AutoTokenizer

from heed.recipes.preference.partners import Chain, Partners, num_prompt_tokens, prompt_of
from heed.types import Tokens

LIMIT = 20


def answered(prompt, answer):
    """A prompt and an answer as ids; the answer is trained."""
    ids = np.array([*prompt, *answer], dtype=np.int32)
    weight = np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32)
    return Tokens(ids, weight)


def chain_of(items):
    return Chain(items.__getitem__, len(items))


def partners_of(items, max_length=LIMIT, *, are_cut=False):
    return Partners([chain_of(items)], max_length=max_length, are_cut=are_cut)


def random_items(count, num_prompts, seed=0):
    """Answers of 1 to 12 tokens to prompts of 2 to 15, each within the limit."""
    rng = np.random.default_rng(seed)
    prompts = [[1000 + i, *rng.integers(0, 99, rng.integers(1, 15))] for i in range(num_prompts)]
    items = []
    for number in range(count):
        prompt = prompts[number % num_prompts]
        length = int(rng.integers(1, min(12, LIMIT - len(prompt)) + 1))
        items.append(answered(prompt, [2000 + number, *rng.integers(0, 99, length - 1)]))
    return items


def test_no_mismatched_answer_is_longer_than_the_data_may_be():
    items = random_items(300, 40)
    partners = partners_of(items)
    own = {int(each.ids[num_prompt_tokens(each)]): prompt_of(each) for each in items}
    lengths = []
    for each in items:
        partner = partners.of(each)
        assert partner is not None
        start = num_prompt_tokens(partner)
        assert prompt_of(partner) == prompt_of(each) != own[int(partner.ids[start])]
        assert partner.weight.tolist() == [0.0] * start + [1.0] * (len(partner) - start)
        lengths.append(len(partner))
    assert max(lengths) == partners.longest <= LIMIT
    [note] = partners.notes
    assert "another answer" in note
    assert not partners_of(items, max_length=60).notes
    unlimited = partners_of(items, max_length=None)
    longer = sum(len(unlimited.of(each)) > LIMIT for each in items)
    assert f" {longer:,} of " in note
    assert longer > 10


@pytest.mark.parametrize("are_cut", [False, True])
def test_where_no_answer_fits_one_is_cut_or_there_is_none_and_that_is_said(are_cut):
    long = answered(range(18), [50, 51])
    items = [long, *(answered([60 + i], range(70, 76)) for i in range(5))]
    partners = partners_of(items, are_cut=are_cut)
    [note] = partners.notes
    assert ": 1 of " in note
    partner = partners.of(long)
    if are_cut:
        assert partner.ids.tolist() == [*range(18), 70, 71]
        assert partner.weight.tolist() == [0.0] * 18 + [1.0] * 2
        assert "cut to fit into 20 tokens" in note
    else:
        assert partner is None
        assert "none" in note
    assert all(partners.of(each) is not None for each in items[1:])


def test_two_hundred_thousand_answers_to_two_prompts_take_moments():
    # All but one answer the same prompt: whoever looks on from each for another prompt goes through all of them.
    items = [answered([7, 8], [number % 250, number // 250]) for number in range(199_999)]
    items.append(answered([9], [1, 2, 3]))
    began = time.process_time()
    partners = partners_of(items)
    assert time.process_time() - began < 60
    assert partners.of(items[5]).ids.tolist() == [7, 8, 1, 2, 3]
    assert partners.of(items[-1]).ids[0] == 9


def test_an_answer_of_no_chain_is_not_taken_for_one_without_a_partner():
    with pytest.raises(KeyError):
        partners_of(random_items(10, 5)).of(answered([1], [2]))


def test_kto_learns_beside_a_prompt_as_long_as_the_model_can_read(tmp_path, tuned, capsys):
    """It leaves room for its own answer of a letter, and for no other in 256 positions."""
    tokenizer = AutoTokenizer.from_pretrained(tuned)

    def asked(length):
        messages = [{"role": "user", "content": "z" * length}, {"role": "assistant", "content": "B"}]
        return len(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")).input_ids)

    length = 256 - (asked(100) - 100)
    assert asked(length) == 256
    records = [{"prompt": "z" * length, "completion": "B", "label": True}, *tastes.judged()]
    data = tastes.write(tmp_path / "judged.jsonl", records)
    options = {"batch_size": 13, "held_out_share": 0}
    assert heed("dpo", model=tuned, data=data, out=tmp_path / "run", objective="kto", **options) == 0
    assert "mismatched answers: 1 of the prompts have none" in capsys.readouterr().err
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run" / "metrics.jsonl", "train"))
