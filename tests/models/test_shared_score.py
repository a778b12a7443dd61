"""A forest that processes score together, each a slice of its tokens, against the same forest on one process."""

import multiprocessing
import socket
import sys

import numpy as np
import pytest
import torch
from families import VOCABULARY, CastsToFloat64, branching_sequences, difference, gradient_of, scored, tiny

from heed.dist.world import World
from heed.errors import UserError
from heed.forest.build import build
from heed.models.attention.layout import ForestLayout
from heed.models.kernels.speed import speed_up
from heed.models.load import prepare_training
from heed.models.score import forest_likely, forest_logp, forest_score, forest_states
from heed.models.shared_score import by_forest_of, padded
from heed.types import Tokens

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["heed.models.load", "heed.models.shared_score", "families"])
SECONDS_AT_MOST = 300
FAMILIES = (
    "llama",  # 2 heads of keys for 4 of queries: repeated where 4 processes share them
    "llama tied with biases",
    "gpt2",
    "gemma2",  # a window and soft-caps
    "gpt-oss",  # sinks
    "phi",  # its head is made one that heed does not know
)


class OwnHead(torch.nn.Linear):
    """Which computes with logits in full."""


def forest_of():
    """Of a length that neither 2 nor 4 divides, with a long sequence at its end that trains nothing."""
    *others, last = branching_sequences()
    ids = np.resize(last.ids, 60)
    ids[0] = VOCABULARY - 1  # sorted behind all others
    forest = build([*others, last, Tokens(ids, np.zeros(60, dtype=np.float32))])
    assert forest.num_tokens % 2 == 1
    assert int(forest.source.max()) < forest.num_tokens * 3 // 4 - 3
    return forest


def in_group(size, port, rank, work):
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    with World.from_environment() as world:
        work(world.in_groups(size))
    sys.exit(0)


def together(size, work):
    """Let processes do some work that asserts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [SERVER.Process(target=in_group, args=(size, port, rank, work)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS_AT_MOST)
    assert [process.exitcode for process in processes] == [0] * size


def summed_gradient(world, model):
    """Of all processes, divided by their number, as a step's weights are."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / world.size
    world.sum_gradients(model.parameters())
    return gradient_of(model)


def scores_as_one(world):
    forest, way = forest_of(), by_forest_of(world.together)
    for family in FAMILIES:
        model = tiny(family)
        if family == "phi":
            model.lm_head.__class__ = OwnHead
        expected_loss, expected = scored(model, forest_score, forest)
        whole = {name: expected.get(name, torch.zeros_like(p)) for name, p in model.named_parameters()}
        with torch.no_grad(), CastsToFloat64():
            logp = forest_logp(model, forest, temperature=0.7, with_entropy=True)
            likely = forest_likely(model, forest)
            expected_states = forest_states(model, forest)
        if family == "llama":
            speed_up(model)
            prepare_training(model, activations="recompute")
        loss, _ = scored(model, way.nll, forest)
        mean = float(world.sum(torch.tensor(loss, dtype=torch.float64))) / world.size
        assert abs(mean / expected_loss - 1) < 1e-12, family
        assert difference(summed_gradient(world, model), whole) < 1e-9, family
        # A loss whose weights depend on log p, on entropies and on states; the same on every process.
        model.zero_grad(set_to_none=True)
        with CastsToFloat64():
            found = way.logp(model, forest, temperature=0.7, with_entropy=True)
            torch.testing.assert_close(found.logp, logp.logp, rtol=0, atol=1e-10)
            torch.testing.assert_close(found.entropy, logp.entropy, rtol=0, atol=1e-10)
            states = way.states(model, forest)
            torch.testing.assert_close(states, expected_states, rtol=0, atol=1e-9)
            (found.logp.square().sum() + states[forest.last].tanh().sum()).backward()
        ours = summed_gradient(world, model)
        model.zero_grad(set_to_none=True)
        with CastsToFloat64():
            one = forest_logp(model, forest, temperature=0.7)
            states = forest_states(model, forest)
            (one.logp.square().sum() + states[forest.last].tanh().sum()).backward()
        one_process = gradient_of(model)
        theirs = {name: one_process.get(name, torch.zeros_like(p)) for name, p in model.named_parameters()}
        assert difference(ours, theirs) < 1e-9, family
        with torch.no_grad(), CastsToFloat64():
            ours_likely = way.likely(model, forest)
        torch.testing.assert_close(ours_likely[0], likely[0], rtol=0, atol=1e-10)
        assert torch.equal(ours_likely[1], likely[1])


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_share_a_forest_score_it_as_one_does(size):
    together(size, scores_as_one)


def saved_bytes(work):
    """Of what autograd keeps for the backward, each storage once."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    return sum(nbytes for nbytes, _ in kept.values()), result


def holds_its_part(world):
    model, forest = tiny("llama", dtype=torch.float32), forest_of()
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}

    def activations(score):
        kept, _ = saved_bytes(lambda: score(model, forest))
        return kept - sum(weights.values())

    share = activations(by_forest_of(world.together).nll) / activations(forest_score)
    assert share < 1.25 / world.size, share


def test_a_process_keeps_its_part_of_the_activations():
    together(2, holds_its_part)


def test_padding_is_seen_by_nothing_and_predicts_nothing():
    forest = forest_of()
    longer = padded(forest, 7)
    assert longer.num_tokens % 7 == 0
    assert padded(longer, 7) is longer
    assert longer.num_trained_tokens == forest.num_trained_tokens
    assert int(longer.subtree_end[: forest.num_tokens].max()) == forest.num_tokens
    model = tiny("gpt2")
    states, alone = forest_states(model, longer), forest_states(model, forest)
    torch.testing.assert_close(states[: forest.num_tokens], alone, rtol=0, atol=1e-12)
    assert ForestLayout.of(longer, torch.device("cpu")).nodes[-1][1] == longer.num_tokens


def refuses_heads(world):
    forest, way = forest_of(), by_forest_of(world.together)
    with pytest.raises(UserError, match="cannot") as caught:
        way.nll(tiny("gpt2"), forest)
    assert caught.value.found == "4 attention heads"
    assert caught.value.fix == "--sequence-parallel 1"


def test_heads_that_processes_do_not_divide_are_refused():
    together(3, refuses_heads)
