"""No way of cutting, sharing or chunking changes what the reward model and DPO learn: every way against one reference.

The reference is transformers' own eager forward in float64, one sequence at a time, with every objective and every mean
written out by hand. The float32 casts inside the models are widened on both sides, so that what remains is rounding.
"""

import itertools
import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from test_equivalence import ASSISTANT, BOS, END, FAMILIES, PREAMBLE, USER, VOCABULARY, CastsToFloat64, tiny, words

from heed.data.preferences import JudgedTokens, RankedTokens
from heed.dist.world import World
from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.heads import language as language_head
from heed.models.heads.scalar import new_reward_model
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, prepare_training
from heed.models.score import BY_FOREST, BY_ROWS, ONE_BY_ONE, trunk_of
from heed.models.self_check import ChosenScore
from heed.preference_config import DpoSettings, RewardSettings
from heed.recipes import dpo, reward
from heed.recipes.preference.comparisons import compared, share_of_best
from heed.recipes.preference.data import Items, PreferenceData
from heed.recipes.preference.kto import Kto, balanced, is_judged_right
from heed.recipes.preference.pairwise import Answers, Pairwise, comparison_of
from heed.recipes.preference.partners import Partners, chains_of
from heed.recipes.training.data_sets import Draws
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.setup import Opened
from heed.train.optimiser import adamw
from heed.train.step import Term, optimiser_step
from heed.types import Origin, Tokens

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

CPU = torch.device("cpu")
ONE_GROUP, SEVERAL, ALL = 1, 60, 4096
"""tokens per forward; with 1, every group gets a forward of its own"""
SMALL_CHUNK, LARGE_CHUNK = 3 * VOCABULARY, 2**25
"""logits in one chunk of the head: three rows, or all"""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
RANK = 4


class Way(NamedTuple):
    """One way to take a step."""

    score: str
    share: bool
    max_tokens: int
    chunk_elements: int
    adapter: bool
    checkpointing: bool


SCORES = {"forest": BY_FOREST, "padded rows": BY_ROWS, "a row per forward": ONE_BY_ONE}
WAYS = [
    Way(score, share, max_tokens, chunk, adapter, checkpointing)
    for (score, share, chunk), max_tokens, adapter, checkpointing in itertools.product(
        [
            *itertools.product(["forest"], [True, False], [SMALL_CHUNK, LARGE_CHUNK]),
            ("padded rows", False, LARGE_CHUNK),
            ("a row per forward", False, LARGE_CHUNK),
        ],
        (ONE_GROUP, SEVERAL, ALL),
        (False, True),
        (False, True),
    )
    # Activations are computed twice, or chunks are small, in whatever cut; once is enough.
    if max_tokens == SEVERAL or not (checkpointing or chunk == SMALL_CHUNK)
]


def name_of(way):
    parts = (way.score, "shared" * way.share, way.max_tokens, "chunks" * (way.chunk_elements == SMALL_CHUNK))
    return ", ".join(str(p) for p in (*parts, "adapter" * way.adapter, "twice" * way.checkpointing) if p)


def every_way(of=lambda way: True, *, float32=True):
    """Parametrises `way` and `dtype`; rounding in float32 is looked at in one cut alone."""
    cases = [(way, torch.float64) for way in WAYS if of(way)]
    cases += [(way, torch.float32) for way in WAYS if float32 and of(way) and way.max_tokens == SEVERAL]
    return pytest.mark.parametrize(
        ("way", "dtype"),
        [
            pytest.param(
                way,
                dtype,
                id=f"{name_of(way)}, {dtype}".replace("torch.", ""),
                marks=[pytest.mark.slow] if takes_its_time(way, dtype) else [],
            )
            for way, dtype in cases
        ],
    )


def takes_its_time(way, dtype):
    """Whether a case is left to the slow tests: models that fall back to rows, where two things are odd at once."""
    is_odd = (way.score != "forest", way.checkpointing, way.max_tokens != SEVERAL, dtype == torch.float32)
    return sum(is_odd) > 1


every_family = pytest.mark.parametrize("family", FAMILIES)


# -- data -----------------------------------------------------------------------------------------------------------


def answer(prompt, seed, count):
    """The prompt with an answer of this many words and its stop token; the answer alone is trained."""
    ids = [*prompt, ASSISTANT, *words(seed, count), END]
    weight = [0.0] * (len(prompt) + 1) + [1.0] * (count + 1)
    return Tokens(np.array(ids, dtype=np.int32), np.array(weight, dtype=np.float32))


def question(seed, count, preamble=PREAMBLE):
    return [*preamble, USER, *words(seed, count), END]


def ranking(prompt, seed, lengths, scores=None):
    answers = tuple(answer(prompt, seed + i, length) for i, length in enumerate(lengths))
    order = np.arange(len(lengths) - 1, -1, -1, dtype=np.float64)
    given = order if scores is None else np.array(scores, dtype=np.float64)
    return RankedTokens(answers, given, scores is not None, Origin("made up", seed))


RANKINGS = [
    ranking(question(1, 4), 100, (3, 5)),
    ranking(question(2, 9), 110, (12, 1)),
    ranking(question(2, 9), 120, (2, 7)),  # the question before, asked again
    ranking(question(3, 2, [BOS]), 130, (6, 6)),  # without the preamble
    ranking(question(4, 5), 140, (4, 9, 2, 6)),  # four answers in a strict order
    ranking(question(5, 3), 150, (8, 3, 5, 1), scores=(5.0, 2.5, 2.5, -1.0)),  # two of them tie, and margins are known
    ranking(question(6, 3), 160, (1, 15), scores=(0.75, 0.5)),
]
JUDGED = [
    JudgedTokens(each, is_good, Origin("made up", number))
    for number, (each, is_good) in enumerate(
        [
            (answer(question(1, 4), 200, 5), True),
            (answer(question(1, 4), 201, 3), False),  # the same question: its neighbour's answer does belong
            (answer(question(2, 9), 202, 11), False),
            (answer(question(3, 2), 203, 1), False),
            (answer(question(4, 5), 204, 7), True),
            (answer(question(5, 3), 205, 9), False),
        ]
    )
]


def in_memory(items):
    """Prepared data without a disk."""
    held = Items(
        "made up", items.__getitem__, np.arange(len(items)), np.arange(0), 64, lambda record: items[record].sequences
    )
    return PreferenceData((held,), Draws((), 0), {})


def partners_of(data, max_length=None, are_cut=False):
    drawn = [items.training for items in data.sets]
    return Partners(chains_of(data, drawn), max_length=max_length, are_cut=are_cut)


PARTNERS = [partners_of(in_memory(JUDGED)).of(each.tokens) for each in JUDGED]
"""the prompt of each judged answer with an answer that does not belong; tested for itself below"""


def reference_of(tokens):
    """What the reference is said to think of an answer, in nats: anything, as long as it is not what the model says."""
    length = np.count_nonzero(tokens.weight)
    seed = int(np.asarray(tokens.ids, np.int64) @ np.arange(1, len(tokens) + 1))
    return float(-7.5 * length + np.random.default_rng(seed).normal(0, 4))


def reference():
    return lambda sequences: np.array([reference_of(tokens) for tokens in sequences])


# -- models ---------------------------------------------------------------------------------------------------------


def made(family, dtype, *, adapter, attention="sdpa"):
    """The same model every time, with an adapter that has left its start if one is asked for."""
    model = tiny(family, dtype, attention)
    nothing: Any = None
    loaded = LoadedModel(model, nothing)
    if not adapter:
        return loaded
    loaded = add_adapter(loaded, rank=RANK, alpha=2.0 * RANK, new_token_ids=(), seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in loaded.trained_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return loaded


def ready(family, dtype, way):
    """The model as a recipe has it when it begins to learn."""
    language_head.CHUNK_ELEMENTS = way.chunk_elements
    loaded = made(family, dtype, adapter=way.adapter)
    speed_up(loaded.model)
    prepare_training(loaded.model, activations="recompute" if way.checkpointing else "keep")
    return loaded


def chosen_score(loaded, way):
    return ChosenScore(loaded.model, SCORES[way.score], way.share, "")


def gradient_of_a_step(named, terms, dtype):
    """(numbers, gradient by name) of one step, as it reaches the optimiser."""
    optimiser = adamw(named, weight_decay=0.1)
    seen = {}

    def keep(*_):
        seen.update({name: p.grad.double().clone() for name, p in named if p.grad is not None})

    optimiser.register_step_pre_hook(keep)
    widened = CastsToFloat64() if dtype == torch.float64 else torch.enable_grad()
    with widened:
        numbers = optimiser_step([p for _, p in named], optimiser, terms, max_norm=math.inf, world=World())
    return numbers, seen


def gradients(named, loss):
    """By name, of the parameters that have one."""
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {name: g for (name, _), g in zip(named, found, strict=True) if g is not None}


def difference(actual, expected):
    """Largest difference of any entry, relative to the largest of its parameter or a thousandth of the largest of all.

    Some gradients are 0 in exact arithmetic (GPT-2's bias of keys moves no softmax) and hold nothing but rounding.
    """
    assert actual.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    return max(
        float((actual[name] - g).abs().max()) / max(float(g.abs().max()), 1e-3 * largest)
        for name, g in expected.items()
    )


def check(found, expected, dtype):
    (numbers, gradient), (loss, expected_gradient) = found, expected
    tolerance = TOLERANCE[dtype]
    assert numbers["loss"] == pytest.approx(loss, rel=tolerance, abs=tolerance)
    together = [torch.cat([g[name].reshape(-1) for name in expected_gradient]) for g in (gradient, expected_gradient)]
    assert float((together[0] - together[1]).norm() / together[1].norm()) < tolerance
    # In float32 a parameter whose gradient is a small difference of large numbers keeps fewer digits.
    assert difference(gradient, expected_gradient) < tolerance * (5 if dtype == torch.float32 else 1)


@pytest.fixture(autouse=True)
def chunk_elements_stay(monkeypatch):
    monkeypatch.setattr(language_head, "CHUNK_ELEMENTS", language_head.CHUNK_ELEMENTS)


# -- the reference ----------------------------------------------------------------------------------------------------


def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x)) if x > -30 else x - torch.log1p(torch.exp(x))


def logp_of(model, tokens):
    """log p of the answer's tokens, one by one, by the model's own forward of this one sequence."""
    logits = model(input_ids=torch.tensor([tokens.ids.tolist()]), use_cache=False).logits[0]
    logp = torch.log_softmax(logits, dim=-1)
    return torch.stack([logp[at - 1, int(tokens.ids[at])] for at in np.flatnonzero(tokens.weight).tolist()])


def pair_loss(better, worse, *, is_tie, margin=0.0, smoothing=0.0):
    lead = better - worse - (0.0 if is_tie else margin)
    share = 0.5 if is_tie else 1 - smoothing
    return -share * log_sigmoid(lead) - (1 - share) * log_sigmoid(-lead)


def mean_over_rankings(numbers, loss_of_pair):
    """Each ranking's mean over its pairs, then the mean over rankings. `numbers`: one list for each ranking."""
    total = 0.0
    for each, of_answers in zip(RANKINGS, numbers, strict=True):
        losses = [
            loss_of_pair(of_answers[i], of_answers[j], each.scores[i], each.scores[j], each.has_margins)
            for i in range(len(of_answers))
            for j in range(i + 1, len(of_answers))
        ]
        total = total + sum(losses) / len(losses)
    return total / len(RANKINGS)


# -- the reward model ------------------------------------------------------------------------------------------------

MARGIN, CENTRING, SMOOTHING = 0.3, 0.02, 0.1


@cache
def expected_reward_gradient(family, adapter):
    loaded = made(family, torch.float64, adapter=adapter, attention="eager")
    reward_model = new_reward_model(loaded, seed=0)
    trunk = trunk_of(loaded.model)
    with CastsToFloat64():
        rewards = [
            [
                trunk(input_ids=torch.tensor([tokens.ids.tolist()]), use_cache=False).last_hidden_state[0, -1]
                @ reward_model.head.weight[0]
                for tokens in each.sequences
            ]
            for each in RANKINGS
        ]

    def loss_of_pair(r_better, r_worse, score, other, has_margins):
        margin = MARGIN * (score - other) if has_margins else 0.0
        loss = pair_loss(r_better, r_worse, is_tie=score == other, margin=margin, smoothing=SMOOTHING)
        return loss + CENTRING * (r_better + r_worse) ** 2

    loss = mean_over_rankings(rewards, loss_of_pair)
    with CastsToFloat64():
        return float(loss.detach()), gradients(reward_model.trained_parameters(), loss)


def reward_training(loaded, way, **settings):
    """The recipe's own training, with nothing loaded from disk."""
    nothing: Any = None
    return reward.Training(
        settings=RewardSettings(model="none", data=["none"], out="none", **settings),
        opened=Opened(loaded, nothing, nothing, (), ()),
        reward_model=new_reward_model(loaded, seed=0),
        data=nothing,
        chosen=chosen_score(loaded, way),
        batching=MicroBatching(way.max_tokens, way.share, World()),
        optimiser=nothing,
        peak=0.0,
        num_draws=0,
    )


@every_family
@every_way(lambda way: way.chunk_elements == LARGE_CHUNK)
def test_the_reward_models_gradient_is_the_formulas(way, dtype, family):
    training = reward_training(
        ready(family, dtype, way), way, margin=MARGIN, centring=CENTRING, label_smoothing=SMOOTHING
    )
    batches = compared(RANKINGS, training.batching)
    found = gradient_of_a_step(training.reward_model.trained_parameters(), [Term(batches, training.loss_of)], dtype)
    check(found, expected_reward_gradient(family, way.adapter), dtype)
    assert found[0]["num_comparisons"] == 5 + 2 * 6, "every pair of every ranking counts once"


# -- DPO, IPO, SimPO --------------------------------------------------------------------------------------------------

BETA = {"dpo": 0.3, "ipo": 0.4, "simpo": 2.5, "kto": 0.2}
GAMMA = 0.7


@cache
def expected_paired_gradient(family, adapter, objective):
    loaded = made(family, torch.float64, adapter=adapter, attention="eager")
    beta, known = BETA[objective], reference()

    def compared_number(tokens):
        """What the objective compares of an answer, before beta."""
        logp = logp_of(loaded.model, tokens)
        if objective == "simpo":
            return logp.mean()
        ratio = logp.sum() - float(known([tokens])[0])
        return ratio / len(logp) if objective == "ipo" else ratio

    def loss_of_pair(better, worse, score, other, has_margins):
        is_tie = score == other
        if objective == "ipo":
            return (better - worse - (0.0 if is_tie else 1 / (2 * beta))) ** 2
        margin = GAMMA if objective == "simpo" else 0.0
        return pair_loss(beta * better, beta * worse, is_tie=is_tie, margin=margin, smoothing=SMOOTHING)

    with CastsToFloat64():
        numbers = [[compared_number(tokens) for tokens in each.sequences] for each in RANKINGS]
        loss = mean_over_rankings(numbers, loss_of_pair)
        return float(loss.detach()), gradients(loaded.trained_parameters(), loss)


def paired_gradient(family, dtype, way, objective, sft_weight=0.0):
    loaded = ready(family, dtype, way)
    settings = DpoSettings(
        model="none", data=["none"], out="none", objective=objective, gamma=GAMMA, label_smoothing=SMOOTHING
    )
    batching = MicroBatching(way.max_tokens, way.share, World())
    answers = Answers(chosen_score(loaded, way), CPU, "float32")
    learning = Pairwise(answers, batching, comparison_of(settings, BETA[objective]), reference(), sft_weight)
    terms = [Term(learning.batches(RANKINGS), learning.loss_of)]
    return gradient_of_a_step(loaded.trained_parameters(), terms, dtype)


@every_family
@every_way()
def test_dpos_gradient_is_the_formulas(way, dtype, family):
    found = paired_gradient(family, dtype, way, "dpo")
    check(found, expected_paired_gradient(family, way.adapter, "dpo"), dtype)


@every_family
@pytest.mark.parametrize("objective", ["ipo", "simpo"])
@every_way(lambda way: way.max_tokens == SEVERAL and not way.checkpointing, float32=False)
def test_the_gradients_of_ipo_and_simpo_are_the_formulas(way, dtype, objective, family):
    found = paired_gradient(family, dtype, way, objective)
    check(found, expected_paired_gradient(family, way.adapter, objective), dtype)


SFT_WEIGHT = 0.6


@every_family
@every_way(lambda way: way.max_tokens == SEVERAL and not way.checkpointing, float32=False)
def test_the_gradient_with_a_supervised_term_is_the_formulas(way, dtype, family):
    loaded = made(family, torch.float64, adapter=way.adapter, attention="eager")
    with CastsToFloat64():
        # The best answer of each ranking, by hand: nothing ties for it in these.
        losses = [-logp_of(loaded.model, each.sequences[0]).mean() for each in RANKINGS]
        term = SFT_WEIGHT * sum(losses) / len(RANKINGS)
        of_term = gradients(loaded.trained_parameters(), term)
    loss, gradient = expected_paired_gradient(family, way.adapter, "dpo")
    expected = loss + float(term.detach()), {name: gradient[name] + of_term[name] for name in gradient}
    found = paired_gradient(family, dtype, way, "dpo", sft_weight=SFT_WEIGHT)
    assert found[0]["chosen_nll_per_token"] == pytest.approx(float(term.detach()) / SFT_WEIGHT)
    check(found, expected, dtype)


def test_answers_that_tie_for_the_best_share_the_supervised_term():
    tied = ranking(question(1, 4), 100, (3, 5, 2), scores=(2.0, 2.0, 1.0))
    assert share_of_best(tied).tolist() == [0.5, 0.5, 0.0]
    assert share_of_best(RANKINGS[4]).tolist() == [1.0, 0.0, 0.0, 0.0]


# -- KTO --------------------------------------------------------------------------------------------------------------

W_GOOD, W_BAD = 1.0, 2 / 4
"""two good answers and four bad ones: both sides weigh the same"""


@cache
def expected_kto_gradient(family, adapter):
    loaded = made(family, torch.float64, adapter=adapter, attention="eager")
    beta, known = BETA["kto"], reference()

    def ratio(tokens):
        return logp_of(loaded.model, tokens).sum() - float(known([tokens])[0])

    with CastsToFloat64():
        with torch.no_grad():
            point = max(0.0, float(sum(ratio(tokens) for tokens in PARTNERS)) / len(PARTNERS))
        losses = []
        for each in JUDGED:
            value = beta * (ratio(each.tokens) - point)
            gain = torch.exp(log_sigmoid(value if each.is_desirable else -value))
            losses.append((W_GOOD if each.is_desirable else W_BAD) * (1 - gain))
        loss = sum(losses) / len(JUDGED)
        return float(loss.detach()), gradients(loaded.trained_parameters(), loss), point


@every_family
@every_way()
def test_ktos_gradient_is_the_formulas(way, dtype, family):
    loaded = ready(family, dtype, way)
    data = in_memory(JUDGED)
    batching = MicroBatching(way.max_tokens, way.share, World())
    answers = Answers(chosen_score(loaded, way), CPU, "float32")
    learning = Kto(answers, batching, BETA["kto"], *balanced(data), partners_of(data), reference())
    widened = CastsToFloat64() if dtype == torch.float64 else torch.enable_grad()
    with widened:
        batches = learning.batches(JUDGED)
    loss, gradient, point = expected_kto_gradient(family, way.adapter)
    found = gradient_of_a_step(loaded.trained_parameters(), [Term(batches, learning.loss_of)], dtype)
    assert found[0]["kl_reference_point"] == pytest.approx(point, rel=1e-5)
    check(found, (loss, gradient), dtype)


# -- what the matrix means --------------------------------------------------------------------------------------------


def test_the_rankings_are_cut_shared_and_mixed_enough_for_the_matrix_to_mean_something():
    groups = [each.sequences for each in RANKINGS]
    assert {len(group) for group in groups} == {2, 4}
    for max_tokens, counts in ((ONE_GROUP, [len(groups)]), (SEVERAL, range(3, 7)), (ALL, [1])):
        batching = MicroBatching(max_tokens, True, World())
        assert len(batching.forwards(groups)) in counts
    forest = MicroBatching(ALL, True, World()).forest(groups)
    assert forest.num_tokens < 0.7 * forest.num_unshared_tokens
    assert len(MicroBatching(SEVERAL, True, World()).forwards([(each.tokens,) for each in JUDGED])) > 1


@every_family
def test_the_point_that_kto_measures_from_is_not_0(family):
    assert expected_kto_gradient(family, False)[2] > 0.1


def split(tokens):
    """(prompt, answer) as lists of ids."""
    at = int(np.flatnonzero(tokens.weight)[0])
    return tokens.ids[:at].tolist(), tokens.ids[at:].tolist()


def test_each_judged_answer_has_one_to_another_question_beside_it():
    for each, partner in zip(JUDGED, PARTNERS, strict=True):
        prompt, text = split(partner)
        assert prompt == split(each.tokens)[0]
        asked = [split(other.tokens)[0] for other in JUDGED if split(other.tokens)[1] == text]
        assert len(asked) == 1
        assert asked[0] != prompt
        assert partner.weight.tolist() == [0.0] * len(prompt) + [1.0] * len(text)


def test_no_answer_to_the_same_question_stands_beside_one_however_they_are_ordered():
    # Of ten answers to two questions some that follow each other answer the same one.
    questions = [question(1, 4), question(2, 9)]
    items = [JudgedTokens(answer(questions[i % 2], 6000 + i, 5), True, Origin("made up", i)) for i in range(10)]
    own = {tuple(split(each.tokens)[1]): split(each.tokens)[0] for each in items}
    partners = partners_of(in_memory(items))
    for each in items:
        prompt, text = split(partners.of(each.tokens))
        assert prompt == split(each.tokens)[0]
        assert own[tuple(text)] != prompt


def test_good_and_bad_answers_stand_beside_others_as_often_as_they_occur():
    # As files have them: of each question the good answer first, then the bad one.
    items = [
        JudgedTokens(answer(question(1000 + i, 4), 5000 + 2 * i + is_bad, 6), not is_bad, Origin("made up", i))
        for i in range(200)
        for is_bad in (False, True)
    ]
    good = {tuple(split(each.tokens)[1]) for each in items if each.is_desirable}
    partners = partners_of(in_memory(items))
    share = np.mean([tuple(split(partners.of(each.tokens))[1]) in good for each in items])
    assert 0.4 < share < 0.6


def test_answers_that_all_answer_one_question_have_none_that_does_not_belong():
    same = [JUDGED[0], JUDGED[1]]
    partners = partners_of(in_memory(same))
    assert partners.of(same[0].tokens) is None
    nothing: Any = None
    batching = MicroBatching(ALL, True, World())
    assert Kto(nothing, batching, 0.1, 1.0, 1.0, partners, reference()).reference_point(same) == 0


@pytest.mark.parametrize(
    ("num_good", "num_bad", "weights"),
    [(2, 4, (1.0, 0.5)), (3, 1, (1 / 3, 1.0)), (2, 2, (1.0, 1.0))],
)
def test_good_and_bad_answers_weigh_the_same_together(num_good, num_bad, weights):
    items = [JudgedTokens(JUDGED[0].tokens, i < num_good, Origin("made up", i)) for i in range(num_good + num_bad)]
    assert balanced(in_memory(items)) == pytest.approx(weights)


def test_the_default_betas_are_the_papers():
    assert dpo.BETA == {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "simpo": 2.0}


@pytest.mark.parametrize("accuracy_of", ["dpo", "ipo", "kto"])
def test_before_anything_is_learnt_rounding_decides_no_accuracy(accuracy_of):
    way = Way("forest", True, SEVERAL, LARGE_CHUNK, adapter=False, checkpointing=False)
    loaded = ready("llama", torch.float32, way)
    batching = MicroBatching(way.max_tokens, way.share, World())
    answers = Answers(chosen_score(loaded, way), CPU, "float32")

    def itself(sequences):
        """The policy as its own reference, in forwards that are cut otherwise."""
        with torch.no_grad():
            alone = [float(answers.logp(build([tokens]))[0]) for tokens in sequences]
        return np.array(alone) * (1 + 1e-6 * np.resize([1, -1, 1], len(alone)))

    if accuracy_of == "kto":
        data = in_memory(JUDGED)
        learning = Kto(answers, batching, BETA["kto"], *balanced(data), partners_of(data), itself)
        items = JUDGED
    else:
        settings = DpoSettings(model="none", data=["none"], out="none", objective=accuracy_of)
        learning = Pairwise(answers, batching, comparison_of(settings, BETA[accuracy_of]), itself)
        items = RANKINGS
    with torch.no_grad():
        measured = learning.measure(items)
        (batch, *_) = learning.batches(items)
        _, of_step = learning.loss_of(batch)
    assert measured["accuracy"] == 0.5
    assert measured["margin"] == measured["chosen_reward"] == 0
    total, count = of_step["accuracy"]
    assert total == 0.5 * count


def test_reward_beyond_rounding_is_right_or_wrong():
    rewards, good = torch.tensor([0.1, -0.1, 0.0, 0.1]), torch.tensor([True, True, True, False])
    assert is_judged_right(rewards, good).tolist() == [1.0, 0.0, 0.5, 0.0]


# -- without kernels ------------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("recipe", ["reward", "dpo", "kto"])
def test_without_kernels_the_first_gradient_is_the_formulas(recipe, family, monkeypatch):
    monkeypatch.setenv("HEED_PLAIN", "1")
    way = Way("forest", True, SEVERAL, LARGE_CHUNK, adapter=True, checkpointing=False)
    test = {
        "reward": test_the_reward_models_gradient_is_the_formulas,
        "dpo": test_dpos_gradient_is_the_formulas,
        "kto": test_ktos_gradient_is_the_formulas,
    }
    test[recipe](way, torch.float64, family)
