"""Make a model's confidence honest, and certify a threshold beyond which it says that it does not know.

items.jsonl -> tuning and calibration answers -> scaling, grid -> certificate -> honesty.json
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heed import files
from heed.errors import UserError, typed
from heed.eval_config import CalibrateSettings
from heed.evaluate.guarantees import (
    CAVEATS,
    Answers,
    Calibration,
    Certificate,
    Grid,
    Refusal,
    Tuning,
    base_id,
    certify_batch,
    certify_joint,
    certify_selective,
    is_tuning,
    least_withheld,
)
from heed.evaluate.reliability import auroc, brier_score, debiased_ece
from heed.evaluate.scaling import Platt, Temperature, fit_platt, fit_temperature
from heed.models.intake.content import weights_sha256
from heed.recipes.honesty import CHOSEN, FORMAT, GENERATED, HONESTY, scaling_as_json

RESULTS, ITEMS, ASKED, MEASURED = "results.json", "items.jsonl", "asked.json", "measured.json"
FEWEST_TO_FIT = 10
"""tuning answers, right and wrong ones among them, below which no scaling is fitted"""
SUMMED = ("acc", "mc1", "mc2")
"""primary measures that weigh an option by its summed log-probability"""
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Told:
    """An answer as a line of `items.jsonl` tells it."""

    id: str
    key: str
    """what it has in common with answers that are no independent draws: its cluster, or the record it repeats"""
    confidence: float
    is_right: bool
    options: tuple[float, ...]
    """log-probability of each, in nats; none where the answer was written, or options are weighed by their length"""
    chosen: int | None
    right: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What `honesty.json` holds, where it is, and what is to be told beside."""

    path: Path
    content: Mapping[str, Any]
    notes: tuple[str, ...]


def run(settings: CalibrateSettings) -> Calibrated:
    """Fit the scaling, certify, and write `honesty.json`, without a threshold where nothing can be certified.

    Raises:
        UserError: the folder has no results to use, or nothing can be certified; how many more items it would take.
    """
    out = Path(settings.run)
    results = read_results(out)
    model, task = choose(results, settings)
    place = out / model["folder"] / task["name"] / ITEMS
    told, left_out = read_answers(place, task)
    tuning, calibration = split(told, settings.tuning_share)
    scaling, why_not = fit(tuning, task)
    tuned, held = answers(tuning, scaling), answers(calibration, scaling)
    found = certify(settings, Tuning(tuned), Calibration(held))
    folder = Path(model["name"]).expanduser()
    path = (folder if folder.is_dir() else out / model["folder"]) / HONESTY
    refuse_changed(model, folder)
    certified = isinstance(found, Certificate)
    content: dict[str, Any] = {
        "format": FORMAT,
        "certified": certified,
        "threshold": None,
        **asdict(found),
        "sentence": found.sentence if isinstance(found, Certificate) else f"Nothing is certified: {found.why}.",
        "must_withhold": least_withheld(float((~held.is_right).mean()) if len(held) else 0.0, settings.max_error),
        "answers": GENERATED if task["kind"] == "generation" else CHOSEN,
        "scaling": scaling_as_json(scaling),
        "quality": {"before": quality(answers(calibration, None)), "after": quality(held)},
        "model": {
            "name": model["name"],
            "template": model["template"],
            "weights_sha256": model["weights_sha256"],
            "template_sha256": model.get("chat_template_sha256"),
            "tokenizer_sha256": model.get("tokenizer_sha256"),
            "dtype": dtype_of(place),
        },
        "data": {
            "task": task["name"],
            "data": task["data"],
            "data_sha256": task.get("data_sha256"),
            "items_sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
            "asked_with": asked_with(out / model["folder"] / task["name"], task),
            "tuning_share": settings.tuning_share,
            "num_tuning": len(tuning),
            "num_calibration": len(calibration),
            "left_out": left_out,
        },
        "caveats": list(CAVEATS),
    }
    if isinstance(found, Refusal):
        if is_certified(path, model["weights_sha256"]):
            left = f"{path} keeps the threshold that was certified before"
        else:
            files.write_json(path, content)
            left = f"{path} has the scaling, and no threshold"
        ways = ways_out(settings, Tuning(tuned), Calibration(held)) if found.more is None else ()
        raise cannot_be_certified(found, settings, place, left, ways)
    files.write_json(path, content)
    notes = [f"{count:,} items left out: {reason}" for reason, count in left_out.items()]
    if why_not:
        notes.append(f"the confidence is told as it is: {why_not}")
    if not folder.is_dir():
        notes.append(f"{model['name']} is no folder of this machine: heed chat --honesty {typed(path)} finds it there")
    return Calibrated(path, content, tuple(notes))


def certify(settings: CalibrateSettings, tuning: Tuning, calibration: Calibration) -> Certificate | Refusal:
    """The guarantee that is asked for, or why it cannot be given."""
    error, confidence = settings.max_error, settings.confidence
    if settings.guarantee == "joint":
        return certify_joint(calibration, max_error=error)
    if settings.guarantee == "batch":
        return certify_batch(calibration, max_error=error, trial=tuning)
    if not len(tuning.answers):
        return Refusal("selective", error, confidence, len(calibration.answers), "there are no tuning answers", None)
    num = len(calibration.answers)
    grid = Grid(tuning, num_calibration=num, max_error=error, confidence=confidence)
    return certify_selective(grid, calibration, max_error=error, confidence=confidence)


# ---- what `heed eval` has left


def read_results(out: Path) -> dict[str, Any]:
    """`results.json` of a run of `heed eval`."""
    try:
        results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        found = "" if isinstance(results, dict) and results.get("format") == 1 else "another format"
    except OSError as error:
        results, found = {}, f"no {RESULTS} there ({error.strerror})"
    except ValueError as error:
        results, found = {}, " ".join(str(error).split())
    if found:
        raise UserError(
            "this is no run of heed eval",
            where=str(out / RESULTS),
            found=found,
            expected="the folder that heed eval wrote its results to, once it is done",
            fix=f"heed eval --model MODEL --task TASK --out {typed(out)}, then the same command again",
        )
    return dict(results)


def choose(results: Mapping[str, Any], settings: CalibrateSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and the task that are meant: those named, or the only ones there are."""
    model = _one("model", settings.model, results["models"], settings)
    task = _one("task", settings.task, results["tasks"], settings)
    if task["kind"] not in ("choice", "generation") or model["kind"] != "language":
        raise UserError(
            "there are no answers to be right or wrong here",
            where=f"{settings.run}, {model['name']} on {task['name']}",
            found=f"a {model['kind']} model on a task of the kind '{task['kind']}'",
            expected="a language model on a task of the kind 'choice' or 'generation'",
            fix="--task NAME names another task of the run; heed eval --list shows the kinds of tasks",
        )
    return model, task


def _one(what: str, name: str | None, known: Sequence[dict[str, Any]], settings: CalibrateSettings) -> dict[str, Any]:
    named = [each for each in known if name is None or each["name"] == name]
    if len(named) == 1:
        return named[0]
    names = [str(each["name"]) for each in known]
    raise UserError(
        f"which {what} is meant?" if name is None or named else f"the run has measured no such {what}",
        where=f"{settings.run}/{RESULTS}",
        found=f"{len(names)}: {', '.join(names)}" if name is None or named else name,
        expected=f"one of {', '.join(dict.fromkeys(names)) or 'none at all'}",
        fix=f"--{what} {typed(names[0] if names else what.upper())}",
    )


def read_answers(place: Path, task: Mapping[str, Any]) -> tuple[list[Told], dict[str, int]]:
    """The answers of a model on a task that have a confidence and a truth, and why others have not.

    Raises:
        UserError: the file cannot be read, or an answer's confidence is not that of its options.
    """
    told: list[Told] = []
    measured = measured_ids(place)
    left_out: Counter[str] = Counter()
    number = 0
    try:
        with place.open(encoding="utf-8") as file:
            for text in file:
                number += 1
                line = json.loads(text)
                if measured is not None and line["id"] not in measured:
                    continue
                truth, confidence = line["verdict"].get("is_right"), line["confidence"]
                if truth is None:
                    left_out["whether they are right is undefined"] += 1
                elif confidence is None:
                    left_out["the model has no confidence in them"] += 1
                else:
                    told.append(_told(line, task))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the items of this run cannot be used",
            where=f"{place}, line {number}" if number else str(place),
            found=" ".join(str(error).split()) or type(error).__name__,
            expected="the items as heed eval keeps them",
            fix="measure them again: the same heed eval with another --out",
        ) from None
    return told, dict(left_out)


def _told(line: Mapping[str, Any], task: Mapping[str, Any]) -> Told:
    options: list[float] = []
    right: list[int] = []
    chosen = line["chosen"]
    if task["kind"] == "choice" and task["primary"] in SUMMED:
        options = [float(np.sum(each["logp"])) for each in line["options"]]
        if "acc_unconditional" in task["measures"]:
            options = options[: len(options) // 2]
        right = [int(each) for each in line["right"]]
        again = Temperature(1.0).confidence(options, chosen)
        if abs(again - line["confidence"]) > ROUNDING:
            raise ValueError(f"a confidence of {line['confidence']:.6g}, where its options say {again:.6g}")
    key = f"in {line['cluster']}" if line["cluster"] is not None else f"is {base_id(line['id'])}"
    is_right = bool(line["verdict"]["is_right"])
    return Told(line["id"], key, float(line["confidence"]), is_right, tuple(options), chosen, tuple(right))


def dtype_of(items: Path) -> str:
    """What weights and activations were in when these items were asked."""
    try:
        return str(json.loads((items.parent / ASKED).read_text(encoding="utf-8")).get("dtype", "float32"))
    except (OSError, ValueError):
        return "float32"


def measured_ids(items: Path) -> set[str] | None:
    """Which of the kept items the results are made from; None where nobody says, and it is all."""
    try:
        return set(json.loads((items.parent / MEASURED).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def is_certified(path: Path, weights: str | None) -> bool:
    """Whether a threshold is certified there already, for these weights."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["threshold"] is not None and kept["model"]["weights_sha256"] == weights
    except (OSError, ValueError, KeyError, TypeError):
        return False


def asked_with(folder: Path, task: Mapping[str, Any]) -> list[str]:
    """What stood around the questions, and would be missing where a model is simply asked one."""
    try:
        rules = json.loads((folder / ASKED).read_text(encoding="utf-8"))["task"]
    except (OSError, ValueError, KeyError):
        rules = {}
    generation = rules.get("generation") or {}
    found = [f"{task['num_shots']:,} examples before each"] if task["num_shots"] else []
    found += ["a description before each"] if rules.get("description") or generation.get("description") else []
    return found + (["answers ended by a text"] if generation.get("stop") else [])


def refuse_changed(model: Mapping[str, Any], folder: Path) -> None:
    """Raise if the model is not the one any more that was measured."""
    now = weights_sha256(str(folder)) if folder.is_dir() else None
    if now in (None, model["weights_sha256"]):
        return
    raise UserError(
        "the model has changed since it was measured",
        where=model["name"],
        found=f"weights {str(now)[:12]}..., measured were {str(model['weights_sha256'])[:12]}...",
        expected="the weights that the answers are of",
        fix=f"heed eval --model {typed(model['name'])} --task TASK with another --out, then heed calibrate that",
    )


# ---- what is made of it


def split(told: Sequence[Told], tuning_share: float) -> tuple[list[Told], list[Told]]:
    """Tuning and calibration answers, by hash; answers that go together are on one side.

    The proofs take calibration answers as independent: of those that go together one, chosen by hash, is taken.
    """
    tuning = [each for each in told if is_tuning(each.key, tuning_share)]
    by_key: dict[str, Told] = {}
    for each in told:
        if not is_tuning(each.key, tuning_share):
            by_key[each.key] = min(by_key.get(each.key, each), each, key=_order)
    return tuning, list(by_key.values())


def _order(each: Told) -> str:
    return hashlib.sha256(each.id.encode()).hexdigest()


def fit(tuning: Sequence[Told], task: Mapping[str, Any]) -> tuple[Platt | Temperature | None, str]:
    """The scaling that suits the tuning answers; or none, and why."""
    num_right = sum(each.is_right for each in tuning)
    if len(tuning) < FEWEST_TO_FIT or num_right in (0, len(tuning)):
        return None, f"{len(tuning):,} tuning answers, {num_right:,} of them right, are not enough to fit it"
    if task["kind"] == "choice" and task["primary"] in SUMMED:
        temperature = fit_temperature([each.options for each in tuning], [each.right for each in tuning])
        if temperature is not None:
            return temperature, ""
        return None, "no temperature makes the right options of the tuning questions likeliest"
    return fit_platt([each.confidence for each in tuning], [each.is_right for each in tuning]), ""


def answers(told: Sequence[Told], scaling: Platt | Temperature | None) -> Answers:
    """Answers with their confidence scaled."""

    def scaled(each: Told) -> float:
        if isinstance(scaling, Temperature) and each.chosen is not None:
            return scaling.confidence(each.options, each.chosen)
        return scaling.confidence(each.confidence) if isinstance(scaling, Platt) else each.confidence

    confidence = np.array([scaled(each) for each in told], dtype=np.float64)
    return Answers(tuple(each.id for each in told), confidence, np.array([each.is_right for each in told], dtype=bool))


def quality(of: Answers) -> dict[str, float | None]:
    """Calibration error, Brier score and AUROC of the calibration answers; None where one is undefined."""
    found: dict[str, float | None] = {"accuracy": float(of.is_right.mean()) if len(of) else None}
    for name, measure in (("ece_debiased", debiased_ece), ("brier", brier_score), ("auroc", auroc)):
        try:
            estimate = measure(of.confidence.tolist(), of.is_right.tolist())
            found[name] = estimate.mean if hasattr(estimate, "mean") else estimate.value
        except ValueError:
            found[name] = None
    return found


def ways_out(settings: CalibrateSettings, tuning: Tuning, calibration: Calibration) -> tuple[str, ...]:
    """Weaker promises that these answers do prove, as they are typed; each is tried before it is offered."""
    larger = _larger(settings)
    weaker: dict[str, dict[str, object]] = {f"--max-error {larger:.4g}": {"max_error": larger}}
    if settings.guarantee == "selective":
        weaker["--guarantee joint"] = {"guarantee": "joint"}
    return tuple(
        words
        for words, change in weaker.items()
        if isinstance(certify(settings.model_copy(update=change), tuning, calibration), Certificate)
    )


def _larger(settings: CalibrateSettings) -> float:
    """Twice the error, or half-way to 1."""
    return min(2 * settings.max_error, (1 + settings.max_error) / 2)


def cannot_be_certified(
    found: Refusal, settings: CalibrateSettings, place: Path, left: str, ways: Sequence[str]
) -> UserError:
    """What to say where there is no threshold, and what would help.

    Args:
        left: what stands in `honesty.json` now.
        ways: weaker promises that would hold.
    """
    share = f"{100 * settings.max_error:.4g}%"
    expected = {
        "selective": f"answers that prove, with confidence {100 * settings.confidence:.4g}%, at most {share} wrong",
        "joint": f"answers of which at most {share} need be given and wrong on average",
        "batch": f"a selection of which at most {share} is wrong on average",
    }[found.guarantee]
    if found.more is not None:
        items = -(-found.more // (1 - settings.tuning_share))
        fix = f"about {int(items):,} more items like these would do: a larger --limit of heed eval, or more data; "
        fix += f"or --max-error {_larger(settings):.4g}, which promises less"
    elif ways:
        fix = f"no number of items like these would do; {', or '.join(ways)}, which promises less, holds for these"
    else:
        fix = (
            "no number of items like these would do, and no weaker promise holds: another model; or heed chat without "
        )
        fix += "--abstain"
    return UserError(
        "this cannot be certified",
        where=str(place),
        found=f"{found.why}; {left}",
        expected=expected,
        fix=fix,
    )
