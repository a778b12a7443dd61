"""`heed.data` from Python: what the commands of `heed data` do, as functions with the commands' settings.

Data may be a path, a hub name, a list of dicts, a `datasets.Dataset`, or a list of these, as for `heed.sft`. Records
that are given in memory are written to `OUT-data/` first, for what a command writes tells where its records are from.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heed.api import AnySettings, settings_of, sources_of
from heed.data_config import (
    DataCheckSettings,
    DataDecontaminateSettings,
    DataDedupeSettings,
    DataMendSettings,
    DataSelectSettings,
)
from heed.data_mix_config import DataCardSettings, DataMixSettings
from heed.errors import UserError

if TYPE_CHECKING:
    from typing import Unpack

    from heed.arguments import (
        DataCardArguments,
        DataCheckArguments,
        DataDecontaminateArguments,
        DataDedupeArguments,
        DataMendArguments,
        DataMixArguments,
        DataSelectArguments,
    )


def check(**settings: Unpack[DataCheckArguments]) -> dict[str, Any]:
    """Find what is wrong in data, as `heed data check` does; returns what its `--json` prints.

        [kind["kind"] for kind in heed.data.check(data="answers.jsonl")["kinds"] if kind["level"] == "error"]

    Raises:
        heed.UserError: told in five parts: what is wrong, where, what was found and expected, and what to do.
    """
    from heed.recipes.workshop import check as recipe

    with tempfile.TemporaryDirectory() as folder:
        chosen = settings_of(DataCheckSettings, settings, Path(folder))
        return recipe.run(chosen).as_json([source.path for source in chosen.data])


def mend(**settings: Unpack[DataMendArguments]) -> Path:
    """Mend broken text into a new file, as `heed data mend` does; returns that file, the changes beside it."""
    from heed.recipes.workshop import mend as recipe

    given: dict[str, Any] = dict(settings)
    if not isinstance(given.get("data", ""), str | os.PathLike):
        sources = sources_of(given["data"], _beside(given))
        if len(sources) != 1:
            raise UserError(
                "several data sets cannot be mended into one file",
                where="data",
                found=f"{len(sources):,} data sets",
                expected="one, so that every change can be taken back",
                fix="call heed.data.mend once for each",
            )
        given["data"] = sources[0]["path"]
    return recipe.run(settings_of(DataMendSettings, given, Path(), holds_data=())).out


def dedupe(**settings: Unpack[DataDedupeArguments]) -> Path:
    """Leave out records that say what another one says, as `heed data dedupe` does; returns the file."""
    from heed.recipes.workshop import dedupe as recipe

    return recipe.run(_chosen(DataDedupeSettings, settings, holds_data=("data", "against"))).out


def decontaminate(**settings: Unpack[DataDecontaminateArguments]) -> Path:
    """Leave out what stands in evaluation sets, as `heed data decontaminate` does; returns the file."""
    from heed.recipes.workshop import decontaminate as recipe

    return recipe.run(_chosen(DataDecontaminateSettings, settings, holds_data=("data",))).out


def mix(**settings: Unpack[DataMixArguments]) -> Path:
    """Mix data sets by weights or shares, as `heed data mix` does; returns the file, or the folder of Parquet files.

    heed.data.mix(data=["a.jsonl:50%", {"path": "b.jsonl", "share": 0.5}], as_="messages", out="mix.jsonl")
    """
    from heed.recipes.workshop import mix as recipe

    given = {key.removesuffix("_"): value for key, value in settings.items()}
    return recipe.run(_chosen(DataMixSettings, given)).out


def card(**settings: Unpack[DataCardArguments]) -> Path:
    """Write a README for the hub, as `heed data card` does; returns the file."""
    from heed.recipes.workshop import card as recipe

    return recipe.run(_chosen(DataCardSettings, settings))


def select(**settings: Unpack[DataSelectArguments]) -> Path:
    """Choose the records that are worth most, as `heed data select` does; returns the file, with `curve` the folder."""
    chosen = _chosen(DataSelectSettings, settings)
    if chosen.curve:
        from heed.recipes.workshop import curve

        curve.run(chosen, lambda line: None)
    else:
        from heed.recipes.workshop import select as recipe

        recipe.run(chosen, lambda line: None)
    return Path(chosen.out)


def _chosen(
    cls: type[AnySettings], given: Mapping[str, Any], holds_data: tuple[str, ...] = ("data", "eval_data")
) -> AnySettings:
    return settings_of(cls, given, _beside(given), holds_data)


def _beside(given: Mapping[str, Any]) -> Path:
    """Where records that are held in memory are written."""
    return Path(os.path.expanduser(str(given.get("out", ""))) + "-data")
