"""Single items between two models: mended, broken, same; each with what was asked, its options, and what was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.report.eval_confidence import ItemsOf
from heed.report.eval_items import Kept, KeptItems, by_hash
from heed.report.eval_overview import model_class
from heed.report.eval_results import EvalResults, EvalTask, printable, short_models
from heed.report.forest import shortened
from heed.report.parts import Case, Details, Item, Note, Option, Said, Section, Verbatim
from heed.report.svg import percent, quantity

MAX_ITEMS = 300
"""on a page, over all tasks and pairs of models"""
FEWEST_OF_A_PAIR = 4
MAX_PROMPT = 3_000
"""characters of a prompt that are shown, its last ones"""
SHARED_BEGINNING = 200
"""characters from which what all prompts begin with is shown once"""
TITLE = 90


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as one model was asked it, or as two were."""

    task: EvalTask
    models: tuple[int, ...]
    """one, or two: the one compared with, then the other"""
    kinds: Mapping[str, list[tuple[Kept, ...]]]
    """what became of items -> the items, each as every model answered it"""
    only_one: int
    """items that one of two models was not asked"""


def browser_section(found: EvalResults, items: ItemsOf, of: str) -> Section | None:
    """Items of every task between each model and the first; of a single model, those right and wrong."""
    asked = [each for task in found.tasks for each in _asked(found, task, items) if each.kinds]
    if not asked:
        return None
    budget = max(FEWEST_OF_A_PAIR, MAX_ITEMS // len(asked))
    shown: list[Item] = [_pair(found, each, items, budget) for each in asked]
    num_here = sum(len(found_) for each in asked for found_ in _chosen(each, budget).values())
    num_all = sum(len(several) for each in asked for several in each.kinds.values())
    lead = (
        f"{num_here:,} of {num_all:,} items are on this page, chosen by a hash of what they say, not by their place; "
        f"the other {num_all - num_here:,} are in the run's items.jsonl."
        if num_here < num_all
        else f"All {num_all:,} items."
    )
    return Section("items", f"Single items{of}", lead, tuple(shown))


def _asked(found: EvalResults, task: EvalTask, items: ItemsOf) -> list[Asked]:
    """The pairs of models, or the one model, of a task."""
    there = [m for m in range(len(found.models)) if (m, task.name) in items]
    if len(there) == 1:
        of_one = {each.id: (each,) for each in items[there[0], task.name].items}
        return [Asked(task, (there[0],), _by_kind(list(of_one.values())), 0)]
    pairs = []
    for other in there[1:]:
        of_first, of_other = ({e.id: e for e in items[m, task.name].items} for m in (there[0], other))
        both = [(of_first[id_], of_other[id_]) for id_ in of_first if id_ in of_other]
        num_only = len(of_first) + len(of_other) - 2 * len(both)
        pairs.append(Asked(task, (there[0], other), _by_kind(both), num_only))
    return pairs


def _by_kind(several: Sequence[tuple[Kept, ...]]) -> dict[str, list[tuple[Kept, ...]]]:
    """The items by what became of them; where no item has a verdict of its own, by what was chosen."""
    has_values = any(not math.isnan(each.value) for answers in several for each in answers)
    kinds: dict[str, list[tuple[Kept, ...]]] = {}
    for answers in several:
        kind = kind_of(answers) if has_values else choice_kind(answers)
        if kind:
            kinds.setdefault(kind, []).append(answers)
    order = ("mended", "broken", "other", "right", "wrong", "same", "undefined")
    return {kind: kinds[kind] for kind in order if kind in kinds}


def kind_of(answers: Sequence[Kept]) -> str:
    """`mended`, `broken`; `right`, `wrong` or `same` where nothing changed; `undefined` where a verdict is missing."""
    first, last = answers[0].value, answers[-1].value
    if math.isnan(first) or math.isnan(last):
        return "undefined"
    if first != last:
        return "mended" if last > first else "broken"
    return "right" if first >= 1 else "wrong" if first <= 0 else "same"


def choice_kind(answers: Sequence[Kept]) -> str:
    """Whether two models chose alike; empty where there was nothing to choose."""
    if all(each.chosen is None for each in answers):
        return ""
    return "same" if len({each.chosen for each in answers}) == 1 else "other"


def _kind_name(kind: str, names: Sequence[str]) -> str:
    """What a kind of items is called."""
    if len(names) == 1:
        return {"right": "Right", "wrong": "Wrong", "same": "In part right", "undefined": "Without a verdict"}[kind]
    first, last = names
    return {
        "mended": f"Mended: better by {last} than by {first}",
        "broken": f"Broken: worse by {last} than by {first}",
        "other": "Chosen otherwise",
        "right": "Same: right by both",
        "wrong": "Same: wrong by both",
        "same": "Same: alike by both",
        "undefined": "Without a verdict for one of the two",
    }[kind]


def _chosen(asked: Asked, budget: int) -> dict[str, list[tuple[Kept, ...]]]:
    """As many items of each kind as there is room for, in turn, and of a kind those of the lowest hash."""
    ranked = {}
    for kind, several in asked.kinds.items():
        of = {answers[0].id: answers for answers in several}
        ranked[kind] = [of[each.id] for each in by_hash([answers[0] for answers in several], budget)]
    taken = dict.fromkeys(ranked, 0)
    for place in range(budget):
        for kind, several in ranked.items():
            taken[kind] += place < len(several) and sum(taken.values()) < budget
    return {kind: several[: taken[kind]] for kind, several in ranked.items() if taken[kind]}


def _pair(found: EvalResults, asked: Asked, items: ItemsOf, budget: int) -> Details:
    """One task between two models: how many items of each kind there are, and some of them."""
    every = short_models(found.models)
    names = [every[m] for m in asked.models]
    chosen = _chosen(asked, budget)
    of_task = [items[m, asked.task.name] for m in asked.models]
    lines = {kind: _lines(of_task, several) for kind, several in chosen.items()}
    prompts = [str(line.get("prompt") or "") for several in lines.values() for each in several for line in each]
    shared = shared_beginning(prompts)
    inside: list[Note | Verbatim | Details | Case] = []
    if asked.only_one:
        inside.append(Note(f"{asked.only_one:,} items were asked of one of the two models only."))
    for kept, name in zip(of_task, names, strict=True):
        if kept.is_torn:
            inside.append(Note(f"The last line of {name}'s items was cut short and is left out."))
    if shared:
        inside.append(Details("What every prompt below begins with", (Verbatim(shared),), is_printed=False))
    counts = []
    for kind, several in asked.kinds.items():
        name = _kind_name(kind, names)
        cases = tuple(_case(each, asked, names, shared) for each in lines.get(kind, []))
        here = "" if len(cases) == len(several) else f", {len(cases):,} of them here"
        counts.append(
            f"{name.split(':')[0].lower() if kind in ('mended', 'broken') else _short(name)} {len(several):,}"
        )
        inside.append(Details(f"{name}: {len(several):,}{here}", cases or (Note("None is on this page."),), False))
    between = f", {names[1]} against {names[0]}" if len(names) > 1 else f", {names[0]}"
    return Details(f"{asked.task.name}{between}: {', '.join(counts)}", tuple(inside), is_printed=False)


def _short(name: str) -> str:
    head, _, rest = name.partition(": ")
    return rest or head.lower()


def _lines(of_task: Sequence[KeptItems], several: Sequence[tuple[Kept, ...]]) -> list[tuple[Mapping[str, Any], ...]]:
    """The whole line of each item, as every model answered it."""
    by_model = [kept.lines([answers[place] for answers in several]) for place, kept in enumerate(of_task)]
    return list(zip(*by_model, strict=True))


def shared_beginning(prompts: Sequence[str]) -> str:
    """The whole lines that all prompts begin with, such as fixed examples; empty where they are few."""
    if len(prompts) < 2:
        return ""
    low, high = min(prompts), max(prompts)  # what these two share, all between them share
    num_equal = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    common = low[:num_equal]
    common = common[: common.rfind("\n") + 1]
    return common if len(common) >= SHARED_BEGINNING else ""


def _case(lines: Sequence[Mapping[str, Any]], asked: Asked, names: Sequence[str], shared: str) -> Case:
    """One item, as one model or two answered it."""
    prompts: dict[str, list[str]] = {}
    for line, name in zip(lines, names, strict=True):
        prompts.setdefault(_cut(str(line.get("prompt") or "").removeprefix(shared), shared), []).append(name)
    first = lines[0]
    wanted = [str(each) for each in first.get("right") or []]
    return Case(
        title=f"record {first.get('record', '?')}: {_first_words(first, shared)}",
        prompts=tuple(
            (f"asked of {', '.join(who)}" if len(prompts) > 1 else "", text) for text, who in prompts.items()
        ),
        head=tuple(names),
        options=_options(lines),
        expected="" if first.get("options") else ", ".join(wanted) or "no answer is right",
        answers=tuple(
            _said(line, model_class(m), name)
            for line, m, name in zip(lines, asked.models, names, strict=True)
            if line.get("answer") is not None
        ),
        notes=tuple(filter(None, (_note(line, name) for line, name in zip(lines, names, strict=True)))),
    )


def _cut(prompt: str, shared: str) -> str:
    """The end of a long prompt, with what is left out of it said."""
    if len(prompt) > MAX_PROMPT:
        num_cut = len(prompt) - MAX_PROMPT
        return f"[the first {num_cut:,} characters are in items.jsonl] …{prompt[-MAX_PROMPT:]}"
    return f"… {prompt}" if shared else prompt


def _first_words(line: Mapping[str, Any], shared: str) -> str:
    """The item in a line: the last part of what was asked."""
    text = str(line.get("prompt") or "").removeprefix(shared).strip()
    part = text.split("\n\n")[-1]
    words = " ".join(part.split())
    if not words:
        words = " ".join(str((line.get("options") or [{}])[0].get("text", "")).split())
    return shortened(printable(words), TITLE)


def _options(lines: Sequence[Mapping[str, Any]]) -> tuple[Option, ...]:
    """Every option with its log-probability for each model; scores without the context are no options."""
    options = [list(line.get("options") or []) for line in lines]
    first = options[0]
    texts = [str(each.get("text", "")) for each in first]
    half = len(texts) // 2
    if half > 1 and len(texts) % 2 == 0 and texts[:half] == texts[half:] and len(set(texts[:half])) == half:
        contexts = [str(each.get("context", "")) for each in first]
        if contexts[:half] != contexts[half:]:
            texts = texts[:half]
    differ = len({str(each.get("context", "")) for each in first[: len(texts)]}) > 1
    right, labels = lines[0].get("right") or [], lines[0].get("labels") or []
    found = []
    for place, text in enumerate(texts):
        cells = []
        for line, own in zip(lines, options, strict=True):
            chosen = line.get("chosen") == place
            cells.append((_logp(own[place]) if place < len(own) else "not asked", chosen))
        context = str(first[place].get("context", "")) if differ else ""
        words = f"{_cut(context, '')}⟶{text}" if differ else text
        found.append(Option(words, place in right, tuple(cells), str(labels[place]) if place < len(labels) else ""))
    return tuple(found)


def _logp(option: Mapping[str, Any]) -> str:
    values = [float(each) for each in option.get("logp") or []]
    if not values:
        return "not asked"
    return f"{math.fsum(values):.2f}".replace("-", "−") if all(map(math.isfinite, values)) else "not finite"


def _said(line: Mapping[str, Any], class_: str, name: str) -> Said:
    truth = (line.get("verdict") or {}).get("is_right")
    extracted = line.get("extracted")
    read = f"read as {extracted}" if extracted is not None else "nothing could be read from it"
    cut = "; cut off here: it did not stop by itself" if line.get("is_cut") else ""
    verdict = "" if truth is None else "right" if truth else "wrong"
    return Said(name, class_, str(line["answer"]), verdict, read + cut)


def _note(line: Mapping[str, Any], name: str) -> str:
    """What else is known of an answer: confidence, verdict, BOS."""
    told = []
    if isinstance(confidence := line.get("confidence"), int | float):
        told.append(f"confidence {percent(confidence)}")
    for key, value in (line.get("verdict") or {}).items():
        if isinstance(value, bool):
            told.append(f"{key} {'yes' if value else 'no'}")
        elif isinstance(value, int | float):
            told.append(f"{key} {quantity(value)}")
    if isinstance(strange := line.get("p_strange"), int | float):
        told.append(f"strange prompt p {quantity(strange)}")
    if isinstance(num_bos := line.get("num_bos"), int) and num_bos > 1:
        told.append(f"BOS {num_bos} times")
    return f"{name}: {', '.join(told)}" if told else ""
