"""Compilation of constraints for the gateway: a cache, a fair queue, and two processes that compile."""

import copy
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from service.caches import LruCache
from service.errors import GatewayError, InternalError, Overloaded
from service.scheduling.sampling_inputs import Automaton
from service.settings import Settings
from service.structured_outputs.automata import CompilationLimits, TokenTexts
from service.structured_outputs.compiler_process import CompilerProcess, Job, LimitExceeded, Outcome
from service.structured_outputs.patterns import Constraint
from service.structured_outputs.regex_syntax import PatternError

log = logging.getLogger(__name__)

# Memory of a compilation.
MAX_MEMORY_BYTES = 2**28
# CPU time and memory in the fast lane. Most compilations take a few milliseconds and megabytes; others are repeated
# with the full limits.
FAST_S, FAST_MEMORY_BYTES = 0.1, 2**26
# Bytes of an entry beside its automaton and key. Errors are cached, too: a pattern that times out is compiled once.
_ENTRY_BYTES = 1000
# After an interruption or a crash: meanwhile the machine may become less busy, and other patterns are compiled.
INTERRUPTED_S = 30.0
# Wall-clock limit, as a multiple of the CPU limit: on a busy machine one pattern would block the others for long.
WALL_FACTOR = 5
# Senders whose used time is kept; beyond it those with the least are forgotten.
MAX_SENDERS = 4096

Key = tuple[Constraint, Hashable]


@dataclass(eq=False)
class Compilation:
    """A constraint that waits to be compiled, or is being compiled."""

    key: Key
    texts: Callable[[], TokenTexts]  # returns what the model's tokens add to a text
    # The requests that wait for it, with the sender of each.
    waiting: dict[Future[Any], str] = field(default_factory=dict)
    is_slow: bool = False  # whether it has exceeded a limit of the fast lane
    is_running: bool = False  # whether a process compiles it


class CompilationQueue:
    """The compilations that wait or run, in two lanes; not thread-safe.

    Senders take turns by the time that their patterns have taken: start-time fair queueing (Goyal, Vin and Cheng 1996).
    The next compilation is one of the sender that has used the least time, and a sender that was idle starts from the
    time that the last one had used. So a pattern that takes two seconds delays its sender's next ones, and other
    senders at most once.

    Each waiting request holds a thread, so at most `max_waiting` may wait, two thirds of them from one sender.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting, self._max_of_sender = max_waiting, max(1, max_waiting * 2 // 3)
        self._pending: dict[Key, Compilation] = {}
        self._used_s: dict[str, float] = {}
        # Used time of the sender of the latest compilation.
        self._clock_s = 0.0

    def join(self, key: Key, texts: Callable[[], TokenTexts], request: Future[Any], sender: str) -> Compilation:
        """Let a request wait for a compilation, perhaps with others; raise Overloaded if too many wait."""
        waiting = Counter(sender for each in self._pending.values() for sender in each.waiting.values())
        total, of_sender = waiting.total(), waiting[sender]
        if total >= self._max_waiting or of_sender >= self._max_of_sender:
            raise Overloaded(
                f"the queue of patterns to compile is full: {total} of {self._max_waiting} requests are waiting, "
                f"{of_sender} of {self._max_of_sender} from this sender; try again later",
                retry_after_s=1,
            )
        self._used_s.setdefault(sender, self._clock_s)
        compilation = self._pending.setdefault(key, Compilation(key, texts))
        compilation.waiting[request] = sender
        return compilation

    def leave(self, compilation: Compilation, request: Future[Any]) -> None:
        """End a request's wait; drop the compilation if it has not begun and nobody else waits."""
        del compilation.waiting[request]
        if not compilation.waiting and not compilation.is_running:
            self.remove(compilation)

    def take(self, *, is_slow: bool) -> tuple[str, Compilation] | None:
        """Start the next compilation of a lane, and return it with its sender; None if there is none."""
        ready = [
            (sender, each)
            for each in self._pending.values()
            if each.is_slow == is_slow and not each.is_running
            for sender in each.waiting.values()
        ]
        if not ready:
            return None
        sender, compilation = min(ready, key=lambda pair: self._used_s[pair[0]])
        self._clock_s = max(self._clock_s, self._used_s[sender])
        compilation.is_running = True
        return sender, compilation

    def end(self, compilation: Compilation, sender: str, seconds: float) -> None:
        """End a run, which counts toward its sender's time."""
        compilation.is_running = False
        # An idle sender does not save up time.
        self._used_s[sender] = max(self._used_s.get(sender, 0.0), self._clock_s) + seconds
        if len(self._used_s) > MAX_SENDERS:
            waiting = {sender for each in self._pending.values() for sender in each.waiting.values()}
            for forgotten in sorted(self._used_s.keys() - waiting, key=self._used_s.__getitem__)[: MAX_SENDERS // 2]:
                del self._used_s[forgotten]

    def remove(self, compilation: Compilation) -> None:
        """Remove a compilation that is finished or that nobody waits for."""
        # By now it may have a successor.
        if self._pending.get(compilation.key) is compilation:
            del self._pending[compilation.key]

    def clear(self) -> list[Future[Any]]:
        """Remove all compilations, and return the requests that wait for them."""
        requests = [request for each in self._pending.values() for request in each.waiting]
        self._pending.clear()
        return requests


@dataclass(frozen=True)
class _Entry:
    """An outcome in the cache, until monotonic seconds."""

    outcome: Outcome
    num_bytes: int = 0
    expires_at: float = math.inf

    @classmethod
    def of(cls, key: Key, outcome: Outcome) -> Self:
        num_bytes = _ENTRY_BYTES + len(repr(key)) + (outcome.num_bytes if isinstance(outcome, Automaton) else 0)
        return cls(
            outcome, num_bytes, time.monotonic() + INTERRUPTED_S if isinstance(outcome, GatewayError) else math.inf
        )

    def automaton(self) -> Automaton:
        """Return the automaton, or raise the error.

        Each request raises its own exception, with its own traceback.
        """
        if isinstance(self.outcome, Automaton):
            return self.outcome
        if isinstance(self.outcome, PatternError):
            raise copy.copy(self.outcome)
        seconds = max(1, math.ceil(self.expires_at - time.monotonic()))
        message = f"the pattern was not compiled: {self.outcome}; try again in {seconds} s"
        raise type(self.outcome)(message, retry_after_s=seconds)


class CompilerPool:
    """Compiles constraints; thread-safe. Requests for the same constraint share one compilation.

    One process tries every constraint for at most `FAST_S`. Those that take longer are repeated by a second process, so
    that they do not delay the others. In both lanes senders take turns, see `CompilationQueue`.
    """

    def __init__(self, settings: Settings, compiled: Callable[..., object]) -> None:
        """`compiled` is called after each compilation with its seconds, and `is_refused`."""
        self._limits = CompilationLimits(settings.max_pattern_states, settings.max_pattern_bytes)
        self._timeout_s, self._compiled = settings.max_pattern_s, compiled
        self._condition = threading.Condition()
        self._cache: LruCache[Key, _Entry] = LruCache(settings.pattern_cache_bytes)
        # Each waiting request also holds a place in the queue of sequences: half of these at most.
        self._queue = CompilationQueue(max(1, settings.max_sequences // 2))
        # By whether they are for slow constraints.
        self._processes = {False: CompilerProcess(), True: CompilerProcess()}
        self._threads: dict[bool, threading.Thread] = {}  # by `is_slow`
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
            wait: Waits for a future, and returns its result. An exception ends the wait; a compilation that nobody
                waits for is not started.

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
            self._start_threads()
            compilation = self._queue.join(key, texts, request, sender)
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
        _deliver(requests, _Entry(InternalError("the gateway is closing"), expires_at=0))
        for process in self._processes.values():
            process.kill()
        for thread in self._threads.values():
            thread.join(timeout=1)

    def _start_threads(self) -> None:
        for is_slow in self._processes.keys() - self._threads.keys():
            thread = threading.Thread(target=self._run, args=(is_slow,), name="compiler", daemon=True)
            # Kept once it runs: there may be no thread left for it now, and one for the next request.
            thread.start()
            self._threads[is_slow] = thread

    def _run(self, is_slow: bool) -> None:
        """Compile one constraint after another, on a thread for each process."""
        while (taken := self._next(is_slow)) is not None:
            sender, compilation = taken
            began = time.monotonic()
            try:
                outcome = self._compile(compilation)
            except Exception:
                log.exception("a constraint could not be sent to the compiler")
                outcome = InternalError("it could not be sent to the compiler")
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
            # It is cached, and its traceback would keep the frames.
            return error.with_traceback(None)
        job = Job(compilation.key[0], texts, self._limits, timeout_s, WALL_FACTOR * timeout_s, max_memory_bytes)
        return self._processes[is_slow].run(job)

    def _finish(self, compilation: Compilation, outcome: Outcome, sender: str, seconds: float) -> None:
        """Deliver and cache an outcome, or continue in the slow lane."""
        with self._condition:
            self._queue.end(compilation, sender, seconds)
            if self._is_closed:
                return
            # With more time or memory it may succeed.
            if not compilation.is_slow and isinstance(outcome, LimitExceeded | Overloaded):
                compilation.is_slow = True
                if not compilation.waiting:
                    self._queue.remove(compilation)
                self._condition.notify_all()
                return
            self._queue.remove(compilation)
            entry = _Entry.of(compilation.key, outcome)
            self._cache.put(compilation.key, entry)
            requests = list(compilation.waiting)
        self._compiled(seconds, is_refused=not isinstance(outcome, Automaton))
        _deliver(requests, entry)


def _deliver(requests: list[Future[_Entry]], entry: _Entry) -> None:
    """Pass an outcome to the requests that still wait for it."""
    for request in requests:
        if request.set_running_or_notify_cancel():
            request.set_result(entry)
