"""Processes that are terminated with others, however those end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from service.process.lifeline import Lifeline, terminate_with_parent
from tests.servers import is_running
from tests.waiting import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
LIMIT_S = 30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")


@pytest.fixture
def lifeline():
    lifeline = Lifeline()
    yield lifeline
    lifeline.close()


@pytest.fixture
def start():
    """Start processes that sleep, in process groups of their own, and kill them after the test."""
    started = []

    def start(command=SLEEP, **options):
        started.append(subprocess.Popen(command, start_new_session=True, **options))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def bound_to(lifeline, start):
    return start(preexec_fn=lifeline.terminate_when_cut, pass_fds=[lifeline.read_fd])


def test_a_bound_process_is_terminated_when_the_last_holder_ends(lifeline, start):
    """Not when the first one ends or this process drops the lifeline. It gets SIGTERM even if the holder was killed."""
    bound = bound_to(lifeline, start)
    holders = [start(pass_fds=[lifeline.write_fd]) for _ in range(2)]
    lifeline.drop()
    holders[0].kill()
    holders[0].wait()
    time.sleep(0.2)
    assert bound.poll() is None
    assert not lifeline.is_cut
    holders[1].kill()
    assert bound.wait(LIMIT_S) == -signal.SIGTERM
    assert lifeline.is_cut


def test_a_child_of_a_holder_is_a_holder(lifeline, start):
    """Such as gunicorn's worker, which outlives a master that is killed."""
    bound = bound_to(lifeline, start)
    fork = "import os, time\nif not os.fork(): time.sleep(60)\nprint(flush=True)\ntime.sleep(60)"
    master = start([sys.executable, "-c", fork], pass_fds=[lifeline.write_fd], stdout=subprocess.PIPE)
    with master.stdout:
        master.stdout.readline()
        lifeline.drop()
        master.kill()
        master.wait()
        time.sleep(0.2)
        assert bound.poll() is None
        assert not lifeline.is_cut
        os.killpg(master.pid, signal.SIGKILL)
        assert bound.wait(LIMIT_S) == -signal.SIGTERM


def test_a_process_is_terminated_if_its_parent_is_killed_before_exec(start):
    """The last holder may end between fork and exec."""
    code = f"""
import os, signal, subprocess
from service.process.lifeline import Lifeline
lifeline, parent = Lifeline(), os.getpid()
def prepare():
    os.write(1, b"%d\\n" % os.getpid())
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        pass
    lifeline.terminate_when_cut()
subprocess.Popen({SLEEP!r}, preexec_fn=prepare, pass_fds=[lifeline.read_fd])
"""
    parent = start([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with parent.stdout:
        child = int(parent.stdout.readline())
    assert parent.wait(LIMIT_S) == -signal.SIGKILL
    wait_for_end(child)


def test_a_process_is_terminated_with_its_parent(start):
    """A parent that is killed cannot stop its children itself."""
    code = f"""
import os, subprocess, sys, time
from functools import partial
from service.process.lifeline import terminate_with_parent
child = subprocess.Popen({SLEEP!r}, preexec_fn=partial(terminate_with_parent, os.getpid()))
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = start([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with parent.stdout:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        wait_for_end(child)


def test_a_process_whose_parent_has_already_ended_does_not_start(start):
    """The signal would never be sent."""
    orphan = start(preexec_fn=partial(terminate_with_parent, os.getppid()))
    assert orphan.wait(LIMIT_S) == 1


def wait_for_end(pid):
    until(lambda: not is_running(pid))
