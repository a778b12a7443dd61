"""Write a card of a data set for the hub: what is in it, in which languages, what is wrong with it, where it is from.

records -> shape, turns, lengths and language of each, in several processes -> sums; the check -> findings;
the ledgers beside the files -> provenance -> a README
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from heed import files
from heed.config import DataSource
from heed.data.files.json_stream import Unusable
from heed.data.files.places import files_at, raws_at, record_files_at
from heed.data.parallel import map_in_processes
from heed.data.read import read_comparable
from heed.data.tokens import Tokenizer
from heed.data_config import DataCheckSettings
from heed.data_faults import KINDS
from heed.data_mix_config import DataCardSettings
from heed.errors import UserError, typed
from heed.recipes.workshop import check
from heed.recipes.workshop.decontaminate import removed_beside
from heed.recipes.workshop.mend import changes_beside
from heed.recipes.workshop.mix import checksum, ledger_beside
from heed.recipes.workshop.outputs import nothing_there, refuse_taken
from heed.train.progress import Progress
from heed.types import Document, Finding, Judged, Ranking
from heed.workshop.card_text import fenced, front_matter, inert, licence_keys, size_category, table
from heed.workshop.language import language_of
from heed.workshop.one_shape import Noun
from heed.workshop.record_faults import answers_of, prompt_of

SHOWN_LANGUAGES = 0.01
"""share of the texts whose language can be told, from which on a language stands in the front matter"""
PAIRED, SPOKEN, PLAIN = "preferences", "instructions", "text"


@dataclass(frozen=True, slots=True)
class Looked:
    """What one record adds to the sums."""

    record: str
    shape: str
    kind: str
    turns: int
    """of the user's and the assistant's in a prompt with one answer"""
    characters: int
    tokens: int
    language: str | None


@dataclass(slots=True)
class Split:
    """The sums of a split."""

    name: str
    num_records: int = 0
    num_unreadable: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    turns: array[int] = field(default_factory=lambda: array("q"))
    characters: array[int] = field(default_factory=lambda: array("q"))
    tokens: int = 0


def run(settings: DataCardSettings, say: Callable[[str], None] = lambda line: None) -> Path:
    """Write the card.

    Raises:
        UserError: a data set cannot be read or holds nothing, or the file is there already.
    """
    out = Path(settings.out)
    refuse_taken("--out", out)
    files.refuse_unwritable(out)
    tokenizer = _tokenizer(settings)
    work = partial(looked, tokenizer)
    splits = [_summed("train", settings.data, work, settings.workers)]
    if settings.eval_data:
        splits.append(_summed("test", settings.eval_data, work, settings.workers))
    checked = check.run(
        DataCheckSettings(
            data=settings.data, eval_data=settings.eval_data, examples=0, workers=settings.workers, model=settings.model
        ),
        say,
    )
    files.write_text(out, written(settings, splits, checked))
    return out


def _tokenizer(settings: DataCardSettings) -> Tokenizer | None:
    if settings.model is None:
        return None
    # Imported late, because it takes seconds, and only who names a model needs it.
    from heed.models.intake.access import Access
    from heed.recipes.training.setup import open_tokenizer

    return open_tokenizer(settings.model, Access(settings.trust_remote_code))


def _summed(
    name: str, sources: Sequence[DataSource], work: Callable[[tuple[str, Noun | Finding]], Looked], workers: int | None
) -> Split:
    split = Split(name)
    last = ""
    with Progress("reading", unit="records") as progress:
        for source in sources:
            records = read_comparable(source.path, source.columns, Counter())
            for seen in map_in_processes(work, records, workers):
                split.num_records += seen.record != last
                last = seen.record
                progress.update(split.num_records)
                split.shapes[seen.shape] += 1
                if not seen.kind:
                    split.num_unreadable += 1
                    continue
                split.kinds[seen.kind] += 1
                split.languages[seen.language or ""] += 1
                split.turns.append(seen.turns)
                split.characters.append(seen.characters)
                split.tokens += seen.tokens
    if not split.kinds:
        raise nothing_there([source.path for source in sources])
    return split


def looked(tokenizer: Tokenizer | None, item: tuple[str, Noun | Finding]) -> Looked:
    """What one record adds: its own text once, a ranking with all its answers."""
    shape, noun = item
    if isinstance(noun, Finding):
        return Looked(str(noun.origin), shape, "", 0, 0, 0, None)
    if isinstance(noun, Document):
        texts, turns, kind = [noun.text], 0, PLAIN
    else:
        prompt, answers = prompt_of(noun), answers_of(noun)
        texts = [message.content for message in (*prompt, *(each for answer in answers for each in answer))]
        spoken = (*prompt, *(answers[0] if answers else ()))
        turns = sum(message.role in ("user", "assistant") for message in spoken)
        kind = PAIRED if isinstance(noun, Ranking | Judged) else SPOKEN
    text = "\n".join(texts)
    tokens = sum(len(tokenizer.backend.encode(each, add_special_tokens=False).ids) for each in texts if tokenizer)
    return Looked(str(noun.origin), shape, kind, turns, sum(map(len, texts)), tokens, language_of(text))


# ---- the page


def written(settings: DataCardSettings, splits: Sequence[Split], checked: check.Checked) -> str:
    """The whole README."""
    name = settings.name or Path(settings.data[0].path.rstrip("/")).name.partition(".")[0]
    parts = [
        front_matter(_told_to_the_hub(settings, splits, name)),
        f"# {inert(name)}",
        _counts(settings, splits),
        "## Languages",
        _languages(splits),
        "## What is known to be wrong with it",
        _findings(settings, checked),
        "## Where it is from",
        *_provenance(settings),
        *_examples(settings),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _told_to_the_hub(settings: DataCardSettings, splits: Sequence[Split], name: str) -> dict[str, Any]:
    found: Counter[str] = Counter()
    for split in splits:
        found.update({code: count for code, count in split.languages.items() if code})
    languages = list(settings.languages) or [
        code for code, count in found.most_common() if count >= SHOWN_LANGUAGES * found.total()
    ]
    folder = Path(settings.out).absolute().parent
    data_files = [
        {"split": split.name, "path": paths if len(paths) > 1 else paths[0]}
        for split, sources in zip(splits, (settings.data, settings.eval_data), strict=False)
        if (paths := [path for source in sources for path in _inside(source.path, folder)])
    ]
    kinds = [kind for kind in (SPOKEN, PAIRED, PLAIN) if any(kind in split.kinds for split in splits)]
    return {
        **({"language": languages} if languages else {}),
        **licence_keys(settings.licence),
        "pretty_name": name,
        "size_categories": [size_category(sum(split.num_records for split in splits))],
        "task_categories": ["text-generation"],
        "tags": [{SPOKEN: "instruction-tuning", PAIRED: "preference", PLAIN: "pre-training"}[kind] for kind in kinds],
        **({"configs": _configs(data_files, splits)} if data_files else {}),
    }


def _configs(data_files: Sequence[Mapping[str, Any]], splits: Sequence[Split]) -> list[dict[str, Any]]:
    """One table of all splits; one for each where their records have different shapes, which no table holds."""
    if all(split.shapes.keys() == splits[0].shapes.keys() for split in splits):
        return [{"config_name": "default", "data_files": list(data_files)}]
    return [{"config_name": each["split"], "data_files": [each]} for each in data_files]


def _inside(path: str, folder: Path) -> list[str]:
    """The paths of a data set as the hub sees them beside the card; none where it lies elsewhere."""
    found = [Path(file).expanduser().absolute() for file in record_files_at(path)[0]]
    if not found or not all(file.is_relative_to(folder) for file in found):
        return []
    return [file.relative_to(folder).as_posix() for file in found]


def _counts(settings: DataCardSettings, splits: Sequence[Split]) -> str:
    head = ["split", "records", "of them", "turns", "characters", "of a record (median, longest)"]
    rows = []
    for split in splits:
        characters, turns = np.array(split.characters), np.array(split.turns)
        shapes = ", ".join(f"{count:,} {inert(shape)}" for shape, count in split.shapes.most_common())
        length = f"{np.median(characters):,.0f}, {characters.max():,}"
        row = [split.name, f"{split.num_records:,}", shapes, _turns(turns), f"{characters.sum():,}", length]
        rows.append([*row, *([f"{split.tokens:,}"] if settings.model else [])])
    tokens = f"\n\nTokens are those of {inert(settings.model)}, of the texts alone." if settings.model else ""
    return table([*head, *(["tokens"] if settings.model else [])], rows, numbers=(1, 4, 5, 6)) + tokens


def _turns(turns: np.ndarray) -> str:
    fewest, most = int(turns.min()), int(turns.max())
    return str(fewest) if fewest == most else f"{fewest} to {most}, {turns.mean():.1f} in the mean"


def _languages(splits: Sequence[Split]) -> str:
    rows = []
    for split in splits:
        total = split.languages.total()
        for code, count in split.languages.most_common(12):
            rows.append([split.name, code or "cannot be told", f"{count:,}", f"{100 * count / total:.1f}%"])
        others = split.languages.most_common()[12:]
        if others:
            count = sum(each for _, each in others)
            rows.append([split.name, f"{len(others)} others", f"{count:,}", f"{100 * count / total:.1f}%"])
    told = "By their letters and py3langid; short texts, and code, say nothing."
    return table(["split", "language", "records", "share"], rows, numbers=(2, 3)) + f"\n\n{told}"


def _findings(settings: DataCardSettings, checked: check.Checked) -> str:
    rows = [
        [
            KINDS[kind].level,
            kind,
            f"{(count := checked.num_bad_records[kind]):,}",
            f"{100 * count / checked.num_records:.2f}%",
            inert(KINDS[kind].means),
        ]
        for kind in checked.in_order()
    ]
    how = f"Found by `heed data check`, in {checked.num_records:,} records of the split `train`."
    if not rows:
        return f"{how} Nothing was found."
    return f"{how}\n\n" + table(["level", "kind", "records", "share", "what it is"], rows, numbers=(2, 3))


def _provenance(settings: DataCardSettings) -> Iterator[str]:
    sources = (*settings.data, *settings.eval_data)
    rows = [
        [inert(str(file)), f"{file.stat().st_size:,}", f"`{checksum(file)}`"]
        for source in sources
        for file in files_at(source.path)
    ]
    rows += [[inert(source.path), "", "a data set on the hub"] for source in sources if not files_at(source.path)]
    yield table(["file", "bytes", "SHA-256"], rows, numbers=(1,))
    for source in sources:
        yield from _history(Path(source.path.rstrip("/")).expanduser())


def _history(path: Path) -> Iterator[str]:
    """What the commands of `heed data` that wrote a file left beside it."""
    if (ledger := ledger_beside(path)).is_file():
        told = _ledger_in(ledger)
        yield f"{inert(path.name)} was mixed by `heed data mix`, seed {inert(str(told['seed']))}:"
        rows = [_mixed_row(each) for each in told["sources"]]
        yield table(["file", "drawn", "of", "share", "SHA-256"], rows, numbers=(1, 2, 3))
        lost = [
            f"- {count:,} records of {inert(each['path'])} were left out: {inert(why)}"
            for each in told["sources"]
            for why, count in each["left_out"].items()
        ]
        yield "\n".join(lost)
    if (changes := changes_beside(path)).is_file():
        yield f"{_num_lines(changes):,} texts of {inert(path.name)} were mended by `heed data mend`; " + (
            f"each stands in {inert(changes.name)}."
        )
    if (removed := removed_beside(path)).is_file():
        yield f"{_num_lines(removed):,} records were left out of {inert(path.name)} by `heed data decontaminate`, " + (
            f"because they hold questions or answers of evaluation sets; each stands in {inert(removed.name)}."
        )


def _ledger_in(ledger: Path) -> Mapping[str, Any]:
    """What `heed data mix` left.

    Raises:
        UserError: a file of that name is no such ledger.
    """
    try:
        told = yaml.safe_load(ledger.read_text(encoding="utf-8"))
        for each in told["sources"]:
            _mixed_row(each), each["left_out"].items()
        return {"seed": told["seed"], "sources": told["sources"]}
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            "the ledger of a mixture cannot be read",
            where=str(ledger),
            found=f"{type(error).__name__}: {error}"[:200],
            expected="what heed data mix wrote beside the data",
            fix=f"move it away: mv {typed(ledger)} {typed(ledger.with_suffix('.other'))}",
        ) from error


def _mixed_row(each: Mapping[str, Any]) -> list[str]:
    sums = ", ".join(f"`{str(value)[:64]}`" for value in each["sha256"].values() if str(value).isalnum())
    share = f"{100 * each['share_of_the_mixture']:.1f}%"
    return [inert(each["path"]), f"{each['num_drawn']:,}", f"{each['num_records']:,}", share, sums]


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _examples(settings: DataCardSettings) -> Iterator[str]:
    if not settings.examples:
        return
    yield "## Examples"
    for source in settings.data:
        for count, (origin, raw) in enumerate(raws_at(source.path, Counter()), 1):
            if count > settings.examples:
                break
            if not isinstance(raw, Unusable):
                yield f"{inert(os.path.basename(origin.path))}, record {origin.record:,}:\n\n{fenced(raw)}"
