"""Tell memory that is used up from a fault, in the commands that train nothing; a run tells it itself."""

from __future__ import annotations

from heed.errors import UserError, is_out_of_memory


def full_memory(error: BaseException) -> UserError | None:
    """The five-part error if `error` is memory that is used up; None if it is something else."""
    if not is_out_of_memory(error):
        return None
    return UserError(
        "there is not enough memory",
        where="this command, on this machine",
        found=" ".join(str(error).split())[:300] or type(error).__name__,
        expected="room for the model's weights and what is computed with them",
        fix="stop other programs that hold memory, or give a smaller --model",
    )
