"""A model that is measured: in memory, with the words it is asked in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError
from heed.eval_config import EvalSettings
from heed.evaluate.strange import Detector
from heed.models.intake.access import Access
from heed.models.kernels.speed import speed_up
from heed.models.load import (
    LoadedModel,
    SavedTokenizer,
    choose_device,
    load_tokenizer,
    load_with_tokenizer,
    num_positions,
)
from heed.models.stops import stop_ids
from heed.recipes.strange import find_detector, p_values_of
from heed.recipes.training.content import words_content
from heed.recipes.training.setup import answers_end, wrapped

NO_TEMPLATE, OWN_TEMPLATE = "none", "own"


@dataclass(frozen=True, eq=False)
class Words:
    """How questions are put to a model."""

    model: str
    """its name"""
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """None: prompts are plain text, as a base model reads them"""
    adds_bos: bool
    """whether BOS comes before a prompt without a template"""

    @property
    def template_name(self) -> str | None:
        """What the template is called; None where there is none."""
        return None if self.template is None else self.template.name

    @property
    def first_token(self) -> int | None:
        """What a text is predicted after that nothing stands before: BOS, or end-of-text where there is none."""
        bos = self.tokenizer.token_id("bos_token")
        return bos if bos is not None else self.tokenizer.token_id("eos_token")

    def __str__(self) -> str:
        if self.template is not None:
            return f"{self.model}: asked in the chat template {self.template_name}"
        return f"{self.model}: asked without a chat template, {'with' if self.adds_bos else 'without'} BOS"

    def content(self) -> dict[str, str]:
        """SHA-256 of the tokenizer and, where there is one, of the template."""
        whole = words_content(self.template or ChatTemplate.load("plain"), self.tokenizer)
        return whole if self.template is not None else {"tokenizer": whole["tokenizer"]}


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A language model on its device, and how its questions are put."""

    name: str
    loaded: LoadedModel
    words: Words
    stop_ids: tuple[int, ...]
    num_positions: int | None
    detector: Detector | None = None
    """tells prompts that are unlike those the model was tuned on, where `heed strange` has been fitted to it"""

    def p_strange(self, prompts: Sequence[Sequence[int]], dtype: str) -> list[float | None]:
        """How usual rendered prompts are, from 0 to 1, small for a strange one; None where nobody has fitted that.

        Args:
            prompts: token ids; there is nothing to say of an empty one.
            dtype: of activations, as the settings name it.
        """
        if self.detector is None:
            return [None] * len(prompts)
        found = iter(p_values_of(self.detector, self.loaded, [ids for ids in prompts if ids], dtype=dtype))
        return [next(found) if ids else None for ids in prompts]


def open_measured(name: str, settings: EvalSettings, say: Callable[[str], None]) -> MeasuredModel:
    """Load a run, a model folder, an adapter or a hub name, and settle how it is asked.

    Raises:
        UserError: it cannot be loaded; or BOS is asked for and its tokenizer has none.
    """
    access = Access(settings.trust_remote_code, say)
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    loaded = load_with_tokenizer(name, choose_device(settings.device), dtype, access)
    loaded.model.requires_grad_(False).eval()
    speed_up(loaded.model)
    words = words_of(name, loaded.tokenizer, settings)
    if words.template is not None:
        ends = answers_end(loaded, words.template, words.tokenizer)
    else:
        ends = stop_ids(loaded.model, loaded.tokenizer)
    found = None
    if words.template is not None:
        found = find_detector(name, words.template, words.tokenizer)
        if found.note:
            say(found.note)
    detector = None if found is None else found.detector
    return MeasuredModel(name, loaded, words, tuple(ends), num_positions(loaded.model), detector)


def open_words(name: str, settings: EvalSettings) -> Words:
    """How questions are put to a model, without its weights."""
    return words_of(name, load_tokenizer(name, Access(settings.trust_remote_code)), settings)


def words_of(name: str, saved_tokenizer: SavedTokenizer, settings: EvalSettings) -> Words:
    """The template and the BOS that the settings choose for a model."""
    tokenizer = wrapped(saved_tokenizer, name, needs_template=settings.template == OWN_TEMPLATE)
    template = None
    if settings.template == OWN_TEMPLATE:
        template = tokenizer.template
    elif settings.template != NO_TEMPLATE:
        template = ChatTemplate.load(settings.template)
    if settings.bos == "on" and tokenizer.token_id("bos_token") is None:
        raise UserError(
            "this tokenizer has no BOS",
            where=f"--bos on, {name}",
            found="a tokenizer without a bos_token",
            expected="one with it, or prompts without BOS",
            fix="--bos auto",
        )
    adds_bos = tokenizer.adds_bos if settings.bos == "auto" else settings.bos == "on"
    return Words(name, tokenizer, None if template is None else fit_template(template, tokenizer), adds_bos)
