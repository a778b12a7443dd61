"""One record of a task while it becomes an item: its shape, and the findings it may end in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heed.evaluate.items import Item, Request
from heed.evaluate.task import Shape, Task, Written, said
from heed.types import Finding, Origin


@dataclass(frozen=True, slots=True)
class Reading:
    """A record, and the task that reads it."""

    task: Task
    id: str
    origin: Origin
    record: Mapping[str, Any]

    @property
    def shape(self) -> Shape | None:
        return self.task.shape_of(self.record)

    def say(self, written: Written | None) -> Any:
        """The value of what the shape writes for this record."""
        if written is None:
            raise LookupError("the shape does not say it")
        return said(written, self.record)

    def text(self, written: Written | None) -> str:
        """The same where it must be a text; a number is its digits."""
        value = self.say(written)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(f"{written} is a {type(value).__name__}, not a text")
        return str(value)

    def texts(self, written: Written | None) -> list[str]:
        """The same where it must be a list of texts."""
        values = self.say(written)
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise TypeError(f"{written} is a {type(values).__name__}, not a list of texts")
        found = list(values)
        if wrong := [each for each in found if isinstance(each, bool) or not isinstance(each, str | int | float)]:
            raise TypeError(f"{written} holds a {type(wrong[0]).__name__} among its texts")
        return [str(each) for each in found]

    def item(
        self,
        requests: tuple[Request, ...],
        right: tuple[Any, ...],
        *,
        labels: tuple[str, ...] = (),
        shot: tuple[str, str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Item:
        """The item of this record, with its cluster and its groups; a description that cannot be said is a mistake."""
        self.text(self.task.description)
        written = {**self.task.groups, **({} if self.task.cluster is None else {"": self.task.cluster})}
        said_of = ((name, self.say(each)) for name, each in written.items())
        groups = {name: str(value).strip() for name, value in said_of if value is not None and value != ""}
        cluster = groups.pop("", None)
        return Item(self.id, self.origin, self.record, requests, right, labels, shot, cluster, groups, notes)

    def finding(self, problem: str, found: str) -> Finding:
        """Why the record cannot be asked."""
        return Finding(
            problem,
            self.origin,
            found=found[:300],
            expected=f"a record as the task reads it: {self.task.about}",
            fix="mend the record, or copy the task file and let a shape of it read these fields",
        )

    def no_shape(self) -> Finding:
        """The finding of a record that is written in no way that the task knows."""
        ways = "; or ".join(", ".join(shape.fields) for shape in self.task.shapes)
        return Finding(
            "a record has not the fields that its task reads",
            self.origin,
            found=f"the fields {', '.join(map(str, self.record)) or 'none'}"[:300],
            expected=ways,
            fix="another file for this task; or copy the task file and let a shape of it name these fields",
        )
