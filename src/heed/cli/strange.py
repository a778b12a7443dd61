"""`heed strange` on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from heed.errors import typed
from heed.eval_config import StrangeSettings
from heed.recipes import strange as recipe


def run(settings: StrangeSettings) -> None:
    """Fit, and say on what."""
    about = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    print(
        f"{Path(settings.out or settings.model) / 'strange.json'}: fitted to {about['num_prompts']:,} prompts, "
        f"{about['num_calibration']:,} kept apart, {about['num_background']:,} of the background"
    )
    print(f"smallest p-value: {1 / (1 + about['num_calibration']):.4f}; heed chat --model {typed(settings.model)}")
