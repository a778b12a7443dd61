"""Words of a command line -> a settings file and a flat mapping of dotted keys."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from heed.errors import UserError, typed
from heed.settings import Option, flag, nearest, unknown_option

NONE_RENAMED: Mapping[str, str] = MappingProxyType({})


PAIR = re.compile(r"[^-=/.][^=/]*=.")
"""name=value, which belongs to an option of pairs that stands before it, and is no path"""


@dataclass(slots=True)
class Words:
    """What a command line says, before anything is checked against its meaning."""

    settings_file: str | None = None
    overrides: dict[str, object] = field(default_factory=dict)
    wants_help: bool = False
    topic: str | None = None
    """what help is wanted about; None: what matters most"""


def parse(
    arguments: Sequence[str],
    options: Sequence[Option],
    *,
    positional: str | None,
    renamed: Mapping[str, str] = NONE_RENAMED,
    switches: Collection[str] = (),
) -> Words:
    """Sort `--flag value`, `--flag=value`, `--switch`, `--no-switch` and words without a flag.

    Where there is a `--help`, it and the topic after it are all that counts.

    A word without a flag that ends in .yaml or .yml is the settings file; any other one is a value of the
    option `positional`. Values stay text: the settings turn them into numbers and check them.

    Args:
        renamed: former keys, each with the present one; a flag may still use them.
        switches: those of the former keys whose flags need no value.
    """
    words = Words()
    if asked := [at for at, word in enumerate(arguments) if word in ("-h", "--help")]:
        words.wants_help = True
        after = arguments[asked[0] + 1 : asked[0] + 2]
        words.topic = after[0] if after and not after[0].startswith("-") else None
        return words
    by_flag = {option.flag: option for option in options}
    by_key = {option.key: option for option in options}
    by_flag |= {flag(former): by_key[present] for former, present in renamed.items()}
    needs_none = {flag(key) for key in switches}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            option, switched_off = by_flag.get(name), False
            if option is None and name.startswith("--no-"):
                option = by_flag.get("--" + name.removeprefix("--no-"))
                needs_none_too = "--" + name.removeprefix("--no-") in needs_none
                switched_off = option is not None and (option.kind == "switch" or needs_none_too) and not equals
                option = option if switched_off else None
            if option is None:
                raise unknown_option(name[2:], list(by_key), value=None, where="command line", as_flag=True)
            if (option.kind == "switch" or switched_off or name in needs_none) and not equals:
                _put(words, option, not switched_off)
            elif equals:
                _put(words, option, value)
            elif rest and not rest[0].startswith("--"):
                _put(words, option, rest.pop(0))
                while option.kind == "pairs" and rest and PAIR.match(rest[0]):
                    _put(words, option, rest.pop(0))
                if option.kind == "list" and positional not in (None, option.key) and rest and _is_value(rest[0]):
                    raise _whose(rest[0], option, flag(str(positional)))
            else:
                raise _needs_a_value(option, rest)
        elif word.endswith((".yaml", ".yml")) and words.settings_file is None:
            words.settings_file = word
        elif positional is not None:
            _put(words, by_key[positional], word)
        else:
            raise _stray(word, by_key)
    return words


def _is_value(word: str) -> bool:
    return not word.startswith("--") and not word.endswith((".yaml", ".yml"))


def _whose(word: str, option: Option, positional: str) -> UserError:
    """The error for a word after a list's first value: another value to some, the command's own word to others."""
    return UserError(
        f"it is not clear what '{word}' belongs to",
        where=f"command line, after {option.flag}",
        found=word,
        expected=f"{option.flag} before each of its values, and what belongs to {positional} before the options",
        fix=f"{option.flag} {typed(word)}, or {positional} {typed(word)}",
    )


def _put(words: Words, option: Option, value: object) -> None:
    if option.kind in ("list", "pairs"):
        values = words.overrides.setdefault(option.key, [])
        assert isinstance(values, list)
        values.append(value)
    elif option.key in words.overrides:
        raise UserError(
            f"{option.flag} is given twice",
            where="command line",
            found=f"{words.overrides[option.key]} and {value}",
            expected="one value",
            fix=f"{option.flag} {typed(value)}",
        )
    else:
        words.overrides[option.key] = value


def _needs_a_value(option: Option, rest: Sequence[str]) -> UserError:
    example = option.choices[0] if option.choices else option.key.rpartition(".")[2].upper()
    if option.kind == "pairs":
        example = "prompt=QUESTION response=ANSWER"
    example = str(example if option.default in (None, (), {}, "") else option.default)
    is_quoted = bool(rest) and " " in rest[0]  # no option, and meant as the value
    return UserError(
        f"{option.flag} needs a value",
        where="command line",
        found=f"the next option, {rest[0]}" if rest else "the end of the line",
        expected=option.help,
        fix=f"{option.flag}={typed(rest[0])}" if is_quoted else f"{option.flag} {example}",
    )


def _stray(word: str, known: Collection[str]) -> UserError:
    """The error for a word that no option wants; `known` are the keys of the options there are."""
    if word.startswith("-"):
        near = nearest(word, list(known))
        fix = f"did you mean '{flag(near)}'?" if near else "--help all lists the options"
    else:
        fix = ", or ".join([f"{flag(key)} {typed(word)}" for key in ("data", "model", "out") if key in known][:2])
    return UserError(
        f"'{word}' belongs to no option",
        where="command line",
        found=word,
        expected="options, each with two dashes, and at most one settings file (.yaml)",
        fix=fix,
    )
