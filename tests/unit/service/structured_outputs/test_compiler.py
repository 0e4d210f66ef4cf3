"""The compiler's process: its limits, its cache, and that it ends with the gateway."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from service.errors import InternalError, Overloaded
from service.limits import Limits
from service.structured_outputs import compiler as module
from service.structured_outputs.automata import PatternError, TokenTexts
from service.structured_outputs.compiler import ConstraintCompiler
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Pattern
from tests.fakes import FakeListener
from tests.waiting import until

TEXTS = TokenTexts((b"a", b"b"), (b"a", b"b"), None, 2)
BOMB = (Pattern("regex", "(a{1,1000}){1,1000}"),)


@pytest.fixture
def compiler(monkeypatch):
    # Half a second of CPU time; beside other tests that may take a while.
    monkeypatch.setattr(module, "WALL_FACTOR", 120)
    compiler = ConstraintCompiler(Limits(max_pattern_s=0.5, pattern_cache_bytes=20_000), FakeListener())
    yield compiler
    compiler.close()


def no_texts():
    """Fail: the automaton must be in the cache."""
    raise AssertionError


def test_a_pattern_is_compiled_once(compiler):
    """Then its automaton is in the cache: the same object."""
    pattern = (Pattern("regex", "a+b"),)
    automaton = compiler.compile(pattern, "model", lambda: TEXTS)
    assert automaton.num_states == 2
    assert compiler.compile(pattern, "model", no_texts) is automaton
    with pytest.raises(AssertionError):
        compiler.compile(pattern, "another model", no_texts)


def test_a_regex_bomb_costs_its_time_once_and_disturbs_no_other_pattern(compiler):
    """Its error is in the cache; the process is started again for the next pattern."""
    began = time.monotonic()
    with pytest.raises(PatternError, match=r"takes more than 0.5 seconds or 256 MiB of memory to compile"):
        compiler.compile(BOMB, "model", lambda: TEXTS)
    assert time.monotonic() - began >= 0.5
    with pytest.raises(PatternError, match="takes more than"):
        compiler.compile(BOMB, "model", no_texts)
    assert compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS).num_states == 1
    (bomb_s, is_refused), (_, is_next_refused) = compiler._observer.compilations
    assert bomb_s >= 0.5
    assert (is_refused, is_next_refused) == (True, False)


def test_a_long_compilation_gets_only_idle_cpu_time(compiler):
    """After a tenth of a second of it; the process that starts compilations keeps its priority."""
    policies = []
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        while not bomb.done():
            with suppress(AttributeError, ValueError, OSError):
                pid = compiler._process.pid
                child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
                policies.append(os.sched_getscheduler(child))
            time.sleep(0.01)
        assert isinstance(bomb.exception(), PatternError)
    assert policies[0] == os.SCHED_OTHER
    assert policies[-1] == os.SCHED_IDLE
    assert os.sched_getscheduler(compiler._process.pid) == os.SCHED_OTHER


def test_a_lost_process_is_started_again(compiler):
    """Whether it was lost before a compilation, or during one: then that request gets an error, which is not cached."""
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    compiler._process.kill()
    compiler._process.wait()
    assert compiler.compile((Pattern("regex", "b"),), "model", lambda: TEXTS).num_states == 1
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        time.sleep(0.2)
        compiler._process.kill()
        assert isinstance(bomb.exception(), InternalError)
    with pytest.raises(PatternError, match="takes more than"):
        compiler.compile(BOMB, "model", lambda: TEXTS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGALRM], ids=lambda number: number.name)
def test_a_compilation_that_is_interrupted_can_be_repeated(number):
    """The kernel killed it for memory, or the machine is too busy: that says nothing about the pattern."""
    compiler = ConstraintCompiler(Limits(max_pattern_s=20), FakeListener())
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    pid = compiler._process.pid
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text())
        os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()), number)
        assert isinstance(bomb.exception(), Overloaded)
        assert "the pattern was not compiled: the " in str(bomb.exception())
    with pytest.raises(Overloaded, match=r"too busy a moment ago; try again in (30|29) s") as paused:
        compiler.compile(BOMB, "model", no_texts)
    assert 29 <= paused.value.retry_after_s <= 30
    compiler._interrupted_until.clear()
    with pytest.raises(AssertionError):
        compiler.compile(BOMB, "model", no_texts)
    compiler.close()


def test_the_patterns_that_wait_are_limited(compiler, monkeypatch):
    """Each holds a thread. Requests with the same pattern share a place, and one in the cache needs none."""
    monkeypatch.setattr(module, "MAX_PENDING", 2)
    cached, *others = ((Pattern("regex", regex),) for regex in "abab")
    compiler.compile(cached, "model", lambda: TEXTS)
    with ThreadPoolExecutor(3) as pool:
        with compiler._lock:
            waiting = [pool.submit(compiler.compile, others[0], name, lambda: TEXTS) for name in ("x", "y", "y")]
            until(lambda: len(compiler._pending) == 2)
            with pytest.raises(Overloaded, match="the queue of patterns to compile is full: 2 are waiting"):
                compiler.compile(others[0], "z", lambda: TEXTS)
            compiler.compile(cached, "model", no_texts)
        assert [each.result().num_states for each in waiting] == [1, 1, 1]
    assert not compiler._pending
    assert compiler.compile(others[0], "z", lambda: TEXTS).num_states == 1


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (Pattern("regex", "("), PatternError, "is not a valid regular expression"),
        (Pattern.json({"not": {}}), SchemaError, "schema must have a type"),
    ],
)
def test_an_error_of_the_process_is_raised_here(compiler, pattern, error, message):
    """Every time, as an exception of its own."""
    caught = []
    for _ in range(2):
        with pytest.raises(error, match=message) as info:
            compiler.compile((pattern,), "model", lambda: TEXTS)
        caught.append(info.value)
    assert caught[0] is not caught[1]


def test_the_cache_evicts_the_least_recently_used_automata(compiler):
    """It keeps 20,000 bytes; one automaton of a hundred states has some 4,000."""
    patterns = [(Pattern("regex", f"a{{{length}}}"),) for length in range(100, 110)]
    for pattern in patterns:
        compiler.compile(pattern, "model", lambda: TEXTS)
    with pytest.raises(AssertionError):
        compiler.compile(patterns[0], "model", no_texts)
    assert compiler.compile(patterns[-1], "model", no_texts).num_states == 109


def test_close_ends_the_process():
    """And so does the end of the gateway, whose end of the pipe closes."""
    compiler = ConstraintCompiler(Limits(), FakeListener())
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    process = compiler._process
    os.kill(process.pid, 0)
    process.stdin.close()
    until(lambda: process.poll() is not None)
    assert process.returncode == 0
    compiler.close()
