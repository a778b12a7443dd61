"""The help texts, made from the settings: the text of a setting is written nowhere else."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping

from heed.settings import Option, Settings, options


def overview(commands: Mapping[str, type[Settings]]) -> str:
    """What `heed --help` prints."""
    width = max(map(len, commands)) + 2
    lines = [
        "usage: heed COMMAND [CONFIG.yaml] [--option value ...]",
        "",
        "Exact, fast instruction and preference tuning of language models, measured.",
        "",
    ]
    lines += [f"  {name:<{width}}{summary(settings)}" for name, settings in commands.items()]
    return "\n".join([*lines, "", "heed COMMAND --help lists the options; heed --version prints the version.", ""])


def summary(settings: type[Settings]) -> str:
    """The first line of what a command is for."""
    return inspect.cleandoc(settings.__doc__ or "").splitlines()[0]


def usage(command: str, settings: type[Settings], *, columns: int) -> str:
    """What `heed COMMAND --help` prints: one line per option, with its default and its unit."""
    first, *examples = inspect.cleandoc(settings.__doc__ or "").splitlines()
    all_options = options(settings)
    names = {option.key: spelling(option) for option in all_options}
    defaults = {option.key: default(option) for option in all_options}
    name_width = max(map(len, names.values())) + 2
    default_width = max(map(len, defaults.values())) + 2
    indent = 2 + name_width + default_width

    lines = [f"usage: heed {command} [CONFIG.yaml] [--option value ...]", "", first, ""]
    lines += [f"    {example.strip()}" for example in examples if example.strip()]
    section = None
    for option in all_options:
        if option.section != section:
            section = option.section
            lines += ["", f"{section}:"]
        text = textwrap.wrap(described(option), max(columns - indent, 40))
        start = f"  {names[option.key]:<{name_width}}{defaults[option.key]:<{default_width}}"
        lines += [start + text[0], *(" " * indent + more for more in text[1:])]
    lines += ["", "CONFIG.yaml holds the same keys, with _ for -; what is given on the command line wins."]
    if any("." in option.key for option in all_options):
        lines += ["A dot is a section there: optim: {lr: 1e-4}, or optim.lr: 1e-4."]
    return "\n".join([*lines, ""])


def spelling(option: Option) -> str:
    """How an option is typed."""
    return f"--[no-]{option.flag[2:]}" if option.kind == "switch" and option.default else option.flag


def default(option: Option) -> str:
    """What holds if an option is not given, as it would be typed."""
    if option.required:
        return "(required)"
    if option.kind == "switch":
        return "yes" if option.default else "no"
    if option.default in (None, ()):
        return ""
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def described(option: Option) -> str:
    """The help text of an option, after the values it may take."""
    if option.kind != "choice":
        return option.help
    *others, last = option.choices
    return f"{', '.join(others)} or {last}: {option.help}"
