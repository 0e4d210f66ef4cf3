"""Compilation of constraints for the gateway: a cache, a fair queue, and two processes that compile."""

import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, Self

from service.caches import LruCache
from service.errors import InternalError, Overloaded
from service.limits import Limits
from service.scheduling.constraints import Automaton
from service.structured_outputs.automata import CompilationLimits, TokenTexts
from service.structured_outputs.compilation_queue import Compilation, CompilationQueue, Key
from service.structured_outputs.compiler_process import CompilerProcess, Failure, Job, LimitExceeded, Outcome
from service.structured_outputs.patterns import Constraint
from service.structured_outputs.regex_syntax import PatternError

log = logging.getLogger(__name__)

# Memory of a compilation.
MAX_MEMORY_BYTES = 2**28
# CPU time and memory of one in the fast lane. Most take a few milliseconds and megabytes; the others are repeated with
# the whole limits.
FAST_S, FAST_MEMORY_BYTES = 0.1, 2**26
# Bytes of an entry beside its automaton and key. Errors are cached, too: a pattern that times out is compiled once.
_ENTRY_BYTES = 1000
# After an interruption or a crash: meanwhile the machine may become less busy, and other patterns are compiled.
INTERRUPTED_S = 30.0
# Wall-clock limit, as a multiple of the CPU limit: on a busy machine one pattern would block the others for long.
WALL_FACTOR = 5


@dataclass(frozen=True)
class _Entry:
    """An outcome in the cache, until monotonic seconds."""

    outcome: Outcome
    num_bytes: int = 0
    expires_at: float = math.inf

    @classmethod
    def of(cls, key: Key, outcome: Outcome) -> Self:
        """Return the entry of a constraint."""
        num_bytes = _ENTRY_BYTES + len(repr(key)) + (outcome.num_bytes if isinstance(outcome, Automaton) else 0)
        return cls(outcome, num_bytes, time.monotonic() + INTERRUPTED_S if isinstance(outcome, Failure) else math.inf)

    def automaton(self) -> Automaton:
        """Return the automaton, or raise the error that there is instead.

        Each request raises an exception of its own, with its own traceback.
        """
        if isinstance(self.outcome, Automaton):
            return self.outcome
        if isinstance(self.outcome, PatternError):
            raise copy.copy(self.outcome)
        seconds = max(1, math.ceil(self.expires_at - time.monotonic()))
        message = f"the pattern was not compiled: {self.outcome.reason}; try again in {seconds} s"
        raise self.outcome.error(message, retry_after_s=seconds)


class Observer(Protocol):
    """A callback for metrics."""

    def compiled(self, seconds: float, *, is_refused: bool) -> None:
        """Record a compilation, or a refusal."""


class CompilerPool:
    """Compiles constraints; thread-safe. Requests for the same constraint share one compilation.

    One process tries every constraint, for `FAST_S` at most. Those that take more are repeated by a second process, to
    their end, and so do not delay the others. In both lanes senders take turns, see `CompilationQueue`.
    """

    def __init__(self, limits: Limits, observer: Observer) -> None:
        self._limits = CompilationLimits(limits.max_pattern_states, limits.max_pattern_bytes)
        self._timeout_s, self._observer = limits.max_pattern_s, observer
        self._condition = threading.Condition()
        self._cache: LruCache[Key, _Entry] = LruCache(limits.pattern_cache_bytes)
        # Each waiting request also holds a place in the queue of sequences: half of these at most.
        self._queue = CompilationQueue(max(1, limits.max_sequences // 2))
        # By whether they are for slow constraints.
        self._processes = {False: CompilerProcess(), True: CompilerProcess()}
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def compile(
        self,
        constraint: Constraint,
        vocabulary: Hashable,
        texts: Callable[[], TokenTexts],
        *,
        sender: str = "",
        wait: Callable[[Future[_Entry]], _Entry] = Future.result,
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
            PatternError: a pattern or its JSON Schema is invalid, no text of the model matches, or a limit is exceeded.
            Overloaded: too many requests wait, or the machine was too busy to compile it.
            InternalError: the compiler crashed.
        """
        key, request = (constraint, vocabulary), Future[_Entry]()
        with self._condition:
            entry = self._cache.get(key)
            if entry is not None and entry.expires_at > time.monotonic():
                return entry.automaton()
            compilation = self._queue.join(key, texts, request, sender)
            self._start_threads()
            self._condition.notify_all()
        try:
            return wait(request).automaton()
        finally:
            with self._condition:
                self._queue.leave(compilation, request)
            # An error's traceback holds this frame, and the future holds the error.
            del request

    def close(self) -> None:
        """End the processes and the threads; requests that wait get an error."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
            requests = self._queue.clear()
        _deliver(requests, _Entry(Failure(InternalError, "the gateway is closing"), expires_at=0))
        for process in self._processes.values():
            process.kill()
        for thread in self._threads:
            thread.join(timeout=1)

    def _start_threads(self) -> None:
        if not self._threads:
            for is_slow in self._processes:
                thread = threading.Thread(target=self._run, args=(is_slow,), name="compiler", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, is_slow: bool) -> None:
        """Compile one constraint after another, on a thread for each process."""
        while (taken := self._next(is_slow)) is not None:
            sender, compilation = taken
            began = time.monotonic()
            try:
                outcome = self._compile(compilation)
            except Exception:
                log.exception("a constraint could not be sent to the compiler")
                outcome = Failure(InternalError, "it could not be sent to the compiler")
            self._finish(compilation, outcome, sender, time.monotonic() - began)

    def _next(self, is_slow: bool) -> tuple[str, Compilation] | None:
        """Wait for the next compilation of a lane, and return it with its sender; None once the compiler is closed."""
        with self._condition:
            while not self._is_closed:
                if taken := self._queue.take(is_slow=is_slow):
                    return taken
                self._condition.wait()
            return None

    def _compile(self, compilation: Compilation) -> Outcome:
        is_slow = compilation.is_slow
        timeout_s = self._timeout_s if is_slow else min(FAST_S, self._timeout_s)
        max_memory_bytes = MAX_MEMORY_BYTES if is_slow else FAST_MEMORY_BYTES
        try:
            texts = compilation.texts()
        except PatternError as error:
            return error
        job = Job(compilation.key[0], texts, self._limits, timeout_s, WALL_FACTOR * timeout_s, max_memory_bytes)
        return self._processes[is_slow].run(job)

    def _finish(self, compilation: Compilation, outcome: Outcome, sender: str, seconds: float) -> None:
        """Pass an outcome to the requests that wait, and keep it; or continue in the slow lane."""
        with self._condition:
            self._queue.end(compilation, sender, seconds)
            if self._is_closed:
                return
            if not compilation.is_slow and _may_need_more(outcome):
                compilation.is_slow = True
                if not compilation.waiting:
                    self._queue.remove(compilation)
                self._condition.notify_all()
                return
            self._queue.remove(compilation)
            entry = _Entry.of(compilation.key, outcome)
            self._cache.put(compilation.key, entry)
            requests = list(compilation.waiting)
        self._observer.compiled(seconds, is_refused=not isinstance(outcome, Automaton))
        _deliver(requests, entry)


def _may_need_more(outcome: Outcome) -> bool:
    """Return whether a compilation may succeed with more time or memory."""
    return isinstance(outcome, LimitExceeded) or (isinstance(outcome, Failure) and outcome.error is Overloaded)


def _deliver(requests: list[Future[_Entry]], entry: _Entry) -> None:
    """Pass an outcome to the requests that still wait for it."""
    for request in requests:
        if request.set_running_or_notify_cancel():
            request.set_result(entry)
