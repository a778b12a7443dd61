"""Lines of numbers, one JSON object each, in `metrics.jsonl` and `samples.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from heed import files
from heed.errors import UserError, typed


def metrics_line(step: int, phase: str, numbers: Mapping[str, float]) -> str:
    """One line of `metrics.jsonl`: `{"step": 5, "phase": "train", "loss": 2.31}`.

    Integers stay integers, and floats are written with all their digits. JSON has no word for a number that is
    not finite (a perplexity may overflow): it is written as null.
    """
    values = {name: value if isinstance(value, int) else _finite(float(value)) for name, value in numbers.items()}
    return json.dumps({"step": step, "phase": phase} | values, ensure_ascii=False, allow_nan=False)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def drop_lines_after(path: Path, step: int) -> int:
    """Drop, all at once, the lines of later steps, and say how many. A last line cut short by a kill goes too."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    *lines, torn = content.split(b"\n")
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            its_step = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not torn:
                continue  # after a power cut a file can be as long as it should be and end in zeros
            raise UserError(
                "a line of the run's record cannot be read",
                where=f"{path}, line {number:,}",
                found=repr(line[:80].decode(errors="replace")),
                expected='a JSON object with a "step"',
                fix=f"remove the line: sed -i {number}d {typed(path)}",
            ) from error
        if its_step <= step:
            kept.append(line + b"\n")
    rewound = b"".join(kept)
    if rewound != content:
        files.write_bytes(path, rewound)
    return len(lines) + bool(torn) - len(kept)
