"""The check before training: it passes what is right and notices what is wrong, each in a way that happens."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from families import WINDOW, branching_sequences, tiny
from transformers import AttentionInterface, LlamaConfig

from heed.dist.world import World
from heed.forest.build import build, nodes
from heed.models.attention import forest_attention as attention
from heed.models.score import BY_FOREST, BY_ROWS
from heed.models.self_check import choose_score, disagreement, probe_sequences, rope_kind, sliding_window
from heed.types import Tokens

LONGEST = branching_sequences()[0]


def chosen(model, *, longest=LONGEST, longest_in_data=100, share=True):
    return choose_score(model, longest, longest_in_data=longest_in_data, num_positions=128, share=share)


def probe(model, longest_in_data=100):
    return probe_sequences(LONGEST, sliding_window(model.config), longest_in_data, 128)


def agrees(model):
    return disagreement(model, probe(model)) is None


def test_a_model_that_is_right_is_trusted_and_the_user_decides_on_sharing():
    model = tiny("llama", dtype=torch.float32)
    assert agrees(model)
    for share in (True, False):
        found = chosen(model, share=share)
        assert found.way is BY_FOREST
        assert found.shares_prefixes == share
        assert found.note == "the forest computes what the model computes"


def wrong_where_the_forest_goes(model, change):
    """Let one layer's attention answer differently when it is called over a forest."""
    layer = model.model.layers[1].self_attn
    own = layer.forward

    def forward(*args, **kwargs):
        out, weights = own(*args, **kwargs)
        return (change(out) if "forest" in kwargs else out), weights

    layer.forward = forward


@pytest.mark.parametrize("change", [lambda x: 1.02 * x, lambda x: x.roll(1, dims=1)], ids=["2% more", "off by one"])
def test_one_wrong_layer_is_noticed(change):
    model = tiny("llama", dtype=torch.float32)
    wrong_where_the_forest_goes(model, change)
    found = chosen(model)
    assert "log-probs differ by" in found.note
    assert found.way is BY_ROWS
    assert not found.shares_prefixes


def one_of_two(rank, folder):
    """Two processes that would choose differently: the second's model has attention that cannot be replaced."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    model = tiny("llama", dtype=torch.float32)
    if rank == 1:
        model.config.attention_chunk_size = 8
    with World.from_environment(init_method=f"file://{folder}/meeting") as world:
        found = choose_score(model, LONGEST, longest_in_data=100, num_positions=128, share=True, world=world)
    (Path(folder) / f"found-{rank}.json").write_text(
        json.dumps([found.way is BY_ROWS, found.shares_prefixes, found.note, chosen(model).way is BY_ROWS])
    )


def test_processes_agree_on_the_worst_of_what_they_find(tmp_path):
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2))
    assert (first.pop(), second.pop()) == (False, True), "alone they choose differently, or nothing is tested"
    assert first == second
    assert first[:2] == [True, False]
    assert "chunked attention cannot be replaced" in first[2]


def test_a_scale_that_no_config_names_is_noticed():
    model = tiny("llama", dtype=torch.float32)
    model.lm_head.register_forward_hook(lambda module, args, out: 1.1 * out)
    assert "log-probs differ by" in chosen(model).note


def test_a_model_that_counts_positions_in_the_buffer_is_noticed():
    model = tiny("llama", dtype=torch.float32)
    own = model.model.forward
    model.model.forward = lambda *args, position_ids=None, **kwargs: own(*args, **kwargs)
    assert "log-probs differ by" in chosen(model).note


def test_a_model_that_looks_at_its_siblings_is_noticed(monkeypatch):
    def causal_over_the_buffer(module, query, key, value, mask, *, forest, scaling=None, **others):
        forest.num_attention_calls += 1
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return out.transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, causal_over_the_buffer)
    assert "log-probs differ by" in chosen(tiny("llama", dtype=torch.float32)).note


def without_window(*args, sliding_window=None, **kwargs):
    return attention.forest_attention(*args, sliding_window=None, **kwargs)


def buffer_window(module, query, key, value, mask, *, forest, sliding_window=None, **others):
    """A window that counts in the buffer: right in the first sequence alone."""
    moved = forest.__class__(torch.arange(len(forest.position)), forest.subtree_end, forest.nodes)
    forest.num_attention_calls += 1
    return attention.forest_attention(
        module, query, key, value, mask, forest=moved, sliding_window=sliding_window, **others
    )


@pytest.mark.parametrize("wrong", [without_window, buffer_window])
def test_a_window_that_is_not_kept_is_noticed_though_the_first_step_is_shorter(monkeypatch, wrong):
    model = tiny("mistral with a window", dtype=torch.float32)
    short = Tokens(LONGEST.ids[: WINDOW - 1], LONGEST.weight[: WINDOW - 1])
    assert "the forest computes" in chosen(model, longest=short).note
    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, wrong)
    assert "log-probs differ by" in chosen(model, longest=short).note


def test_a_window_that_no_sequence_outgrows_is_not_probed(monkeypatch):
    model = tiny("mistral with a window", dtype=torch.float32)
    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, without_window)
    short = Tokens(LONGEST.ids[: WINDOW // 2], LONGEST.weight[: WINDOW // 2])
    longest = max(map(len, probe_sequences(short, WINDOW, WINDOW - 1, 128)))
    assert longest <= WINDOW
    assert "the forest computes" in chosen(model, longest=short, longest_in_data=WINDOW - 1).note


def test_attention_that_is_reached_in_some_layers_only_is_noticed():
    model = tiny("llama", dtype=torch.float32)
    del model.model.layers[2]
    assert chosen(model).note.startswith("attention was reached 2 times in 3 layers")


def test_log_probs_that_are_not_numbers_are_noticed():
    model = tiny("llama", dtype=torch.float32)
    wrong_where_the_forest_goes(model, lambda x: x * float("nan"))
    assert "log-probs differ by" in chosen(model).note


@pytest.mark.parametrize("length", [1, 2, 3, 27, 60])
@pytest.mark.parametrize("num_positions", [None, 64])
def test_the_probe_branches_at_two_levels_and_holds_the_longest_record(length, num_positions):
    ids = np.random.default_rng(0).integers(3, 90, length).astype(np.int32)
    longest = Tokens(ids, np.zeros(length, dtype=np.float32))
    sequences = probe_sequences(longest, None, 1_000, num_positions)
    assert sequences[0].ids.tolist() == ids.tolist()
    assert all(len(each) <= (num_positions or 10**9) for each in sequences)
    assert all(each.weight.tolist() == [0.0] + [1.0] * (len(each) - 1) for each in sequences)
    if length >= 27:
        starts = nodes(build(sequences))
        branchings = [(start, stop, end) for start, stop, end in starts if stop < end]
        assert len(branchings) == 2, "a root that branches, and a child of it that branches again"
        assert branchings[0][2] >= branchings[1][2]


@pytest.mark.parametrize("longest_in_data", [8, 20, 90, 500])
def test_the_probe_outgrows_the_window_where_the_data_does(longest_in_data):
    longest = Tokens(LONGEST.ids[:5], LONGEST.weight[:5])
    sequences = probe_sequences(longest, WINDOW, longest_in_data, 64)
    assert len(sequences[0]) > WINDOW
    assert len(sequences[0]) <= min(longest_in_data, 64)
    assert sequences[0].ids.tolist() == np.resize(longest.ids, len(sequences[0])).tolist()


def test_what_a_config_says_of_windows_and_positions():
    config = partial(LlamaConfig, hidden_size=8, num_attention_heads=1)
    assert rope_kind(config()) is None
    assert rope_kind(config(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})) == "dynamic"
    assert rope_kind(config(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})) is None
    assert sliding_window(config()) is None
    assert sliding_window(tiny("qwen2 with a window").config) == WINDOW
    unused = tiny("qwen2 with a window").config
    unused.use_sliding_window = False
    assert sliding_window(unused) is None
    layered = tiny("gemma3").config
    layered.rope_parameters["sliding_attention"] = {"rope_type": "longrope"}
    assert rope_kind(layered) == "longrope"
