"""Write src/heed/arguments.py from the settings, and docs/api.md from the docstrings. A test fails while one is old.

python tools/make_api.py
"""

import ast
import copy
import datetime
import importlib
import inspect
import keyword
import re
import textwrap
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import heed
from heed.config import DataSource, MergeSettings, SftSettings, ShowSettings
from heed.data_config import (
    DataCheckSettings,
    DataDecontaminateSettings,
    DataDedupeSettings,
    DataMendSettings,
    DataSelectSettings,
)
from heed.data_mix_config import DataCardSettings, DataMixSettings, MixSource
from heed.eval_config import CalibrateSettings, EvalSettings, KnownSettings
from heed.export_config import ExportSettings
from heed.plan_config import PlanSettings
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings, RewardSettings
from heed.settings import Settings

ROOT = Path(__file__).parents[1]
ARGUMENTS, PAGE = ROOT / "src" / "heed" / "arguments.py", ROOT / "docs" / "api.md"
COMMANDS = [
    SftSettings,
    RewardSettings,
    DpoSettings,
    PpoSettings,
    GrpoSettings,
    EvalSettings,
    MergeSettings,
    ExportSettings,
    PlanSettings,
    CalibrateSettings,
    KnownSettings,
    ShowSettings,
    DataCheckSettings,
    DataMendSettings,
    DataDedupeSettings,
    DataDecontaminateSettings,
    DataSelectSettings,
    DataMixSettings,
    DataCardSettings,
]
LEFT_OUT: dict[type[Settings], tuple[str, ...]] = {
    ShowSettings: ("data", "html"),
    EvalSettings: ("list",),
    DataCheckSettings: ("strict",),
}
"""given as the first argument, or for the command line alone, as `json` is everywhere"""

HEAD = '''"""The arguments of `heed.sft` and its brothers, for editors and type checkers.

Written by `python tools/make_api.py` from the settings; do not edit.
"""

from __future__ import annotations
'''

FOR_RECIPES = {
    "Objectives: pure functions of log-probabilities": [
        "heed.objectives.supervised",
        "heed.objectives.preference",
        "heed.objectives.policy",
        "heed.objectives.advantage",
        "heed.objectives.kl",
        "heed.objectives.ragged",
    ],
    "The forest: sequences that begin alike, merged": ["heed.forest.build", "heed.forest.plan", "heed.forest.weights"],
    "The forward and the step": ["heed.models.score", "heed.models.heads.token_logp", "heed.train.step"],
}

OPENING = """\
# heed from Python

```python
import heed

run = heed.sft(model="path/to/base", data="answers.jsonl", out="runs/first", epochs=2)
print(run.numbers["nll_per_token"])
print(run.load().answers(["Name a fruit."]))
```

`import heed` loads nothing heavy; torch comes with the first use. The arguments of `heed.sft`, `reward`, `dpo`,
`ppo`, `grpo`, `eval`, `merge`, `export`, `plan`, `calibrate`, `known` and `show` are the settings of those commands,
[one table each](settings.md); editors complete them. Mistakes are `heed.UserError`s in the same five parts as on the
command line. The functions and classes are what heed promises to keep. On a machine with other work, set
`GOMP_SPINCOUNT=1000` before Python starts, as the command line does for itself: threads that wait for one another
then sleep instead of spinning ([measured](../bench/RESULTS.md)).
Written by `python tools/make_api.py` from the docstrings; do not edit."""


def spelt(annotation: Any) -> str:
    """A setting's type as an argument's: paths may be `Path`s, tuples any sequence, data sets what holds records."""
    parts: list[str] = []

    def add(of: Any) -> None:
        origin = get_origin(of)
        if origin is Annotated:
            add(get_args(of)[0])
        elif origin in (Union, UnionType):
            for each in get_args(of):
                add(each)
        elif origin is Literal:
            parts.append(f"Literal[{', '.join(repr(each).replace(chr(39), chr(34)) for each in get_args(of))}]")
        elif origin in (tuple, list):
            item = get_args(of)[0]
            is_data = isinstance(item, type) and issubclass(item, DataSource | MixSource)
            parts.append("Data" if is_data else f"Sequence[{spelt(item)}]")
        elif origin is dict or of is dict:
            parts.append("dict[str, Any]")
        elif of is NoneType:
            parts.append("None")
        elif of is str:
            parts.append("str | os.PathLike[str]")
        elif of is datetime.date:
            parts.append("datetime.date | str")
        elif of in (int, float, bool):
            parts.append(of.__name__)
        else:
            parts.append("Any")

    add(annotation)
    return " | ".join(dict.fromkeys(parts))


def typed_dict(settings: type[Settings], done: dict[str, str]) -> str:
    """The name of the TypedDict of these settings; its text, and that of its sections, goes to `done`."""
    name = settings.__name__.removesuffix("Settings") + "Arguments"
    lines = [f"class {name}(TypedDict, total=False):", f'    """{(settings.__doc__ or "").splitlines()[0]}"""', ""]
    for key, field in settings.model_fields.items():
        key = field.alias or key
        if key == "json" or key in LEFT_OUT.get(settings, ()):
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            kind, says = typed_dict(inner, done), (inner.__doc__ or key).splitlines()[0]
        else:
            kind, says = spelt(inner), field.description or ""
        key = f"{key}_" if keyword.iskeyword(key) else key
        kind = f"Required[{kind}]" if field.is_required() else kind
        text = re.sub(r"\s+", " ", says).replace('"', "'")
        lines += [f"    {key}: {kind}", f'    """{text}"""']
    done[name] = "\n".join(lines)
    return name


def arguments() -> str:
    done: dict[str, str] = {}
    for settings in COMMANDS:
        typed_dict(settings, done)
    classes = "\n\n\n".join(done.values()) + "\n"
    used = set(re.findall(r"\w+", re.sub(r'""".*?"""', "", classes, flags=re.DOTALL)))
    typing = [name for name in ("Any", "Literal", "Required") if name in used]
    imports = [f"import {name}" for name in ("datetime", "os") if name in used]
    imports += ["from collections.abc import Sequence"] if "Sequence" in used else []
    imports += [f"from typing import {', '.join(['TYPE_CHECKING', *typing, 'TypedDict'])}"]
    return "\n".join([HEAD, *imports, "", "if TYPE_CHECKING:", "    from heed.api import Data", "", "", classes])


def signature(name: str, node: ast.FunctionDef) -> str:
    """How a function is called, as its source says it."""
    given = copy.deepcopy(node.args)
    given.args = [each for each in given.args if each.arg != "self"]
    if given.kwarg is not None:
        given.kwarg.annotation = None  # the settings, which have a page of their own
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"{name}({ast.unparse(given)}){returns}"


def documented(name: str, of: Any, level: int) -> list[str]:
    """A heading with the call, the docstring; of a class its fields and methods, too."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    title = signature(name, node) if isinstance(node, ast.FunctionDef) else name
    lines = ["", f"{'#' * level} `{title}`", "", *as_markdown(inspect.getdoc(of) or "")]
    if isinstance(node, ast.ClassDef):
        lines += [*fields(node), *methods(node)]
    return lines


def fields(node: ast.ClassDef) -> list[str]:
    """The public fields of a dataclass, with what is written below each."""
    lines = []
    for place, each in enumerate(node.body):
        if isinstance(each, ast.AnnAssign) and not ast.unparse(each.target).startswith("_"):
            below = node.body[place + 1] if place + 1 < len(node.body) else None
            says = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            text = f": {' '.join(str(says).split())}" if says else ""
            lines.append(f"- `{ast.unparse(each.target)}: {ast.unparse(each.annotation)}`{text}")
    return ["", *lines] if lines else []


def methods(node: ast.ClassDef) -> list[str]:
    lines = []
    for each in node.body:
        if not isinstance(each, ast.FunctionDef) or each.name.startswith("_"):
            continue
        marks = {ast.unparse(mark) for mark in each.decorator_list}
        if "overload" in marks:
            continue
        shown = f".{each.name}" if "property" in marks else signature(f".{each.name}", each)
        lines += ["", f"**`{shown}`**", *(["", *as_markdown(text)] if (text := ast.get_docstring(each)) else [])]
    return lines


def as_markdown(docstring: str) -> list[str]:
    """Docstrings are Markdown already, but for the sections of arguments."""
    lines: list[str] = []
    for line in docstring.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises):", line):
            lines += [f"*{line[:-1]}*", ""]
        elif re.match(r"    \w[\w, .]*: ", line) and "(" not in line.split(":")[0]:
            lines.append("- " + re.sub(r"^    ([\w, .]+): ", r"`\1`: ", line))
        else:
            lines.append(line)
    return lines


def page() -> str:
    lines = [OPENING]
    functions = [name for name in heed.__all__ if inspect.isfunction(getattr(heed, name))]
    classes = [name for name in heed.__all__ if name not in functions]
    lines += ["", "## Functions"]
    for name in functions:
        lines += documented(f"heed.{name}", getattr(heed, name), 3)
    lines += ["", "## Data", "", "As `heed data` does; `import heed` is enough."]
    for name in heed.data.__all__:
        lines += documented(f"heed.data.{name}", getattr(heed.data, name), 3)
    lines += ["", "## Classes"]
    for name in classes:
        lines += documented(f"heed.{name}", getattr(heed, name), 3)
    lines += ["", "# Parts for a recipe of your own", "", "`examples/own_objective.py` puts them together."]
    for title, modules in FOR_RECIPES.items():
        lines += ["", f"## {title}"]
        for name in modules:
            module = importlib.import_module(name)
            lines += ["", f"### `{name}`", "", *as_markdown(inspect.getdoc(module) or "")]
            for key, value in vars(module).items():
                is_ours = getattr(value, "__module__", None) == name and not key.startswith("_")
                if is_ours and (inspect.isfunction(value) or (inspect.isclass(value) and is_dataclass(value))):
                    lines += documented(key, value, 4)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    for path, text in ((ARGUMENTS, arguments()), (PAGE, page())):
        path.write_text(text, encoding="utf-8")
        print(f"{path.name} written")
