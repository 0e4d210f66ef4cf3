"""A terminal for tests: a program runs in it, sees its width and gets its Ctrl-C; tests wait for its output."""

import contextlib
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

from tests.paths import ROOT

CTRL_C, CTRL_D = b"\x03", b"\x04"
PATIENCE_S = 60.0  # for what takes no time once the program runs; a test that waits this long fails

# The shell leads its session, so the first terminal that it opens becomes the controlling terminal.
_OPEN = 'exec "$@" <"$TERMINAL" 2>"$TERMINAL" >"$OUTPUT"'


class TerminalFile(io.StringIO):
    """A file that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


class Terminal:
    """`sostenuto` in a terminal of its own."""

    def __init__(self, *arguments, columns=80, output=None, **variables):
        """Start it.

        Args:
            arguments: Command-line arguments.
            columns: The terminal's width.
            output: File for standard output; None: the terminal.
            variables: Environment variables.
        """
        self._mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        name = os.ttyname(theirs)
        usual = {"TERMINAL": name, "OUTPUT": str(output or name), "TERM": "xterm-256color"}
        with interruptible():
            self.process = subprocess.Popen(
                ["sh", "-c", _OPEN, "sh", sys.executable, "-m", "sostenuto", *arguments],
                env=environment(**{**usual, **variables}),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._theirs = theirs  # held open, so that reading does not fail before the program has opened it
        self.shown, self._seen = b"", 0

    def type(self, keys):
        """Send keys, as bytes; a line feed is Enter."""
        os.write(self._mine, keys)

    def wait_for(self, wanted, timeout=PATIENCE_S):
        """Wait until the output has these bytes, after the previous match."""
        deadline = time.monotonic() + timeout
        while (found := self.shown.find(wanted, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{wanted!r} is not in {self.shown[self._seen :]!r}"
            self._read(0.1)
        self._seen = found + len(wanted)

    def end(self, timeout=PATIENCE_S):
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"does not end; it has shown {self.shown!r}")
            self._read(0.05)
        while self._read(0.0):
            pass
        os.close(self._mine)
        os.close(self._theirs)
        return self.process.returncode, self.shown.decode().replace("\r\n", "\n")

    def _read(self, timeout):
        ready, _, _ = select.select([self._mine], [], [], timeout)
        if ready:
            self.shown += os.read(self._mine, 65536)
        return bool(ready)


@contextlib.contextmanager
def interruptible():
    """Let processes that are started within receive SIGINT, even if the shell runs these tests in the background."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def environment(**variables):
    """Return an environment in which `python -m sostenuto` is this checkout's."""
    ours = ("SOSTENUTO_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PYTHONUNBUFFERED")
    usual = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**usual, "PYTHONPATH": str(ROOT / "client" / "src"), "PYTHONWARNINGS": "error", **variables}
