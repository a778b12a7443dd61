"""The cheapest checks of a data set that is being prepared: what its first records show to be wrong for certain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from heed.config import DataSource
from heed.data.read import read_comparable
from heed.data_faults import KINDS
from heed.errors import UserError, typed
from heed.types import Finding
from heed.workshop.record_faults import certain_faults

MOST_RECORDS = 2_000
"""records that are looked at: a fraction of a second, where all of a large data set would take minutes"""


def first_look(source: DataSource) -> Iterator[str]:
    """One line for each kind of error that the first records show, and the command that finds the rest.

    Says nothing of records that preparation itself leaves out or stops at, nor of labelled ones, which hold no text to
    be imitated before wordings say them.
    """
    if source.wordings is not None:
        return
    bad: Counter[str] = Counter()
    num_records = 0
    try:
        for _, noun in islice(read_comparable(source.path, source.columns), MOST_RECORDS + 1):
            num_records += 1
            if num_records <= MOST_RECORDS and not isinstance(noun, Finding):
                bad.update({fault.kind for fault in certain_faults(noun)})
    except UserError:
        return  # prompts alone, or what preparation has told already
    columns = [f"--columns {typed(f'{name}={column}')}" for name, column in source.columns.items()]
    command = " ".join(["heed data check", typed(source.path), *columns])
    where = f" of the first {MOST_RECORDS:,}" if num_records > MOST_RECORDS else ""
    for kind, count in bad.most_common():
        records = "record" if count == 1 else "records"
        yield f"{count:,} {records}{where} with {kind}, {KINDS[kind].means}: {command}"
