"""Settings of `heed data`: every command of the workshop, each setting defined once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from heed.config import DEVICE_HELP, Columns, Device, Sources, TrustRemoteCode, columns_in_data
from heed.data_faults import KINDS
from heed.errors import UserError, typed
from heed.parallel_config import names_in
from heed.settings import Number, PathText, Settings, Text, Whole, nearest

__all__ = [
    "DataCheckSettings",
    "DataDecontaminateSettings",
    "DataDedupeSettings",
    "DataMendSettings",
    "DataSelectSettings",
]

Kinds = Annotated[tuple[Text, ...], BeforeValidator(names_in)]


def numbers_in(value: object) -> object:
    """Let several whole numbers stand in one text with commas between, and a single one without a list."""
    names = names_in(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
    if isinstance(names, tuple):
        return tuple(int(name) if name.isdecimal() else name for name in names)
    return value


Workers = Annotated[Whole | None, Field(ge=1, description="processes that look at records [default: one a processor]")]


def _several(value: object) -> object:
    """Let a single path stand without a list; a comma may be part of it."""
    return [value] if isinstance(value, str) else value


def _known(kinds: tuple[str, ...], option: str) -> None:
    for kind in kinds:
        if kind not in KINDS:
            near = nearest(kind, list(KINDS))
            raise UserError(
                f"there is no kind '{kind}'",
                where=option,
                found=kind,
                expected=f"names of the first column of the table: {', '.join(KINDS)}",
                fix=f"{option} {near}" if near else f"{option} {next(iter(KINDS))}",
            )


class DataCheckSettings(Settings):
    """Find what is wrong in instruction and preference data: broken text, bad answers, duplicates, habits.

    heed data check DATA.jsonl
    heed data check TRAIN.jsonl --eval-data TEST.jsonl --model MODEL --html findings.html
    heed data check DATA.jsonl --strict --ignore refusal,cut-off
    """

    common: ClassVar = "data eval_data model only ignore html out strict"

    data: Sources = Field(min_length=1, description="file, folder or hub name; may be given several times")
    columns: Columns = Field({})
    eval_data: Sources = Field((), description="held-out data, whose prompts should not be among the others")
    model: PathText | None = Field(None, description="model whose positions the lengths are compared with")
    template: PathText | None = Field(None, description="chat template for the lengths [default: the model's]")
    only: Kinds = Field((), description="kinds to look for, by the names of the table [default: all]")
    ignore: Kinds = Field((), description="kinds not to look for")
    examples: Whole = Field(3, ge=0, description="findings of each kind that are shown")
    out: PathText | None = Field(None, description="file for all findings, a line of JSON each")
    html: PathText | None = Field(None, description="file for the findings as a page")
    strict: bool = Field(False, description="exit with 1 where there are errors, for a machine that tests data")
    workers: Workers = None
    trust_remote_code: TrustRemoteCode = False
    print_json: bool = Field(False, alias="json", description="print one JSON object, and nothing else")

    _place_columns = columns_in_data

    @model_validator(mode="after")
    def _known_kinds(self) -> DataCheckSettings:
        _known(self.only, "--only")
        _known(self.ignore, "--ignore")
        return self


class DataMendSettings(Settings):
    """Mend text that is broken for certain, into a new file, with a list of changes that undoes them all.

    heed data mend DATA.jsonl --out MENDED.jsonl
    heed data mend DATA.jsonl --guess --out MENDED.jsonl
    heed data mend MENDED.jsonl --undo MENDED.changes.jsonl --out AGAIN.jsonl
    """

    data: PathText = Field(description="file, folder or hub name")
    out: PathText = Field(description="file to write, .jsonl; the changes are listed beside it, in .changes.jsonl")
    safe: bool = Field(False, description="what is certain: encodings, composed accents, control characters [default]")
    guess: bool = Field(False, description="what is certain, and letters of which a byte was lost, as likely")
    undo: PathText | None = Field(None, description="changes that are to be taken back")
    workers: Workers = None

    @model_validator(mode="after")
    def _one_way(self) -> DataMendSettings:
        chosen = [name for name in ("safe", "guess", "undo") if getattr(self, name)]
        if len(chosen) > 1:
            raise UserError(
                "two ways to mend exclude one another",
                where="command line",
                found=" and ".join(f"--{name}" for name in chosen),
                expected="--safe, --guess or --undo CHANGES",
                fix=f"--{chosen[0]}" + (f" {typed(self.undo)}" if chosen[0] == "undo" and self.undo else ""),
            )
        _lines_of_json(self.out, "--out")
        return self


class DataDedupeSettings(Settings):
    """Leave out records that say what another one says, or nearly, and those that stand in held-out data.

    heed data dedupe DATA.jsonl --out UNIQUE.jsonl
    heed data dedupe A.jsonl B.jsonl --near 0.8 --keep longest --clusters CLUSTERS.jsonl --out UNIQUE.jsonl
    heed data dedupe TRAIN.jsonl --against TEST.jsonl --out UNIQUE.jsonl
    """

    data: Sources = Field(min_length=1, description="file, folder or hub name; may be given several times")
    columns: Columns = Field({})
    out: PathText = Field(description="file to write, .jsonl: the records that are left, as they stood")
    near: Number | None = Field(
        None,
        ge=0.3,
        le=1,
        description="Jaccard similarity of their runs of three words from which on two records are one "
        "[default: word for word alone]",
    )
    against: Sources = Field(
        (), description="held-out data: what stands there, or asks what is asked there, is left out"
    )
    keep: Literal["first", "longest", "best"] = Field(
        "first", description="which one stays; best: fewest faults by heed data check, then the longest"
    )
    by: Literal["record", "prompt", "answer"] = Field("record", description="what of a record is compared")
    clusters: PathText | None = Field(None, description="file for the clusters, a line of JSON each, .jsonl")
    workers: Workers = None

    _place_columns = columns_in_data

    @model_validator(mode="after")
    def _files_of_lines(self) -> DataDedupeSettings:
        _lines_of_json(self.out, "--out")
        if self.clusters is not None:
            _lines_of_json(self.clusters, "--clusters")
        return self


class DataDecontaminateSettings(Settings):
    """Leave out records that hold questions or answers of evaluation sets, each with the match shown.

    heed data decontaminate DATA.jsonl --against EVALUATION_SETS/ --out CLEAN.jsonl
    heed data decontaminate DATA.jsonl --against gsm8k.jsonl --against arc.jsonl --coverage 0.8 --out CLEAN.jsonl
    """

    data: Sources = Field(min_length=1, description="file, folder or hub name; may be given several times")
    against: Annotated[tuple[PathText, ...], BeforeValidator(_several)] = Field(
        min_length=1, description="evaluation sets: files in any layout, folders of them, or hub names"
    )
    out: PathText = Field(
        description="file to write, .jsonl: the records that are left; the others stand beside it, in .removed.jsonl"
    )
    coverage: Number = Field(
        0.5, gt=0, le=1, description="share of a text's runs of words, from which on a record holds that text"
    )
    n: Whole = Field(8, ge=4, le=50, description="words in a run; shorter texts are not looked for")
    workers: Workers = None

    @model_validator(mode="after")
    def _file_of_lines(self) -> DataDecontaminateSettings:
        _lines_of_json(self.out, "--out")
        return self


def _lines_of_json(path: str, option: str) -> None:
    if not path.endswith(".jsonl"):
        raise UserError(
            "the kind of file to write is not known",
            where=option,
            found=path,
            expected="a name that ends in .jsonl",
            fix=f"{option} {typed(path.rstrip('/') + '.jsonl')}",
        )


Way = Literal["ifd", "longest", "k-center", "deita", "random"]
ALWAYS: tuple[Way, ...] = ("random", "longest")
"""beside which every way of choosing stands on a curve"""
NEED_MODEL = ("ifd", "k-center", "deita")


class DataSelectSettings(Settings):
    """Choose the records that are worth most for tuning, and measure whether a choice is better than one at random.

    heed data select DATA.jsonl --model MODEL --budget 500 --by ifd --out CHOSEN.jsonl
    heed data select DATA.jsonl --budget 500 --by longest --out CHOSEN.jsonl
    heed data select DATA.jsonl --model MODEL --by ifd,k-center --curve --eval-data TEST.jsonl --out CURVE
    """

    common: ClassVar = "data model budget by out curve eval_data seed"

    data: Sources = Field(min_length=1, description="file, folder or hub name; may be given several times")
    columns: Columns = Field({})
    out: PathText = Field(description="file to write, .jsonl, scores beside it; with --curve a folder")
    model: PathText | None = Field(None, description="model whose losses, states or tokens decide")
    template: PathText | None = Field(None, description="chat template [default: the model's, or alpaca]")
    budget: Whole = Field(500, ge=1, description="records to choose; with --curve at most")
    by: Annotated[tuple[Way, ...], BeforeValidator(names_in), Field(min_length=1)] = Field(
        ("ifd",), description="ifd, longest, k-center, deita or random; several with --curve, as ifd,deita"
    )
    threshold: Number = Field(
        0.9, gt=-1, le=1, description="of deita: the cosine above which records are too much alike"
    )
    seed: Whole = Field(0, ge=0, description="of random; with --curve the first of --seeds")
    all_scores: PathText | None = Field(None, description="file for the scores of all records, a line of JSON each")
    max_tokens: Whole | None = Field(
        None, ge=1, description="tokens per forward, for memory alone [default: enough to keep the device busy]"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the model's weights and activations")
    device: Device = Field("auto", description=DEVICE_HELP)
    workers: Workers = None
    trust_remote_code: TrustRemoteCode = False
    curve: bool = Field(False, title="Curve", description="tune on growing choices by each way and measure the models")
    eval_data: Sources = Field((), description="held-out data that tuned models are measured on")
    budgets: Annotated[tuple[Annotated[Whole, Field(ge=1)], ...], BeforeValidator(numbers_in)] = Field(
        (), description="records of each choice, as 50,100,200 [default: five up to --budget, each twice the last]"
    )
    seeds: Whole = Field(3, ge=2, description="tunings of each choice, which differ in seed")
    steps: Whole = Field(100, ge=1, description="optimiser steps of every tuning, whatever the number of records")
    tuning: PathText | None = Field(None, description="YAML of heed sft settings for the tunings, in place of --steps")
    print_json: bool = Field(False, alias="json", description="print one JSON object, and nothing else")

    _place_columns = columns_in_data

    @model_validator(mode="after")
    def _fits_together(self) -> DataSelectSettings:
        if self.curve and not self.eval_data:
            raise UserError(
                "a curve needs held-out data",
                where="--curve",
                found="no --eval-data",
                expected="records that are not chosen from, to measure the tuned models on",
                fix="--eval-data TEST.jsonl",
            )
        if len(self.by) > 1 and not self.curve:
            raise UserError(
                "one way chooses at a time",
                where="--by",
                found=", ".join(self.by),
                expected="one way; several are for --curve, which compares them",
                fix=f"--by {self.by[0]}",
            )
        needy = "--curve" if self.curve else next((f"--by {way}" for way in self.by if way in NEED_MODEL), None)
        if needy and self.model is None:
            raise UserError(
                "this needs a model",
                where=needy,
                found="no --model",
                expected="a model folder, a run or a hub name",
                fix="--model MODEL" + ("" if self.curve else "; --by longest and --by random do without"),
            )
        return self

    def sizes(self) -> tuple[int, ...]:
        """Records of each choice of a curve, rising."""
        if self.budgets:
            return tuple(sorted(set(self.budgets)))
        return tuple(sorted({max(1, self.budget // 2**halvings) for halvings in range(5)}))
