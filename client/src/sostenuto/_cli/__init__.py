"""The command line `sostenuto`. It imports the SDK, never the reverse; only it imports click and rich."""

from __future__ import annotations

import os
import signal

WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as in shells


def main() -> None:
    """Run the program and exit with its exit code."""
    handles_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background job ignores it
    if handles_ctrl_c:
        # Not by KeyboardInterrupt: some modules catch it while they are imported.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from sostenuto._cli.program import program  # noqa: PLC0415 - while Ctrl-C ends the process at once

    if handles_ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.main(prog_name="sostenuto")
