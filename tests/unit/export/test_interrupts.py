"""Ctrl-C and SIGTERM: in a training run they take effect at the next safe point, and a second one ends the process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export.interrupts import Terminated, deferred_interrupts, exit_code, raise_if_interrupted
from tests.paths import ROOT
from tests.servers import children
from tests.waiting import until

SIGNALS = pytest.mark.parametrize(
    ("number", "raised", "code"), [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, Terminated, 143)]
)


@SIGNALS
def test_a_signal_is_raised_at_the_next_safe_point_only(number, raised, code, capfd):
    """A notebook can be interrupted after a training run as before it."""
    before = signal.getsignal(number)
    with deferred_interrupts():
        raise_if_interrupted()
        signal.raise_signal(number)
        assert "stopping after this step" in capfd.readouterr().err
        with pytest.raises(raised) as error:
            raise_if_interrupted()
    assert type(error.value) is raised
    assert exit_code(error.value) == code
    assert signal.getsignal(number) is before


# What happens to a signal, NUMBER: a program, and what it prints.
PROGRAMS = {
    "a second one": """
from export.interrupts import deferred_interrupts
with deferred_interrupts():
    signal.raise_signal(NUMBER)
    signal.raise_signal(NUMBER)
""",
    "during an import": """
from export.interrupts import exit_at_once, signal_handlers
with signal_handlers(exit_at_once):
    try:
        signal.raise_signal(NUMBER)
    except BaseException:
        pass
""",
    "outside a command": """
from export.interrupts import exit_on_signals, raise_interrupt, signal_handlers
exit_on_signals()
with signal_handlers(raise_interrupt):
    try:
        signal.raise_signal(NUMBER)
    except KeyboardInterrupt as error:
        print(type(error).__name__, flush=True)
signal.raise_signal(NUMBER)
""",
}


@pytest.mark.parametrize("moment", PROGRAMS)
@SIGNALS
def test_a_signal_ends_the_process_at_once(moment, number, raised, code):
    program = f"import signal{PROGRAMS[moment].replace('NUMBER', str(int(number)))}print('still here')"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (code, f"{raised.__name__}\n" * (moment == "outside a command"))
    assert (outcome.stderr == "") == (moment != "a second one")
    assert "Traceback" not in outcome.stderr


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
