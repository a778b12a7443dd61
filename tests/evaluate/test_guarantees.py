"""Guarantees against simulated truth, MAPIE's fixed sequence, hand values, and what may not be certified."""

import math
import warnings

import numpy as np
import pytest
from mapie.risk_control import BinaryClassificationController
from scipy.stats import binom

from heed.evaluate.guarantees import (
    Answers,
    Calibration,
    Certificate,
    Grid,
    Refusal,
    Tuning,
    answers_needed,
    base_id,
    binomial_cdf,
    certify_batch,
    certify_joint,
    certify_selective,
    errors_allowed,
    is_tuning,
    least_withheld,
    selected,
)

DRAWS = 2000
TUNING_IDS, CALIBRATION_IDS = tuple(f"t{n}" for n in range(2000)), tuple(f"c{n}" for n in range(2000))


def answers(confidence, is_right, ids=CALIBRATION_IDS) -> Answers:
    return Answers(ids[: len(confidence)], np.asarray(confidence, dtype=float), np.asarray(is_right, dtype=bool))


# ---- shapes of truth: confidence from u uniform in [0, 1], and P(right | u), so that every true error is known

U = (np.arange(20_000) + 0.5) / 20_000

SHAPES = {
    "calibrated": (lambda u: 0.5 + u / 2, lambda u: 0.5 + u / 2),
    "ties": (lambda u: np.floor(4 * u) / 4, lambda u: 0.6 + 0.38 * np.floor(4 * u) / 3),
    "all tied just above": (lambda u: np.full_like(u, 0.7), lambda u: np.full_like(u, 0.895)),
    "useless": (lambda u: u, lambda u: np.full_like(u, 0.85)),
    # The error of all answers above u passes the largest one allowed, by a hair, where u is below 0.31.
    "adversarial step": (lambda u: u, lambda u: np.where(u > 0.6, 0.905, 0.893)),
    "upside down": (lambda u: u, lambda u: 0.99 - 0.3 * u),
    "steep": (lambda u: u**3, lambda u: 1 / (1 + np.exp(-12 * (u - 0.4)))),
}


def draw(rng, shape: str, count: int, ids) -> Answers:
    confidence, right = SHAPES[shape]
    u = rng.random(count)
    return answers(confidence(u), rng.random(count) < right(u), ids)


def truth(shape: str):
    """Of a threshold: the true share of wrong answers among those given, and among all."""
    confidence, right = (of(U) for of in SHAPES[shape])
    order = np.argsort(confidence)
    confidence, wrong = confidence[order], (1 - right)[order]
    from_here = np.cumsum(wrong[::-1])[::-1]

    def at(threshold: float) -> tuple[float, float]:
        first = int(np.searchsorted(confidence, threshold, side="left"))
        if first == len(U):
            return 0.0, 0.0
        return float(from_here[first] / (len(U) - first)), float(from_here[first] / len(U))

    return at


def certified(rng, shape: str, num_tuning: int, num: int, max_error=0.1, confidence=0.95) -> Certificate | Refusal:
    tuning = Tuning(draw(rng, shape, num_tuning, TUNING_IDS))
    calibration = Calibration(draw(rng, shape, num, CALIBRATION_IDS))
    grid = Grid(tuning, num_calibration=num, max_error=max_error, confidence=confidence)
    return certify_selective(grid, calibration, max_error=max_error, confidence=confidence)


@pytest.mark.parametrize("shape", SHAPES)
def test_selective_violations_are_at_most_delta(shape):
    rng, true_error = np.random.default_rng(1), truth(shape)
    found = [certified(rng, shape, 100, 250) for _ in range(DRAWS)]
    thresholds = [each.threshold for each in found if isinstance(each, Certificate)]
    violations = sum(true_error(threshold)[0] > 0.1 for threshold in thresholds)
    assert violations / DRAWS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
    if shape in ("ties", "steep"):
        assert len(thresholds) > 0.5 * DRAWS, "where much can be certified, much is"
    if shape in ("useless", "upside down"):
        assert len(thresholds) < 0.05 * DRAWS


def test_a_grid_from_the_calibration_answers_would_break_it():
    """Why the types forbid it: the test above can fail."""
    rng, violations = np.random.default_rng(2), 0
    for _ in range(500):
        wrong = np.cumsum(rng.random(250) < 0.105)  # of the surest, second surest ... of useless confidences
        # The start is where these very answers happen to have the fewest errors.
        violations += any(wrong[n - 1] <= errors_allowed(n, 0.1, 0.95) for n in range(29, 251))
    assert violations / 500 > 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num", [20, 101])
def test_the_mean_of_the_joint_error_is_at_most_alpha(shape, num):
    rng, true_error = np.random.default_rng(3), truth(shape)
    errors = []
    for _ in range(DRAWS):
        found = certify_joint(Calibration(draw(rng, shape, num, CALIBRATION_IDS)), max_error=0.1)
        errors.append(true_error(found.threshold)[1] if isinstance(found, Certificate) else 0.0)
    assert np.mean(errors) <= 0.1 + 3 * np.std(errors) / math.sqrt(DRAWS)
    if shape == "useless":
        assert np.mean(errors) > 0.08, "and it is not far below"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_false_discovery_rate_of_a_batch_is_at_most_alpha(shape):
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(DRAWS):
        trial, batch = draw(rng, shape, 60, TUNING_IDS), draw(rng, shape, 40, TUNING_IDS)
        found = certify_batch(Calibration(draw(rng, shape, 150, CALIBRATION_IDS)), max_error=0.2, trial=Tuning(trial))
        if isinstance(found, Certificate):
            given = selected(found, batch.confidence)
            shares.append(float((given & ~batch.is_right).sum() / max(given.sum(), 1)))
        else:
            shares.append(0.0)
    assert np.mean(shares) <= 0.2 + 3 * np.std(shares) / math.sqrt(DRAWS)


# ---- the same as MAPIE


def test_the_threshold_is_the_one_of_mapies_fixed_sequence():
    rng, compared, certified = np.random.default_rng(0), 0, 0
    for number in range(200):
        shape = ("calibrated", "ties", "steep", "adversarial step")[number % 4]
        tuning, held = draw(rng, shape, 100, TUNING_IDS), draw(rng, shape, 400, CALIBRATION_IDS)
        grid = Grid(Tuning(tuning), num_calibration=400, max_error=0.1, confidence=0.95)
        if len(grid.thresholds) < 2 or error_of_given(held, grid.thresholds[-1]) <= error_of_given(
            held, grid.thresholds[0]
        ):
            continue  # MAPIE turns the order round where the errors of the calibration answers fall along it
        found = certify_selective(grid, Calibration(held), max_error=0.1, confidence=0.95)
        ours, theirs = (found.threshold if isinstance(found, Certificate) else None), None
        theirs = mapie_threshold(grid.thresholds, held)
        if ours != theirs:
            # It takes the wrong answers for ceil(n (1 - precision)), which rounding makes one more at times.
            following = grid.thresholds[0 if theirs is None else list(grid.thresholds).index(theirs) + 1]
            given = held.confidence >= following
            n, k = int(given.sum()), int((given & ~held.is_right).sum())
            assert math.ceil(n * (1 - (n - k) / n)) == k + 1
            assert binom.cdf(k, n, 0.1) <= 0.05 < binom.cdf(k + 1, n, 0.1)
            continue
        compared += 1
        certified += ours is not None
    assert certified > 40
    assert compared - certified > 10


def error_of_given(held: Answers, threshold: float) -> float:
    return float((~held.is_right[held.confidence >= threshold]).mean())


def mapie_threshold(thresholds: np.ndarray, held: Answers) -> float | None:
    """The laxest threshold that MAPIE holds for valid."""
    controller = BinaryClassificationController(
        predict_function=lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        risk="precision",
        target_level=0.9,
        confidence_level=0.95,
        list_predict_params=thresholds,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that errors go up and down, and that nothing is valid
        controller.calibrate(held.confidence[:, None], held.is_right.astype(int))
    valid = np.asarray(controller.valid_predict_params, dtype=float)
    return float(valid.min()) if len(valid) else None


# ---- by construction


def test_a_grid_is_made_from_a_tuning_split_and_from_nothing_else():
    held = answers(np.linspace(0, 1, 100), np.arange(100) > 10)
    for other in (Calibration(held), held, held.confidence):
        with pytest.raises(TypeError, match="from nothing else"):
            Grid(other, num_calibration=100, max_error=0.1, confidence=0.95)
    grid = Grid(Tuning(held), num_calibration=100, max_error=0.1, confidence=0.95)
    with pytest.raises(ValueError, match="from some of the calibration answers"):
        certify_selective(grid, Calibration(held), max_error=0.1, confidence=0.95)
    with pytest.raises(ValueError, match="read-only"):
        grid.thresholds[0] = 0.5


def test_the_grid_knows_nothing_of_the_calibration_answers_but_their_number():
    tuning = Tuning(draw(np.random.default_rng(0), "calibrated", 200, TUNING_IDS))
    grid = Grid(tuning, num_calibration=300, max_error=0.1, confidence=0.95)
    assert (np.diff(grid.thresholds) < 0).all(), "from strict to lax"
    assert set(grid.thresholds) <= set(tuning.answers.confidence)
    assert grid.thresholds[-1] == tuning.answers.confidence.min(), "the last gives all answers"


def test_an_answer_that_is_there_twice_or_has_no_probability_is_refused():
    with pytest.raises(ValueError, match="twice"):
        Answers(("a", "a"), np.array([0.1, 0.2]), np.array([True, False]))
    with pytest.raises(ValueError, match="probability"):
        Answers(("a",), np.array([np.nan]), np.array([True]))


def test_the_split_is_by_hash_alone():
    ids = [f"{n:x}" for n in range(5000)]
    share = np.mean([is_tuning(each, 0.3) for each in ids])
    assert share == pytest.approx(0.3, abs=0.02)
    assert base_id("3fa2-1") == base_id("3fa2-12") == base_id("3fa2") == "3fa2"


# ---- what cannot be certified


@pytest.mark.parametrize(("max_error", "least"), [(0.10, 29), (0.05, 59)])
def test_too_few_answers_certify_nothing_however_right_they_are(max_error, least):
    for num in (1, least - 1, least):
        tuning = Tuning(answers(np.full(50, 0.9), np.ones(50), TUNING_IDS))
        grid = Grid(tuning, num_calibration=num, max_error=max_error, confidence=0.95)
        calibration = Calibration(answers(np.full(num, 0.9), np.ones(num)))
        found = certify_selective(grid, calibration, max_error=max_error, confidence=0.95)
        assert isinstance(found, Certificate) == (num == least)
        if isinstance(found, Refusal):
            assert found.more == least - num
            assert f"{least} at least" in found.why
    assert answers_needed(max_error, 0.95) == least


def test_a_useless_confidence_certifies_nothing_and_no_number_would_do():
    rng = np.random.default_rng(0)
    tuning = Tuning(answers(rng.random(300), rng.random(300) < 0.5, TUNING_IDS))
    grid = Grid(tuning, num_calibration=900, max_error=0.1, confidence=0.95)
    found = certify_selective(grid, Calibration(answers(rng.random(900), rng.random(900) < 0.5)), **LEVELS)
    assert isinstance(found, Refusal)
    assert found.more is None
    assert "surest" in found.why


LEVELS = {"max_error": 0.1, "confidence": 0.95}


def test_how_many_more_answers_it_would_take_at_the_error_seen():
    # 60 answers of equal confidence, 3 of them wrong: 5%, of which 10% needs 132 in all, or more by whole errors.
    tuning = Tuning(answers(np.full(40, 0.8), np.ones(40), TUNING_IDS))
    grid = Grid(tuning, num_calibration=60, **LEVELS)
    found = certify_selective(grid, Calibration(answers(np.full(60, 0.8), np.arange(60) >= 3)), **LEVELS)
    assert isinstance(found, Refusal)
    needed = answers_needed(0.1, 0.95, 3 / 60)
    assert found.more == needed - 60
    assert binom.cdf(math.ceil(needed * 0.05), needed, 0.1) <= 0.05
    assert all(binom.cdf(math.ceil(n * 0.05 - 1e-9), n, 0.1) > 0.05 for n in range(1, needed))
    assert answers_needed(0.1, 0.95, 0.1) is None
    assert answers_needed(0.1, 0.95, 0.0999) is None
    large = answers_needed(0.1, 0.95, 0.095)
    assert binom.cdf(math.ceil(large * 0.095), large, 0.1) <= 0.05


def test_joint_by_hand():
    # n = 19, alpha = 0.1: floor(0.1 * 20) - 1 = 1 wrong answer may stay above the threshold.
    confidence = np.arange(1, 20) / 20
    is_right = np.ones(19, dtype=bool)
    is_right[[3, 9, 14]] = False
    found = certify_joint(Calibration(answers(confidence, is_right)), max_error=0.1)
    assert found.threshold == math.nextafter(confidence[9], 1), "the second highest of the wrong ones is withheld"
    assert (found.given, found.wrong) == (9, 1)
    everything = certify_joint(Calibration(answers(confidence, np.arange(19) != 3)), max_error=0.1)
    assert (everything.threshold, everything.given) == (0.0, 19)
    few = certify_joint(Calibration(answers(confidence[:8], is_right[:8])), max_error=0.1)
    assert (few.more, isinstance(few, Refusal)) == (1, True)
    same = certify_joint(Calibration(answers(np.full(30, 0.5), np.arange(30) > 9)), max_error=0.1)
    assert isinstance(same, Refusal)


def test_batch_by_hand():
    held = answers(np.arange(1, 10) / 10, [False, False] + [True] * 7)  # wrong at 0.1 and 0.2, n = 9
    trial = Tuning(answers([0.95] * 5, [True] * 5, TUNING_IDS))
    found = certify_batch(Calibration(held), max_error=0.15, trial=trial)
    assert found.wrong_confidences == (0.1, 0.2)
    # p is 1/10 above 0.2, 2/10 above 0.1, else 3/10; of m answers the r best are given where p_(r) <= 0.15 r / m.
    assert selected(found, [0.21, 0.9]).tolist() == [True, True]
    assert selected(found, [0.21, 0.2]).tolist() == [False, False]
    assert selected(found, [0.21, 0.2, 0.9]).tolist() == [True, False, True]
    assert selected(found, []).tolist() == []
    hopeless = Calibration(answers(np.full(30, 0.5), np.zeros(30)))
    assert isinstance(certify_batch(hopeless, max_error=0.3, trial=trial), Certificate)
    tied = Tuning(answers([0.5] * 5, [True] * 5, TUNING_IDS))
    assert isinstance(certify_batch(hopeless, max_error=0.3, trial=tied), Refusal)
    assert certify_batch(Calibration(answers([0.5], [True])), max_error=0.1, trial=tied).more == 8


def test_guarantees_are_never_mixed():
    held = Calibration(answers(np.linspace(0, 1, 40), np.ones(40)))
    with pytest.raises(ValueError, match="not for a batch"):
        selected(certify_joint(held, max_error=0.1), [0.5])
    for levels in ({"max_error": 0.0}, {"max_error": 1.0}):
        with pytest.raises(ValueError, match="not both within"):
            certify_joint(held, **levels)


def test_binomial_tails_are_scipys():
    for n, k, p in [(1, 0, 0.5), (29, 0, 0.1), (250, 17, 0.1), (4000, 320, 0.1), (90, 90, 0.3), (60_000, 5900, 0.1)]:
        assert binomial_cdf(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-9)
    for n in (1, 28, 29, 100, 1777):
        k = errors_allowed(n, 0.1, 0.95)
        assert k < 0 or binom.cdf(k, n, 0.1) <= 0.05
        assert binom.cdf(k + 1, n, 0.1) > 0.05
    assert binomial_cdf(-1, 5, 0.1) == 0


def test_the_least_that_must_be_withheld():
    assert least_withheld(0.55, 0.1) == pytest.approx(0.5)
    assert least_withheld(0.05, 0.1) == 0
