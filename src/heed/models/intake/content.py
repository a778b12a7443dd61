"""The content of a model's weights as a fingerprint: what was measured or certified holds for these weights alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from heed.models.adapters.folder import base_of, is_adapter
from heed.models.intake.files import ADAPTER_CONFIG, CONFIG, file_of

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
ALSO_DECIDES = ("config.json", "adapter_config.json")
"""beside the weights: a scale or a number of layers is as much of a model as they are"""


def weights_sha256(name: str) -> str | None:
    """SHA-256 of a model's weights and configs, an adapter's with its base's; None where they are not on this machine.

    Of a hub name those that were fetched count. Names of files count, the folder's own name and place do not.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        cached = file_of(name, CONFIG) or file_of(name, ADAPTER_CONFIG)
        if cached is None:
            return None
        folder = cached.parent  # of one revision
    content = hashlib.sha256()
    for pattern in (*WEIGHTS, *ALSO_DECIDES):
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as file:
                content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    if is_adapter(name):
        base = base_of(name)
        content.update((weights_sha256(base) or base).encode())
    return content.hexdigest()
