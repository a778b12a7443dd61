"""Measures that are no plain mean over items, by name: functions from the scored items of a task to figures.

A name that is not here is the mean of that key of the items' verdicts: see `heed.evaluate.figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from heed.evaluate.items import Figure, Scored
from heed.evaluate.measures.bbq import BBQ
from heed.evaluate.measures.calibration import CALIBRATION
from heed.evaluate.measures.coreference import COREFERENCE
from heed.evaluate.measures.honesty import HONESTY, honesty
from heed.evaluate.measures.ifeval import IFEVAL
from heed.evaluate.measures.perplexity import PERPLEXITIES
from heed.evaluate.measures.refusals import REFUSALS
from heed.evaluate.measures.stereotypes import STEREOTYPES
from heed.evaluate.measures.unanswerable import ABSTENTION

Measure = Callable[[Sequence[Scored]], list[Figure]]
"""at least one item -> figures: one whose `measure` is the name and whose `group` is None, and others as it likes"""

MEASURES: dict[str, Measure] = {
    **BBQ,
    **COREFERENCE,
    **IFEVAL,
    **PERPLEXITIES,
    **ABSTENTION,
    **REFUSALS,
    **STEREOTYPES,
    **CALIBRATION,
    HONESTY: honesty,
}
