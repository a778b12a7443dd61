"""What `heed calibrate` prints: the sentence that was certified, what it rests on, and what it does not say."""

from __future__ import annotations

import json

from heed.eval_config import CalibrateSettings
from heed.recipes import calibrate as recipe
from heed.recipes.calibrate import Calibrated


def run(settings: CalibrateSettings) -> None:
    """Calibrate, and tell what came of it."""
    found = recipe.run(settings)
    if settings.print_json:
        print(json.dumps(found.content, ensure_ascii=False, indent=2))
    else:
        print("\n".join(in_words(found)))


def in_words(found: Calibrated) -> list[str]:
    """Lines for a terminal."""
    content, quality = found.content, found.content["quality"]
    lines = [content["sentence"]]
    count, given, wrong = (f"{content[key]:,}" for key in ("count", "given", "wrong"))
    if content["threshold"] is not None:
        lines.append(
            f"threshold {content['threshold']:.6g}: of {count} calibration answers {given} are given, {wrong} wrong"
        )
    else:
        lines.append(f"a batch is selected by comparison with {wrong} wrong ones of {count} calibration answers")
    if content["must_withhold"] > 0:
        lines.append(
            f"any method would have to withhold {100 * content['must_withhold']:.3g}% of such answers at least"
        )
    if content["scaling"]["kind"] != "none":
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in content["scaling"].items() if k != "kind")
        name = {"platt": "Platt scaling"}.get(content["scaling"]["kind"], "scaling")
        before, after = (_number(quality[when]["ece_debiased"]) for when in ("before", "after"))
        lines.append(f"{name}: {numbers}; calibration error (debiased) {before} before, {after} after")
    lines += found.notes
    lines += [f"- {caveat}" for caveat in content["caveats"]]
    return [*lines, f"written to {found.path}"]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
