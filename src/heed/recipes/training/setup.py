"""Open a base model for tuning: its tokenizer, the chat template it will speak, and an adapter if one is trained."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from heed.config import Lora, lora_alpha
from heed.data.rendering.choice import EndOfTurn, choose_template
from heed.data.rendering.render import ChatTemplate, SpecialText
from heed.data.rendering.stops import stop_tokens
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError, typed
from heed.memory_config import Activations
from heed.models.adapters.folder import base_of, is_adapter
from heed.models.adapters.lora import add_adapter, keep_base
from heed.models.adapters.targets import adapted_layers
from heed.models.heads.scalar import is_reward_model
from heed.models.intake.access import CAREFUL, Access
from heed.models.intake.dtypes import checkpoint_dtype, slower_in_bfloat16
from heed.models.intake.quantise import refuse_quantised, refuse_quantising
from heed.models.intake.vocabulary import rowless_tokens, without_row
from heed.models.kernels.speed import speed_up
from heed.models.load import (
    LoadedModel,
    SavedTokenizer,
    add_tokens,
    load_tokenizer,
    load_with_tokenizer,
    prepare_training,
    tokenizer_facts,
)
from heed.models.stops import stop_ids
from heed.models.trained import ALL, HEAD, choose_trained
from heed.parallel_config import Offload, Parallel
from heed.recipes.training.content import words_content
from heed.recipes.training.dividing import may_be_divided
from heed.recipes.training.loop import Place
from heed.recipes.training.memory import nothing_to_offload
from heed.train.same_run import read_config


@dataclass(frozen=True, eq=False)
class Opened:
    """A model ready to be tuned, and the words it will be tuned in."""

    loaded: LoadedModel
    template: ChatTemplate
    tokenizer: Tokenizer
    stops: tuple[str, ...]
    """tokens that end a response"""
    new_token_ids: tuple[int, ...]
    """added to the vocabulary"""

    @property
    def stop_ids(self) -> list[int]:
        """The tokens at which sampling stops: the template's, and the checkpoint's own."""
        return stop_ids(self.loaded.model, self.loaded.tokenizer, self.stops)

    def saved_template(self) -> str | dict[str, str]:
        """The chat template as the tuned model's tokenizer keeps it."""
        named = dict(self.template.alternatives)
        return {"default": self.template.source, **named} if named else self.template.source


def open_tokenizer(model: str, access: Access = CAREFUL) -> Tokenizer:
    """The tokenizer of a model folder or hub name, in heed's words."""
    return wrapped(load_tokenizer(model, access), model)


def wrapped(saved_tokenizer: SavedTokenizer, name: str, *, needs_template: bool = True) -> Tokenizer:
    """A transformers tokenizer in heed's words; `name` says whose it is.

    Args:
        needs_template: whether its own chat template is to be used: several of which none is the default are refused.
    """
    facts = tokenizer_facts(saved_tokenizer)
    template = None
    if needs_template and facts.templates and "default" not in facts.templates:
        raise _no_default(name, list(facts.templates))
    if "default" in facts.templates:
        others = tuple((name, source) for name, source in facts.templates.items() if name != "default")
        template = ChatTemplate(facts.templates["default"], name, alternatives=others)
        template = template.with_tokens(facts.variables, facts.special_tokens)
    return Tokenizer.wrap(
        facts.backend, facts.variables, special_tokens=facts.special_tokens, adds_bos=facts.adds_bos, template=template
    )


def _no_default(name: str, templates: list[str]) -> UserError:
    return UserError(
        "none of the model's chat templates is the default one",
        where=f"{name}, chat_template",
        found=f"{len(templates):,} templates: {', '.join(templates)}",
        expected="one that is called default",
        fix="put the one to use into a file of its own: --template FILE.jinja",
    )


def refuse_reward_model(name: str) -> None:
    """Raise if a model that is to write words is a reward model.

    Its weights are not read for it: they may load without the head, or not fit, and neither says what is wrong.
    """
    if not is_reward_model(name):
        return
    before = (read_config(name) or {}).get("model") or (base_of(name) if is_adapter(name) else None)
    raise UserError(
        "this is a reward model, which scores answers and writes none",
        where=f"--model {typed(name)}",
        found="a model with a scalar head",
        expected="a language model",
        fix=f"--model {typed(str(before))}, which it was trained from" if before else "--model of a heed sft run",
    )


class TuningSettings(Protocol):
    """What the settings of a recipe that tunes one model say of it."""

    @property
    def model(self) -> str: ...
    @property
    def template(self) -> str | None: ...
    @property
    def special_tokens_in_text(self) -> SpecialText: ...
    @property
    def end_of_turn(self) -> EndOfTurn: ...
    @property
    def date(self) -> datetime.date | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def activations(self) -> Activations: ...
    @property
    def train(self) -> tuple[str, ...]: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def quantise(self) -> str | None: ...
    @property
    def lora(self) -> Lora: ...
    @property
    def parallel(self) -> Parallel: ...
    @property
    def offload(self) -> Offload: ...


def open_base(
    name: str,
    template_name: str | None,
    device: torch.device,
    date: datetime.date,
    seed: int,
    access: Access,
    *,
    special_text: SpecialText = "error",
    end_of_turn: EndOfTurn = "template",
    frozen: bool = False,
    quantise: bool = False,
    in_pieces: bool = False,
    reads_plain_text: bool = False,
) -> Opened:
    """Load the base, settle its template, and add the template's tokens. Nothing is made ready for training yet.

    Args:
        name: folder or hub name of the model.
        template_name: as the setting `template`.
        seed: of the new tokens' rows.
        special_text: as the setting `special_tokens_in_text`.
        end_of_turn: as the setting.
        frozen: whether its weights stay as they are, and so in the dtype of their checkpoint.
        quantise: whether its linear layers are kept in four bits; only what is frozen can be.
        in_pieces: as `load_model` takes it.
        reads_plain_text: as `choose_template` takes it.
    """
    refuse_reward_model(name)
    refuse_quantised(base_of(name) if is_adapter(name) else name)
    dtype = checkpoint_dtype(name) if frozen else torch.float32
    say = access.say
    loaded = load_with_tokenizer(name, device, dtype, access, quantise=quantise, for_tuning=True, in_pieces=in_pieces)
    model, saved_tokenizer = loaded.model, loaded.tokenizer
    own = wrapped(saved_tokenizer, name, needs_template=template_name is None)
    template, new_tokens = choose_template(template_name, own, say, end_of_turn, reads_plain_text=reads_plain_text)
    template = replace(template, date=date, special_text=special_text)
    new_ids = add_tokens(model, saved_tokenizer, new_tokens, seed)
    if new_ids:
        say(f"added the tokens {' '.join(new_tokens)}; they are trained")
    tokenizer = wrapped(saved_tokenizer, name, needs_template=False)
    template = fit_template(template, tokenizer)
    sources = "".join((template.source, *dict(template.alternatives).values()))
    if written := [token for token in rowless_tokens(model, saved_tokenizer) if token in sources]:
        raise without_row(written, model, saved_tokenizer, name, where=f"template {template.name}")
    return Opened(loaded, template, tokenizer, checked_stops(template, tokenizer), tuple(new_ids))


def open_for_tuning(
    settings: TuningSettings, place: Place, *, reads_words: bool = True, reads_plain_text: bool = False
) -> Opened:
    """Open the base as `open_base` does, and make it ready to be trained, with an adapter if one is wanted.

    Args:
        reads_words: whether the language head is used; where it is not, `--train head` means the head that is.
        reads_plain_text: as `choose_template` takes it.
    """
    assert settings.date is not None
    lora, train, say = settings.lora, settings.train, place.speaker.say
    refuse_names_beside_adapter(train, lora.rank)
    if settings.quantise is not None:
        refuse_quantising(settings.model, lora.rank)
    if (slower := slower_in_bfloat16(place.device, settings.dtype)) is not None:
        say(slower)
    if (idle := nothing_to_offload(settings.activations, place.device)) is not None:
        say(idle)
    access = Access(settings.trust_remote_code, say)
    opened = open_base(
        settings.model,
        settings.template,
        place.device,
        settings.date,
        settings.seed,
        access,
        special_text=settings.special_tokens_in_text,
        end_of_turn=settings.end_of_turn,
        frozen=lora.rank > 0,
        quantise=settings.quantise is not None,
        in_pieces=may_be_divided(settings, place.world),
        reads_plain_text=reads_plain_text,
    )
    place.folder.keep_content(words_content(opened.template, opened.tokenizer))
    loaded, new_ids = opened.loaded, opened.new_token_ids
    if lora.rank:
        keep_base_of_run(opened, place)
        loaded = add_adapter(
            loaded,
            rank=lora.rank,
            alpha=lora_alpha(lora),
            new_token_ids=new_ids,
            seed=settings.seed,
            targets=lora.targets,
        )
        say(f"adapters on {adapted_layers(loaded.model)}")
    else:
        named = train if reads_words else tuple(name for name in train if name != HEAD)
        choose_trained(loaded.model, named, new_token_ids=new_ids)
    speed_up(loaded.model)
    prepare_training(loaded.model, activations=settings.activations)
    if reads_words and not loaded.trained_parameters():  # a reward model's head may learn alone
        raise AssertionError(f"no parameter of {settings.model} would be trained")
    return replace(opened, loaded=loaded)


def refuse_names_beside_adapter(train: Sequence[str], rank: int) -> None:
    """An adapter's parameters are what learns where there is one; named others would silently stay as they are."""
    if not rank or ALL in train:
        return
    raise UserError(
        "parameters are named to be trained, and an adapter is trained in their place",
        where="--train, --lora.rank",
        found=f"--train {','.join(train)} and --lora.rank {rank}",
        expected="one of them; --lora.targets names the layers that an adapter is on",
        fix="--lora.rank 0",
    )


def keep_base_of_run(opened: Opened, place: Place) -> None:
    """Keep a base of the run's own beside its adapter, where one is needed: the first process writes it."""

    def keep() -> None:
        folder = place.folder.folder / "base"
        keep_base(opened.loaded, folder, new_token_ids=opened.new_token_ids, stop_tokens=opened.stops)

    place.world.on_first(keep)
    if not place.world.is_first:
        keep()  # finds it written, and the model in memory names it


def answers_end(loaded: LoadedModel, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """The tokens at which answers of a model end that is only spoken to.

    Its template may end answers with nothing, as long as the checkpoint ends them.
    """
    taught = checked_stops(template, tokenizer) if stop_tokens(template) else ()
    ends = stop_ids(loaded.model, loaded.tokenizer, taught)
    if not ends:
        checked_stops(template, tokenizer)  # raises
    return ends


def checked_stops(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens that end a response; each must be one token, or generation could not stop at it."""
    stops = stop_tokens(template)
    split = [stop for stop in stops if tokenizer.backend.token_to_id(stop) is None]
    if stops and not split:
        return stops
    raise UserError(
        "the chat template does not end a response with a token of this model",
        where=f"template {template.name}",
        found=f"{split[0]!r}, which is several tokens" if split else "nothing after the response",
        expected="a special token after every response, at which generation stops",
        fix="--template alpaca" if split else "--end-of-turn eos puts the model's own end of text there",
    )
