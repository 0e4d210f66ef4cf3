"""Entry point of `python -m export`."""

import signal
import sys


def _run() -> int:
    try:
        from export.cli import main  # noqa: PLC0415 - also catches Ctrl-C during the import

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        # TensorFlow's threads take a moment to stop; a second Ctrl-C would print a traceback then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # TensorFlow leaves a thread pool to interpreter shutdown. It cannot be closed there and would print an error.
        sys.unraisablehook = lambda _: None


if __name__ == "__main__":
    sys.exit(_run())
