"""The one error for an export that was written and is not what was to be written."""

from heed.errors import UserError


def differs(problem: str, where: object, found: str, expected: str) -> UserError:
    """The error for a file that does not hold what was given; the recipe removes it."""
    return UserError(
        f"the exported model is not the one that was given: {problem}",
        where=str(where),
        found=found,
        expected=expected,
        fix="the same command again, with --out on another disk; nothing was left at --out. If it happens again, it is "
        "a fault of heed's: heed merge, or --to folder, keeps the model as transformers writes it",
    )
