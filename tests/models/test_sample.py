"""Sampling: log-probabilities are the training forward's, draws follow them, and the batch decides nothing."""

import numpy as np
import pytest
import torch
from families import FALLBACK, FOREST, VOCABULARY, tiny
from tiny import CHATML_TOKENS, END, opened, train, write_base
from transformers import AttentionInterface
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from heed.forest.build import build
from heed.models.attention.forest_attention import configs_of
from heed.models.decode import sample as sampler
from heed.models.decode.draw import chances, draw, uniform_numbers
from heed.models.decode.sample import GREEDY, Completion, Sampling, greedy, sample
from heed.models.decode.self_check import why_not_together
from heed.models.decode.slots import Decoding
from heed.models.decode.together import DECODE_NAME, common_beginning, compute_prompts, decode_attention
from heed.models.score import forest_score, plain_score
from heed.models.self_check import everything_trained

AS_PREDICTED = Sampling(temperature=1.0, top_p=1.0)
TOGETHER = ["gpt2", "llama", "qwen3", "gemma2", "mistral with a window", "gpt-oss"]


def prompts_of_many_kinds(seed: int = 0) -> list[list[int]]:
    """Some share a beginning, one ends inside another, one comes twice, one has a single token."""
    rng = np.random.default_rng(seed)
    preamble = rng.integers(3, VOCABULARY, 9).tolist()
    branches = [preamble + rng.integers(3, VOCABULARY, count).tolist() for count in (3, 6, 1, 14)]
    return [*branches, preamble[:5], rng.integers(3, VOCABULARY, 12).tolist(), branches[0], [7]]


PROMPTS = prompts_of_many_kinds()


def float32(family):
    return tiny(family, dtype=torch.float32)


class Watch:
    """Counts the tokens of every forward over prompts and of every step, whoever computes it."""

    def __init__(self, model, monkeypatch):
        self.sizes: list[int] = []
        model.base_model.register_forward_pre_hook(self.see, with_kwargs=True)
        begin = Decoding.begin_step

        def begin_seen(decoding):
            position = begin(decoding)
            self.sizes.append(len(position))
            return position

        monkeypatch.setattr(Decoding, "begin_step", begin_seen)

    def see(self, module, args, kwargs):
        if "decoding" not in kwargs:
            self.sizes.append(kwargs["input_ids"].numel())


def scored_by_training(model, prompt: list[int], completion: Completion, score=forest_score) -> list[float]:
    """Log p of a completion's tokens by the forward that training uses."""
    tokens = everything_trained(np.array([*prompt, *completion.ids]))
    _, logp = score(model, build([tokens], share=score is forest_score))
    return logp[-len(completion.ids) :].tolist()


def assert_same(actual: list[list[Completion]], expected: list[list[Completion]]) -> None:
    for some, others in zip(actual, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            assert (one.ids, one.stopped) == (other.ids, other.stopped)
            assert one.logp == pytest.approx(other.logp, abs=1e-4)


# ---- log-probabilities


@pytest.mark.parametrize("family", FOREST)
def test_log_probabilities_are_those_of_the_training_forward(family):
    model = float32(family)
    found = sample(
        model,
        PROMPTS,
        stop_ids=[5, 6],
        max_new_tokens=20,
        sampling=AS_PREDICTED,
        num_samples=2,
        seed=1,
        max_sequences=5,
    )
    assert why_not_together(model, PROMPTS[0], 34) is None
    assert len({tuple(each.ids) for some in found for each in some}) > 8
    for prompt, some in zip(PROMPTS, found, strict=True):
        for each in some:
            assert each.logp == pytest.approx(scored_by_training(model, prompt, each), abs=1e-4)
            assert each.logp == pytest.approx(scored_by_training(model, prompt, each, plain_score), abs=1e-4)


def test_log_probabilities_know_neither_temperature_nor_limits():
    model = float32("llama")
    for sampling in (Sampling(3.0, 1.0), Sampling(1.0, 0.3), Sampling(1.0, 1.0, top_k=2), GREEDY):
        ((found,),) = sample(model, PROMPTS[:1], stop_ids=[], max_new_tokens=12, sampling=sampling)
        assert found.logp == pytest.approx(scored_by_training(model, PROMPTS[0], found), abs=1e-4)


@pytest.mark.parametrize("family", TOGETHER)
def test_a_beginning_that_all_share_is_kept_once_and_changes_nothing(family, monkeypatch):
    model = float32(family)
    rng = np.random.default_rng(3)
    beginning = rng.integers(3, VOCABULARY, sampler.SHORTEST_TRUNK).tolist()
    prompts = [beginning + rng.integers(3, VOCABULARY, count).tolist() for count in (0, 2, 5)]
    how = {"stop_ids": [5], "max_new_tokens": 10, "sampling": AS_PREDICTED, "num_samples": 2}
    with_trunk = sample(model, prompts, **how)
    for prompt, some in zip(prompts, with_trunk, strict=True):
        for each in some:
            assert each.logp == pytest.approx(scored_by_training(model, prompt, each), abs=1e-4)
    monkeypatch.setattr(sampler, "SHORTEST_TRUNK", 10**9)
    assert_same(sample(model, prompts, **how), with_trunk)


def test_the_common_beginning_is_counted():
    assert common_beginning([[1, 2, 3, 4], [1, 2, 3], [1, 2, 9, 9]]) == 2
    assert common_beginning([[1, 2]]) == 2
    assert common_beginning([[1], [2]]) == 0


# ---- tokens


@pytest.mark.parametrize("family", [*TOGETHER, "bloom", "qwen3-next"])
def test_greedy_answers_are_those_of_transformers(family):
    model = float32(family)
    found = sample(model, PROMPTS, stop_ids=[5, 6], max_new_tokens=20, max_sequences=3)
    for prompt, (one,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        model.generation_config.update(bos_token_id=None)
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=[5, 6],
            pad_token_id=0,
        )
        assert one.ids == expected[0, len(prompt) :].tolist()
        assert one.ids == greedy(model, prompt, stop_ids=[5, 6], max_new_tokens=20)


@pytest.mark.parametrize("sampling", [GREEDY, AS_PREDICTED, Sampling(0.8, 0.9, 20)])
@pytest.mark.parametrize("family", TOGETHER)
def test_what_shares_the_batch_changes_nothing(family, sampling):
    model = float32(family)
    how = {"stop_ids": list(range(5, 14)), "max_new_tokens": 16, "sampling": sampling, "num_samples": 2, "seed": 4}
    alone = sample(model, PROMPTS, max_sequences=1, **how)
    assert len({len(each.ids) for some in alone for each in some}) > 2, "some must end early, or nothing is tested"
    for max_sequences in (3, 64):
        assert_same(sample(model, PROMPTS, max_sequences=max_sequences, **how), alone)
    assert_same(sample(model, PROMPTS[:2], **how), alone[:2])
    fewer = sample(model, PROMPTS, **(how | {"num_samples": 1}))
    assert_same(fewer, [some[:1] for some in alone])
    places = [2, 0]
    assert_same(sample(model, [PROMPTS[i] for i in places], numbers=places, **how), [alone[i] for i in places])


def test_the_seed_decides():
    model = float32("gpt2")
    how = {"stop_ids": [], "max_new_tokens": 12, "sampling": AS_PREDICTED, "num_samples": 2}
    zero, again, one = (sample(model, PROMPTS[:2], seed=seed, **how) for seed in (0, 0, 1))
    assert zero == again
    answers = [each.ids for some in (*zero, *one) for each in some]
    assert len({tuple(ids) for ids in answers}) == len(answers), "seeds, prompts and samples have draws of their own"
    assert uniform_numbers(0, 1, 2, 9)[:4] == uniform_numbers(0, 1, 2, 4)


def test_sampling_leaves_the_global_generator_and_the_model_alone():
    model = float32("llama")
    before = [config._attn_implementation for config in configs_of(model)]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)

    def fail(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, PROMPTS, stop_ids=[], max_new_tokens=3, sampling=AS_PREDICTED, on_done=fail)
    assert torch.equal(torch.rand(3), expected)
    assert [config._attn_implementation for config in configs_of(model)] == before
    loss, _ = forest_score(model, build([everything_trained(np.array(PROMPTS[0]))]))
    loss.backward()  # nothing in it remembers that no gradient was wanted


# ---- stopping


def test_a_stop_token_ends_an_answer_and_is_its_last():
    model = float32("llama")
    ((free,),) = sample(model, PROMPTS[:1], stop_ids=[], max_new_tokens=10)
    assert (len(free.ids), free.stopped) == (10, False)
    stop = free.ids[4]
    ((stopped,),) = sample(model, PROMPTS[:1], stop_ids=[stop], max_new_tokens=10)
    first = free.ids.index(stop)
    assert (stopped.ids, stopped.stopped) == (free.ids[: first + 1], True)
    ((at_once,),) = sample(model, PROMPTS[:1], stop_ids=[free.ids[0]], max_new_tokens=10)
    assert (at_once.ids, at_once.stopped) == (free.ids[:1], True)


def test_an_answer_ends_with_the_models_positions():
    model = float32("gpt2")  # 64 positions
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, VOCABULARY, count).tolist() for count in (63, 60, 30)]
    found = sample(model, prompts, stop_ids=[], max_new_tokens=8)
    assert [len(each.ids) for (each,) in found] == [1, 4, 8]
    with pytest.raises(ValueError, match="prompt 1 has 64 tokens and leaves none of the 64 positions"):
        sample(model, [[3], [3] * 64], stop_ids=[], max_new_tokens=8)


@pytest.mark.parametrize(
    ("prompts", "how", "says"),
    [
        ([[3], []], {}, "prompt 1 has no tokens"),
        ([[3]], {"max_new_tokens": 0}, "1 answers of 0 tokens"),
        ([[3]], {"num_samples": 0}, "0 answers of 4 tokens"),
        ([[3]], {"max_sequences": 0}, "max_sequences is 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(prompts, how, says):
    with pytest.raises(ValueError, match=says):
        sample(float32("gpt2"), prompts, **({"stop_ids": [], "max_new_tokens": 4} | how))


def test_no_prompts_have_no_answers():
    assert sample(float32("gpt2"), [], stop_ids=[], max_new_tokens=4) == []


# ---- work


def test_every_token_is_computed_once_and_what_is_done_leaves(monkeypatch):
    model = float32("llama")
    how = {"stop_ids": list(range(3, 20)), "max_new_tokens": 20, "sampling": AS_PREDICTED, "num_samples": 3}
    sample(model, PROMPTS, **how)  # the self-check comes with the first
    watch, counts = Watch(model, monkeypatch), []
    found = sample(model, PROMPTS, max_sequences=5, on_done=counts.append, **how)
    prompt_tokens, *steps = watch.sizes
    assert prompt_tokens == len({tuple(prompt[:end]) for prompt in PROMPTS for end in range(1, len(prompt) + 1)})
    assert max(steps) == 5
    assert sum(steps) == sum(len(each.ids) - 1 for some in found for each in some)
    assert counts == list(range(1, 3 * len(PROMPTS) + 1))
    waited = steps[: len(steps) // 2]
    assert min(waited) == 5, "while answers wait, no slot is empty"


def test_prompts_are_computed_in_portions_that_bound_memory(monkeypatch):
    model = float32("llama")
    how = {"stop_ids": [5], "max_new_tokens": 6, "sampling": AS_PREDICTED, "num_samples": 2}
    expected = sample(model, PROMPTS, **how)
    monkeypatch.setattr(sampler, "PROMPT_TOKENS", 24)
    sizes = []

    def watched(model, prompts):
        computed = compute_prompts(model, prompts)
        sizes.append(computed.num_tokens)
        return computed

    monkeypatch.setattr(sampler, "compute_prompts", watched)
    assert_same(sample(model, PROMPTS, **how), expected)
    assert len(sizes) > 2
    assert max(sizes) <= 24
    monkeypatch.setattr(sampler, "PROMPT_TOKENS", 1)  # a longer prompt is computed all the same
    assert_same(sample(model, PROMPTS, **how), expected)


# ---- what is drawn


def test_draws_follow_the_models_prediction():
    model = float32("llama")
    count = 4000
    (found,) = sample(
        model, PROMPTS[:1], stop_ids=[], max_new_tokens=1, sampling=AS_PREDICTED, num_samples=count, max_sequences=1000
    )
    with torch.no_grad():
        expected = model(torch.tensor(PROMPTS[:1])).logits[0, -1].softmax(-1).double().numpy() * count
    seen = np.bincount([each.ids[0] for each in found], minlength=VOCABULARY)
    assert chi_square_is_plausible(seen, expected)
    assert not chi_square_is_plausible(np.roll(seen, 1), expected)


def chi_square_is_plausible(seen: np.ndarray, expected: np.ndarray) -> bool:
    """Within five standard deviations of the mean of the chi-square distribution; rare tokens are counted together."""
    often = expected >= 5
    seen = np.append(seen[often], seen[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    degrees = len(seen) - 1
    statistic = ((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    return bool(abs(statistic - degrees) < 5 * (2 * degrees) ** 0.5)


LOGITS = torch.tensor([0.5, 0.2, 0.3]).log()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, 1.0), [0.5, 0.2, 0.3]),
        (Sampling(0.5, 1.0), [25 / 38, 4 / 38, 9 / 38]),
        (Sampling(1.0, 1.0, top_k=2), [5 / 8, 0, 3 / 8]),
        (Sampling(1.0, 1.0, top_k=7), [0.5, 0.2, 0.3]),
        (Sampling(1.0, 0.49), [1, 0, 0]),
        (Sampling(1.0, 0.51), [5 / 8, 0, 3 / 8]),
        (Sampling(1.0, 0.79), [5 / 8, 0, 3 / 8]),
        (Sampling(1.0, 0.81), [0.5, 0.2, 0.3]),
        (Sampling(1.0, 0.0), [1, 0, 0]),
        (Sampling(1.0, 0.62, top_k=2), [1, 0, 0]),  # of the two that are left, the first holds 5/8
        (Sampling(0.5, 0.7), [25 / 34, 0, 9 / 34]),  # after temperature the first two hold 34/38
    ],
)
def test_chances_by_hand(sampling, expected):
    chance = chances(LOGITS[None].log_softmax(-1), sampling)[0]
    assert (chance / chance.sum()).tolist() == pytest.approx(expected, abs=1e-6)
    numbers = (np.arange(2000) + 0.5) / 2000
    token, logp = draw(LOGITS.expand(2000, 3), numbers, sampling)
    assert np.bincount(token.numpy(), minlength=3) / 2000 == pytest.approx(expected, abs=1e-3)
    assert torch.equal(logp, LOGITS.log_softmax(-1)[token])


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    below_one = 1 - 2**-53
    numbers = [0.0, 0.4999, 0.5001, 0.6999, 0.7001, below_one]
    token, _ = draw(LOGITS.expand(6, 3), numbers, AS_PREDICTED)
    assert token.tolist() == [0, 0, 1, 1, 2, 2]
    token, _ = draw(LOGITS.flip(0).expand(2, 3), [0.0, below_one], Sampling(1.0, 0.4))
    assert token.tolist() == [2, 2], "what has no chance is never drawn, at either end"
    token, _ = draw(LOGITS.roll(1).expand(2, 3), [], GREEDY)
    assert token.tolist() == [1, 1]


@pytest.mark.parametrize("sampling", [Sampling(0.7, 0.9), Sampling(1.5, 0.6, 30), Sampling(1.0, 1.0, 5)])
def test_limits_are_those_of_transformers(sampling):
    logits = 3 * torch.randn(20, 200, generator=torch.Generator().manual_seed(0))
    warped = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    warped = TopPLogitsWarper(sampling.top_p)(None, warped) if sampling.top_p < 1 else warped
    chance = chances(logits.log_softmax(-1), sampling)
    expected = warped.double().softmax(-1)
    torch.testing.assert_close(chance / chance.sum(-1, keepdim=True), expected, rtol=1e-5, atol=1e-9)


# ---- models that cannot be decoded together


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("bloom", "attention was reached 0 times"),
        ("mpt", "cannot be decoded with"),
        ("qwen3-next", "attention was reached 1 times"),
        ("llama4", "chunked attention"),
        ("phi3 with longrope", "longrope RoPE"),
    ],
)
def test_a_family_that_cannot_be_decoded_together_answers_by_its_own_forward(family, says):
    assert family in FALLBACK
    model = float32(family)
    found = sample(model, PROMPTS[:4], stop_ids=[5], max_new_tokens=14, sampling=AS_PREDICTED, num_samples=2)
    assert says in why_not_together(model, PROMPTS[0], 40)
    for prompt, some in zip(PROMPTS, found, strict=False):
        for each in some:
            ids, expected = list(prompt), []
            for token in each.ids:  # row by row, because frequencies may depend on how long the row is
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                expected.append(float(logits.log_softmax(-1)[token]))
                ids.append(token)
            assert each.logp == pytest.approx(expected, abs=2e-3 if family == "qwen3-next" else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_self_check_trusts_a_model_in_every_precision(dtype):
    model = tiny("qwen3", dtype=dtype)
    assert why_not_together(model, PROMPTS[0], 30) is None


def test_the_self_check_sees_an_attention_that_computes_something_else():
    model = float32("llama")

    def wrong(*args, scaling, **others):
        return decode_attention(*args, scaling=1.1 * scaling, **others)

    AttentionInterface.register(DECODE_NAME, wrong)
    try:
        assert "log-probs differ" in why_not_together(model, PROMPTS[0], 30)
    finally:
        AttentionInterface.register(DECODE_NAME, decode_attention)
    assert why_not_together(float32("llama"), PROMPTS[0], 30) is None


def test_a_window_is_proved_when_it_is_outgrown(monkeypatch):
    model = float32("mistral with a window")  # 7 tokens
    how = {"stop_ids": [], "max_new_tokens": 2}
    sample(model, [[3, 4]], **how)
    watch = Watch(model, monkeypatch)
    sample(model, [[3, 4]], **how)
    assert watch.sizes == [2, 1]
    sample(model, [[3] * 9], **how)
    assert len(watch.sizes) > 4, "it is tried again with a sequence that outgrows the window"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own call
@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied"])
def test_a_model_with_an_adapter_is_decoded_together(shape, tmp_path):
    loaded = opened(
        write_base(tmp_path / "base", shape), tmp_path / "run", rank=4, new_tokens=CHATML_TOKENS, stop_tokens=[END]
    )
    train(loaded)
    (found,) = sample(loaded.model, PROMPTS[:1], stop_ids=[], max_new_tokens=8, sampling=AS_PREDICTED, num_samples=3)
    assert why_not_together(loaded.model, PROMPTS[0], 20) is None
    for each in found:
        assert each.logp == pytest.approx(scored_by_training(loaded.model, PROMPTS[0], each), abs=1e-4)
