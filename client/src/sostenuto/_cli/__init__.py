"""The command line `sostenuto`. It imports the SDK, never the reverse; only the command line needs click and rich."""

from __future__ import annotations

import os
import signal
import sys

NEEDED = {"click", "rich"}
MISSING = "error: the command line needs further packages: pip install 'sostenuto[cli]'"
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as in shells


def main() -> None:
    """Run the program and exit with its exit code."""
    handles_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background job ignores it
    if handles_ctrl_c:
        # Not by KeyboardInterrupt: some modules catch it while they are imported.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        from sostenuto._cli.program import program  # noqa: PLC0415 - so that a missing package is a one-line error
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        print(MISSING, file=sys.stderr)
        sys.exit(WRONG_USAGE)
    if handles_ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.main(prog_name="sostenuto")
