"""No way of cutting, sharing, padding, chunking or dealing a step changes it: every way against one reference.

The reference is transformers' own eager forward in float64, one sequence at a time, with the mean written out by hand.
The float32 casts inside the models are widened on both sides, so that what remains is rounding.
"""

import itertools
import math
import os
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from heed.config import SftSettings
from heed.dist.world import World
from heed.models.heads import language as head
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel
from heed.models.score import BY_FOREST, BY_ROWS, ONE_BY_ONE
from heed.models.self_check import ChosenScore
from heed.recipes.sft import Tuning
from heed.recipes.training.setup import Opened
from heed.train.optimiser import adamw, set_learning_rate
from heed.train.schedule import learning_rate
from heed.train.step import Term, likelihood, optimiser_step
from heed.types import Tokens

VOCABULARY, WIDTH = 64, 32
BOS, SYSTEM, USER, ASSISTANT, END = 1, 2, 3, 4, 5
PREAMBLE = [BOS, SYSTEM, 10, 11, 12, 13, 14, END]
NUM_STEPS = 5
SEVERAL_FORWARDS, ONE_FORWARD = 60, 4096
"""tokens per forward; with 1, every conversation gets a forward of its own"""
SMALL_CHUNK, LARGE_CHUNK = 3 * VOCABULARY, 2**25
"""logits in one chunk of the head: three rows, or all"""


def turn(role, *words):
    return [role, *words, END]


def tokens(*parts):
    """A sequence of (ids, weight) parts; of an assistant's turn everything after the role is trained."""
    ids, weight = [], []
    for part, part_weight in parts:
        ids += part
        weight += [0.0, *[part_weight] * (len(part) - 1)]
    return Tokens(np.array(ids, dtype=np.int32), np.array(weight, dtype=np.float32))


def words(*seed_and_count):
    seed, count = seed_and_count
    return np.random.default_rng(seed).integers(20, VOCABULARY, count).tolist()


def conversations():
    """Twelve conversations of every kind that tuning meets; each a main sequence and the branches it needed."""
    context = (PREAMBLE, 0.0)
    made = []
    for i in range(6):  # one question and its answer, under one system prompt; lengths differ a lot
        made.append(
            (tokens(context, (turn(USER, *words(i, 3)), 0.0), (turn(ASSISTANT, *words(50 + i, 2 + 3 * i)), 1.0)),)
        )
    question = turn(USER, *words(7, 9))
    for i in range(2):  # two answers to one question
        made.append((tokens(context, (question, 0.0), (turn(ASSISTANT, *words(60 + i, 5)), 1.0)),))
    # Two turns, where the second no longer sees what was thought in the first: the first is a branch of its own.
    thought = tokens(context, (question, 0.0), (turn(ASSISTANT, *words(70, 8), *words(71, 4)), 1.0))
    second = tokens(
        context, (question, 0.0), (turn(ASSISTANT, *words(71, 4)), 0.0), (turn(USER, *words(72, 3)), 0.0),
        (turn(ASSISTANT, *words(73, 6)), 1.0),
    )  # fmt: skip
    made.append((second, thought))
    # Weighted and untrained messages.
    made.append(
        (tokens(context, (turn(USER, 30, 31), 0.0), (turn(ASSISTANT, *words(80, 4)), 0.0), (turn(USER, 32), 0.0),
                (turn(ASSISTANT, *words(81, 5)), 0.5)),)
    )  # fmt: skip
    made.append((tokens(([BOS], 0.0), (turn(USER, *words(90, 4)), 0.0), (turn(ASSISTANT, *words(91, 20)), 2.0)),))
    made.append(made[0])  # drawn twice
    return made


CONVERSATIONS = conversations()
NUM_TRAINED = sum(int((each.weight > 0).sum()) for conversation in CONVERSATIONS for each in conversation)
FAMILIES: dict[str, Any] = {
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64, bos_token_id=1),
    "llama": LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    ),
}  # fmt: skip


class Way(NamedTuple):
    """One way to take a step."""

    mean_over: str
    score: str
    share: bool
    max_tokens: int
    chunk_elements: int


WAYS = [
    Way(mean_over, score, share, max_tokens, chunk_elements)
    for mean_over, (score, share, chunk_elements), max_tokens in itertools.product(
        ("token", "sequence"),
        [
            *itertools.product(["forest"], [True, False], [SMALL_CHUNK, LARGE_CHUNK]),
            ("padded rows", False, LARGE_CHUNK),
            ("a row per forward", False, LARGE_CHUNK),
        ],
        (1, SEVERAL_FORWARDS, ONE_FORWARD),
    )
]
SCORES = {
    "forest": BY_FOREST,
    "padded rows": BY_ROWS,
    "a row per forward": ONE_BY_ONE,
}


class CastsToFloat64(TorchFunctionMode):
    """Send the models' own casts to float32 to float64 instead, on whichever path runs under it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        if func is Tensor.to or func is torch.nn.functional.softmax:
            args = tuple(torch.float64 if x is torch.float32 else x for x in args)
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def tiny(family, dtype, attention="sdpa"):
    """The same weights every time, scaled up so that logits are not small."""
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation=attention).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() >= 2:
                parameter.copy_(noise * 1.5 / min(parameter.shape) ** 0.5)
            else:
                parameter.add_(0.2 * noise)
    return model


def flat(model):
    """All weights in one vector, less GPT-2's biases of keys.

    Those move no softmax, so their gradient is 0 in exact arithmetic, and Adam makes full steps of its rounding.
    """
    parts = []
    for name, p in model.named_parameters():
        queries_keys_values = p.detach().double().reshape(-1).split(WIDTH) if name.endswith("c_attn.bias") else ()
        parts += queries_keys_values[::2] or (p.detach().double().reshape(-1),)
    return torch.cat(parts)


# -- the reference ------------------------------------------------------------------------------------------------


def mean_loss(model, batch, mean_over):
    """The formula: sum of w NLL over sum of w; or each conversation's own weighted mean, then their mean."""
    numerators, denominators = [], []
    for conversation in batch:
        total = 0.0
        for each in conversation:
            ids, weight = torch.tensor(each.ids.tolist()), torch.tensor(each.weight.tolist(), dtype=torch.float64)
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
            total = total + (weight[1:] * nll).sum()
        numerators.append(total)
        denominators.append(sum(float(w) for each in conversation for w in each.weight))
    if mean_over == "token":
        return sum(numerators) / sum(denominators)
    return sum(n / d for n, d in zip(numerators, denominators, strict=True)) / len(batch)


@cache
def expected_gradient(family, mean_over):
    """(loss, gradient by name) of the first step."""
    model = tiny(family, torch.float64, "eager")
    with CastsToFloat64():
        loss = mean_loss(model, CONVERSATIONS, mean_over)
        loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def batches():
    """Five steps of different, partly overlapping conversations."""
    return [[CONVERSATIONS[(3 * step + i) % len(CONVERSATIONS)] for i in range(6)] for step in range(NUM_STEPS)]


@cache
def expected_weights(family, mean_over):
    """All weights after five steps, in one vector, by transformers, autograd, torch's clipping and plain AdamW."""
    model = tiny(family, torch.float64, "eager")
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    for step, batch in enumerate(batches(), start=1):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, step / 2) * (0.5 + 0.5 * math.cos(math.pi * max(0, step - 2) / 4))
        optimiser.zero_grad()
        with CastsToFloat64():
            mean_loss(model, batch, mean_over).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return flat(model)


# -- heed's ways --------------------------------------------------------------------------------------------------


def tuning_of(model, way, world):
    """The recipe's own cutting and dealing of a step, with nothing loaded from disk."""
    settings = SftSettings(
        model="none", data=["none"], out="none", max_tokens=way.max_tokens, loss={"mean_over": way.mean_over}
    )
    chosen = ChosenScore(model, SCORES[way.score], way.share, "")
    nothing: Any = None
    opened = Opened(LoadedModel(model, nothing), nothing, nothing, (), 0)
    return Tuning(
        settings=settings, opened=opened, data=nothing, chosen=chosen, optimiser=nothing, world=world, peak=0.0,
        num_draws=0, total_steps=NUM_STEPS,
    )  # fmt: skip


def first_gradient(family, dtype, way, world):
    """(loss, trained tokens, gradient by name) that the first step hands to the optimiser."""
    head.CHUNK_ELEMENTS = way.chunk_elements
    model = tiny(family, dtype)
    speed_up(model)
    tuning = tuning_of(model, way, world)
    optimiser = adamw(model.named_parameters(), weight_decay=0.1)
    seen = {}

    def keep(*_):
        seen.update({name: p.grad.double().clone() for name, p in model.named_parameters()})

    optimiser.register_step_pre_hook(keep)
    widened = CastsToFloat64() if dtype == torch.float64 else torch.enable_grad()
    with widened:
        numbers = optimiser_step(
            list(model.parameters()), optimiser, [Term(tuning.forests(CONVERSATIONS), likelihood(tuning.chosen.nll))],
            max_norm=math.inf, world=world,
        )  # fmt: skip
    return numbers["loss"], numbers["num_trained_tokens"], seen


def weights_after_steps(family, way, world):
    """All weights after five steps in float32, in one vector."""
    head.CHUNK_ELEMENTS = way.chunk_elements
    model = tiny(family, torch.float32)
    speed_up(model)
    tuning = tuning_of(model, way, world)
    optimiser = adamw(model.named_parameters(), weight_decay=0.1)
    for step, batch in enumerate(batches(), start=1):
        set_learning_rate(optimiser, learning_rate(step, peak=2e-3, warmup_steps=1, total_steps=NUM_STEPS))
        optimiser_step(
            list(model.parameters()),
            optimiser,
            [Term(tuning.forests(batch), likelihood(tuning.chosen.nll))],
            max_norm=1.0,
            world=world,
        )
    return flat(model)


def difference(actual, expected):
    """Largest relative difference of any parameter's gradient, of its largest entry or a thousandth of the largest.

    Some gradients are 0 in exact arithmetic (GPT-2's bias of keys moves no softmax) and hold nothing but rounding.
    """
    assert actual.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    return max(
        float((actual[name] - g).abs().max()) / max(float(g.abs().max()), 1e-3 * largest)
        for name, g in expected.items()
    )


TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}


def check_gradient(found, family, dtype, way):
    loss, num_trained_tokens, gradient = found
    expected_loss, expected = expected_gradient(family, way.mean_over)
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[dtype] / 10)
    assert num_trained_tokens == NUM_TRAINED, "every forward belongs to exactly one process"
    assert difference(gradient, expected) < TOLERANCE[dtype]


def check_weights(found, family, way):
    expected = expected_weights(family, way.mean_over)
    start = flat(tiny(family, torch.float64))
    assert float((expected - start).norm() / start.norm()) > 1e-3, "the steps must have moved the weights"
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def name_of(way):
    return ", ".join(
        [f"mean over {way.mean_over}", way.score, "shared" * way.share, f"{way.max_tokens}", f"{way.chunk_elements}"]
    )


@pytest.fixture(autouse=True)
def chunk_elements_stay(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", head.CHUNK_ELEMENTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_the_first_gradient_is_the_formulas(way, dtype, family):
    check_gradient(first_gradient(family, dtype, way, World()), family, dtype, way)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_without_kernels_the_first_gradient_is_the_formulas(dtype, family, monkeypatch):
    monkeypatch.setenv("HEED_PLAIN", "1")
    way = Way("token", "forest", True, SEVERAL_FORWARDS, LARGE_CHUNK)
    check_gradient(first_gradient(family, dtype, way, World()), family, dtype, way)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", [way for way in WAYS if way.max_tokens == SEVERAL_FORWARDS], ids=name_of)
def test_five_steps_end_at_the_same_weights(way, family):
    check_weights(weights_after_steps(family, way, World()), family, way)


# -- two processes ------------------------------------------------------------------------------------------------

DEALT = [way for way in WAYS if way.max_tokens == SEVERAL_FORWARDS or way == WAYS[0]]


def work(rank, folder):
    """Ways of every kind in two processes, which are started once."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    world = World.from_environment("cpu", init_method=f"file://{folder}/meeting")
    seen = {}
    for family, way in itertools.product(FAMILIES, DEALT):
        for dtype in TOLERANCE:
            seen[family, tuple(way), dtype] = first_gradient(family, dtype, way, world)
        if way.chunk_elements == LARGE_CHUNK:
            seen[family, tuple(way), "weights"] = weights_after_steps(family, way, world)
    torch.save(seen, f"{folder}/seen-{rank}.pt")
    world.close()


def test_two_processes_take_the_steps_of_one(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    seen = [torch.load(tmp_path / f"seen-{rank}.pt") for rank in range(2)]
    assert seen[0].keys() == seen[1].keys()
    for family, way, what in seen[0]:
        first, second = (process[family, way, what] for process in seen)
        if what == "weights":
            check_weights(first, family, Way(*way))
            assert torch.equal(first, second), "both processes must hold the same bits"
        else:
            check_gradient(first, family, what, Way(*way))
            check_gradient(second, family, what, Way(*way))


def test_the_conversations_share_branch_and_differ_enough_for_the_matrix_to_mean_something():
    for way in (w for w in WAYS if w.score == "forest" and w.share and w.mean_over == "token"):
        forests = tuning_of(tiny("llama", torch.float32), way, World()).forests(CONVERSATIONS)
        if way.max_tokens == ONE_FORWARD:
            assert len(forests) == 1
            assert forests[0].num_tokens < 0.7 * forests[0].num_unshared_tokens
        elif way.max_tokens == SEVERAL_FORWARDS:
            assert 2 < len(forests) < len(CONVERSATIONS)
        else:
            assert len(forests) == len(CONVERSATIONS)
    losses = {mean_over: expected_gradient("llama", mean_over)[0] for mean_over in ("token", "sequence")}
    assert abs(losses["token"] - losses["sequence"]) > 0.01, "the two means must differ"
