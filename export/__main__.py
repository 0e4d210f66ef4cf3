"""Entry point of `python -m export`."""

import signal
import sys


def _run() -> int:
    try:
        from export.cli import main  # noqa: PLC0415 - so that Ctrl-C during the import is caught too

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        # TensorFlow's threads take a moment to end; a second Ctrl-C would print a traceback there.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A pool of threads that TensorFlow leaves to the interpreter's end cannot be closed there, and would say so.
        sys.unraisablehook = lambda _: None


if __name__ == "__main__":
    sys.exit(_run())
