"""Ctrl-C during a training: it takes effect at the next safe point, and a second one ends the process."""

import signal
import subprocess
import sys

import pytest

from export.interrupts import deferred_interrupts


def test_an_interrupt_is_raised_at_the_next_safe_point_only(capfd):
    """The step in progress is completed, and a message says so at once."""
    with deferred_interrupts() as raise_if_interrupted:
        raise_if_interrupted()
        signal.raise_signal(signal.SIGINT)
        assert "stopping as soon as this step is done" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()


def test_the_previous_sigint_handler_is_restored():
    """A notebook can be interrupted after a training as before it."""
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_ends_the_process_at_once():
    """The exit code is 130, without a traceback. A long step need not be waited for."""
    code = "import signal\nfrom export.interrupts import deferred_interrupts\nwith deferred_interrupts():\n" + (
        "    signal.raise_signal(signal.SIGINT)\n" * 2 + "    print('still here')"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (130, "")
    assert "Traceback" not in outcome.stderr
