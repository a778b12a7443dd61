"""What the reference says of fixed data: computed once, before anything is learnt, and kept in the run folder.

The model that a run opens *is* the reference until its first step, and a resumed run opens it again before it goes back
to its checkpoint. So no second model is held in memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from heed.objectives.ragged import sum_by_sequence
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching
from heed.train import files
from heed.train.progress import Progress
from heed.types import Forest, Tokens

KEPT = "reference_logp.npz"
AT_A_TIME = 64
"""groups that are planned into forwards together"""

Group = tuple[Tokens, ...]
LogpOf = Callable[[Forest], torch.Tensor]
"""forest -> (N,) log p of each trained token, in nats"""


class ReferenceLogp:
    """log-probability of known sequences under the reference, summed over their trained tokens, in nats."""

    def __init__(self, known: dict[bytes, float]) -> None:
        self._known = known

    def __call__(self, sequences: Iterable[Tokens]) -> np.ndarray:
        """(K,) float64; a sequence that was not asked about at the start is a KeyError."""
        return np.array([self._known[digest(tokens)] for tokens in sequences], dtype=np.float64)


def digest(tokens: Tokens) -> bytes:
    """16 bytes that tell a sequence, and which of its tokens are trained, from any other."""
    trained = np.flatnonzero(tokens.weight).astype("<i4")
    return hashlib.blake2b(
        len(tokens).to_bytes(4, "little") + tokens.ids.astype("<i4").tobytes() + trained.tobytes(), digest_size=16
    ).digest()


def reference_logp(groups: Iterable[Group], logp_of: LogpOf, place: Place, batching: MicroBatching) -> ReferenceLogp:
    """Ask the model as it was opened about all sequences that are not in the run folder yet.

    Args:
        groups: sequences that share a prompt, together.
    """
    path = place.folder.folder / KEPT
    known = place.world.on_first(lambda: _read(path))
    asked = [group for group in groups if any(digest(tokens) not in known for tokens in group)]
    if asked:
        with Progress("reference", total=len(asked), unit="prompts", shown=place.world.is_first) as progress:
            for start in range(0, len(asked), AT_A_TIME):
                some = asked[start : start + AT_A_TIME]
                sums = batching.per_sequence(some, partial(_sums, logp_of))
                for group, of_group in zip(some, sums, strict=True):
                    known |= zip(map(digest, group), of_group.tolist(), strict=True)
                progress.update(start + len(some))
        place.world.on_first(lambda: _write(path, known))
    return ReferenceLogp(known)


def _sums(logp_of: LogpOf, forest: Forest) -> torch.Tensor:
    logp = logp_of(forest).double()
    return sum_by_sequence(logp, forest.sequence.to(logp.device), forest.num_sequences)


def _read(path: Path) -> dict[bytes, float]:
    if not path.is_file():
        return {}
    with np.load(path) as kept:
        return dict(zip([row.tobytes() for row in kept["digest"]], kept["logp"].tolist(), strict=True))


def _write(path: Path, known: dict[bytes, float]) -> None:
    digests = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), 16)
    content = io.BytesIO()
    np.savez(content, digest=digests, logp=np.array(list(known.values()), dtype=np.float64))
    files.write_bytes(path, content.getvalue())
