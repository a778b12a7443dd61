"""How model folders are opened: whether code in them may run, and who is told what is found."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from transformers.utils import logging as transformers_logging


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


@dataclass(frozen=True)
class Access:
    """What the user allows while folders are opened."""

    trust_remote_code: bool = False
    """whether Python files in a model's folder or repository may run, with all the rights of this user"""
    say: Callable[[str], None] = _warn
    """hears, a line each, what was left out, renamed or mended"""


CAREFUL = Access()
"""no code runs; notes are Python's warnings"""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own log and progress bars away while heed reads its reports; both come back afterwards."""
    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def peft_warnings_hidden() -> Iterator[None]:
    """Hide what peft says while adapters are put on, merged and written: heed checks the result itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\..*")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"peft\..*")
        yield
