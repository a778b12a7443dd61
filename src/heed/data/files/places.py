"""Where records lie: a file, a folder of files with or without splits, a saved data set, or one on the hub."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heed.data.files.bytes import PACKED_SUFFIXES, without_packing
from heed.data.files.formats import SUFFIXES, TEXT_SUFFIXES, read_file, suffix_of
from heed.data.files.json_stream import Unusable
from heed.data.files.tables import without_nulls
from heed.errors import UserError, typed
from heed.hub import offline_if_unreachable
from heed.types import Origin

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "eval": VALIDATION,
    "evaluation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
"""words in the names of files and folders that say to which part of a data set the records belong"""

SHARD = re.compile(r"-\d+-of-\d+$")
"""how the name of one of several files of a split ends on the hub: train-00000-of-00002.parquet"""
NUMBER = re.compile(r"[-_. ]?(part|shard)?[-_. ]?\d+$")
"""how else the files of a split are numbered"""

Raws = Iterator[tuple[Origin, Mapping[str, Any] | Unusable]]


@dataclass(frozen=True, slots=True)
class Splits:
    """The parts of a data set, by what they are for, under the names they have there."""

    names: Mapping[str, str]
    """the part's own name -> `train`, `validation` or `test`"""

    def of(self, purpose: str) -> list[str]:
        """Names of the parts for this purpose."""
        return [name for name, what in self.names.items() if what == purpose]


def raws_at(path: str, notes: Counter[str]) -> Raws:
    """Every record at `path` as it is written there, and where it is.

    `path` is a file (.json, .jsonl, .ndjson, .csv, .tsv, .parquet, .txt, each also compressed with gzip, zstd, bzip2,
    xz or lz4), a folder of them, a folder saved by `datasets`, or the name of a hub data set (`owner/name`). A split
    follows the last three after a colon: `owner/name:test`. Without it, the one for training is read where there is
    one, and `notes` tell that others are not.
    """
    place = os.path.expanduser(path)
    if os.path.isfile(place):
        return _file(place, path, notes)
    where, split = _parted(path)
    if os.path.isdir(os.path.expanduser(where)) and not _is_saved(where):
        return _folder(where, split, path, notes)
    return _rows(path, where, split, notes)


def splits_at(path: str) -> Splits | None:
    """The splits of the data set at `path`; None where it has none, or where `path` names one of them already."""
    place = os.path.expanduser(path)
    if os.path.isfile(place):
        return None
    where, split = _parted(path)
    if split:
        return None
    if os.path.isdir(place) and not _is_saved(where):
        names = {name: purpose for name, (purpose, _) in _split_files(_record_files(path)).items() if purpose}
    elif os.path.isdir(place):
        names = _purposes(_saved_splits(place))
    elif _is_hub_name(where):
        names = _purposes(_hub_splits(where))
    else:
        return None
    return Splits(names) if len(names) > 1 else None


def files_at(path: str) -> list[Path]:
    """The files on this machine that `path` stands for, of every split; none of a data set on the hub."""
    place = Path(path).expanduser()
    if not place.exists():
        place = Path(_parted(path)[0]).expanduser()
    return [each for each in (sorted(place.rglob("*")) if place.is_dir() else [place]) if each.is_file()]


def record_files_at(path: str) -> tuple[list[str], list[str]]:
    """(the files of records in a folder, of all splits; those whose kind is not read), or the path as it is.

    Descriptions of a data set are neither.
    """
    place = os.path.expanduser(path)
    if not os.path.isdir(place) or _is_saved(path):
        return [path], []
    inside = [file.relative_to(place).as_posix() for file in files_at(path)]
    seen = [name for name in inside if not _is_about(name) and not any(p.startswith(".") for p in name.split("/"))]
    read = [os.path.join(path, name) for name in seen if suffix_of(name) in SUFFIXES]
    return read, [os.path.join(path, name) for name in seen if suffix_of(name) not in SUFFIXES]


def _parted(path: str) -> tuple[str, str]:
    """A path and the split named after its last colon, if what stands before it is a place of records."""
    where, colon, split = path.rpartition(":")
    if colon and "/" not in split and not os.path.exists(os.path.expanduser(path)):
        return where, split
    return path, ""


# ---- files and folders


def _file(place: str, path: str, notes: Counter[str]) -> Raws:
    for number, raw in read_file(place, path, notes):
        yield Origin(path, number), raw


def _folder(where: str, split: str, path: str, notes: Counter[str]) -> Raws:
    files = _record_files(where)
    parts = _split_files(files)
    purposes = {name: purpose for name, (purpose, _) in parts.items() if purpose}
    has_stray_beside_test = "" in parts and bool(set(purposes.values()) - {TRAIN})
    if split or len(purposes) > 1 or has_stray_beside_test:
        if not split:
            _refuse_stray(parts, path)
        chosen = _chosen(purposes, split, path)
        if not split:
            _note_others(chosen, parts, where, notes)
        files = [file for name in chosen for file in parts[name][1]]
    for name in files:
        yield from _file(os.path.join(os.path.expanduser(where), name), os.path.join(where, name), notes)


def _record_files(where: str) -> list[str]:
    """Paths inside the folder of the files that hold records; any other file but a description is refused."""
    place = os.path.expanduser(where)
    files = sorted(
        inside.relative_to(place).as_posix()
        for inside in Path(place).rglob("*")
        if inside.is_file() and not any(part.startswith(".") for part in inside.relative_to(place).parts)
    )
    files = [name for name in files if not _is_about(name)]
    records = [name for name in files if suffix_of(name) in SUFFIXES]
    tables = [name for name in records if suffix_of(name) not in TEXT_SUFFIXES]
    # A stray list of names beside records is no document to go on pre-training with.
    records = tables or records
    others = [name for name in files if name not in records]
    if others or not records:
        raise UserError(
            "the folder holds a file that is not read" if others else "the folder holds no records",
            where=where,
            found=", ".join(others[:5]) + (f" and {len(others) - 5:,} more" if len(others) > 5 else "")
            if others
            else "no file with a suffix that is read",
            expected=f"files ending in {', '.join(SUFFIXES)} (.txt not beside others), each also with "
            f"{', '.join(PACKED_SUFFIXES)}; README, LICENSE and dataset_infos.json are passed over",
            fix=f"move other files out, or name the files one by one: ls {typed(where)}",
        )
    return records


def _is_about(name: str) -> bool:
    """Files that describe a data set and hold no records."""
    base = os.path.basename(name).lower()
    is_description = base.startswith(("readme", "license", "licence", "notice", "dataset_infos.json", "dataset_info."))
    return is_description or base.endswith((".md", ".py", ".yaml", ".yml")) or base in ABOUT


ABOUT = ("citation.cff", "citation.bib", "checksums.txt", "sha256sums", "sha256sums.txt", "croissant.json")


def _split_files(files: list[str]) -> dict[str, tuple[str, list[str]]]:
    """The files of each split, and what it is for; '' stands for the files whose names say nothing of it."""
    parts: dict[str, tuple[str, list[str]]] = {}
    for file in files:
        name, purpose = _split_of(file)
        parts.setdefault(name, (purpose, []))[1].append(file)
    return parts


def _split_of(file: str) -> tuple[str, str]:
    """A file's split and what it is for: the name of the file says it, or the nearest folder that does.

    A name that only begins with the word is a split of its own (`train_sft` beside `train_gen`); the word anywhere
    else, as in `alpaca-train`, or numbers behind it, as in `train-00000-of-00002`, make it a part of `train`.
    """
    *folders, base = file.split("/")
    stem = NUMBER.sub("", SHARD.sub("", os.path.splitext(without_packing(base))[0]))
    for name in (stem, *reversed(folders)):
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
        found = [word for word in words if word in SPLIT_WORDS]
        if found:
            purpose = SPLIT_WORDS[found[0]]
            is_own = words[0] in SPLIT_WORDS
            return (name if is_own else purpose), purpose
    return "", ""


def _purposes(names: list[str]) -> dict[str, str]:
    found = {name: _split_of(name)[1] for name in names}
    return {name: purpose for name, purpose in found.items() if purpose}


def _chosen(purposes: Mapping[str, str], split: str, path: str) -> list[str]:
    """The splits that are read: the named one, or the one for training."""
    names = list(purposes)
    if split:
        chosen = [name for name in names if name == split] or [n for n in names if purposes[n] == split]
        problem = f"the data set has no split '{split}'"
    else:
        chosen = [name for name in names if purposes[name] == TRAIN]
        problem = "the data set has no split to train on"
    if len(chosen) == 1:
        return chosen
    if len(chosen) > 1:
        problem = f"the data set has {len(chosen)} splits to train on" if not split else f"'{split}' is several splits"
    where = path.removesuffix(f":{split}") if split else path
    near = (chosen or difflib.get_close_matches(split, names, n=1) or names or ["train"])[0]
    raise UserError(
        problem,
        where=path,
        found=f"the splits {', '.join(chosen or names)}" if names else "no splits",
        expected="the name of one of them after a colon",
        fix=f"{where}:{near}" if names else where,
    )


def _note_others(chosen: list[str], parts: Mapping[str, Any], where: str, notes: Counter[str]) -> None:
    others = [name for name in parts if name and name not in chosen]
    notes[f"split read of {where}: {', '.join(chosen)}; not {', '.join(others)}"] = 1


def _refuse_stray(parts: Mapping[str, tuple[str, list[str]]], path: str) -> None:
    if "" not in parts:
        return
    stray = parts[""][1]
    raise UserError(
        "a folder with splits holds a file that belongs to none",
        where=path,
        found=", ".join(stray[:5]) + (f" and {len(stray) - 5:,} more" if len(stray) > 5 else ""),
        expected="train, validation or test in the name of every file, or of its folder",
        fix=f"{path.rstrip('/')}:{next(name for name in parts if name)} reads that split alone; or move the file out",
    )


# ---- data sets through `datasets`


def _is_saved(where: str) -> bool:
    place = os.path.expanduser(where)
    return any(os.path.isfile(os.path.join(place, name)) for name in ("dataset_dict.json", "state.json"))


def _is_hub_name(where: str) -> bool:
    return HUB_NAME.fullmatch(where) is not None and suffix_of(where) not in SUFFIXES


def _rows(path: str, where: str, split: str, notes: Counter[str]) -> Raws:
    place = os.path.expanduser(where)
    if os.path.isdir(place) and _is_saved(place):
        rows = _saved(place, path, split, notes)
    elif _is_hub_name(where):
        rows = _hub(where, path, split, notes)
    else:
        raise _missing(path)
    return ((Origin(path, number), without_nulls(row)) for number, row in enumerate(rows, 1))


def _saved_splits(place: str) -> list[str]:
    import json

    file = Path(place) / "dataset_dict.json"
    return list(json.loads(file.read_text(encoding="utf-8"))["splits"]) if file.is_file() else []


def _saved(place: str, path: str, split: str, notes: Counter[str]) -> Any:
    # Imported late: it takes a second, and only these two ways of reading need it.
    import datasets  # type: ignore[import-untyped]

    found = datasets.load_from_disk(place)
    if not isinstance(found, datasets.DatasetDict):
        return found
    return found[_split_named(list(found), split, path, notes)]


def _hub_splits(name: str) -> list[str]:
    """Names of the splits of a data set on the hub; none where it cannot be reached, which reading it tells."""
    offline_if_unreachable()
    import datasets

    try:
        return list(datasets.get_dataset_split_names(name))
    except Exception:  # the library, its hub client and its network client each raise errors of their own making
        return []


def hub_raws(name: str, config: str | None, split: str, notes: Counter[str]) -> Raws:
    """Every record of one split of a data set on the hub, of one of its configurations where it has several."""
    path = f"{name}:{split}"
    rows = _hub(name, path, split, notes, config)
    return ((Origin(path, number), without_nulls(row)) for number, row in enumerate(rows, 1))


def _hub(name: str, path: str, split: str, notes: Counter[str], config: str | None = None) -> Any:
    offline_if_unreachable()
    import datasets

    names = [] if split else _hub_splits(name)
    try:
        chosen = _split_named(names, split, path, notes) if names else split or TRAIN
        return datasets.load_dataset(name, config, split=chosen)
    except UserError:
        raise
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


def _split_named(names: list[str], split: str, path: str, notes: Counter[str]) -> str:
    """The split of a data set that is read: the named one, or the one for training; one alone needs no name."""
    if split in names:
        return split
    if not split and len(names) == 1:
        return names[0]
    [chosen] = _chosen(_purposes(names) or dict.fromkeys(names, ""), split, path)
    if not split:
        _note_others([chosen], dict.fromkeys(names), path, notes)
    return chosen


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
        fix=f"did you mean {typed(os.path.join(os.path.dirname(path), near[0]))}?"
        if near
        else f"ls {typed(folder or '.')}",
    )
