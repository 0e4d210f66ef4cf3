"""Compilation of constraints for the gateway: a process that compiles, and a cache of automata with a byte limit.

Knows constraints, models' tokens and limits. Does not know requests.
"""

import contextlib
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
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
# Wall-clock limit, as a multiple of the CPU limit: on a busy machine one pattern would block the others for long.
WALL_FACTOR = 5
_ROOT = Path(__file__).parents[2]


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
        self._pending: Counter[Hashable] = Counter()
        self._counting, self._lock = threading.Lock(), threading.Lock()
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
        result = self._cache.get(key)
        if result is None:
            with self._pending_place(key), self._lock:
                # Another thread may have compiled it meanwhile.
                result = self._cache.get(key)
                if result is None:
                    job = Job(constraint, texts(), self._limits, self._timeout_s, self._wall_timeout_s)
                    began = time.monotonic()
                    result = self._run(job)
                    is_refused = not isinstance(result, Automaton)
                    self._observer.compiled(time.monotonic() - began, is_refused=is_refused)
                    self._cache.put(key, result)
        if isinstance(result, Automaton):
            return result
        # Each request raises an error of its own, with its own traceback.
        raise type(result)(*result.args)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    @contextlib.contextmanager
    def _pending_place(self, key: Hashable) -> Iterator[None]:
        """Count a constraint as pending; requests with the same one share its place.

        Raises:
            Overloaded: `MAX_PENDING` others are pending.
        """
        with self._counting:
            if key not in self._pending and len(self._pending) >= MAX_PENDING:
                raise Overloaded(
                    f"the queue of patterns to compile is full: {MAX_PENDING} are waiting; try again later",
                    retry_after_s=1,
                )
            self._pending[key] += 1
        try:
            yield
        finally:
            with self._counting:
                self._pending[key] -= 1
                if not self._pending[key]:
                    del self._pending[key]

    def _run(self, job: Job) -> Automaton | PatternError | SchemaError:
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
        result = None
        with contextlib.suppress(BrokenPipeError):
            write_message(self._process.stdin, job)
            header = self._process.stdout.read(LENGTH.size)
            if len(header) == LENGTH.size:
                result = pickle.loads(self._process.stdout.read(LENGTH.unpack(header)[0]))
        if isinstance(result, Automaton | PatternError | SchemaError):
            return result
        if isinstance(result, CompilationInterrupted):
            raise Overloaded(f"the pattern was not compiled: {result}; try again later", retry_after_s=1)
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
