"""The command line `ostinato`. It uses the SDK; nothing of the SDK imports it, and it alone needs click and rich."""

from __future__ import annotations

import sys

NEEDED = {"click", "rich"}
MISSING = "error: the command line needs further packages: pip install 'ostinato-client[cli]'"
WRONG_USAGE = 2


def main() -> None:
    """Run the program, and leave with its exit code."""
    try:
        from ostinato._cli.program import program  # noqa: PLC0415 - so that its absence is one line
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        print(MISSING, file=sys.stderr)
        sys.exit(WRONG_USAGE)
    program.main(prog_name="ostinato")
