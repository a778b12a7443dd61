"""The help texts, made from the settings: the text of a setting is written nowhere else."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence

from heed.errors import UserError
from heed.settings import Option, Settings, nearest, options


def overview(commands: Mapping[str, type[Settings]], group: str = "") -> str:
    """What `heed --help` prints, or `heed GROUP --help`."""
    width = max(map(len, commands)) + 2
    command = f"{group} COMMAND".strip()
    lines = [
        f"usage: heed {command} [CONFIG.yaml] [--option value ...]",
        "",
        "Exact, fast instruction and preference tuning of language models, measured.",
        "",
    ]
    lines += [f"  {name:<{width}}{summary(settings)}" for name, settings in commands.items()]
    return "\n".join([*lines, "", f"heed {command} --help lists the options; heed --version prints the version.", ""])


def summary(settings: type[Settings]) -> str:
    """The first line of what a command is for."""
    return inspect.cleandoc(settings.__doc__ or "").splitlines()[0]


def usage(command: str, settings: type[Settings], *, columns: int, topic: str | None = None) -> str:
    """What `heed COMMAND --help [TOPIC]` prints: one line per option, with its default and its unit.

    Without a topic it is one screen: the command, the options that matter most, and the names of the others.

    Args:
        topic: `all`, or a word in the name or section of the options that are to be explained.
    """
    first, *examples = inspect.cleandoc(settings.__doc__ or "").splitlines()
    all_options = options(settings)
    shown = _about(command, topic, all_options) if topic else _most_used(settings, all_options)
    rest = [] if topic else [option for option in all_options if option not in shown]
    lines = [f"usage: heed {command} [CONFIG.yaml] [--option value ...]", "", first, ""]
    lines += [f"    {example.strip()}" for example in examples if example.strip()]
    lines += ["", "What matters most:"] if rest else []
    lines += _explained(shown, columns, in_sections=not rest)
    lines += ["", *_named(command, rest, columns)] if rest else []
    lines += ["", "CONFIG.yaml holds the same keys, with _ for -; what is given on the command line wins."]
    if any("." in option.key for option in all_options):
        lines += ["A dot is a section there: optim: {lr: 1e-4}, or optim.lr: 1e-4."]
    return "\n".join([*lines, ""])


def _most_used(settings: type[Settings], all_options: Sequence[Option]) -> list[Option]:
    """What the first screen explains, in the order that the settings name it."""
    by_key = {option.key: option for option in all_options}
    return [by_key[key] for key in settings.common.split()] or list(all_options)


def _about(command: str, topic: str, all_options: Sequence[Option]) -> list[Option]:
    """The options that a topic names."""
    word = topic.replace("-", "_").lower()
    found = [option for option in all_options if word in f"{option.key} {option.section}".lower()]
    if word == "all" or found:
        return list(all_options) if word == "all" else found
    near = nearest(topic, [option.key for option in all_options])
    raise UserError(
        f"no option of heed {command} is about '{topic}'",
        where="command line, --help",
        found=topic,
        expected="all, or a word in the name or the section of an option",
        fix=f"heed {command} --help {near or 'all'}",
    )


def _explained(shown: Sequence[Option], columns: int, *, in_sections: bool) -> list[str]:
    """Each option with its default and its meaning, in columns."""
    name_width = max(len(spelling(option)) for option in shown) + 2
    default_width = max(len(default(option)) for option in shown) + 2
    indent = 2 + name_width + default_width
    lines, section = [], None
    for option in shown:
        if in_sections and option.section != section:
            section = option.section
            lines += ["", f"{section}:"]
        text = textwrap.wrap(described(option), max(columns - indent, 40))
        start = f"  {spelling(option):<{name_width}}{default(option):<{default_width}}"
        lines += [start + text[0], *(" " * indent + more for more in text[1:])]
    return lines


def _named(command: str, rest: Sequence[Option], columns: int) -> list[str]:
    """The other options by name, section by section."""
    sections: dict[str, list[str]] = {}
    for option in rest:
        sections.setdefault(option.section.partition(" (")[0], []).append(spelling(option))
    width = max(map(len, sections)) + 2
    lines = [f"More, explained by heed {command} --help all, or by a word such as --help {_a_word(rest)}:"]
    for section, names in sections.items():
        text = textwrap.wrap("  ".join(names), max(columns - width - 2, 40), break_on_hyphens=False)
        lines += [f"  {section:<{width}}{text[0]}", *(" " * (width + 2) + more for more in text[1:])]
    return lines


def _a_word(rest: Sequence[Option]) -> str:
    """An example of a topic: a section of the settings file, or an option."""
    return next((option.key.partition(".")[0] for option in rest if "." in option.key), rest[0].key)


def spelling(option: Option) -> str:
    """How an option is typed."""
    return f"--[no-]{option.flag[2:]}" if option.kind == "switch" and option.default else option.flag


def default(option: Option) -> str:
    """What holds if an option is not given, as it would be typed."""
    if option.required:
        return "(required)"
    if option.kind == "switch":
        return "yes" if option.default else "no"
    if option.default in (None, (), {}):
        return ""
    if isinstance(option.default, tuple):
        return ",".join(map(str, option.default))
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def described(option: Option) -> str:
    """The help text of an option, after the values it may take."""
    if option.kind != "choice":
        return option.help
    *others, last = option.choices
    return f"{', '.join(others)} or {last}: {option.help}"
