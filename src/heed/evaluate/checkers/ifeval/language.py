"""In which language is a text?

Read by `langdetect`, which IFEval's figures everywhere are read by. It draws random numbers and seeds them differently
in every process; here the seed is fixed, so that a text has one language.
"""

from __future__ import annotations

from functools import cache
from typing import Any

SEED = 0


def language_of(text: str) -> str | None:
    """ISO 639-1 (`zh-cn` and `zh-tw` for Chinese); None where there are no letters to tell it by."""
    from langdetect import LangDetectException

    detector = _factory().create()
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


@cache
def _factory() -> Any:
    """One of our own, so that the seed of the module's, which others may use, stays as it is."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = SEED
    return factory
