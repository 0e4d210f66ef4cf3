"""Compilation of constraints for the gateway: processes that compile, a fair queue before them, a cache behind them."""

import contextlib
import copy
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.caches import LruCache
from service.errors import GatewayError, InternalError, Overloaded
from service.limits import Limits
from service.scheduling.constraints import Automaton
from service.structured_outputs.automata import (
    CompilationInterrupted,
    CompilationLimits,
    CompilerCrashed,
    LimitExceeded,
    PatternError,
    TokenTexts,
)
from service.structured_outputs.compilation_queue import CompilationQueue
from service.structured_outputs.compiler_process import LENGTH, Job, write_message
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Constraint

log = logging.getLogger(__name__)

# Memory of a compilation.
MAX_MEMORY_BYTES = 2**28
# CPU time and memory of one in the fast lane. Most take a few milliseconds and megabytes; the others are repeated with
# the whole limits.
FAST_S, FAST_MEMORY_BYTES = 0.1, 2**26
# Of an entry, beside its automaton and its key. Errors are cached, too: a pattern that times out is compiled once.
_ENTRY_BYTES = 1000
# After an interruption or a crash: meanwhile the machine may become less busy, and other patterns are compiled.
INTERRUPTED_S = 30.0
# Wall-clock limit, as a multiple of the CPU limit: on a busy machine one pattern would block the others for long.
WALL_FACTOR = 5
# For the process to start and to respond, beside the wall-clock limit; then it is killed.
RESPONSE_S = 30.0
_ROOT = Path(__file__).parents[2]

Key = tuple[Constraint, Hashable]
Outcome = Automaton | PatternError | SchemaError | CompilationInterrupted | LimitExceeded | CompilerCrashed


@dataclass(frozen=True)
class _Entry:
    result: Automaton | PatternError | SchemaError
    num_bytes: int


@dataclass(eq=False)
class _Compilation:
    """A constraint that waits to be compiled, or is being compiled.

    Attributes:
        texts: Returns what the model's tokens add to a text.
        waiting: The requests that wait for it, with the sender of each.
        is_slow: Whether it has exceeded a limit of the fast lane.
        is_running: Whether a process compiles it.
    """

    key: Key
    texts: Callable[[], TokenTexts]
    waiting: "dict[Future[Outcome], str]" = field(default_factory=dict)
    is_slow: bool = False
    is_running: bool = False


class Observer(Protocol):
    """A callback for metrics."""

    def compiled(self, seconds: float, *, is_refused: bool) -> None:
        """Record a compilation, or a refusal."""


class ConstraintCompiler:
    """Compiles constraints; thread-safe. Requests for the same constraint share one compilation.

    One process compiles any constraint to its end. While it is busy, a second one compiles those that take less than
    `FAST_S`; the others wait for the first one. In both lanes senders take turns, see `CompilationQueue`.
    """

    def __init__(self, limits: Limits, observer: Observer) -> None:
        self._limits = CompilationLimits(limits.max_pattern_states, limits.max_pattern_bytes)
        self._timeout_s, self._observer = limits.max_pattern_s, observer
        # Each waiting request holds a thread and a place in the queue of sequences: half of these at most, and one
        # sender may hold two thirds of that half.
        self._max_waiting = max(1, limits.max_sequences // 2)
        self._max_waiting_of_sender = max(1, self._max_waiting * 2 // 3)
        self._condition = threading.Condition()
        self._cache: LruCache[Key, _Entry] = LruCache(limits.pattern_cache_bytes)
        self._pending: dict[Key, _Compilation] = {}
        self._queue: CompilationQueue[_Compilation] = CompilationQueue()
        self._num_waiting: Counter[str] = Counter()
        # By constraint: until when it is not compiled again, in monotonic seconds, and why.
        self._paused: dict[Key, tuple[float, CompilationInterrupted | CompilerCrashed]] = {}
        self._processes = (CompilerProcess(), CompilerProcess())
        self._threads: list[threading.Thread] = []
        self._is_busy = self._is_closed = False

    def compile(
        self,
        constraint: Constraint,
        vocabulary: Hashable,
        texts: Callable[[], TokenTexts],
        *,
        sender: str = "",
        wait: "Callable[[Future[Outcome]], Outcome]" = Future.result,
    ) -> Automaton:
        """Return the automaton of a constraint over a model's tokens.

        Args:
            constraint: The patterns that a text must match.
            vocabulary: Identifies the model's tokens in the cache.
            texts: Returns what the tokens add to a text; called on another thread if it is compiled.
            sender: API key or address of the client, for fairness.
            wait: Waits for a future, and returns its result. Whatever it raises ends the wait; a compilation that
                nobody waits for is not started.

        Raises:
            PatternError: a pattern is invalid, no text of the model matches, or a limit is exceeded.
            SchemaError: its JSON Schema is invalid or has something unsupported.
            Overloaded: too many requests wait, or the machine was too busy to compile it.
            InternalError: the compiler crashed.
        """
        key, request = (constraint, vocabulary), Future[Outcome]()
        with self._condition:
            entry = self._cache.get(key)
            if entry is None:
                compilation = self._join(key, texts, request, sender)
        if entry is not None:
            return _result(entry.result)
        try:
            return _result(wait(request))
        finally:
            self._leave(compilation, request)
            # An error's traceback holds this frame, and the future holds the error.
            del request

    def close(self) -> None:
        """End the processes and the threads; requests that wait get an error."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
            requests = [request for compilation in self._pending.values() for request in compilation.waiting]
            self._pending.clear()
        _deliver(requests, CompilerCrashed("the gateway is closing"))
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join(timeout=1)

    def _join(self, key: Key, texts: Callable[[], TokenTexts], request: "Future[Outcome]", sender: str) -> _Compilation:
        """Have a request wait for a compilation, which is enqueued for its sender.

        Raises:
            Overloaded: it was interrupted a moment ago, or too many requests wait.
        """
        until, failure = self._paused.get(key, (0.0, None))
        if failure is not None and until > time.monotonic():
            raise _failed(failure, until - time.monotonic())
        total, limit = self._num_waiting.total(), self._max_waiting
        of_sender, limit_of_sender = self._num_waiting[sender], self._max_waiting_of_sender
        if total >= limit or of_sender >= limit_of_sender:
            raise Overloaded(
                f"the queue of patterns to compile is full: {total} of {limit} requests are waiting, {of_sender} of "
                f"{limit_of_sender} from this sender; try again later",
                retry_after_s=1,
            )
        compilation = self._pending.setdefault(key, _Compilation(key, texts))
        is_new_sender = sender not in compilation.waiting.values()
        compilation.waiting[request] = sender
        self._num_waiting[sender] += 1
        if is_new_sender and not compilation.is_running:
            self._queue.put(sender, compilation)
            self._start_threads()
            self._condition.notify_all()
        return compilation

    def _leave(self, compilation: _Compilation, request: "Future[Outcome]") -> None:
        """End a request's wait; drop the compilation if it has not begun and nobody else waits."""
        with self._condition:
            sender = compilation.waiting.pop(request)
            self._num_waiting[sender] -= 1
            if not self._num_waiting[sender]:
                del self._num_waiting[sender]
            if not compilation.waiting and not compilation.is_running:
                self._drop(compilation)

    def _drop(self, compilation: _Compilation) -> None:
        self._queue.remove(compilation)
        if self._pending.get(compilation.key) is compilation:
            del self._pending[compilation.key]

    def _start_threads(self) -> None:
        if not self._threads:
            for is_fast, process in enumerate(self._processes):
                thread = threading.Thread(target=self._run, args=(process, bool(is_fast)), name="compiler", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, process: "CompilerProcess", is_fast: bool) -> None:
        """Compile one constraint after another, on a thread for each process."""
        while (taken := self._next(is_fast)) is not None:
            sender, compilation = taken
            began = time.monotonic()
            try:
                outcome = self._compile(process, compilation, is_fast)
            except Exception:
                log.exception("a constraint could not be sent to the compiler")
                outcome = CompilerCrashed("it could not be sent to the compiler")
            seconds = time.monotonic() - began
            self._finish(compilation, outcome, seconds, sender, is_fast)

    def _next(self, is_fast: bool) -> tuple[str, _Compilation] | None:
        """Wait for the next compilation of a lane, and return it with its sender; None once the compiler is closed."""
        with self._condition:
            if not is_fast:
                self._is_busy = False
            while not self._is_closed:
                if is_fast:
                    taken = self._queue.take(is_slow=False) if self._is_busy else None
                else:
                    taken = self._queue.take(is_slow=True) or self._queue.take(is_slow=False)
                if taken is not None:
                    self._queue.remove(taken[1])
                    taken[1].is_running = True
                    self._is_busy |= not is_fast
                    self._condition.notify_all()
                    return taken
                self._condition.wait()
            return None

    def _compile(self, process: "CompilerProcess", compilation: _Compilation, is_fast: bool) -> Outcome:
        timeout_s = min(FAST_S, self._timeout_s) if is_fast else self._timeout_s
        max_memory_bytes = FAST_MEMORY_BYTES if is_fast else MAX_MEMORY_BYTES
        try:
            texts = compilation.texts()
        except PatternError as error:
            return error
        constraint, wall_timeout_s = compilation.key[0], WALL_FACTOR * timeout_s
        return process.run(Job(constraint, texts, self._limits, timeout_s, wall_timeout_s, max_memory_bytes))

    def _finish(self, compilation: _Compilation, outcome: Outcome, seconds: float, sender: str, is_fast: bool) -> None:
        """Pass an outcome to the requests that wait, and keep it; or continue in the slow lane."""
        key = compilation.key
        with self._condition:
            self._queue.charge(sender, seconds)
            compilation.is_running = False
            if self._is_closed:
                return
            if is_fast and isinstance(outcome, LimitExceeded | CompilationInterrupted):
                compilation.is_slow = True
                for each in dict.fromkeys(compilation.waiting.values()):
                    self._queue.put(each, compilation)
                if not compilation.waiting:
                    self._drop(compilation)
                self._condition.notify_all()
                return
            del self._pending[key]
            if isinstance(outcome, LimitExceeded):
                outcome = PatternError(f"takes more than {outcome} to compile; simplify it")
            if isinstance(outcome, Automaton | PatternError | SchemaError):
                num_bytes = outcome.num_bytes if isinstance(outcome, Automaton) else 0
                self._cache.put(key, _Entry(outcome, num_bytes + _ENTRY_BYTES + len(repr(key))))
            else:
                now = time.monotonic()
                self._paused = {other: pause for other, pause in self._paused.items() if pause[0] > now}
                self._paused[key] = now + INTERRUPTED_S, outcome
            requests = list(compilation.waiting)
        self._observer.compiled(seconds, is_refused=not isinstance(outcome, Automaton))
        _deliver(requests, outcome)


def _deliver(requests: "list[Future[Outcome]]", outcome: Outcome) -> None:
    """Pass an outcome to the requests that still wait for it."""
    for request in requests:
        if request.set_running_or_notify_cancel():
            request.set_result(outcome)


def _result(outcome: Outcome) -> Automaton:
    """Return an automaton, or raise the error that there is instead."""
    if isinstance(outcome, Automaton):
        return outcome
    if isinstance(outcome, CompilationInterrupted | CompilerCrashed):
        raise _failed(outcome, INTERRUPTED_S)
    # Each request raises its own, with its own traceback.
    raise copy.copy(outcome)


def _failed(failure: CompilationInterrupted | CompilerCrashed, wait_s: float) -> GatewayError:
    """Return the error of a compilation that may succeed when it is repeated after a pause."""
    seconds = math.ceil(wait_s)
    kind = InternalError if isinstance(failure, CompilerCrashed) else Overloaded
    return kind(f"the pattern was not compiled: {failure}; try again in {seconds} s", retry_after_s=seconds)


class CompilerProcess:
    """The gateway's end of a compiler process, which is started when it is needed; one thread at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> Outcome:
        """Have a job compiled; start the process if it is not running.

        The result is `CompilerCrashed` if the process exits, and `CompilationInterrupted` if it does not respond.
        """
        if self.process is not None and self.process.poll() is not None:
            self.kill()
        self.process = process = self.process or subprocess.Popen(
            [sys.executable, "-m", "service.structured_outputs.compiler_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            # A process group: the fork that compiles ends with it. Ctrl-C in a terminal does not reach it.
            start_new_session=True,
        )
        limit_s, began = job.wall_timeout_s + RESPONSE_S, time.monotonic()
        watchdog = threading.Timer(limit_s, _kill, [process])
        watchdog.daemon = True
        watchdog.start()
        try:
            result = _exchange(process, job)
        finally:
            watchdog.cancel()
        if isinstance(result, CompilerCrashed):
            log.error("the pattern compiler failed: %s", result)
        if isinstance(result, Outcome):
            return result
        self.kill()
        if time.monotonic() - began >= limit_s:
            log.error("the pattern compiler did not respond for %g s and was killed", limit_s)
            return CompilationInterrupted("the compiler did not respond")
        log.error("the pattern compiler exited unexpectedly; it is started again for the next pattern")
        return CompilerCrashed("the compiler exited unexpectedly")

    def kill(self) -> None:
        """End the process, if there is one, with the fork that compiles."""
        process, self.process = self.process, None
        if process is not None:
            _kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=RESPONSE_S)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]  # both are pipes


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # Not reaped yet, so the number of its process group is still its own.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _exchange(process: "subprocess.Popen[bytes]", job: Job) -> object:
    """Send a job and receive its result; None if the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        write_message(process.stdin, job)
        header = process.stdout.read(LENGTH.size)
        if len(header) == LENGTH.size:
            content = process.stdout.read(LENGTH.unpack(header)[0])
            with contextlib.suppress(EOFError, pickle.UnpicklingError):
                return pickle.loads(content)
    return None
