"""The results of `heed eval`, and the tasks there are, as lines for a terminal."""

from __future__ import annotations

from heed.evaluate.task import built_in, built_in_names, folder_of_tasks
from heed.report.eval_table import lines as table

__all__ = ["table", "tasks_table"]


def tasks_table() -> list[str]:
    """Every task that heed brings: its name, its kind, what it is; and where they are, to be copied."""
    tasks = [(name, built_in(name)) for name in built_in_names()]
    width = max((len(name) for name, _ in tasks), default=0)
    rows = [f"{name:<{width}}  {task.kind:<10}  {task.about}" for name, task in tasks]
    return [*rows, "", f"A task of your own is written by copying one: {folder_of_tasks()}"]
