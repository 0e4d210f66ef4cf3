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
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.errors import InternalError, Overloaded
from service.limits import Limits
from service.scheduling.automaton import Automaton
from service.single_flight import SingleFlightCache, TooManyPending
from service.structured_outputs.automata import CompilationInterrupted, CompilationLimits, PatternError, TokenTexts
from service.structured_outputs.compiler_process import LENGTH, Job, write_message
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Constraint

# Of an entry, beside its automaton and its key. Errors are cached, too: a pattern that times out is compiled once.
_ENTRY_BYTES = 1000
# Distinct constraints that wait or are compiled. Each waiting request holds a thread, and slow patterns could hold all.
MAX_PENDING = 64
# After an interruption: meanwhile the machine may become less busy, and other patterns are compiled.
INTERRUPTED_S = 30.0
# Wall-clock limit, as a multiple of the CPU limit: on a busy machine one pattern would block the others for long.
WALL_FACTOR = 5
_ROOT = Path(__file__).parents[2]

Key = tuple[Constraint, Hashable]


@dataclass(frozen=True)
class _Entry:
    result: Automaton | PatternError | SchemaError
    num_bytes: int


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
        self._cache: SingleFlightCache[Key, _Entry] = SingleFlightCache(limits.pattern_cache_bytes, MAX_PENDING)
        # By constraint: until when it is not compiled again, in monotonic seconds.
        self._interrupted_until: dict[Key, float] = {}
        self._lock = threading.Lock()
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
        try:
            result = self._cache.get(key, lambda _: self._compile(key, texts)).result
        except TooManyPending:
            message = f"the queue of patterns to compile is full: {MAX_PENDING} are waiting; try again later"
            raise Overloaded(message, retry_after_s=1) from None
        except CompilationInterrupted as interrupted:
            wait_s = math.ceil(max(1.0, self._interrupted_until.get(key, 0.0) - time.monotonic()))
            message = f"the pattern was not compiled: {interrupted}; try again in {wait_s} s"
            raise Overloaded(message, retry_after_s=wait_s) from None
        if isinstance(result, Automaton):
            return result
        raise copy.copy(result)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _compile(self, key: Key, texts: Callable[[], TokenTexts]) -> _Entry:
        """Compile a constraint after those that are before it.

        Raises:
            CompilationInterrupted: it is not compiled again for `INTERRUPTED_S`.
            InternalError: the compiler process exited.
        """
        if self._interrupted_until.get(key, 0.0) > time.monotonic():
            raise CompilationInterrupted("the machine was too busy a moment ago")
        with self._lock:
            job, began = Job(key[0], texts(), self._limits, self._timeout_s, self._wall_timeout_s), time.monotonic()
            result, now = self._run(job), time.monotonic()
            self._observer.compiled(now - began, is_refused=not isinstance(result, Automaton))
            if isinstance(result, CompilationInterrupted):
                pauses = {other: until for other, until in self._interrupted_until.items() if until > now}
                self._interrupted_until = {**pauses, key: now + INTERRUPTED_S}
                # Not `result` itself: its traceback would hold this frame, which holds it.
                raise CompilationInterrupted(str(result))
        automaton_bytes = result.num_bytes if isinstance(result, Automaton) else 0
        return _Entry(result, automaton_bytes + _ENTRY_BYTES + len(repr(key)))

    def _run(self, job: Job) -> Automaton | PatternError | SchemaError | CompilationInterrupted:
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
