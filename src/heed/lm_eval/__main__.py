"""`python -m heed.lm_eval ...`: lm_eval's own command line, with `heed` among its models."""

import sys

from heed.allocator import keep_freed_memory
from heed.errors import UserError


def main() -> None:
    """Run lm_eval's command on the words that this one was given."""
    from lm_eval.__main__ import cli_evaluate

    keep_freed_memory()
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
