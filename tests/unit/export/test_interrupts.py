"""Ctrl-C and SIGTERM: in a training run they take effect at the next safe point, and a second one ends the process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export.interrupts import Terminated, deferred_interrupts, exit_code
from tests.paths import ROOT
from tests.servers import children
from tests.waiting import until

SIGNALS = pytest.mark.parametrize(
    ("number", "raised", "code"), [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, Terminated, 143)]
)


@SIGNALS
def test_a_signal_is_raised_at_the_next_safe_point_only(number, raised, code, capfd):
    with deferred_interrupts() as raise_if_interrupted:
        raise_if_interrupted()
        signal.raise_signal(number)
        assert "stopping after this step" in capfd.readouterr().err
        with pytest.raises(raised) as error:
            raise_if_interrupted()
    assert type(error.value) is raised
    assert exit_code(error.value) == code


@SIGNALS
def test_the_previous_handlers_are_restored(number, raised, code):  # noqa: ARG001
    """A notebook can be interrupted after a training run as before it."""
    before = signal.getsignal(number)
    with deferred_interrupts():
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) is before


@SIGNALS
def test_a_second_signal_ends_the_process_at_once(number, raised, code):  # noqa: ARG001
    program = "import signal\nfrom export.interrupts import deferred_interrupts\nwith deferred_interrupts():\n" + (
        f"    signal.raise_signal({int(number)})\n" * 2 + "    print('still here')"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (code, "")
    assert "Traceback" not in outcome.stderr


@SIGNALS
def test_a_signal_during_an_import_ends_the_process_at_once(number, raised, code):  # noqa: ARG001
    program = (
        "import signal\nfrom export.interrupts import exit_at_once, signal_handlers\n"
        "with signal_handlers(exit_at_once):\n    try:\n"
        f"        signal.raise_signal({int(number)})\n    except BaseException:\n        pass\nprint('still here')"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (code, "", "")


@SIGNALS
def test_outside_a_command_a_signal_ends_the_program_at_once(number, raised, code):
    program = (
        "import signal\nfrom export.interrupts import exit_on_signals, raise_interrupt, signal_handlers\n"
        "exit_on_signals()\nwith signal_handlers(raise_interrupt):\n    try:\n"
        f"        signal.raise_signal({int(number)})\n"
        "    except KeyboardInterrupt as error:\n        print(type(error).__name__, flush=True)\n"
        f"signal.raise_signal({int(number)})\nprint('still here')"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (code, f"{raised.__name__}\n", "")


def handles_sigterm(pid):
    """Return whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("prefix", [[], ["unshare", "--pid", "--fork"]], ids=["a process", "process 1"])
def test_sigterm_ends_a_command(prefix):
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    command = [*prefix, sys.executable, "-m", "export", "tokenizer", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        pid = until(lambda: children(process.pid))[0] if prefix else process.pid
        try:
            until(lambda: handles_sigterm(pid))
            os.kill(pid, signal.SIGTERM)
            _, err = process.communicate(timeout=240)
        finally:
            process.kill()
    assert (process.returncode, err) == (143, "")
