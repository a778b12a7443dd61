"""heed from Python: the command line's settings as typed arguments, and runs, records and models to look at.

Every function of training takes what its command takes (`docs/settings.md`), with `-` written `_` and a section as a
mapping: `optim={"lr": 1e-4}`. Data may be a path, a hub name, a list of dicts, a `datasets.Dataset`, or a list of
these. What a run needs to be repeated or resumed is on the disk: records that are given in memory are written to
`OUT-data/` first.
"""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from heed.config import MergeSettings, ReportSettings, SftSettings, ShowSettings
from heed.errors import refuse_windows
from heed.eval_config import CalibrateSettings, EvalSettings, KnownSettings
from heed.export_config import ExportSettings
from heed.plan_config import PlanSettings
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings, RewardSettings
from heed.settings import Settings, flat, load_settings

if TYPE_CHECKING:
    from typing import Unpack

    from heed.arguments import (
        CalibrateArguments,
        DpoArguments,
        EvalArguments,
        ExportArguments,
        GrpoArguments,
        KnownArguments,
        MergeArguments,
        PlanArguments,
        PpoArguments,
        RewardArguments,
        SftArguments,
        ShowArguments,
    )
    from heed.recipes.library.model import Model
    from heed.recipes.show import Shown
    from heed.types import Conversation, Document, Finding, Judged, Ranking

Data: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]"
"""a path or hub name; `{"path": ..., "weight": ...}`; a list of dicts or a `datasets.Dataset`; or a list of these"""
HOLDS_DATA = ("data", "eval_data", "ptx.data")
SOURCE_KEYS = {"path", "records"}
"""a mapping with one of these keys names a data set; any other is a record"""
AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True)
class Run:
    """A run folder, and what is written in it."""

    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """`config.yaml`: every setting as it was resolved."""
        import yaml

        return dict(yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """`metrics.jsonl`: a dict for each step (`phase` "train") and each measurement (`phase` "held_out")."""
        return _json_lines(self.folder / "metrics.jsonl")

    @property
    def samples(self) -> list[dict[str, Any]]:
        """`samples.jsonl`: answers that the model gave on the way."""
        return _json_lines(self.folder / "samples.jsonl")

    @property
    def numbers(self) -> dict[str, float]:
        """The last value of every number that was logged; one that was measured on held-out data is that one.

        docs/metrics.md defines each.
        """
        lines = sorted(self.metrics, key=lambda line: line["phase"] == "held_out")
        return {name: value for line in lines for name, value in line.items() if isinstance(value, int | float)}

    def history(self, phase: Literal["train", "held_out"] = "train") -> dict[str, list[float]]:
        """The numbers of a phase as columns, which `pandas.DataFrame` takes; NaN where a line lacks one."""
        lines = [line for line in self.metrics if line["phase"] == phase]
        names = dict.fromkeys(name for line in lines for name, value in line.items() if not isinstance(value, str))
        return {name: [line.get(name, float("nan")) for line in lines] for name in names}

    @property
    def report(self) -> Path:
        """The run's page of pictures, for a browser."""
        return self.folder / "report.html"

    def load(self, *, device: str = "auto", dtype: Literal["float32", "bfloat16"] = "float32") -> Model:
        """The tuned model, to be asked."""
        return load(self, device=device, dtype=dtype)

    def __str__(self) -> str:
        return str(self.folder)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{value:.6g}</td></tr>" for name, value in self.numbers.items()
        )
        where = html.escape(str(self.folder))
        return f"<p><code>{where}</code>, pictures in <code>{where}/report.html</code></p><table>{rows}</table>"


@dataclass(frozen=True)
class ShownRecords(Sequence["Shown | Finding"]):
    """Records as the model will read them. A notebook draws them, trained tokens in colour; `print` does without."""

    items: tuple[Shown | Finding, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        from heed.cli.show import as_text

        return as_text(self.items)

    def _repr_html_(self) -> str:
        from heed.cli.page import page

        drawn = html.escape(page(list(self.items)), quote=True)
        return f'<iframe srcdoc="{drawn}" style="width: 100%; height: 32em; border: 0"></iframe>'


def sft(**settings: Unpack[SftArguments]) -> Run:
    """Tune a model on instructions and answers, as `heed sft` does; a run that is there already is gone on with.

        run = heed.sft(model="path/to/base", data=[{"instruction": "...", "output": "..."}], out="runs/first")

    Raises:
        heed.UserError: told in five parts: what is wrong, where, what was found and expected, and what to do.
    """
    from heed.recipes import sft as recipe

    return _trained(recipe.run, SftSettings, settings)


def reward(**settings: Unpack[RewardArguments]) -> Run:
    """Train a reward model on ranked answers, as `heed reward` does."""
    from heed.recipes import reward as recipe

    return _trained(recipe.run, RewardSettings, settings)


def dpo(**settings: Unpack[DpoArguments]) -> Run:
    """Learn from preferences without a reward model, as `heed dpo` does: DPO, IPO, SimPO or KTO."""
    from heed.recipes import dpo as recipe

    return _trained(recipe.run, DpoSettings, settings)


def ppo(**settings: Unpack[PpoArguments]) -> Run:
    """Learn from rewards by PPO, as `heed ppo` does."""
    from heed.recipes import ppo as recipe

    return _trained(recipe.run, PpoSettings, settings)


def grpo(**settings: Unpack[GrpoArguments]) -> Run:
    """Learn from rewards by group-relative advantages, as `heed grpo` does."""
    from heed.recipes import grpo as recipe

    return _trained(recipe.run, GrpoSettings, settings)


def merge(**settings: Unpack[MergeArguments]) -> Path:
    """Fold an adapter into its base model, as `heed merge` does; returns the folder of the merged model."""
    from heed.recipes import merge as recipe

    chosen = settings_of(MergeSettings, settings, Path())
    recipe.run(chosen, say=lambda line: None)
    return Path(chosen.out)


def export(**settings: Unpack[ExportArguments]) -> Path:
    """Write a tuned model as GGUF or as a folder, as `heed export` does; returns where it is."""
    from heed.recipes import export as recipe

    chosen = settings_of(ExportSettings, settings, Path())
    recipe.run(chosen, say=lambda line: None)
    return Path(chosen.out)


def plan(**settings: Unpack[PlanArguments]) -> dict[str, Any]:
    """What a run will hold in the memory of each device, as `heed plan` tells; returns what its `--json` prints.

    heed.plan(model="path/to/model", world=64, memory="80GB")["total"]
    """
    from heed.recipes import plan as recipe

    return recipe.as_json(*recipe.run(settings_of(PlanSettings, settings, Path())))


def known(**settings: Unpack[KnownArguments]) -> Path:
    """Ask a base model what it knows, as `heed known` does; returns the file of records that teach it the border.

    heed.sft(model="path/to/base", data=heed.known(model="path/to/base", data="questions.jsonl", out="known"), ...)
    """
    from heed.recipes import known as recipe

    out = os.path.expanduser(str(settings.get("out", "")))
    recipe.run(settings_of(KnownSettings, settings, Path(f"{out}-data")))
    return Path(out) / recipe.RECORDS


def calibrate(**settings: Unpack[CalibrateArguments]) -> dict[str, Any]:
    """Make a model's confidence honest and certify a threshold, as `heed calibrate` does; returns `honesty.json`.

        heed.calibrate(run="runs/eval", max_error=0.1)["threshold"]

    Raises:
        heed.UserError: nothing can be certified, and how many more items it would take.
    """
    from heed.recipes import calibrate as recipe

    return dict(recipe.run(settings_of(CalibrateSettings, settings, Path())).content)


def eval(**settings: Unpack[EvalArguments]) -> dict[str, Any]:
    """Measure models on tasks, as `heed eval` does; returns what `results.json` in its `out` holds.

    results = heed.eval(model=["path/to/base", "runs/first"], task=["arc=arc.jsonl"], out="runs/eval")
    """
    from heed.recipes import eval as recipe

    return recipe.run(settings_of(EvalSettings, settings, Path()))


def write_report(*runs: Run | str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Draw runs as one page, as `heed report` does; returns the page's path."""
    from heed.recipes import report as recipe

    given = {"runs": tuple(map(str, runs)), "out": None if out is None else str(out)}
    return Path(recipe.run(load_settings(ReportSettings, None, given)))


def read(data: Data) -> Iterator[Conversation | Ranking | Judged | Document]:
    """Every record of a data set as heed understands it, in order.

    Raises:
        heed.UserError: when a broken record is reached.
    """
    from heed.data.read import read as records

    with tempfile.TemporaryDirectory() as folder:
        for source in sources_of(data, Path(folder)):
            for _, noun in records(str(source["path"]), source.get("columns")):
                yield noun


def show(data: Data, **settings: Unpack[ShowArguments]) -> ShownRecords:
    """What a model will read of the first records, and which tokens are trained, as `heed show` draws it.

    heed.show("answers.jsonl", model="path/to/base", limit=5)
    """
    from heed.recipes import show as recipe

    with tempfile.TemporaryDirectory() as folder:
        chosen = settings_of(ShowSettings, {**settings, "data": data}, Path(folder))
        return ShownRecords(tuple(recipe.run(chosen)))


def load(
    model: Run | str | os.PathLike[str],
    *,
    template: str | None = None,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    trust_remote_code: bool = False,
) -> Model:
    """A run, a model's folder, an adapter, a reward model or a hub name, to be asked.

        model = heed.load("runs/first")
        model.answers(["Name a fruit."])
        model.logp("Name a fruit.", ["Apple.", "Stone."])
        heed.load("runs/reward").reward("Name a fruit.", "Apple.")

    Args:
        template: the chat template to speak to it in; needed for a base model that has none.
        device: auto, cpu, cuda or cuda:N.
        dtype: of weights and activations.
        trust_remote_code: run Python code that comes with the model, with all that this account may do.
    """
    from heed.recipes.library.model import open_model

    return open_model(
        os.path.expanduser(str(model)),
        template=template,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )


# ---- arguments into settings


def _trained(recipe: Any, cls: type[AnySettings], given: Mapping[str, Any]) -> Run:
    out = os.path.expanduser(str(given.get("out", "")))
    settings = settings_of(cls, given, Path(f"{out}-data"))
    recipe(settings)
    return Run(Path(out))


def settings_of(
    cls: type[AnySettings], given: Mapping[str, Any], folder: Path, holds_data: Sequence[str] = HOLDS_DATA
) -> AnySettings:
    """The settings; records that are held in memory, under the keys `holds_data`, are written to `folder`."""
    refuse_windows()
    plain: dict[str, Any] = flat(cls, given, "arguments")
    for key, value in plain.items():
        if key in holds_data:
            plain[key] = sources_of(value, folder)
        elif isinstance(value, os.PathLike | Run):
            plain[key] = str(value)
        elif isinstance(value, list | tuple):
            plain[key] = [str(each) if isinstance(each, os.PathLike | Run) else each for each in value]
    return load_settings(cls, None, plain)


def sources_of(data: Data, folder: Path) -> list[dict[str, Any]]:
    """Data sets as mappings with a path."""
    if isinstance(data, str | os.PathLike) or _is_source(data):
        return [_source(data, folder)]
    if _is_table(data):
        return [_source(data, folder)]
    return [_source(each, folder) for each in data]


def _source(data: Any, folder: Path) -> dict[str, Any]:
    from heed.recipes.library.records import write_records

    if isinstance(data, str | os.PathLike):
        return {"path": str(data)}
    if _is_source(data):
        others = {key: value for key, value in data.items() if key not in SOURCE_KEYS}
        return {**_source(data.get("records", data.get("path")), folder), **others}
    return {"path": str(write_records(data, folder))}


def _is_source(data: Any) -> bool:
    return isinstance(data, Mapping) and bool(SOURCE_KEYS & data.keys())


def _is_table(data: Any) -> bool:
    """Whether this is one data set of records, and not a list of data sets."""
    if not isinstance(data, Sequence):
        return True
    return not any(isinstance(each, str | os.PathLike | list | tuple) or _is_source(each) for each in data)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
