"""Fit the detector of strange prompts to a tuned model, and find it again beside the model.

tuning prompts, background -> chat template -> hidden state of the last token -> two Gaussians and a scale -> p-value
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heed.config import DataSource, tokens_per_forward
from heed.data.read import begins_as_text, read_nouns, read_prompts
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer
from heed.errors import UserError, typed
from heed.eval_config import StrangeSettings
from heed.evaluate.strange import ABOUT, LEAST_CALIBRATION, Detector
from heed.forest.build import build
from heed.models.intake.content import weights_sha256
from heed.models.load import LoadedModel, num_positions
from heed.models.score import autocast, rows_states
from heed.models.self_check import choose_score, everything_trained
from heed.recipes.library.model import Model, open_model
from heed.recipes.library.states import last_states
from heed.recipes.training.content import words_content
from heed.train.progress import Progress
from heed.train.same_run import read_config
from heed.types import Conversation, Document, Finding, Message, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Say = Callable[[str], None]
PROMPTS_AT_A_TIME = 128
SURE = 0.05
"""a p-value up to which a prompt is called strange"""


@dataclass(frozen=True, eq=False)
class Strangeness:
    """A detector that holds for a model as it is, and what is to be said of it."""

    detector: Detector | None
    note: str
    """one line for the user; empty: there is nothing to say"""


def run(settings: StrangeSettings, say: Say = lambda line: None) -> dict[str, Any]:
    """Fit a detector and write it beside the model; returns what `strange.json` holds.

    Raises:
        UserError: the model or the data cannot be used, or there are too few prompts.
    """
    folder = Path(settings.out or settings.model)
    if not folder.is_dir() and settings.out is None:
        raise UserError(
            "there is no folder of the model to write beside",
            where="--out",
            found=f"--model {settings.model}, which is no folder of this machine",
            expected="a folder to write strange.json to",
            fix="--out FOLDER",
        )
    sources = settings.data or sources_of_run(settings.model)
    model = open_model(
        settings.model,
        template=settings.template,
        device=settings.device,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    rng = np.random.default_rng(settings.seed)
    prompts = some_of(different(prompts_of(sources, say), model, say), settings.limit, rng)
    background = background_of(settings.background, prompts, settings.limit, rng, model, say)
    with Progress("reading", total=len(prompts) + len(background), unit="prompts") as progress:
        detector = fit_detector(
            model,
            prompts,
            background,
            rng=rng,
            calibration_share=settings.calibration_share,
            about={
                "data": [source.path for source in sources],
                "background": [source.path for source in settings.background],
            },
            on_done=progress.update,
        )
    folder.mkdir(parents=True, exist_ok=True)
    detector.save(folder)
    return dict(detector.about)


def fit_detector(
    model: Model,
    prompts: Sequence[tuple[Message, ...]],
    background: Sequence[tuple[Message, ...]] | None,
    *,
    rng: np.random.Generator,
    calibration_share: float = 0.25,
    about: Mapping[str, Any] | None = None,
    on_done: Callable[[int], None] = lambda count: None,
) -> Detector:
    """Fit to tuning prompts in a random order, of which a share is kept apart for the scale.

    Args:
        prompts: messages to be answered, no two alike: alike ones in both parts would make the scale too small.
        background: prompts of every other kind, in the same template; None: there is none.
        about: kept in the detector beside the hashes of weights, template and tokenizer.
        on_done: is told how many prompts are read.

    Raises:
        UserError: there are too few prompts.
    """
    num_calibration = round(calibration_share * len(prompts))
    if num_calibration < LEAST_CALIBRATION or len(prompts) - num_calibration < 2:
        raise UserError(
            "there are too few prompts to say what is usual",
            where="--data, --calibration-share",
            found=f"{len(prompts):,} different prompts, of which {num_calibration:,} are kept apart",
            expected=f"at least {LEAST_CALIBRATION} kept apart: p-values then come down to 0.05",
            fix="more of the data that the model was tuned on",
        )
    order = rng.permutation(len(prompts))
    states = states_of(model, [prompts[i] for i in order], on_done)
    broad = None
    if background is not None:
        broad = states_of(model, background, lambda count: on_done(len(prompts) + count))
    return Detector.fit(
        states[num_calibration:],
        states[:num_calibration],
        broad,
        {
            **(about or {}),
            **fitted_for(model.name, model.template, model.tokenizer),
            "dtype": model.dtype,
            "num_prompts": len(prompts) - num_calibration,
            "num_calibration": num_calibration,
            "num_background": 0 if background is None else len(background),
        },
    )


def states_of(
    model: Model, prompts: Sequence[tuple[Message, ...]], on_done: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """(n, width) float64, the final hidden state of each prompt's last token.

    Not the mean over the prompt: on the lab it finds clusters of tasks as well, but calls a third of new wordings of
    known tasks strange, where the last token's does not.
    """
    found = []
    for start in range(0, len(prompts), PROMPTS_AT_A_TIME):
        some = [[_as_mapping(m) for m in messages] for messages in prompts[start : start + PROMPTS_AT_A_TIME]]
        found.append(model.states(some))
        on_done(start + len(some))
    return np.concatenate(found)


def state_of_prompt(model: PreTrainedModel, ids: Sequence[int]) -> np.ndarray:
    """(width,) float64, the same of one prompt's tokens, by the model's own forward."""
    forest = build([Tokens(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.float32))], share=False)
    with torch.no_grad():
        state: np.ndarray = rows_states(model, forest)[-1].double().cpu().numpy()
    return state


def p_values_of(
    detector: Detector, loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, dtype: str
) -> list[float]:
    """How strange each of many prompts is, from 0 to 1, small: strange. Common beginnings are computed once.

    Args:
        prompts: token ids, rendered in the template that the detector was fitted for.
        dtype: of activations, as the settings name it.
    """
    if not prompts:
        return []
    longest, limit = max(prompts, key=len), num_positions(loaded.model)
    max_tokens = tokens_per_forward(None, loaded.device.type, loaded.width)
    with autocast(loaded.device, dtype):
        score = choose_score(
            loaded.model,
            everything_trained(np.array(longest)),
            longest_in_data=len(longest),
            num_positions=limit,
            share=True,
            max_tokens=max_tokens,
        )
        found: list[float] = detector.p_values(last_states(score, prompts, max_tokens=max_tokens)).tolist()
    return found


def find_detector(folder: str, template: ChatTemplate, tokenizer: Tokenizer) -> Strangeness:
    """The detector beside a model, if it was fitted for these weights, this template and this tokenizer.

    Raises:
        UserError: its files are broken.
    """
    if not (Path(folder) / ABOUT).is_file():
        return Strangeness(None, "")
    detector = Detector.load(Path(folder))
    assert detector is not None
    now = fitted_for(folder, template, tokenizer)
    other = [name.removesuffix("_sha256").replace("_", " ") for name in now if detector.about.get(name) != now[name]]
    if not other:
        return Strangeness(detector, "")
    where = Path(folder) / ABOUT
    return Strangeness(
        None, f"{where} is void: it was fitted for another {' and '.join(other)}; heed strange fits anew"
    )


def fitted_for(name: str, template: ChatTemplate, tokenizer: Tokenizer) -> dict[str, str | None]:
    """Hashes of all on which a state depends."""
    words = words_content(template, tokenizer)
    hashes = {f"{what.replace(' ', '_')}_sha256": value for what, value in words.items()}
    return {"weights_sha256": weights_sha256(name), **hashes}


# ---- prompts


def sources_of_run(model: str) -> tuple[DataSource, ...]:
    """The data that a run was tuned on, as its `config.yaml` names it.

    Raises:
        UserError: this is no run, or one without data.
    """
    config = read_config(model) or {}
    if not config.get("data"):
        raise UserError(
            "it is not known what this model was tuned on",
            where="--data",
            found=f"{model}, which is no run of heed",
            expected="the data whose prompts are usual",
            fix=f"heed strange --model {typed(model)} --data FILE",
        )
    return tuple(DataSource.model_validate(source) for source in config["data"])


def prompts_of(sources: Sequence[DataSource], say: Say) -> Iterator[tuple[Message, ...]]:
    """What every record asks; records that ask nothing are counted."""
    notes: Counter[str] = Counter()
    num_unusable = 0
    for source in sources:
        for _, prompt in read_prompts(source.path, source.columns, notes):
            if isinstance(prompt, Finding):
                num_unusable += 1
            else:
                yield prompt.messages
    if num_unusable:
        say(f"{num_unusable:,} records ask nothing and are left out")


def different(prompts: Iterator[tuple[Message, ...]], model: Model, say: Say) -> list[tuple[Message, ...]]:
    """Those that the model can be asked, each once."""
    found: dict[tuple[tuple[str, str], ...], tuple[Message, ...]] = {}
    num_unasked = 0
    for messages in prompts:
        key = tuple((message.role, message.content) for message in messages)
        if key in found:
            continue
        if model.can_be_asked([_as_mapping(message) for message in messages]):
            found[key] = messages
        else:
            num_unasked += 1
    if num_unasked:
        say(f"{num_unasked:,} prompts are left out: the template does not take them, or the model has no room for them")
    return list(found.values())


def some_of(prompts: list[tuple[Message, ...]], limit: int, rng: np.random.Generator) -> list[tuple[Message, ...]]:
    """At most `limit` of them, drawn; all for 0."""
    if not limit or len(prompts) <= limit:
        return prompts
    return [prompts[i] for i in np.sort(rng.choice(len(prompts), limit, replace=False))]


def background_of(
    sources: Sequence[DataSource],
    prompts: Sequence[tuple[Message, ...]],
    limit: int,
    rng: np.random.Generator,
    model: Model,
    say: Say,
) -> list[tuple[Message, ...]]:
    """Prompts of every other kind: those of records, and pieces of plain text as long as the tuning prompts are."""
    lengths = [max(1, len(messages[-1].content.split())) for messages in prompts]
    found: list[tuple[Message, ...]] = []
    for source in sources:
        if begins_as_text(source.path, source.columns):
            found += pieces(source, lengths, rng)
        else:
            found += prompts_of((source,), say)
    some = some_of(different(iter(found), model, say), limit or len(prompts), rng)
    if len(some) < 2:
        raise UserError(
            "there is too little background text",
            where="--background",
            found=f"{len(some):,} pieces as long as a prompt",
            expected="text of every kind, some thousand words of it at least",
            fix="--background FILE.txt, a longer one",
        )
    return some


def pieces(source: DataSource, lengths: Sequence[int], rng: np.random.Generator) -> Iterator[tuple[Message, ...]]:
    """Plain text cut into pieces with as many words as the prompts have, each as what a user says."""
    for _, noun in read_nouns(source.path, source.columns):
        if isinstance(noun, Conversation):
            yield (noun.messages[0],)
        if not isinstance(noun, Document):
            continue
        said = noun.text.split()
        at = 0
        while at < len(said):
            length = lengths[int(rng.integers(len(lengths)))]
            yield (Message("user", " ".join(said[at : at + length])),)
            at += length


def _as_mapping(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content}
