"""The rules of the house, checked like any other behaviour, and checked to be able to fail."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from heed.config import ChatSettings, MergeSettings, SftSettings, ShowSettings
from heed.eval_config import CalibrateSettings, EvalSettings, KnownSettings, StrangeSettings
from heed.export_config import ExportSettings
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings, RewardSettings
from heed.settings import options

ROOT = Path(__file__).parents[1] / "src" / "heed"
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "arguments.py")  # which is generated
MAX_LINES_OF_A_FILE = 450
MAX_LINES_OF_A_FUNCTION = 75
MAX_OPTIONS = 61

MAY_IMPORT = {
    "data": set(),
    "forest": set(),
    "objectives": set(),
    "dist": set(),
    "engine": set(),
    "lab": set(),
    "workshop": set(),
    "models": {"forest", "dist"},
    "train": {"dist"},
    "evaluate": set(),
    "report": {"evaluate"},
    "recipes": {
        "data",
        "forest",
        "objectives",
        "dist",
        "engine",
        "models",
        "train",
        "evaluate",
        "report",
        "lab",
        "workshop",
    },
    "cli": {"recipes"},
    "api": {"recipes", "data", "cli"},
    "api_data": {"recipes", "api"},
    "__main__": {"cli"},
    "lm_eval": {"models", "cli"},
}
"""what each package may import of ours besides itself and the modules at the top"""

ONLY_IN = {
    "transformers": {"models"},
    "peft": {"models"},
    "torch.distributed": {"dist"},
    "lm_eval": {"lm_eval"},
    "torch": {"forest", "objectives", "models", "train", "dist", "evaluate", "recipes"},
}
"""what only these packages may import when they run; the modules at the top count as a package named ''"""

MAY_BE_INHERITED = {"Settings"}
"""the one class of ours that others are made from, so that all settings are frozen and refuse unknown keys"""


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported when the code runs, not only when types are checked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imports_of(node)


def broken_rules(package: str, source: str) -> list[str]:
    """Every rule that a file of `package` breaks."""
    tree = ast.parse(source)
    ours_by_name = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} | {
        name.rpartition(".")[2] for name in imports_of(tree) if name.startswith("heed.")
    }
    broken = []
    if source.count("\n") > MAX_LINES_OF_A_FILE:
        broken.append("the file is too long")
    if ast.get_docstring(tree) is None:
        broken.append("the file says nothing about itself")
    for name in imports_of(tree):
        broken += [
            f"{package or 'a module at the top'} may not import {name}"
            for ours, theirs in ONLY_IN.items()
            if f"{name}.".startswith(f"{ours}.") and package not in theirs
        ]
        first, *rest = name.split(".")
        if first == "heed" and package and rest[0] in MAY_IMPORT and rest[0] not in MAY_IMPORT[package] | {package}:
            broken.append(f"{package} may not import {name}")
        if first == "heed" and package == "objectives" and rest[0] != "objectives":
            broken.append(f"objectives imports nothing of ours, so not {name}")
        if first == "heed" and not package and rest and rest[0] in MAY_IMPORT:
            broken.append(f"a module at the top may not import {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_LINES_OF_A_FUNCTION:
                broken.append(f"line {node.lineno}: {node.name} has {length} lines")
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases} & ours_by_name - MAY_BE_INHERITED
            broken += [f"line {node.lineno}: {node.name} inherits from {base}" for base in sorted(bases)]
    return broken


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem if path.stem in ("api", "api_data", "__main__") else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_the_rules(path):
    assert broken_rules(package_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source", "says"),
    [
        ("data", "import torch", "data may not import torch"),
        ("cli", "def f():\n    from torch import Tensor", "cli may not import torch.Tensor"),
        ("train", "from transformers import AutoModel", "train may not import transformers.AutoModel"),
        ("models", "import torch.distributed as dist", "models may not import torch.distributed"),
        ("", "from torch import Tensor", "may not import torch.Tensor"),
        ("data", "from heed.models import load", "data may not import heed.models.load"),
        ("cli", "from heed.data.read import read", "cli may not import heed.data.read.read"),
        ("objectives", "from heed.types import Forest", "imports nothing of ours"),
        ("", "from heed.data import read", "a module at the top may not import heed.data.read"),
        ("data", "class A: ...\nclass B(A): ...", "line 2: B inherits from A"),
        ("data", "from heed.types import Span\nclass B(Span): ...", "line 2: B inherits from Span"),
        ("data", "def f():\n" + "    pass\n" * 75, "line 1: f has 76 lines"),
        ("data", "x = 1\n" * 451, "the file is too long"),
        ("data", "x = 1", "the file says nothing about itself"),
    ],
)
def test_a_broken_rule_is_seen(package, source, says):
    assert says in "; ".join(broken_rules(package, source))


def test_a_type_checking_import_is_no_import():
    assert broken_rules("data", '"""A."""\nif TYPE_CHECKING:\n    from torch import Tensor') == []


def test_every_package_has_its_rule():
    assert {package_of(path) for path in FILES} - {""} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_imports(path):
    name = ".".join(("heed", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    importlib.import_module(name)


RECIPES = [
    SftSettings,
    RewardSettings,
    DpoSettings,
    PpoSettings,
    GrpoSettings,
    ShowSettings,
    ChatSettings,
    EvalSettings,
    MergeSettings,
    ExportSettings,
    CalibrateSettings,
    KnownSettings,
    StrangeSettings,
]


@pytest.mark.parametrize("settings", RECIPES)
def test_a_recipe_has_no_more_options_than_a_reader_can_hold(settings):
    assert len(options(settings)) <= MAX_OPTIONS


@pytest.mark.parametrize("words", [["--help"], ["sft", "--help"], ["show", "--help"]])
def test_help_is_answered_without_loading_anything_heavy(words):
    code = (
        "import sys; from heed.cli.main import main; status = main(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'numpy', 'datasets', 'rich', 'yaml'} & sys.modules.keys()));"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: heed")
    assert done.stdout.endswith("[]\n")


def test_no_two_files_of_tests_have_one_name():
    # Python would take one for the other wherever both are collected.
    names = Counter(path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
