"""`honesty.json`: how a model's confidence is made honest, the threshold that was certified, and what voids it.

`heed calibrate` writes it beside a model; `heed chat` reads it, and first looks whether it is still of that model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heed.config import ChatSettings
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer
from heed.errors import UserError, typed
from heed.evaluate.scaling import Platt, Temperature, answer_confidence
from heed.evaluate.vietnamese import is_vietnamese
from heed.models.intake.content import weights_sha256
from heed.recipes.training.content import words_content

HONESTY = "honesty.json"
FORMAT = 1
GENERATED, CHOSEN = "generated", "chosen"
"""what the certified answers are: written by the model, or options that it chose"""

DOES_NOT_KNOW, DOES_NOT_KNOW_IN_VIETNAMESE = "I don't know.", "Tôi không biết."


@dataclass(frozen=True, eq=False)
class Honesty:
    """What holds of the answers that a model writes."""

    place: Path
    content: Mapping[str, Any]
    scaling: Platt | None
    """None: nothing could be fitted, and the model's own confidence is told"""
    threshold: float | None
    """an answer is given where its confidence is at least this; None: nothing was certified"""

    @property
    def in_words(self) -> str:
        """A line for the user: what holds, and of what."""
        task, sentence = self.content["data"]["task"], self.content["sentence"]
        of = f"of single questions like those of '{task}', answered at temperature 0"
        if self.content["data"]["asked_with"]:
            of += f", which were asked with {' and '.join(self.content['data']['asked_with'])}, and here are not"
        return f"{self.place}: {sentence} {of[0].upper()}{of[1:]}; confidences beside answers are of these too"

    def confidence(self, logp: Sequence[float]) -> float:
        """The probability that an answer is right, from the log p of each of its tokens at temperature 1."""
        raw = answer_confidence(logp)
        return raw if self.scaling is None else self.scaling.confidence(raw)

    def withholds(self, confidence: float) -> bool:
        """Whether an answer of this confidence lies beyond the threshold."""
        return self.threshold is not None and confidence < self.threshold


def does_not_know(message: str) -> str:
    """What is said in place of an answer that is withheld: in Vietnamese to who writes Vietnamese, else in English."""
    return DOES_NOT_KNOW_IN_VIETNAMESE if is_vietnamese(message) else DOES_NOT_KNOW


def scaling_as_json(scaling: Platt | Temperature | None) -> dict[str, Any]:
    """A scaling by name and numbers."""
    if scaling is None:
        return {"kind": "none"}
    return {"kind": "platt" if isinstance(scaling, Platt) else "temperature", **asdict(scaling)}


def honesty_for(
    settings: ChatSettings, template: ChatTemplate, tokenizer: Tokenizer, say: Callable[[str], None]
) -> Honesty | None:
    """What holds of this model's answers in a chat; None where nothing does, which `say` is told in one line.

    Raises:
        UserError: the settings ask to abstain, and there is no threshold that holds; or the file is none of ours.
    """
    place = Path(settings.honesty) if settings.honesty is not None else Path(settings.model) / HONESTY
    if not place.is_file():
        if settings.honesty is None and not settings.abstain:
            return None
        raise _no_threshold(settings, place, "there is no such file")
    content = _read(place)
    problem = why_void(content, settings, template, tokenizer)
    if problem is not None:
        if settings.abstain:
            raise _no_threshold(settings, place, f"it is void: {problem}")
        say(f"{place} is void: {problem}; no confidence is told")
        return None
    scaling = content["scaling"]
    platt = Platt(scaling["slope"], scaling["intercept"]) if scaling["kind"] == "platt" else None
    found = Honesty(place, content, platt, content["threshold"])
    if settings.abstain and found.threshold is None:
        batch = content["certified"] and content["guarantee"] == "batch"
        what = "its guarantee is of a batch, selected together" if batch else content["sentence"]
        raise _no_threshold(settings, place, what)
    say(found.in_words)
    if settings.temperature != 0:
        say(f"answers are drawn at temperature {settings.temperature:g}: --temperature 0 gives those it was made from")
    return found


def why_void(
    content: Mapping[str, Any], settings: ChatSettings, template: ChatTemplate, tokenizer: Tokenizer
) -> str | None:
    """Why what was certified does not hold of this model as it is talked to; None: it holds."""
    model, words = content["model"], words_content(template, tokenizer)
    if content["answers"] != GENERATED:
        return "it is of choices among options, and a chat has none"
    if model["weights_sha256"] != weights_sha256(settings.model):
        return "the weights have changed"
    if model["template_sha256"] != words["chat template"]:
        return "the chat template is another one"
    if model["tokenizer_sha256"] != words["tokenizer"]:
        return "the tokenizer has changed"
    if model["dtype"] != settings.dtype:
        return f"it was made in {model['dtype']}, and this is {settings.dtype}"
    if settings.abstain and settings.temperature != 0:
        return f"it is of answers at temperature 0, and these are drawn at {settings.temperature:g}"
    return None


def _read(place: Path) -> dict[str, Any]:
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        found = "" if isinstance(content, dict) and content.get("format") == FORMAT else "another format"
    except (OSError, ValueError) as error:
        content, found = {}, " ".join(str(error).split())
    if found:
        raise UserError(
            "this is no honesty.json that can be read",
            where=str(place),
            found=found,
            expected=f"what heed calibrate writes, format {FORMAT}",
            fix=f"heed calibrate RUN_OF_HEED_EVAL writes it again; or remove it: rm {typed(place)}",
        )
    return dict(content)


def _no_threshold(settings: ChatSettings, place: Path, found: str) -> UserError:
    return UserError(
        "there is no threshold beyond which this model could say that it does not know",
        where=f"--abstain, {place}",
        found=found,
        expected="the honesty.json of this very model, with a threshold for the answers that it writes",
        fix=f"heed eval --model {typed(settings.model)} --task TASK --out runs/eval, then heed calibrate runs/eval; "
        "or talk to it without --abstain",
    )
