"""The compiler's process: its limits, its cache, and that it ends with the gateway."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
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
    with pytest.raises(InternalError):
        compiler.compile(pattern, "another model", no_texts)


def test_a_regex_bomb_costs_its_time_once_and_disturbs_no_other_pattern(compiler):
    """Its error is in the cache; the process is started again for the next pattern."""
    with pytest.raises(PatternError, match=r"takes more than 0\.08 seconds to compile"):
        compiler.compile(BOMB, "model", lambda: TEXTS)
    with pytest.raises(PatternError, match="takes more than"):
        compiler.compile(BOMB, "model", no_texts)
    assert compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS).num_states == 1
    assert [is_refused for _, is_refused in compiler._observer.compilations] == [True, False]


def process_of(compiler, lane=0):
    """Wait for a compiler process and return it: of the lane for any pattern, or of the fast one."""
    return until(lambda: compiler._processes[lane].process)


def child_of(compiler):
    """Wait for the fork of a compilation, and return its process id."""
    pid = process_of(compiler).pid
    return until(lambda: children(pid))[0]


def wait_briefly(future):
    """Wait as a client does that has left."""
    return future.result(timeout=0.01)


def test_a_long_compilation_gets_only_idle_cpu_time(patient):
    """After a tenth of a second of it; the process that starts compilations keeps its priority."""
    compiler = patient
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        child = child_of(compiler)
        until(lambda: os.sched_getscheduler(child) == os.SCHED_IDLE)
        assert os.sched_getscheduler(process_of(compiler).pid) == os.SCHED_OTHER
        os.kill(child, signal.SIGKILL)
        assert isinstance(bomb.exception(), Overloaded)


def test_a_lost_process_is_started_again(patient):
    """Whether it was lost before a compilation, or during one: then that request gets an error, which is not cached."""
    compiler = patient
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    process = process_of(compiler)
    process.kill()
    process.wait()
    assert compiler.compile((Pattern("regex", "b"),), "model", lambda: TEXTS).num_states == 1
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        child = child_of(compiler)
        process_of(compiler).kill()
        assert isinstance(bomb.exception(), InternalError)
        # The fork that compiled ends, too.
        until(lambda: not is_running(child))
    compiler._paused.clear()
    with pytest.raises(InternalError):
        compiler.compile(BOMB, "model", no_texts)


def is_running(pid):
    """Return whether a process has not ended; a zombie has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGALRM], ids=lambda number: number.name)
def test_a_compilation_that_is_interrupted_can_be_repeated(patient, number):
    """The kernel killed it for memory, or the machine is too busy: that says nothing about the pattern."""
    compiler = patient
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        os.kill(child_of(compiler), number)
        assert isinstance(bomb.exception(), Overloaded)
        assert "the pattern was not compiled: the " in str(bomb.exception())
    with pytest.raises(Overloaded, match=r"the pattern was not compiled: .* try again in \d+ s") as paused:
        compiler.compile(BOMB, "model", no_texts)
    assert 1 <= paused.value.retry_after_s <= 30
    compiler._paused.clear()
    with pytest.raises(InternalError):
        compiler.compile(BOMB, "model", no_texts)


def test_a_crash_is_not_mistaken_for_a_slow_pattern(patient):
    """The client gets 500, the log says how it crashed, and the pattern is compiled again after a pause."""
    compiler = patient
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        os.kill(child_of(compiler), signal.SIGSEGV)
        assert isinstance(bomb.exception(), InternalError)
        assert "its process ended with SIGSEGV" in str(bomb.exception())
    compiler._paused.clear()
    assert compiler._cache.get((BOMB, "model")) is None


def test_a_stopped_process_is_killed(patient, monkeypatch):
    """It would never respond: requests get 429, and another process is started for the next pattern."""
    compiler = patient
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    monkeypatch.setattr(module, "RESPONSE_S", 0.1)
    monkeypatch.setattr(module, "WALL_FACTOR", 0.01)
    process = process_of(compiler)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(Overloaded, match="the compiler did not respond"):
        compiler.compile((Pattern("regex", "b"),), "model", lambda: TEXTS)
    assert process.returncode == -signal.SIGKILL
    monkeypatch.undo()
    assert compiler.compile((Pattern("regex", "ab"),), "model", lambda: TEXTS).num_states == 2


def test_rusts_messages_are_not_in_the_log(patient, capfd):
    """Its allocator writes one when the memory limit is reached: the gateway's log has one JSON object per line."""
    big = (Pattern("regex", r"[\s\S]{60000}"),)
    with pytest.raises(PatternError, match="takes more than 256 MiB of memory"):
        patient.compile(big, "model", lambda: TEXTS)
    assert capfd.readouterr().err == ""


def test_a_cheap_pattern_does_not_wait_for_slow_ones(patient):
    """Neither for the one that is being compiled nor for those that wait, from the same sender too."""
    compiler = patient
    with ThreadPoolExecutor(4) as pool:
        bombs = [pool.submit(compiler.compile, BOMB, name, lambda: TEXTS) for name in "xyz"]
        child_of(compiler)
        # The other two have exceeded the fast lane's limit.
        until(lambda: sum(each.is_slow for each in compiler._pending.values()) == 2)
        assert compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS).num_states == 1
        assert not any(bomb.done() for bomb in bombs)
        compiler.close()
        assert {type(bomb.exception()) for bomb in bombs} == {InternalError}


def test_a_compilation_that_nobody_waits_for_is_not_started(patient):
    """Its clients have left: it takes no time, and its place in the queue is free."""
    compiler = patient
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(compiler.compile, BOMB, "model", lambda: TEXTS)
        child = child_of(compiler)
        until(lambda: compiler._is_busy)
        # Occupy the fast lane, too, so that what follows waits.
        with compiler._condition:
            compiler._is_busy = False
        for regex in ("a", "b"):
            with pytest.raises(TimeoutError):
                compiler.compile((Pattern("regex", regex),), "model", no_texts, wait=wait_briefly)
        assert list(compiler._pending) == [(BOMB, "model")]
        assert compiler._num_waiting.total() == 1
        os.kill(child, signal.SIGKILL)
        assert bomb.exception()


def test_a_request_that_leaves_does_not_end_the_wait_of_others(patient):
    """They share one compilation, whichever of them was the first."""
    compiler, pattern, held = patient, (Pattern("regex", "ab"),), Future()

    def texts():
        return held.result(timeout=30)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(TimeoutError):
            compiler.compile(pattern, "model", texts, wait=wait_briefly)
        other = pool.submit(compiler.compile, pattern, "model", no_texts)
        until(lambda: compiler._num_waiting.total() == 1)
        held.set_result(TEXTS)
        assert other.result(timeout=30).num_states == 2


def test_the_requests_that_wait_are_limited():
    """Also those for the same pattern: each holds a thread. One sender cannot take all places."""
    compiler, held = ConstraintCompiler(Limits(max_running=4, max_queued=8), FakeListener()), Future()
    cached, *others = ((Pattern("regex", regex),) for regex in "abab")
    compiler.compile(cached, "model", lambda: TEXTS)

    def texts():
        return held.result(timeout=30)

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(compiler.compile, others[0], name, texts, sender="greedy") for name in "xyyy"]
        until(lambda: compiler._num_waiting.total() == 4)
        with pytest.raises(Overloaded, match="4 of 6 requests are waiting, 4 of 4 from this sender"):
            compiler.compile(others[0], "y", no_texts, sender="greedy")
        waiting += [pool.submit(compiler.compile, others[0], "z", texts, sender=name) for name in "ab"]
        until(lambda: compiler._num_waiting.total() == 6)
        with pytest.raises(Overloaded, match="6 of 6 requests are waiting, 0 of 4 from this sender"):
            compiler.compile(others[0], "y", no_texts, sender="modest")
        compiler.compile(cached, "model", no_texts, sender="greedy")
        held.set_result(TEXTS)
        assert [each.result(timeout=30).num_states for each in waiting] == [1] * 6
    assert not compiler._num_waiting
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
    with pytest.raises(InternalError):
        compiler.compile(patterns[0], "model", no_texts)
    assert compiler.compile(patterns[-1], "model", no_texts).num_states == 109


def test_close_ends_the_process(compiler):
    """And waits for it."""
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    process = process_of(compiler)
    os.kill(process.pid, 0)
    compiler.close()
    assert process.returncode is not None


def test_the_process_ends_with_the_gateway(compiler):
    """Whose end of the pipe closes then, however it ends."""
    compiler.compile((Pattern("regex", "a"),), "model", lambda: TEXTS)
    process = process_of(compiler)
    process.stdin.close()
    until(lambda: process.poll() is not None)
    assert process.returncode == 0
