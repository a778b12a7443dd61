"""Settings of `heed data`: every command of the workshop, each setting defined once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from heed.config import Columns, Sources, TrustRemoteCode, columns_in_data
from heed.data_faults import KINDS
from heed.errors import UserError, typed
from heed.parallel_config import names_in
from heed.settings import Number, PathText, Settings, Text, Whole, nearest

__all__ = ["DataCheckSettings", "DataDecontaminateSettings", "DataDedupeSettings", "DataMendSettings"]

Kinds = Annotated[tuple[Text, ...], BeforeValidator(names_in)]
Workers = Annotated[Whole | None, Field(ge=1, description="processes that look at records [default: one a processor]")]


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
    heed data decontaminate DATA.jsonl --against gsm8k.jsonl arc.jsonl --coverage 0.8 --out CLEAN.jsonl
    """

    data: Sources = Field(min_length=1, description="file, folder or hub name; may be given several times")
    against: Annotated[tuple[PathText, ...], BeforeValidator(names_in)] = Field(
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
