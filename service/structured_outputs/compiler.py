"""Compilation of constraints for the gateway: a process that compiles, and a cache of automata with a byte limit.

Knows constraints, models' tokens and limits. Does not know requests.
"""

import contextlib
import copy
import math
import pickle
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from service.errors import InternalError, Overloaded
from service.limits import Limits
from service.scheduling.automaton import Automaton
from service.structured_outputs.automata import CompilationInterrupted, CompilationLimits, PatternError, TokenTexts
from service.structured_outputs.compiler_process import LENGTH, Job, write_message
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Constraint

# Errors are remembered, too: a pattern that takes its whole time is compiled once.
_ERROR_BYTES = 1000
# Distinct constraints that wait or are compiled. Each waiting request holds a thread, and slow patterns could hold all.
MAX_PENDING = 64
# After an interruption: meanwhile the machine may become less busy, and other patterns are compiled.
INTERRUPTED_S = 30.0
# Wall-clock limit, as a multiple of the CPU limit: on a busy machine one pattern would block the others for long.
WALL_FACTOR = 5
_ROOT = Path(__file__).parents[2]

Result = Automaton | PatternError | SchemaError | CompilationInterrupted


class Observer(Protocol):
    """A callback for metrics."""

    def compiled(self, seconds: float, *, is_refused: bool) -> None:
        """Record a compilation, or a refusal."""


class ConstraintCompiler:
    """Compiles constraints, one at a time; thread-safe."""

    def __init__(self, limits: Limits, observer: Observer) -> None:
        self._limits = CompilationLimits(limits.max_pattern_states, limits.max_pattern_bytes)
        self._timeout_s, self._wall_timeout_s = limits.max_pattern_s, WALL_FACTOR * limits.max_pattern_s
        self._observer = observer
        self._cache = _Cache(limits.pattern_cache_bytes)
        self._pending: dict[Hashable, Future[Result]] = {}
        # By constraint: until when it is not compiled again, in monotonic seconds.
        self._interrupted_until: dict[Hashable, float] = {}
        self._accepting, self._lock = threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self, constraint: Constraint, vocabulary: Hashable, texts: Callable[[], TokenTexts]) -> Automaton:
        """Return the automaton of a constraint over a model's tokens; `vocabulary` identifies these in the cache.

        Raises:
            PatternError: a pattern is invalid, no text of the model matches, or a limit is exceeded.
            SchemaError: its JSON Schema is invalid or has something unsupported.
            Overloaded: too many others wait, or the machine was too busy to compile it.
            InternalError: the compiler process exited; it is restarted for the next pattern.
        """
        key = constraint, vocabulary
        result = self._cache.get(key) or self._compile_once(key, texts)
        if isinstance(result, Automaton):
            return result
        if isinstance(result, CompilationInterrupted):
            wait_s = math.ceil(max(1.0, self._interrupted_until.get(key, 0.0) - time.monotonic()))
            raise Overloaded(f"the pattern was not compiled: {result}; try again in {wait_s} s", retry_after_s=wait_s)
        raise copy.copy(result)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _compile_once(self, key: tuple[Constraint, Hashable], texts: Callable[[], TokenTexts]) -> Result:
        """Compile a constraint, or wait for another request that compiles the same.

        Raises:
            Overloaded: `MAX_PENDING` others are pending.
            InternalError: the compiler process exited.
        """
        with self._accepting:
            if (cached := self._cache.get(key)) is not None:
                return cached
            if self._interrupted_until.get(key, 0.0) > time.monotonic():
                return CompilationInterrupted("the machine was too busy a moment ago")
            pending = self._pending.get(key)
            if pending is None:
                if len(self._pending) >= MAX_PENDING:
                    message = f"the queue of patterns to compile is full: {MAX_PENDING} are waiting; try again later"
                    raise Overloaded(message, retry_after_s=1)
                own = self._pending[key] = Future[Result]()
        if pending is not None:
            if (error := pending.exception()) is not None:
                # Each request raises an error of its own, with its own traceback.
                raise copy.copy(error)
            return pending.result()
        try:
            with self._lock:
                job, began = Job(key[0], texts(), self._limits, self._timeout_s, self._wall_timeout_s), time.monotonic()
                result = self._run(job)
                is_refused = not isinstance(result, Automaton)
                self._observer.compiled(time.monotonic() - began, is_refused=is_refused)
            self._remember(key, result)
            own.set_result(result)
        except BaseException as error:
            own.set_exception(error)
            raise
        finally:
            with self._accepting:
                del self._pending[key]
        return result

    def _remember(self, key: tuple[Constraint, Hashable], result: Result) -> None:
        """Cache a result; after an interruption, compile the constraint again only after a pause."""
        if not isinstance(result, CompilationInterrupted):
            self._cache.put(key, result)
            return
        now = time.monotonic()
        with self._accepting:
            self._interrupted_until = {old: until for old, until in self._interrupted_until.items() if until > now}
            self._interrupted_until[key] = now + INTERRUPTED_S

    def _run(self, job: Job) -> Result:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.structured_outputs.compiler_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_ROOT,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        result: object = None
        with contextlib.suppress(BrokenPipeError):
            write_message(self._process.stdin, job)
            header = self._process.stdout.read(LENGTH.size)
            if len(header) == LENGTH.size:
                result = pickle.loads(self._process.stdout.read(LENGTH.unpack(header)[0]))
        if isinstance(result, Automaton | PatternError | SchemaError | CompilationInterrupted):
            return result
        self._stop()
        raise InternalError("the pattern compiler exited unexpectedly; send the request again")

    def _stop(self) -> None:
        """End the process, if there is one, and wait for it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # Closes its pipes, too.
            with process:
                pass


class _Cache:
    """Automata and errors by key, up to a number of bytes; the least recently used ones are evicted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._entries: OrderedDict[Hashable, Automaton | PatternError | SchemaError] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Automaton | PatternError | SchemaError | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Hashable, result: Automaton | PatternError | SchemaError) -> None:
        with self._lock:
            self._entries[key] = result
            self._num_bytes += _size(key, result)
            while self._num_bytes > self._max_bytes and len(self._entries) > 1:
                evicted_key, evicted = self._entries.popitem(last=False)
                self._num_bytes -= _size(evicted_key, evicted)


def _size(key: Hashable, result: Automaton | PatternError | SchemaError) -> int:
    return (result.num_bytes if isinstance(result, Automaton) else 0) + _ERROR_BYTES + len(repr(key))
