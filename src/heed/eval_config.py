"""Settings of the commands that measure models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from heed.config import DEVICE_HELP, Columns, Device, Sources, TrustRemoteCode, columns_in_data
from heed.errors import UserError
from heed.settings import Number, PathText, Settings, Text, Whole

Between = Literal["answer", "refuse", "leave-out"]
Share = Annotated[Number, Field(ge=0, le=1)]
TooLong = Annotated[
    Literal["error", "drop-shots", "drop"],
    Field(description="a prompt that the model cannot read: stop, ask it with fewer examples, or leave it out"),
]


def _several(value: object) -> object:
    """Let a single one stand without a list."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a model that is named twice: later commands could not tell which of the two is meant."""
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise UserError(
            "one model is named twice",
            where="--model",
            found=twice,
            expected="each model once",
            fix="leave one of the two out",
        )
    return names


Several = BeforeValidator(_several)


class EvalSettings(Settings):
    """Measure models on tasks: accuracy, calibration, knowledge, bias, every number with its interval.

    heed eval --model BASE --model RUN --task arc=arc.jsonl --task bbq=bbq-age.jsonl
    heed eval --model RUN --task MINE.yaml --num-shots 5 --limit 300
    heed eval --model RUN_OF_HEED_REWARD --task pairs=PREFERENCES.jsonl
    heed eval --list
    """

    common = "model task out num_shots limit template too_long device list"
    renamed: ClassVar = {"models": "model", "tasks": "task"}

    model: Annotated[tuple[PathText, ...], Several, AfterValidator(_each_once)] = Field(
        (), description="run folder, model folder, adapter or hub name; several are compared, each with the first"
    )
    task: Annotated[tuple[Text, ...], Several] = Field(
        (), description="NAME=FILE_OR_FOLDER, NAME alone (its data from the hub), or a task file MINE.yaml"
    )
    out: PathText = Field("runs/eval", description="folder of the results; one found there is gone on with")
    list_tasks: bool = Field(False, alias="list", description="show the tasks that heed brings, and nothing else")
    num_shots: Whole | None = Field(
        None, ge=0, description="worked examples before every question [default: the task's]"
    )
    shots: Literal["fixed", "per-item"] = Field(
        "fixed", description="the same examples before all questions, or others before each"
    )
    limit: Whole | None = Field(None, ge=1, description="items of each task at most, chosen by hash [default: all]")
    seed: Whole = Field(0, ge=0, description="fixes which examples are taken")
    template: PathText = Field(
        "own", description="chat template that questions are asked in: own, none, alpaca, chatml, plain or a jinja file"
    )
    bos: Literal["auto", "on", "off"] = Field(
        "auto", description="BOS before a prompt without a template; auto: as the tokenizer does"
    )
    too_long: TooLong = "error"
    max_bad_records: Share = Field(
        0.01, description="share of a task's records that cannot be asked up to which they are left out and counted"
    )
    tax: Annotated[tuple[Text, ...], Several] = Field(
        (), description="a text file, or a task as for --task: what tuning must not cost, told in a table of its own"
    )
    max_new_tokens: Whole | None = Field(None, ge=1, description="tokens of an answer at most [default: the task's]")
    max_tokens: Whole | None = Field(
        None,
        ge=1,
        description="tokens per forward; memory depends on it, no result does [default: by device and model]",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    device: Device = Field("auto", description=DEVICE_HELP)
    trust_remote_code: TrustRemoteCode = False
    print_json: bool = Field(False, alias="json", description="print results.json, and nothing else")

    @model_validator(mode="after")
    def _something_to_measure(self) -> EvalSettings:
        if self.list_tasks or self.model:
            return self  # a reward model is measured without tasks too
        raise nothing_to_measure(self, "--model")


def nothing_to_measure(settings: EvalSettings, missing: str) -> UserError:
    """The error of a measurement without a model, or of a language model without tasks."""
    return UserError(
        f"there is nothing to measure: {missing} is missing",
        where="command line",
        found=f"{len(settings.model)} models and {len(settings.task)} tasks",
        expected="one model and one task at least; reward models are probed without tasks too",
        fix="heed eval --model MODEL --task arc=FILE; heed eval --list shows the tasks",
    )


class CalibrateSettings(Settings):
    """Make a model's confidence honest, and certify a threshold beyond which it says that it does not know.

    heed calibrate runs/eval --max-error 0.1 --confidence 0.95
    heed calibrate runs/eval --task gsm8k --model runs/first --guarantee joint
    """

    run: PathText = Field(description="folder that heed eval has written")
    model: PathText | None = Field(None, description="which of its models, by name [default: the only one]")
    task: Text | None = Field(None, description="which of its tasks, by name [default: the only one]")
    guarantee: Literal["selective", "joint", "batch"] = Field(
        "selective",
        description="of the answers given, so many are wrong; of all questions; of answers selected from a batch",
    )
    max_error: Number = Field(0.1, gt=0, lt=1, description="share of wrong answers that is promised at most")
    confidence: Number = Field(
        0.95, gt=0, lt=1, description="of the selective promise, over the draw of the items; others are on average"
    )
    tuning_share: Number = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the items, by hash, on which confidences are scaled and thresholds chosen",
    )
    print_json: bool = Field(False, alias="json", description="print honesty.json, and nothing else")


class KnownSettings(Settings):
    """Ask a base model what it knows, and write records that teach it to say of the rest that it does not know.

    heed known --model MODEL --data QUESTIONS.jsonl --out known
    heed sft --model MODEL --data known/records.jsonl --template chatml --out RUN
    """

    common = "model data columns out form check num_prompts num_shots num_samples limit max_refusals device"

    model: PathText = Field(title="Model, data, run", description="folder or hub name of the base model")
    data: Sources = Field(
        min_length=1, description="questions with their answers: a file or hub name; may be given several times"
    )
    columns: Columns = Field({})
    out: PathText = Field(description="folder of the answers; one found there is gone on with if its settings match")
    limit: Whole = Field(0, ge=0, description="questions to ask, from the first; 0 asks all")
    max_bad_records: Share = Field(
        0.0005, description="share of unusable records up to which they are left out and listed"
    )
    trust_remote_code: TrustRemoteCode = False
    form: Text = Field(
        r"Question: {question}\nAnswer: {answer}\n\n",
        title="Asking",
        description="how an example stands in the prompt; the first character behind {answer} ends an answer",
    )
    check: Literal["starts", "line", "number"] = Field(
        "starts",
        description="an answer is right if its first line starts with, or is, an alias; or by its first number",
    )
    num_prompts: Whole = Field(4, ge=1, description="few-shot prompts that each question is asked under")
    num_shots: Whole = Field(4, ge=0, description="examples in each, drawn from the data, never the question itself")
    num_samples: Whole = Field(4, ge=1, description="answers drawn under each prompt, beside the likeliest one")
    temperature: Number = Field(0.5, gt=0, description="at which they are drawn")
    max_new_tokens: Whole = Field(32, ge=1, description="tokens of an answer at most")
    seed: Whole = Field(0, ge=0, description="fixes examples and draws")
    maybe: Between = Field(
        "answer", title="Teaching", description="what is taught where only some likeliest answers are right"
    )
    weakly: Between = Field("answer", description="what is taught where only drawn answers are right")
    max_agreement: Share = Field(
        1.0, description="unknown questions on which the drawn answers agree more are left out, not refused"
    )
    min_agreement: Share = Field(0.0, description="known questions on which they agree less are left out")
    max_refusals: Share = Field(
        0.35, description="share of refusals among the records at most; those that the model is least certain of stay"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", title="Machine", description="of weights and activations")
    device: Device = Field("auto", description=DEVICE_HELP)
    print_json: bool = Field(False, alias="json", description="print results.json and nothing else")

    _place_columns = columns_in_data


class StrangeSettings(Settings):
    """Fit a detector of prompts that are unlike those a model was tuned on; heed chat and heed eval then tell.

    heed strange --model RUN --background TEXT.txt
    """

    common = "model data background out limit device"

    model: PathText = Field(title="Model, data", description="run folder, or folder of another tuned model")
    data: Sources = Field((), description="data whose prompts are usual [default: what the run was tuned on]")
    background: Sources = Field(
        min_length=1, description="text or prompts of every other kind, by which strange is told from merely rare"
    )
    columns: Columns = Field({})
    out: PathText | None = Field(None, description="folder of strange.npz and strange.json [default: the model's]")
    template: PathText | None = Field(
        None, description="jinja file, folder, alpaca, chatml or plain [default: the model's own]"
    )
    limit: Whole = Field(4000, ge=0, description="prompts that are read, and as many of the background; 0 reads all")
    calibration_share: Number = Field(
        0.25, gt=0, lt=1, description="share of the prompts kept apart, with which others are compared"
    )
    seed: Whole = Field(0, ge=0, description="fixes which prompts are kept apart")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    device: Device = Field("auto", description=DEVICE_HELP)
    trust_remote_code: TrustRemoteCode = False

    _place_columns = columns_in_data
