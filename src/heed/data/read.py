"""Read records: a file, a folder of files, or a hub data set into conversations, rankings, judged answers, prompts."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heed.data.formats import SUFFIXES, read_file, suffix_of, without_nulls
from heed.data.shapes import Noun, convert, recognise, to_prompts, with_scores_of_pair
from heed.errors import UserError
from heed.types import Conversation, Judged, Labelled, Origin, Prompt, Ranking

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read(path: str) -> Iterator[tuple[str, Noun]]:
    """Every conversation, ranking or judged answer at `path`, with the name of the shape it was written in.

    Each record is recognised by its own keys, so one file may mix shapes. Streams: memory
    does not grow with the file. Everything broken is a `UserError` when it is reached.
    """
    for origin, raw in read_raw(path):
        shape = recognise(raw, origin)
        for noun in convert(shape, raw, origin):
            yield shape.name, noun


def read_rankings(path: str) -> Iterator[tuple[str, Ranking]]:
    """Every ranking at `path`, pairs with their margin or scores; a record that compares nothing is a `UserError`."""
    for origin, raw in read_raw(path):
        shape = recognise(raw, origin)
        for noun in convert(shape, raw, origin):
            if not isinstance(noun, Ranking):
                raise _no_preference(
                    shape.name,
                    origin,
                    "a record compares no answers",
                    "a prompt with a chosen and a rejected answer, or with a list of ranked answers",
                    '"prompt": "...", "chosen": "...", "rejected": "..."',
                )
            yield shape.name, with_scores_of_pair(noun, raw)


def read_judged(path: str) -> Iterator[tuple[str, Judged | Ranking]]:
    """Every judged answer at `path`, or ranking to take judged answers from; anything else is a `UserError`."""
    for origin, raw in read_raw(path):
        shape = recognise(raw, origin)
        for noun in convert(shape, raw, origin):
            if isinstance(noun, Conversation):
                raise _no_preference(
                    shape.name,
                    origin,
                    "a record does not say how good its answer is",
                    "a prompt, a completion and a label that is true or false; or a preference",
                    '"prompt": "...", "completion": "...", "label": true',
                )
            yield shape.name, with_scores_of_pair(noun, raw) if isinstance(noun, Ranking) else noun


def read_prompts(path: str) -> Iterator[tuple[str, Prompt]]:
    """What every record at `path` asks; answers that stand beside it are not read, which the shape's name says."""
    for origin, raw in read_raw(path):
        name, prompts = to_prompts(raw, origin)
        for prompt in prompts:
            yield name, prompt


def _no_preference(shape: str, origin: Origin, problem: str, expected: str, example: str) -> UserError:
    return UserError(
        problem,
        where=str(origin),
        found=f"a record of the shape {shape}",
        expected=expected,
        fix=f"in that record write {example}; answers to imitate are for heed sft",
    )


def read_labelled(path: str) -> Iterator[tuple[str, Labelled]]:
    """Every record at `path` as its named fields, for wordings to say."""
    for origin, raw in read_raw(path):
        yield "labelled", Labelled(raw, origin)


def read_raw(path: str) -> Iterator[tuple[Origin, Mapping[str, Any]]]:
    """Every record at `path` as it is written there, and where it is.

    `path` is a file (.json, .jsonl, .csv, .tsv, .parquet, each also .gz), a folder of them, a
    folder saved by `datasets`, or the name of a hub data set (`owner/name`). A split follows
    the last two after a colon: `owner/name:test`; without it, `train`.
    """
    place = os.path.expanduser(path)
    if os.path.isfile(place):
        yield from _file(place, path)
    elif os.path.isdir(place) and not _is_saved(place):
        yield from _folder(place, path)
    else:
        yield from _rows(path)


def summary(counts: Mapping[tuple[str, type], int]) -> str:
    """What supervised tuning read, in one line: `read 4,990 conversations as messages and 10 as alpaca`.

    `counts` is how many nouns of each type came from each shape: `Counter((shape, type(noun)) ...)`.
    """
    text = counted(counts)
    kinds = {kind for (_, kind), n in counts.items() if n}
    if Ranking not in kinds:
        return text
    return f"{text}; supervised tuning uses the best answer of each{'' if kinds == {Ranking} else ' ranking'}"


WORDS = (
    (Conversation, "conversation"),
    (Ranking, "ranking"),
    (Judged, "judged answer"),
    (Prompt, "prompt"),
    (Labelled, "record"),
)


def counted(counts: Mapping[tuple[str, type], int]) -> str:
    """How many of what was read: `read 1,100 rankings as preference`."""
    parts = []
    for kind, word in WORDS:
        shapes = sorted(((n, shape) for (shape, k), n in counts.items() if k is kind and n), reverse=True)
        for i, (n, shape) in enumerate(shapes):
            plural = word if n == 1 else f"{word}s"
            parts.append(f"{n:,} {plural} as {shape}" if i == 0 else f"{n:,} as {shape}")
    if not parts:
        return "read no records"
    return "read " + (", ".join(parts[:-1]) + " and " if len(parts) > 1 else "") + parts[-1]


# ---- files and folders


def _file(place: str, path: str) -> Iterator[tuple[Origin, Mapping[str, Any]]]:
    for number, raw in read_file(place, path):
        yield Origin(path, number), raw


def _folder(place: str, path: str) -> Iterator[tuple[Origin, Mapping[str, Any]]]:
    files = sorted(
        inside.relative_to(place).as_posix()
        for inside in Path(place).rglob("*")
        if inside.is_file() and not any(part.startswith(".") for part in inside.relative_to(place).parts)
    )
    records = [name for name in files if suffix_of(name) in SUFFIXES]
    others = [name for name in files if suffix_of(name) not in SUFFIXES and not _is_about(name)]
    if others or not records:
        raise UserError(
            "the folder holds a file that is not read" if others else "the folder holds no records",
            where=path,
            found=", ".join(others[:5]) + (f" and {len(others) - 5:,} more" if len(others) > 5 else "")
            if others
            else f"{len(files):,} files, none with a suffix that is read",
            expected=f"files ending in {', '.join(SUFFIXES)} (each also .gz), besides README and LICENSE",
            fix=f"move other files out, or name the files one by one: ls {path}",
        )
    for name in records:
        yield from _file(os.path.join(place, name), os.path.join(path, name))


def _is_about(name: str) -> bool:
    """Files that describe a data set and hold no records."""
    base = os.path.basename(name).lower()
    return base.endswith(".md") or base.startswith(("readme", "license", "licence", "notice"))


# ---- data sets through `datasets`


def _is_saved(place: str) -> bool:
    return any(os.path.isfile(os.path.join(place, name)) for name in ("dataset_dict.json", "state.json"))


def _rows(path: str) -> Iterator[tuple[Origin, Mapping[str, Any]]]:
    name, _, split = path.partition(":")
    place = os.path.expanduser(name)
    if os.path.isdir(place) and _is_saved(place):
        rows = _saved(place, path, split)
    elif HUB_NAME.fullmatch(name) and suffix_of(name) not in SUFFIXES:
        rows = _hub(name, path, split or "train")
    else:
        raise _missing(path)
    for number, row in enumerate(rows, 1):
        yield Origin(path, number), without_nulls(row)


def _saved(place: str, path: str, split: str) -> Any:
    # Imported late: it takes a second, and only these two ways of reading need it.
    import datasets  # type: ignore[import-untyped]

    found = datasets.load_from_disk(place)
    if not isinstance(found, datasets.DatasetDict):
        return found
    if (split or "train") not in found:
        raise UserError(
            f"the data set has no split '{split or 'train'}'",
            where=path,
            found=f"the splits {', '.join(found)}",
            expected="one of them after a colon",
            fix=f"{path.partition(':')[0]}:{next(iter(found))}",
        )
    return found[split or "train"]


def _hub(name: str, path: str, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, split=split)
    # The library, its hub client and its network client each raise errors of their own making.
    except Exception as error:
        raise UserError(
            "the data set can be neither found on disk nor fetched from the hub",
            where=path,
            found=f"no such file or folder; {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            expected="a file, a folder, or the name of a hub data set that can be reached",
            fix="check the path; or where there is a network: "
            f"hf download {name} --repo-type dataset --local-dir {name.partition('/')[2]}",
        ) from error


def _missing(path: str) -> UserError:
    folder, name = os.path.split(os.path.expanduser(path))
    beside = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
    near = difflib.get_close_matches(name, beside, n=1)
    return UserError(
        "the data file does not exist",
        where=path,
        found=f"no such file in {folder or 'this folder'}"
        if beside or os.path.isdir(folder or ".")
        else f"no folder {folder}",
        expected="a file, a folder of files, or a hub data set written owner/name",
        fix=f"did you mean {os.path.join(os.path.dirname(path), near[0])}?" if near else f"ls {folder or '.'}",
    )
