"""Settings of the commands that measure models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from heed.settings import Number, PathText, Settings, Text


class CalibrateSettings(Settings):
    """Make a model's confidence honest, and certify a threshold beyond which it says that it does not know.

    heed calibrate runs/eval --max-error 0.1 --confidence 0.95
    heed calibrate runs/eval --task gsm8k --model runs/first --guarantee joint
    """

    run: PathText = Field(description="folder that heed eval has written")
    model: Text | None = Field(None, description="which of its models, by name [default: the only one]")
    task: Text | None = Field(None, description="which of its tasks, by name [default: the only one]")
    guarantee: Literal["selective", "joint", "batch"] = Field(
        "selective",
        description="of the answers given, so many are wrong; of all questions; of answers selected from a batch",
    )
    max_error: Number = Field(0.1, gt=0, lt=1, description="share of wrong answers that is promised at most")
    confidence: Number = Field(
        0.95, gt=0, lt=1, description="of the selective promise, over the draw of the items; others are on average"
    )
    tuning_share: Number = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the items, by hash, on which confidences are scaled and thresholds chosen",
    )
    print_json: bool = Field(False, alias="json", description="print honesty.json, and nothing else")
