"""The command line `ostinato`. It imports the SDK, never the reverse; only the command line needs click and rich."""

from __future__ import annotations

import sys

NEEDED = {"click", "rich"}
MISSING = "error: the command line needs further packages: pip install 'ostinato-client[cli]'"
WRONG_USAGE = 2


def main() -> None:
    """Run the program and exit with its exit code."""
    try:
        from ostinato._cli.program import program  # noqa: PLC0415 - so that a missing package is a one-line error
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        print(MISSING, file=sys.stderr)
        sys.exit(WRONG_USAGE)
    program.main(prog_name="ostinato")
