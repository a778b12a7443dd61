"""Errors a user can fix. A message says what is wrong, where, what was found, and what to do."""

import shlex
import sys


def typed(word: object) -> str:
    """A path or another word as a shell takes it: in quotes where it holds a space or a sign of the shell's."""
    text = str(word)
    home, rest = ("~/", text[2:]) if text.startswith("~/") else ("", text)  # a shell expands no ~ in quotes
    return home + shlex.quote(rest) if rest else home


def refuse_windows() -> None:
    """Say at once that nothing here is tried on Windows, where files are locked, renamed and synced otherwise."""
    if sys.platform == "win32":
        raise UserError(
            "heed runs on Linux and macOS",
            where="this computer",
            found="Windows",
            expected="Linux, macOS, or Windows' own Linux (WSL)",
            fix="wsl --install, then the same command in its terminal",
        )


class UserError(ValueError):
    """A mistake in the user's data, settings or surroundings, never a bug in heed.

    The command line prints it without a traceback and exits with status 2. Anything
    else that escapes is our bug and keeps its traceback.
    """

    is_told = False
    """whether the user knows of it from another process of the run"""

    def __init__(self, problem: str, *, where: str, found: str, expected: str, fix: str) -> None:
        self.problem, self.where, self.found, self.expected, self.fix = problem, where, found, expected, fix
        super().__init__(
            f"{problem}\n  where:    {where}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}"
        )

    def __reduce__(self) -> tuple[object, tuple[str, str, str, str, str]]:
        """How an error comes back from another process."""
        return _error, (self.problem, self.where, self.found, self.expected, self.fix)


def _error(problem: str, where: str, found: str, expected: str, fix: str) -> UserError:
    return UserError(problem, where=where, found=found, expected=expected, fix=fix)


MEMORY_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""in messages of allocators that raise a plain RuntimeError"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up: Python's, a device's, or PyTorch's on the CPU.

    No function of torch is asked, so that whoever prints errors need not load it.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)
