"""Entry point of `python -m export`."""

import signal
import sys

from export.interrupts import exit_code, immediate_exit, raise_on_sigterm


def _run() -> int:
    raise_on_sigterm()
    try:
        with immediate_exit():
            from export.cli import main  # noqa: PLC0415 - seconds

        return main()
    except KeyboardInterrupt as error:
        return exit_code(error)
    finally:
        # TensorFlow's threads take a moment to stop; a second signal would print a traceback then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # TensorFlow leaves a thread pool to interpreter shutdown. It cannot be closed there and would print an error.
        sys.unraisablehook = lambda _: None


if __name__ == "__main__":
    sys.exit(_run())
