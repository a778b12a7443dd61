"""The one switch of heed's own kernels: with `HEED_PLAIN=1` in the environment all computation is plain PyTorch.

No module's forward is swapped (products, rotations, norms, embeddings), attention over a forest is written out node by
node, the head is the model's own layer, and decoding is the model's own forward. Results are the same up to rounding;
it is for finding out whether a kernel is at fault, and for tests.
"""

import os

SWITCH = "HEED_PLAIN"


def plain() -> bool:
    """Whether kernels are switched off, asked wherever there is one."""
    return os.environ.get(SWITCH) == "1"
