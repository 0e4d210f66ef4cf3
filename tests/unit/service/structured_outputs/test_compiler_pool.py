"""The compiler of constraints: its cache, its lanes and its fair queue, and the limits of its processes."""

import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from contract.signatures import FINAL_ROW
from service.errors import InternalError, Overloaded
from service.scheduling.sampling_inputs import FIRST_ROW
from service.settings import Settings
from service.structured_outputs import compiler_pool as module
from service.structured_outputs import compiler_process
from service.structured_outputs.automata import CompilationLimits, TokenTexts, compile_automaton
from service.structured_outputs.compiler_pool import (
    FAST_S,
    MAX_MEMORY_BYTES,
    MAX_SENDERS,
    CompilationQueue,
    CompilerPool,
)
from service.structured_outputs.compiler_process import CompilerProcess, Job, LimitExceeded
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Pattern
from service.structured_outputs.regex_syntax import PatternError
from tests.fakes import FakeListener
from tests.servers import children, is_running
from tests.waiting import until

TEXTS = TokenTexts((b"a", b"b"), (b"a", b"b"), None, 2)
LIMITS = CompilationLimits(20_000, 2**25)


def regex(source):
    return (Pattern("regex", source),)


BOMB = regex("(a{1,1000}){1,1000}")


def no_texts():
    """Fail: the automaton must be in the cache."""
    raise AssertionError


def job(constraint, wall_timeout_s=600.0):
    return Job(constraint, TEXTS, LIMITS, 20.0, wall_timeout_s, MAX_MEMORY_BYTES)


@pytest.fixture
def process():
    process = CompilerProcess()
    yield process
    process.kill()


class ScriptedProcess:
    """Compiles in this process; `script` replaces the outcomes of the first jobs."""

    def __init__(self, *script):
        self.script, self.jobs = list(script), []

    def run(self, job):
        self.jobs.append(job)
        return self.script.pop(0) if self.script else compile_automaton([job.constraint[0].source], TEXTS, LIMITS)

    def kill(self):
        pass


@pytest.fixture
def make_compiler():
    """Return a function that makes a compiler with scripted processes, if any, and closes it after the test."""
    made = []

    def make(*scripted, **settings):
        made.append(CompilerPool(Settings(**settings), FakeListener().compiled))
        made[-1]._processes.update(zip((False, True), scripted, strict=False))
        return made[-1]

    yield make
    for compiler in made:
        compiler.close()


def test_a_long_token_costs_no_pattern_its_time(process):
    """A vocabulary of cells may have a note that occurs twice; all tokens were compared at each of its characters."""
    tokens = (*(f"cell {number}".encode() for number in range(20_000)), b"a note" * 2000, b"yes")
    outcome = process.run(replace(job(regex("yes|no")), texts=TokenTexts(tokens, tokens, None, len(tokens))))
    assert outcome.step(FIRST_ROW, len(tokens) - 1) == FINAL_ROW


def test_a_pattern_is_compiled_once(make_compiler):
    compiler = make_compiler(ScriptedProcess())
    automaton = compiler.compile(regex("a+b"), "model", lambda: TEXTS)
    assert automaton.num_states == 2
    assert compiler.compile(regex("a+b"), "model", no_texts) is automaton
    with pytest.raises(InternalError):
        compiler.compile(regex("a+b"), "another model", no_texts)


def test_patterns_are_compiled_once_there_are_threads(make_compiler, monkeypatch):
    """Nor does one that was refused keep its place in the queue."""
    compiler, started = make_compiler(ScriptedProcess(), ScriptedProcess()), []

    def start(thread, start=threading.Thread.start):
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("no thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="no thread"):
        compiler.compile(regex("a+b"), "model", lambda: TEXTS)
    assert compiler.compile(regex("a+b"), "model", lambda: TEXTS).num_states == 2
    assert len(started) == 3
    assert compiler._queue.clear() == []


def test_a_pattern_that_exceeds_a_limit_is_repeated_once_with_the_whole_limits(make_compiler):
    error = LimitExceeded("takes more than 256 MiB of memory to compile")
    busy = Overloaded("the machine is too busy")
    fast, slow = ScriptedProcess(LimitExceeded("takes more"), busy), ScriptedProcess(error)
    compiler = make_compiler(fast, slow, max_pattern_s=3)
    for texts in (lambda: TEXTS, no_texts):
        with pytest.raises(PatternError, match="takes more than 256 MiB"):
            compiler.compile(regex("a"), "model", texts)
    assert compiler.compile(regex("b"), "model", lambda: TEXTS).num_states == 1
    assert [(each.timeout_s, each.max_memory_bytes >> 20) for each in fast.jobs] == [(FAST_S, 64)] * 2
    assert [(each.timeout_s, each.max_memory_bytes >> 20) for each in slow.jobs] == [(3, 256)] * 2
    assert [is_refused for _, is_refused in compiler._compiled.__self__.compilations] == [True, False]


def test_an_interrupted_compilation_is_paused_and_then_repeated(make_compiler, monkeypatch):
    """The machine may be less busy then: its failure says nothing about the pattern."""
    busy = Overloaded("the machine is too busy")
    compiler = make_compiler(ScriptedProcess(busy, busy), ScriptedProcess(busy, busy))
    for texts in (lambda: TEXTS, no_texts):
        with pytest.raises(Overloaded, match=r"not compiled: the machine is too busy; try again in \d+ s") as paused:
            compiler.compile(regex("a"), "model", texts)
        assert 1 <= paused.value.retry_after_s <= 30
    monkeypatch.setattr(module, "INTERRUPTED_S", 0.0)
    with pytest.raises(Overloaded):
        compiler.compile(regex("b"), "model", lambda: TEXTS)
    assert compiler.compile(regex("b"), "model", lambda: TEXTS).num_states == 1
    # An automaton does not expire.
    assert compiler.compile(regex("b"), "model", no_texts).num_states == 1


def num_waiting(compiler):
    return sum(len(each.waiting) for each in compiler._queue._pending.values())


def wait_briefly(future):
    """Wait as a client does that has left."""
    return future.result(timeout=0.01)


def test_a_compilation_that_nobody_waits_for_is_not_started(make_compiler):
    compiler, held = make_compiler(ScriptedProcess()), Future()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(compiler.compile, regex("ab"), "model", lambda: held.result(timeout=30))
        until(lambda: any(each.is_running for each in compiler._queue._pending.values()))
        for source in ("a", "b"):
            with pytest.raises(TimeoutError):
                compiler.compile(regex(source), "model", no_texts, wait=wait_briefly)
        assert list(compiler._queue._pending) == [(regex("ab"), "model")]
        assert num_waiting(compiler) == 1
        held.set_result(TEXTS)
        assert first.result(timeout=30).num_states == 2


def test_a_request_that_leaves_does_not_end_the_wait_of_others(make_compiler):
    compiler, held = make_compiler(ScriptedProcess()), Future()
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(TimeoutError):
            compiler.compile(regex("ab"), "model", lambda: held.result(timeout=30), wait=wait_briefly)
        other = pool.submit(compiler.compile, regex("ab"), "model", no_texts)
        until(lambda: num_waiting(compiler) == 1)
        held.set_result(TEXTS)
        assert other.result(timeout=30).num_states == 2


def test_a_slow_pattern_whose_clients_have_left_is_not_repeated(make_compiler):
    fast, slow, held = ScriptedProcess(LimitExceeded("takes more")), ScriptedProcess(), Future()
    compiler = make_compiler(fast, slow)
    with pytest.raises(TimeoutError):
        compiler.compile(regex("ab"), "model", lambda: held.result(timeout=30), wait=wait_briefly)
    held.set_result(TEXTS)
    until(lambda: not compiler._queue._pending)
    assert compiler.compile(regex("ab"), "model", lambda: TEXTS).num_states == 2
    assert slow.jobs == []


def test_the_requests_that_wait_are_limited(make_compiler):
    compiler, held = make_compiler(ScriptedProcess(), max_running=4, max_queued=8), Future()
    compiler.compile(regex("ab"), "model", lambda: TEXTS)

    def texts():
        return held.result(timeout=30)

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(compiler.compile, regex("b"), name, texts, sender="greedy") for name in "xyyy"]
        until(lambda: num_waiting(compiler) == 4)
        with pytest.raises(Overloaded, match="4 of 6 requests are waiting, 4 of 4 from this sender"):
            compiler.compile(regex("b"), "y", no_texts, sender="greedy")
        waiting += [pool.submit(compiler.compile, regex("b"), "z", texts, sender=name) for name in "ab"]
        until(lambda: num_waiting(compiler) == 6)
        with pytest.raises(Overloaded, match="6 of 6 requests are waiting, 0 of 4 from this sender"):
            compiler.compile(regex("b"), "y", no_texts, sender="modest")
        compiler.compile(regex("ab"), "model", no_texts, sender="greedy")
        held.set_result(TEXTS)
        assert [each.result(timeout=30).num_states for each in waiting] == [1] * 6
    until(lambda: num_waiting(compiler) == 0)


def test_the_cache_evicts_the_least_recently_used_automata(make_compiler):
    compiler = make_compiler(ScriptedProcess(), pattern_cache_bytes=20_000)
    patterns = [regex(f"a{{{length}}}") for length in range(100, 110)]
    for pattern in patterns:
        compiler.compile(pattern, "model", lambda: TEXTS)
    with pytest.raises(InternalError):
        compiler.compile(patterns[0], "model", no_texts)
    assert compiler.compile(patterns[-1], "model", no_texts).num_states == 109


def test_a_cheap_pattern_does_not_wait_for_slow_ones(make_compiler):
    compiler = make_compiler(max_pattern_s=20)
    with ThreadPoolExecutor(4) as pool:
        bombs = [pool.submit(compiler.compile, BOMB, name, lambda: TEXTS) for name in "xyz"]
        until(lambda: sum(each.is_slow for each in compiler._queue._pending.values()) == 3)
        assert compiler.compile(regex("a"), "model", lambda: TEXTS).num_states == 1
        assert not any(bomb.done() for bomb in bombs)
        fast = compiler._processes[False].process
        compiler.close()
        assert fast.returncode is not None
        assert {type(bomb.exception()) for bomb in bombs} == {InternalError}


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (Pattern("regex", "("), PatternError, "is not a valid regular expression"),
        (Pattern.json({"not": {}}), SchemaError, "schema must have a type"),
    ],
    ids=["regex", "schema"],
)
def test_an_error_of_the_process_is_raised_here(make_compiler, pattern, error, message):
    compiler, caught = make_compiler(max_pattern_s=20), []
    for _ in range(2):
        with pytest.raises(error, match=message) as info:
            compiler.compile((pattern,), "model", lambda: TEXTS)
        caught.append(info.value)
    assert caught[0] is not caught[1]


@pytest.mark.parametrize(
    ("limit", "more"), [({"timeout_s": 0.05}, "0.05 seconds"), ({"max_memory_bytes": 2**24}, "16 MiB of memory")]
)
def test_a_regex_bomb_is_stopped_at_its_limits(process, capfd, limit, more):
    """The process compiles the next pattern. What Rust's allocator writes is not in the log of JSON lines."""
    outcome = process.run(replace(job(BOMB), **limit))
    assert isinstance(outcome, LimitExceeded)
    assert str(outcome) == f"takes more than {more} to compile; simplify it"
    assert process.run(job(regex("a"))).num_states == 1
    assert capfd.readouterr().err == ""


def child_of(process):
    """Wait for the fork of a compilation, and return its process id."""
    pid = until(lambda: process.process).pid
    return until(lambda: children(pid))[0]


@pytest.mark.parametrize(
    ("number", "failure"),
    [
        (signal.SIGKILL, Overloaded("the kernel killed its process")),
        (signal.SIGALRM, Overloaded("the machine is too busy")),
        (signal.SIGSEGV, InternalError("its process ended with SIGSEGV")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_fork_that_ends_early_is_a_failure_and_not_an_error_of_the_pattern(process, number, failure):
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(process.run, job(BOMB))
        child = child_of(process)
        if number == signal.SIGKILL:
            until(lambda: os.sched_getscheduler(child) == os.SCHED_IDLE)
            assert os.sched_getscheduler(process.process.pid) == os.SCHED_OTHER
        os.kill(child, number)
        assert repr(bomb.result(timeout=30)) == repr(failure)


def test_a_lost_process_is_started_again(process):
    process.run(job(regex("a")))
    process.process.kill()
    process.process.wait()
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(process.run, job(BOMB))
        child = child_of(process)
        process.process.kill()
        assert repr(bomb.result(timeout=30)) == repr(InternalError("the compiler exited unexpectedly"))
        # The fork that compiled ends, too.
        until(lambda: not is_running(child))
    assert process.run(job(regex("b"))).num_states == 1


def test_a_stopped_process_is_killed(process, monkeypatch):
    process.run(job(regex("a")))
    stopped = process.process
    os.kill(stopped.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(compiler_process, "RESPONSE_S", 0.1)
        outcome = process.run(job(regex("b"), wall_timeout_s=0.1))
    assert repr(outcome) == repr(Overloaded("the compiler did not respond"))
    assert stopped.returncode == -signal.SIGKILL
    assert process.run(job(regex("ab"))).num_states == 2


def test_the_process_ends_with_the_gateway(process):
    """Whose end of the connection closes then, however it ends."""
    process.run(job(regex("a")))
    process._connection.close()
    until(lambda: process.process.poll() is not None)
    assert process.process.returncode == 0


def put(queue, *senders, is_slow=False):
    for number, sender in enumerate(senders):
        queue.join(f"{sender}{number}", None, Future(), sender).is_slow = is_slow


def take(queue, seconds, *, is_slow=False):
    """Take the next compilation from a lane, for some seconds, and return its name."""
    sender, compilation = queue.take(is_slow=is_slow)
    queue.end(compilation, sender, seconds)
    queue.remove(compilation)
    return compilation.key


def test_senders_take_turns_by_the_time_that_they_have_used():
    queue = CompilationQueue(100)
    put(queue, "a", "a", "a", "b", "b")
    assert [take(queue, 1.0) for _ in range(5)] == ["a0", "b3", "a1", "b4", "a2"]
    assert queue.take(is_slow=False) is None


def test_a_slow_pattern_delays_the_next_ones_of_its_sender_only():
    queue = CompilationQueue(100)
    put(queue, "a", "a")
    take(queue, 2.0)
    put(queue, "b", "b", "b")
    assert [take(queue, 0.9) for _ in range(4)] == ["b0", "b1", "b2", "a1"]


def test_an_idle_sender_saves_up_no_time():
    queue = CompilationQueue(100)
    for _ in range(50):
        put(queue, "a")
        take(queue, 1.0)
    put(queue, "a", "b", "b", "b")
    assert [take(queue, 1.0) for _ in range(4)] == ["b1", "a0", "b2", "b3"]


def test_each_lane_has_an_order_of_its_own():
    queue = CompilationQueue(100)
    put(queue, "c", is_slow=True)
    put(queue, "a", "b")
    assert take(queue, 1.0) == "a0"
    assert take(queue, 1.0, is_slow=True) == "c0"
    assert queue.take(is_slow=True) is None
    put(queue, "a", "c")
    assert [take(queue, 1.0) for _ in range(3)] == ["b1", "a0", "c1"]


def test_a_shared_compilation_is_run_once_and_leaves_with_its_last_request():
    queue, requests = CompilationQueue(100), [Future(), Future()]
    put(queue, "a")
    take(queue, 1.0)
    shared = [queue.join("s", None, request, sender) for request, sender in zip(requests, "ab", strict=True)]
    assert shared[0] is shared[1]
    assert queue.take(is_slow=False) == ("b", shared[0])
    assert queue.take(is_slow=False) is None
    queue.end(shared[0], "b", 1.0)
    queue.leave(shared[0], requests[0])
    assert queue.join("s", None, requests[0], "a") is shared[0]
    for request in requests:
        queue.leave(shared[0], request)
    assert queue.take(is_slow=False) is None
    other = queue.join("s", None, requests[0], "a")
    queue.remove(shared[0])
    assert queue.take(is_slow=False) == ("a", other)


def test_the_number_of_remembered_senders_is_limited():
    """Addresses are cheap: those that have used the least are forgotten, unless they wait."""
    queue = CompilationQueue(MAX_SENDERS * 10)
    put(queue, "heavy")
    take(queue, 100.0)
    put(queue, "waiting", is_slow=True)
    for number in range(2 * MAX_SENDERS):
        put(queue, f"{number}-")
        take(queue, 1.0)
    assert len(queue._used_s) <= MAX_SENDERS
    put(queue, "heavy", "new")
    assert [take(queue, 1.0) for _ in range(2)] == ["new1", "heavy0"]
    assert take(queue, 1.0, is_slow=True) == "waiting0"
