"""Settings of the commands of `heed data` that make a data set to give away: `mix` and `card`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from heed.config import Columns, Sources, TrustRemoteCode, columns_in_data, sources_in
from heed.data_config import Workers
from heed.errors import UserError, typed
from heed.parallel_config import names_in
from heed.plan_config import AMOUNT, num_bytes
from heed.settings import Number, PathText, Settings, Text, Whole

__all__ = ["DataCardSettings", "DataMixSettings", "MixSource", "size_of_shards"]

MIX_TAIL = re.compile(r"(.+):(\d+(?:\.\d+)?|\.\d+)(%?)")
"""how much of a data set: A.jsonl:0.5 is a weight, A.jsonl:50% a share of the mixture"""


class MixSource(Settings):
    """One data set of a mixture."""

    path: Text = Field(description="file, folder or hub name")
    weight: Number = Field(1.0, gt=0, description="how often its records are drawn, relative to once each")
    share: Number | None = Field(None, gt=0, le=1, description="of the mixture, in place of a weight")
    cap: Whole | None = Field(
        None, ge=1, description="records that count at most, so that a huge data set does not drown others"
    )
    columns: Columns = Field({})

    @model_validator(mode="before")
    @classmethod
    def _how_much(cls, given: Any) -> Any:
        """Take `PATH:0.5` and `PATH:50%` apart, unless there is such a file."""
        if not isinstance(given, Mapping) or not isinstance(path := given.get("path"), str):
            return given
        found = MIX_TAIL.fullmatch(path)
        if found is None or {"weight", "share"} & given.keys() or os.path.exists(os.path.expanduser(path)):
            return given
        amount = {"share": float(found[2]) / 100} if found[3] else {"weight": float(found[2])}
        return {**given, "path": found[1], **amount}

    @model_validator(mode="after")
    def _one_way(self) -> MixSource:
        if self.share is not None and self.weight != 1:
            raise UserError(
                "a data set has a weight and a share",
                where=f"data, {self.path}",
                found=f"weight: {self.weight:g}, share: {self.share:g}",
                expected="one of them: a weight counts its own records, a share those of the mixture",
                fix=f"share: {self.share:g}, without a weight",
            )
        return self


MixSources = Annotated[tuple[MixSource, ...], BeforeValidator(sources_in), Field(min_length=1)]


def _amount(given: object) -> object:
    if given is None or (isinstance(given, str) and (found := AMOUNT.fullmatch(given.strip())) and float(found[1]) > 0):
        return given
    raise UserError(
        "the size of a shard needs a number and a unit",
        where="--shards",
        found=str(given),
        expected="a number above 0 and MB or GB, MiB or GiB: 200MB",
        fix="--shards 200MB",
    )


class DataMixSettings(Settings):
    """Mix data sets by weights or shares, into one file or Parquet shards, the same for the same seed.

    heed data mix A.jsonl:0.5 B.jsonl:2 C.parquet --out MIX.jsonl
    heed data mix A.jsonl:50% B.jsonl:30% C.parquet:20% --size 10000 --as messages --out MIX.jsonl
    heed data mix mixture.yaml --out MIX --shards 200MB
    """

    common: ClassVar = "data out size cap as shards seed"

    data: MixSources = Field(
        description="file, folder or hub name, each with a weight behind a colon, as A.jsonl:0.5, or a share of "
        "the mixture, as A.jsonl:50%"
    )
    columns: Columns = Field({})
    out: PathText = Field(
        description="file to write, .jsonl, or a folder for Parquet; what was drawn stands beside it, in .mixture.yaml"
    )
    size: Whole | None = Field(
        None,
        ge=1,
        description="records of the mixture [default: as the weights say; with shares as many as can be]",
    )
    cap: Whole | None = Field(None, ge=1, description="records of each data set that count at most, unless it says so")
    repeat: bool = Field(False, description="draw records again where a data set has fewer than its part of --size")
    as_shape: Literal["messages", "alpaca", "preference"] | None = Field(
        None, alias="as", description="shape that all records are written in [default: each as it stands]"
    )
    shards: Annotated[str | None, BeforeValidator(_amount)] = Field(
        None, description="size of the Parquet files in the folder, as 200MB [default: 500MB]"
    )
    seed: Whole = Field(0, ge=0, description="of the order, and of what is drawn where not all is")
    workers: Workers = None

    _place_columns = columns_in_data

    @model_validator(mode="after")
    def _place(self) -> DataMixSettings:
        suffix = os.path.splitext(self.out)[1]
        if suffix not in ("", ".jsonl") or (suffix and self.shards):
            folder = os.path.splitext(self.out)[0]
            raise UserError(
                "the kind of file to write is not known" if suffix != ".jsonl" else "shards need a folder",
                where="--out",
                found=self.out,
                expected="a name that ends in .jsonl, or the name of a folder for Parquet files",
                fix=f"--out {typed(folder)}",
            )
        return self


def size_of_shards(settings: DataMixSettings) -> int:
    """Bytes of a Parquet file, from which on the next one begins."""
    return num_bytes((settings.shards or "500MB").strip())


class DataCardSettings(Settings):
    """Write a README for the hub: counts, languages, findings, where the records come from, examples.

    heed data card MIX.jsonl --out README.md --licence cc-by-4.0 --name "My data"
    heed data card train.jsonl --eval-data test.jsonl --out README.md
    """

    data: Sources = Field(min_length=1, description="file, folder or hub name; may be given several times")
    columns: Columns = Field({})
    eval_data: Sources = Field((), description="held-out data, the split `test`")
    out: PathText = Field(description="file to write, .md; README.md is what the hub shows")
    licence: Text | None = Field(None, description="of the data, as cc-by-4.0 [default: not said]")
    name: Text | None = Field(None, description="of the data set [default: the first file's]")
    languages: Annotated[tuple[Text, ...], BeforeValidator(names_in)] = Field(
        (), description="codes of ISO 639, as vi,en [default: as found]"
    )
    examples: Whole = Field(2, ge=0, le=20, description="records that are shown")
    model: PathText | None = Field(None, description="model whose tokens are counted [default: characters alone]")
    workers: Workers = None
    trust_remote_code: TrustRemoteCode = False

    _place_columns = columns_in_data

    @model_validator(mode="after")
    def _is_markdown(self) -> DataCardSettings:
        if not self.out.endswith(".md"):
            raise UserError(
                "the kind of file to write is not known",
                where="--out",
                found=self.out,
                expected="a name that ends in .md",
                fix=f"--out {typed(os.path.splitext(self.out)[0] + '.md')}",
            )
        return self
