"""Ctrl-C is heard at once and obeyed where it does no damage."""

import signal
import subprocess
import sys

import pytest

from export.interrupts import deferred_interrupts


def test_it_is_obeyed_when_asked_and_not_before(capfd):
    """A step that is begun is ended; the person who pressed is told so."""
    with deferred_interrupts() as raise_if_interrupted:
        raise_if_interrupted()
        signal.raise_signal(signal.SIGINT)
        assert "stopping as soon as this step is done" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()


def test_afterwards_it_is_what_it_was():
    """A notebook can be interrupted after a training as before it."""
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_time_it_ends_the_process_at_once():
    """A step that takes too long need not be waited for."""
    code = "import signal\nfrom export.interrupts import deferred_interrupts\nwith deferred_interrupts():\n" + (
        "    signal.raise_signal(signal.SIGINT)\n" * 2 + "    print('still here')"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (130, "")
    assert "Traceback" not in outcome.stderr
