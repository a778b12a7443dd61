"""What `heed eval` would ask, token by token: the prompt as each model reads it, and what of it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from heed.errors import UserError
from heed.eval_config import EvalSettings
from heed.evaluate.items import Item
from heed.recipes.evaluation.model import Words, open_words
from heed.recipes.evaluation.prompts import Written, examples_for, written
from heed.recipes.evaluation.records import OpenTask, open_task
from heed.recipes.show import Piece, pieces
from heed.types import Finding, Rendered, Span


@dataclass(frozen=True, slots=True)
class ShownRequest:
    """One request of an item, as one model reads it."""

    task: str
    words: str
    """who is asked, in which template"""
    item: Item
    request: int
    """counted from 1"""
    num_requests: int
    num_tokens: int
    num_scored: int
    num_bos: int
    is_right: bool
    """whether this is a right option of a choice"""
    examples: tuple[str, ...]
    """ids of the few-shot examples"""
    pieces: tuple[Piece, ...]


def run(
    settings: EvalSettings, *, record: int | None, limit: int, say: Callable[[str], None] = lambda line: None
) -> Iterator[ShownRequest | Finding]:
    """Every request of the chosen records, for each task and each model.

    Args:
        record: number of the one record to show, counted from 1; None: the first `limit`.
    """
    everyone = [open_words(name, settings) for name in settings.model]
    for written_task in (*settings.task, *settings.tax):
        task = open_task(
            written_task,
            limit=None,
            num_shots=settings.num_shots,
            max_bad_records=1.0,
            is_tax=written_task in settings.tax,
            say=say,
        )
        chosen = [item for item in task.items if record is None or item.origin.record == record]
        failed = [each for each in task.findings if each.origin.record == record]
        if not chosen and not failed:
            raise UserError(
                "there is no such record",
                where=task.data,
                found=f"{task.num_records:,} records",
                expected=f"a record {record}",
                fix=f"--record {task.num_records}",
            )
        yield from failed
        for item in chosen[: limit or None] if record is None else chosen:
            for words in everyone:
                yield from requests_of(item, task, words, settings)


def requests_of(item: Item, task: OpenTask, words: Words, settings: EvalSettings) -> Iterator[ShownRequest | Finding]:
    """What one model is asked about an item."""
    examples = examples_for(item, task, per_item=settings.shots == "per-item", seed=settings.seed)
    for number, request in enumerate(item.requests):
        made = written(request, item, task.task, examples, words)
        if isinstance(made, Finding):
            yield made
            continue
        yield ShownRequest(
            task.name,
            str(words),
            item,
            number + 1,
            len(item.requests),
            len(made.ids),
            len(made.ids) - made.num_context,
            made.num_bos,
            task.task.kind == "choice" and number in item.right,
            tuple(each.id for each in examples),
            drawn(made, item, words),
        )


def drawn(made: Written, item: Item, words: Words) -> tuple[Piece, ...]:
    """The text in pieces of whole tokens; those that are scored have a weight."""
    bos = words.tokenizer.variables.get("bos_token", "") if words.template is None else ""
    before = bos * made.num_bos + (made.prompt if made.continuation or made.num_context == len(made.ids) else "")
    text = before + (made.continuation or (made.prompt if made.num_context < len(made.ids) else ""))
    spans = (Span(len(before), len(text)),) if made.num_context < len(made.ids) else ()
    return pieces(Rendered(text, spans, item.origin), made.tokens(), words.tokenizer)
