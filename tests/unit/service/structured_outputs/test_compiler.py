"""The compiler's process: its limits, its cache, and that it ends with the gateway."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from service.errors import InternalError, Overloaded
from service.limits import Limits
from service.structured_outputs import compiler as module
from service.structured_outputs.automata import PatternError, TokenTexts
from service.structured_outputs.compiler import ConstraintCompiler
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Pattern
from tests.fakes import FakeListener
from tests.servers import children
from tests.waiting import until

TEXTS = TokenTexts((b"a", b"b"), (b"a", b"b"), None, 2)
BOMB = (Pattern("regex", "(a{1,1000}){1,1000}"),)


@pytest.fixture
def compiler(monkeypatch):
    # Before its process gets only idle CPU time, which beside other tests may be none at all.
    monkeypatch.setattr(module, "WALL_FACTOR", 1000)
    compiler = ConstraintCompiler(Limits(max_pattern_s=0.08, pattern_cache_bytes=20_000), FakeListener())
    yield compiler
    compiler.close()


@pytest.fixture
def patient():
    """A compiler that gives a pattern more time than a test takes."""
    with closing(ConstraintCompiler(Limits(max_pattern_s=20), FakeListener())) as compiler:
        yield compiler


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
    with pytest.raises(PatternError, match=r"takes more than 0\.08 seconds or 256 MiB of memory to compile"):
        compiler.compile(BOMB, "model", lambda: TEXTS)
    with pytest.raises(PatternError, match="takes more than"):
        compiler.compile(BOMB, "model", no_texts)
    assert compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS).num_states == 1
    assert [is_refused for _, is_refused in compiler._observer.compilations] == [True, False]


def child_of(compiler):
    """Wait for the process of a compilation, and return its process id."""
    pid = until(lambda: compiler._process).pid
    return until(lambda: children(pid))[0]


def test_a_long_compilation_gets_only_idle_cpu_time(patient):
    """After a tenth of a second of it; the process that starts compilations keeps its priority."""
    compiler = patient
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        child = child_of(compiler)
        until(lambda: os.sched_getscheduler(child) == os.SCHED_IDLE)
        assert os.sched_getscheduler(compiler._process.pid) == os.SCHED_OTHER
        os.kill(child, signal.SIGKILL)
        assert isinstance(bomb.exception(), Overloaded)


def test_a_lost_process_is_started_again(patient):
    """Whether it was lost before a compilation, or during one: then that request gets an error, which is not cached."""
    compiler = patient
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    compiler._process.kill()
    compiler._process.wait()
    assert compiler.compile((Pattern("regex", "b"),), "model", lambda: TEXTS).num_states == 1
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        child = child_of(compiler)
        compiler._process.kill()
        # Orphaned, it would keep the pipe open until its own limit.
        os.kill(child, signal.SIGKILL)
        assert isinstance(bomb.exception(), InternalError)
    with pytest.raises(AssertionError):
        compiler.compile(BOMB, "model", no_texts)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGALRM], ids=lambda number: number.name)
def test_a_compilation_that_is_interrupted_can_be_repeated(patient, number):
    """The kernel killed it for memory, or the machine is too busy: that says nothing about the pattern."""
    compiler = patient
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        os.kill(child_of(compiler), number)
        assert isinstance(bomb.exception(), Overloaded)
        assert "the pattern was not compiled: the " in str(bomb.exception())
    with pytest.raises(Overloaded, match=r"too busy a moment ago; try again in \d+ s") as paused:
        compiler.compile(BOMB, "model", no_texts)
    assert 1 <= paused.value.retry_after_s <= 30
    compiler._interrupted_until.clear()
    with pytest.raises(AssertionError):
        compiler.compile(BOMB, "model", no_texts)


def test_the_patterns_that_wait_are_limited(monkeypatch):
    """Each holds a thread. Requests with the same pattern share a place, and one in the cache needs none."""
    monkeypatch.setattr(module, "MAX_PENDING", 2)
    compiler = ConstraintCompiler(Limits(), FakeListener())
    cached, *others = ((Pattern("regex", regex),) for regex in "abab")
    compiler.compile(cached, "model", lambda: TEXTS)
    with ThreadPoolExecutor(3) as pool:
        with compiler._lock:
            waiting = [pool.submit(compiler.compile, others[0], name, lambda: TEXTS) for name in ("x", "y", "y")]
            until(lambda: sum(map(len, compiler._cache._waiting.values())) == 3)
            with pytest.raises(Overloaded, match="the queue of patterns to compile is full: 2 are waiting"):
                compiler.compile(others[0], "z", lambda: TEXTS)
            compiler.compile(cached, "model", no_texts)
        assert [each.result().num_states for each in waiting] == [1, 1, 1]
    assert compiler.compile(others[0], "z", lambda: TEXTS).num_states == 1
    compiler.close()


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


def test_close_ends_the_process(compiler):
    """And waits for it."""
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    process = compiler._process
    os.kill(process.pid, 0)
    compiler.close()
    assert process.returncode is not None


def test_the_process_ends_with_the_gateway(compiler):
    """Whose end of the pipe closes then, however it ends."""
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    process = compiler._process
    process.stdin.close()
    until(lambda: process.poll() is not None)
    assert process.returncode == 0
