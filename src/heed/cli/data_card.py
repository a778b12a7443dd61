"""`heed data card` on the terminal."""

from __future__ import annotations

import sys

from heed.data_mix_config import DataCardSettings
from heed.recipes.workshop import card as recipe


def run(settings: DataCardSettings) -> None:
    """Write the card, and say what is still to be said by hand."""
    out = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{out}: the card of {', '.join(source.path for source in settings.data)}")
    if settings.licence is None:
        print("  it names no licence: --licence cc-by-4.0, or another one, says what others may do with the data")
