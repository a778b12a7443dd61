"""Settings of every recipe, each defined once: YAML key, command-line flag, help text and docs table."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, model_validator

from heed.errors import UserError
from heed.memory_config import FORMER_SWITCH, FORMERLY, KeptActivations
from heed.parallel_config import Offloading, Parallelism, SequenceParallel, names_in
from heed.settings import Number, PathText, Settings, Text, Whole, dump, load_settings

__all__ = [
    "ChatSettings",
    "DataSource",
    "DemoSettings",
    "MergeSettings",
    "ReportSettings",
    "SftSettings",
    "ShowSettings",
    "dump",
    "load_settings",
    "lora_alpha",
    "peak_learning_rate",
]

DEFAULT_EPOCHS = 2


def sources_in(value: object) -> object:
    """Let a data set be a path, and a single one stand without a list."""
    if isinstance(value, (str, Mapping)):
        value = [value]
    if isinstance(value, (list, tuple)):
        return tuple({"path": item} if isinstance(item, str) else item for item in value)
    return value


def _pairs(value: object) -> object:
    """Let pairs be written as one or several texts `name=column`, too."""
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list | tuple):
        return value
    broken = next((item for item in written if not isinstance(item, str) or not all(item.partition("="))), None)
    if broken is not None:
        raise UserError(
            "a pair of names is not written as one",
            where="columns",
            found=repr(broken),
            expected="NAME=COLUMN: a name that heed knows, and the column of the file that is meant",
            fix="--columns prompt=problem response=answer",
        )
    return {name: column for name, _, column in (item.partition("=") for item in written)}


def _with_columns(cls: type, given: object) -> object:
    """Put the columns of a command, or of a section, into each of its data sets that names none of its own."""
    if not isinstance(given, Mapping) or not given.get("columns"):
        return given
    columns = _pairs(given["columns"])
    placed = {}
    for key in given.keys() & {"data", "eval_data"}:
        sources = sources_in(given[key])
        if isinstance(sources, tuple):
            placed[key] = [
                {**item, "columns": item.get("columns") or columns} if isinstance(item, Mapping) else item
                for item in (each.model_dump() if isinstance(each, DataSource) else each for each in sources)
            ]
    return {**given, **placed}


Columns = Annotated[
    dict[Text, Text],
    BeforeValidator(_pairs),
    Field(description="NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"),
]
columns_in_data: Any = model_validator(mode="before")(_with_columns)
"""of every command and section with data and columns"""


class DataSource(Settings):
    """One data set of a mixture."""

    path: Text = Field(description="file or hub name")
    weight: Number = Field(1.0, gt=0, description="how often its records are drawn in an epoch, relative to once each")
    cap: Whole | None = Field(
        None, ge=1, description="records that count at most, so that a huge data set does not drown others"
    )
    wordings: PathText | None = Field(None, description="file of instruction wordings with slots, for labelled records")
    columns: Annotated[dict[Text, Text], BeforeValidator(_pairs)] = Field(
        {}, description="name of a field -> its column in the file, where that differs"
    )


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(sources_in)]
PositiveNumber = Annotated[Number, Field(gt=0)]
Names = Annotated[tuple[Text, ...], BeforeValidator(names_in), Field(min_length=1)]
Alpha = Annotated[Number | None, Field(gt=0, description="scale of the adapter is alpha / rank [default: 2 x rank]")]
Targets = Annotated[
    Names, Field(description="layers that get one: all-linear, attention, mlp, or names: q_proj,v_proj")
]
Train = Annotated[Names, Field(description="without an adapter: all, last:N, head, embeddings, norms, names")]
Quantise = Annotated[
    Literal["nf4"] | None,
    Field(description="keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"),
]
Track = Annotated[
    Literal["none", "tensorboard", "wandb", "mlflow", "trackio"],
    Field(description="where the numbers are shown, too, by the package of that name"),
]
ALL_LINEAR, ALL = "all-linear", "all"
SpecialTokens = Annotated[
    Literal["error", "as-text", "strip"], Field(description="special tokens written out in the data")
]
EndOfTurn = Annotated[
    Literal["template", "eos"], Field(description="what ends an answer; eos where the template writes no stop token")
]
DEVICE_HELP = "auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


SaveDtype = Annotated[
    Literal["checkpoint", "float32", "bfloat16"],
    Field(description="of the weights that are left; checkpoint: as in the files of --model; adapters stay float32"),
]
TrustRemoteCode = Annotated[
    bool, Field(description="run Python code that comes with the model, with all that this account may do")
]


KeepStates = Annotated[bool, Field(description="keep the optimiser states of a finished run's checkpoints")]
KeepBest = Annotated[bool, Field(description="leave the model of the best measurement, by loss, and not the last one")]
StopEarly = Annotated[
    Whole | None, Field(ge=1, description="end after so many measurements without a lower loss [default: never]")
]


def how_long(given: object, default_epochs: int) -> object:
    """Settle how long a run of `steps` or `epochs` learns, and whether it can end early.

    Raises:
        UserError: both are given, or the run would never see that it should end.
    """
    if not isinstance(given, Mapping):
        return given
    steps, epochs = given.get("steps"), given.get("epochs")
    if steps is not None and epochs is not None:
        raise UserError(
            "steps and epochs are both given",
            where="steps, epochs",
            found=f"steps {steps}, epochs {epochs}",
            expected="one of them: each says how long to train",
            fix=f"leave out epochs, or leave out steps and give --epochs {epochs}",
        )
    if given.get("stop_early") is not None and str(given.get("eval_every")) == "0":
        raise UserError(
            "a run that is measured at its ends alone cannot end early",
            where="--stop-early, --eval-every",
            found=f"--stop-early {given.get('stop_early')} and --eval-every 0",
            expected="measurements on the way",
            fix="--eval-every 100, or another number of steps",
        )
    return {**given, "epochs": default_epochs} if steps is None and epochs is None else given


Bits = Annotated[
    Literal[32, 8],
    BeforeValidator(lambda given: int(given) if isinstance(given, str) and given.isdecimal() else given),
    Field(description="of a number of AdamW's two states; 8 by bitsandbytes"),
]


class Loss(Settings):
    """Loss"""

    mean_over: Literal["token", "sequence"] = Field("token", description="what weighs the same as any other")


class Optim(Settings):
    """Optimiser (AdamW)"""

    lr: PositiveNumber | Literal["auto"] = Field(
        "auto", description="peak; auto: 2.7e-3 at 0.26M parameters, 1.4e-4 at 124M, 2e-5 at 7B; LoRA x10"
    )
    warmup: Number = Field(0.03, ge=0, le=1, description="share of the steps in which the learning rate rises from 0")
    weight_decay: Number = Field(0.0, ge=0, description="pull of matrices towards 0, per unit of learning rate")
    max_norm: Number = Field(1.0, gt=0, description="gradient norm above which the gradient is scaled down")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="way of the learning rate after warm-up"
    )
    bits: Bits = 32


class Lora(Settings):
    """Low-rank adapter (LoRA)"""

    rank: Whole = Field(0, ge=0, description="rank of the adapter; 0 trains all parameters of the model itself")
    alpha: Alpha = None
    targets: Targets = (ALL_LINEAR,)


class SftSettings(Settings):
    """Tune a base language model on instructions and answers.

    heed sft --model MODEL --data DATA.jsonl --out RUN
    heed sft CONFIG.yaml --optim.lr 1e-4
    """

    common = "model data out template max_length epochs batch_size max_tokens dtype device optim.lr lora.rank"
    renamed = FORMERLY
    former_switches = frozenset({FORMER_SWITCH})

    model: PathText = Field(title="Model, data, run", description="folder or hub name of the base model")
    data: Sources = Field(min_length=1, description="file or hub name of a data set; may be given several times")
    out: PathText = Field(description="folder of this run; a run found there is resumed if its settings match")
    eval_data: Sources = Field((), description="data only measured, never trained on [default: a held-out share]")
    eval_limit: Whole = Field(512, ge=0, description="held-out records of a data set that are measured, 0 for all")
    columns: Columns = Field({})
    held_out_share: Number = Field(
        0.05, ge=0, lt=1, description="share of conversations held out by hash where there is no --eval-data"
    )
    max_bad_records: Number = Field(
        0.0005, ge=0, le=1, description="share of unusable records up to which they are left out and listed"
    )
    trust_remote_code: TrustRemoteCode = False
    template: PathText | None = Field(
        None,
        title="Conversations",
        description="jinja file, folder, alpaca, chatml or plain [default: the model's own]",
    )
    end_of_turn: EndOfTurn = "template"
    special_tokens_in_text: SpecialTokens = "error"
    date: datetime.date | None = Field(
        None, description="YYYY-MM-DD, for templates that print one [default: first day of the run]"
    )
    max_length: Whole | None = Field(
        None, ge=2, description="tokens of a conversation [default: the model's positions]"
    )
    too_long: Literal["error", "drop", "truncate"] = Field("error", description="what happens to longer ones")
    steps: Whole | None = Field(None, ge=1, title="Training", description="optimiser steps, in place of --epochs")
    epochs: Whole | None = Field(None, ge=1, description=f"passes over the data [default: {DEFAULT_EPOCHS}]")
    batch_size: Whole = Field(16, ge=1, description="conversations per optimiser step, over all devices")
    max_tokens: Whole | None = Field(
        None, ge=1, description="tokens per forward, for memory alone [default: enough to keep the device busy]"
    )
    train: Train = (ALL,)
    quantise: Quantise = None
    parallel: Parallelism = "auto"
    offload: Offloading = ()
    sequence_parallel: SequenceParallel = 1
    share_prefixes: bool = Field(True, description="compute a beginning that conversations share only once")
    activations: KeptActivations = "keep"
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="activations; trained weights stay float32")
    device: Device = Field("auto", description=DEVICE_HELP)
    seed: Whole = Field(0, ge=0, description="fixes the order of the data and every random start")
    save_every: Whole = Field(
        100, ge=0, title="Keeping and measuring", description="steps between checkpoints; 0 saves at the end only"
    )
    save_dtype: SaveDtype = "checkpoint"
    keep_checkpoints: Whole = Field(2, ge=1, description="number of latest checkpoints that are kept")
    eval_every: Whole = Field(100, ge=0, description="steps between measurements; 0 measures at start and end only")
    keep_states: KeepStates = False
    keep_best: KeepBest = False
    stop_early: StopEarly = None
    track: Track = "none"
    loss: Loss = Loss()
    optim: Optim = Optim()
    lora: Lora = Lora()

    _place_columns = columns_in_data

    @model_validator(mode="before")
    @classmethod
    def _how_long(cls, given: object) -> object:
        return how_long(given, DEFAULT_EPOCHS)


class ShowSettings(Settings):
    """Show conversations or ranked answers of a data set as the model will read them, the trained tokens in colour.

    heed show DATA.jsonl --model MODEL
    heed show DATA.jsonl --tokenizer FOLDER --template alpaca --record 3
    heed show RUN
    """

    data: Sources = Field(
        min_length=1, description="file or hub name of a data set, may be given several times; or a run, for its data"
    )
    columns: Columns = Field({})
    model: PathText | None = Field(
        None, description="folder or hub name of a model, for its tokenizer and its template"
    )
    tokenizer: PathText | None = Field(None, description="folder that holds a tokenizer.json, in place of --model")
    template: PathText | None = Field(
        None, description="jinja file, tokenizer_config.json, folder, alpaca, chatml, plain [default: the model's]"
    )
    end_of_turn: EndOfTurn = "template"
    special_tokens_in_text: SpecialTokens = "error"
    date: datetime.date | None = Field(None, description="YYYY-MM-DD, for templates that print one [default: today]")
    record: Whole | None = Field(None, ge=1, description="number of the one record to show, counted from 1")
    limit: Whole = Field(3, ge=0, description="records to show of each data set; 0 shows all")
    html: PathText | None = Field(None, description="file to write as a page, in place of printing")
    trust_remote_code: TrustRemoteCode = False
    print_json: bool = Field(False, alias="json", description="print one JSON object per record, and nothing else")

    _place_columns = columns_in_data


class ChatSettings(Settings):
    """Talk to a model in the terminal.

    heed chat --model RUN
    """

    model: PathText = Field(description="run folder, model folder or hub name")
    template: PathText | None = Field(
        None, description="jinja file, folder, alpaca, chatml or plain [default: the model's own]"
    )
    system: Text | None = Field(None, description="system prompt [default: none]")
    abstain: bool = Field(
        False, description="say that it does not know where the confidence is below the threshold of heed calibrate"
    )
    honesty: PathText | None = Field(
        None, description="honesty.json of heed calibrate [default: the one in the model's folder]"
    )
    max_new_tokens: Whole = Field(512, ge=1, description="tokens of an answer at most")
    temperature: Number = Field(
        0.7,
        ge=0,
        description="0 always takes the likeliest token; 1 samples as the model predicts; with --abstain it is 0",
    )
    top_p: Number = Field(0.95, gt=0, le=1, description="sample from the likeliest tokens that hold this probability")
    seed: Whole = Field(0, ge=0, description="fixes the sampling")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    device: Device = Field("auto", description=DEVICE_HELP)
    trust_remote_code: TrustRemoteCode = False

    @model_validator(mode="before")
    @classmethod
    def _likeliest_where_it_abstains(cls, given: object) -> object:
        """What is certified is certified of the likeliest answers."""
        if isinstance(given, Mapping) and given.get("abstain") not in (None, False, "false"):
            return {"temperature": 0.0, **given}
        return given


class MergeSettings(Settings):
    """Fold an adapter into its base model, and check that the logits agree.

    heed merge --model RUN --out FOLDER
    """

    model: PathText = Field(description="run folder or adapter folder")
    out: PathText = Field(description="folder to write the merged model to; must be empty or absent")
    base: PathText | None = Field(
        None, description="folder or hub name of the base [default: the one the adapter names]"
    )
    device: Device = Field("auto", description=DEVICE_HELP)
    trust_remote_code: TrustRemoteCode = False


class DemoSettings(Settings):
    """See a base model become an assistant: tune the embedded one, and measure it before and after.

    heed demo
    heed demo --full
    """

    out: PathText = Field("runs/demo", description="folder of the demonstration; one found there is gone on with")
    examples: Whole = Field(24_000, ge=100, description="instructions to tune on")
    questions: Whole = Field(10, ge=1, description="held-out questions of each task family in each split")
    full: bool = Field(False, description="also compare PPO, GRPO, DPO and best of n, and tune on fewer answers")
    print_json: bool = Field(False, alias="json", description="print all numbers as one JSON object on the last line")


class ReportSettings(Settings):
    """Draw what runs have left as one page: curves, samples, splits, honesty, settings.

    heed report runs/first
    heed report runs/first runs/second --out both.html
    heed report runs/eval
    """

    runs: tuple[PathText, ...] = Field(min_length=1, description="run folder; several are compared on one page")
    out: PathText | None = Field(None, description="file to write [default: report.html in the first folder]")


def peak_learning_rate(
    lr: float | Literal["auto"], *, num_parameters: int, has_adapter: bool, share: float = 1.0
) -> float:
    """The learning rate to warm up to: the one given, or the one that suits a model of `num_parameters`.

        auto = share * min(3e-3, 2e-5 * (7e9 / num_parameters)^0.48 * (10 with an adapter))

    2e-5 for all weights and 2e-4 for an adapter are what 7B models are commonly tuned with on instructions; the
    exponent makes it 1.4e-4 for 124M parameters and 2.7e-3 for 260K.

    Args:
        share: of what suits supervised tuning, for what learns from preferences and rewards.
    """
    if lr != "auto":
        return lr
    times = 10 if has_adapter else 1
    return share * min(3e-3, times * 2e-5 * math.pow(7e9 / max(num_parameters, 1), 0.48))


def tokens_per_forward(max_tokens: int | None, device: str, width: int) -> int:
    """The size of a forward: the one given, or one at which a device of this type (`cpu`, `cuda`) is fully busy.

    A CPU is at 1,024 tokens of GPT-2 124M's width, 768: larger forwards compute no faster and hold more activations.
    The kernels of a narrower model do less for each token, so it takes more of them: the product of tokens and width
    stays, up to 8,192 tokens.

    Args:
        width: of the model's hidden states.
    """
    return max_tokens or (8_192 if device == "cuda" else min(8_192, max(1_024, 1_024 * 768 // width)))


class Adapter(Protocol):
    """What the settings of a recipe say of its low-rank adapters."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def targets(self) -> tuple[str, ...]: ...


def lora_alpha(lora: Adapter) -> float:
    """The adapter's alpha: the one given, or twice the rank."""
    return lora.alpha if lora.alpha is not None else 2.0 * lora.rank
