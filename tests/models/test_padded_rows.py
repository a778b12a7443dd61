"""One sequence per row: within the budget of a forward, and the same whatever it is."""

import numpy as np
import pytest
import torch
from families import VOCABULARY, branching_sequences, difference, reference, scored, tiny

from heed.forest.build import build
from heed.models.heads import language
from heed.models.padded_rows import rows_of_sequences
from heed.models.score import BY_OWN_HEAD, BY_ROWS, plain_logp, plain_score, rows_logp, within
from heed.models.self_check import choose_score
from heed.types import Tokens

ITEMS = branching_sequences()


def random_tokens(length: int, seed: int) -> Tokens:
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, length).astype(np.int32)
    return Tokens(ids, np.concatenate([[0.0], np.ones(length - 1)]).astype(np.float32))


ONE_LONG = [random_tokens(4_000, 0), *(random_tokens(60, seed) for seed in range(1, 65))]


def test_one_long_row_among_short_ones_is_not_what_all_are_padded_to():
    batches = rows_of_sequences(build(ONE_LONG, share=False), 4_096)
    assert sum(batch.ids.numel() for batch in batches) == 4_000 + 64 * 60
    assert all(batch.ids.numel() <= 4_096 for batch in batches)


@pytest.mark.parametrize("max_tokens", [None, 1, 50, 500])
def test_batches_hold_every_token_once_within_the_limit(max_tokens):
    forest = build([random_tokens(length, length) for length in (3, 90, 14, 15, 40, 16, 3, 41)], share=False)
    batches = rows_of_sequences(forest, max_tokens)
    assert torch.equal(torch.cat([batch.token for batch in batches]).sort().values, torch.arange(forest.num_tokens))
    for batch in batches:
        assert torch.equal(batch.ids[batch.mask.bool()], forest.ids[batch.token])
        assert len(batch.ids) == 1 or max_tokens is None or batch.ids.numel() <= max_tokens
        assert int(batch.mask.sum()) >= 0.7 * batch.mask.numel()


@pytest.mark.parametrize("way", [BY_ROWS, BY_OWN_HEAD], ids=["head of heed", "own head"])
@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_the_budget_changes_no_loss_and_no_gradient(family, way):
    expected_loss, expected_gradient = reference(family, ITEMS)
    for max_tokens in (None, 1, 40, 90):
        loss, gradient = scored(tiny(family), within(way, max_tokens).nll, build(ITEMS, share=False))
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert difference(gradient, expected_gradient) < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_logits_that_are_made_again_in_the_backward_change_no_gradient(family, monkeypatch):
    forest = build(ITEMS, share=False)
    expected = scored(tiny(family, dtype=torch.float32), plain_score, forest)
    monkeypatch.setattr(language, "CHUNK_ELEMENTS", 40 * VOCABULARY)
    found = scored(tiny(family, dtype=torch.float32), plain_score, forest)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert difference(found[1], expected[1]) < 1e-4


def kept_elements(act) -> int:
    """Numbers that autograd keeps for the backward, each tensor's memory once."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = act()
    del result
    return sum(kept.values())


@pytest.mark.parametrize("logp_of", [rows_logp, plain_logp])
def test_logits_of_all_tokens_are_never_held_together(logp_of, monkeypatch):
    """Of the own head too: the backward makes them again, a few rows at a time."""
    monkeypatch.setattr(language, "CHUNK_ELEMENTS", 40 * VOCABULARY)
    model = tiny("bloom", dtype=torch.float32)
    forest = build([random_tokens(30, seed) for seed in range(40)], share=False)
    logits = forest.num_tokens * VOCABULARY
    sizes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, args, out: sizes.append(out.numel()))
    with torch.no_grad():
        logp_of(model, forest)
    hook.remove()
    assert max(sizes, default=0) <= 40 * VOCABULARY < logits / 10
    if logp_of is plain_logp:
        model.transformer.h = torch.nn.ModuleList()  # the head alone, or its layers would outweigh it
        assert kept_elements(lambda: plain_logp(model, forest, max_tokens=90)) < logits / 2


def test_a_head_that_does_more_than_its_layer_is_the_models_own():
    """In a family that falls back to rows, too: log-probs by heed's head are compared before they are trusted."""
    model = tiny("bloom", dtype=torch.float32)
    own = model.forward

    def with_another_scale(*args, **kwargs):
        output = own(*args, **kwargs)
        output.logits = output.logits * 1.3
        return output

    model.forward = with_another_scale
    choice = choose_score(model, ITEMS[0], longest_in_data=40, num_positions=None, share=True, max_tokens=64)
    _, found = choice.nll(build(ITEMS, share=False))
    _, expected = plain_score(model, build(ITEMS, share=False), max_tokens=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_users_budget_reaches_the_rows():
    model = tiny("bloom", dtype=torch.float32)
    sizes = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, args, out: sizes.append(args[0].numel()))
    choice = choose_score(model, ITEMS[0], longest_in_data=40, num_positions=None, share=True, max_tokens=64)
    sizes.clear()
    forest = build([random_tokens(30, seed) for seed in range(20)], share=False)
    for act in (choice.nll, choice.logp, choice.states):
        act(forest)
    hook.remove()
    assert max(sizes) == 60
