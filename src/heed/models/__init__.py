"""Load, attend, score, adapt, sample: the only importer of transformers and peft."""

import logging

# peft imports bitsandbytes wherever it is installed, which then warns of a kernel that heed has no use for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
