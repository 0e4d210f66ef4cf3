"""A user's validator: a Python function, called in separate processes, with a time limit for each record.

A record that makes the function raise, hang or crash is invalid; nothing else is affected.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import IO, Any

from sostenuto._errors import InvalidArgument

START_S = 120.0  # for the import of the user's module
MAX_PROCESSES, MIN_RECORDS = 8, 200  # records of a process
# A process that hangs or crashes is replaced this many times.
MAX_FAILURES = 20
_TICK_S = 0.5
_MAX_REASON = 100
Verdict = tuple["str | None", "str | None"]


@dataclass(frozen=True)
class Validator:
    """A function that gets a record and returns whether it is valid; or a str, its canonical form, or None."""

    target: str  # `module:function`; the module is also looked for in the current directory
    timeout_s: float  # for a record

    def check(self, texts: Sequence[str], advance: Callable[[float], object]) -> list[Verdict]:
        """Return for each text the form in which it is compared with others, or the reason why it is invalid.

        One of the two is None.

        Raises:
            InvalidArgument: the function cannot be imported, or has hung or crashed too often.
        """
        count = max(1, min(num_cores(), MAX_PROCESSES, len(texts) // MIN_RECORDS))
        parts = [texts[len(texts) * i // count : len(texts) * (i + 1) // count] for i in range(count)]
        run = _Run(self, len(texts), advance)
        with ThreadPoolExecutor(count) as pool:
            try:
                return [verdict for part in pool.map(run.check, parts) for verdict in part]
            except _Stopped:  # by the error of a later part
                raise run.error or InvalidArgument("the check was stopped") from None
            finally:  # after Ctrl-C, too: the pool waits for its threads
                run.stopped.set()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Stopped(Exception):
    """Another part of the check has failed."""


class _Run:
    """The state that the threads of a check share.

    Attributes:
        stopped: Event. Set if the check is to end.
        error: BaseException or None. The first one.
    """

    def __init__(self, validator: Validator, num_texts: int, advance: Callable[[float], object]) -> None:
        self.stopped = threading.Event()
        self.error: BaseException | None = None
        self._validator, self._num_texts, self._advance = validator, num_texts, advance
        self._lock, self._num_done, self._num_failures = threading.Lock(), 0, 0

    def check(self, texts: Sequence[str]) -> list[Verdict]:
        """Return the verdict on each text, from one process after another."""
        verdicts: list[Verdict] = []
        try:
            while len(verdicts) < len(texts):
                with _Process(self._validator.target, self.stopped) as process:
                    self._check_in(process, texts[len(verdicts) :], verdicts)
        except BaseException as error:
            with self._lock:
                self.error = self.error or error
            self.stopped.set()
            raise
        return verdicts

    def _check_in(self, process: _Process, texts: Sequence[str], verdicts: list[Verdict]) -> None:
        process.send(texts)
        for text in texts:
            try:
                answer = process.answer(self._validator.timeout_s)
            except (EOFError, TimeoutError) as error:
                self._add_failure(text)
                late = f"the validator took longer than {self._validator.timeout_s:g} s"
                problem = late if isinstance(error, TimeoutError) else "the validator's process ended"
                verdicts.append((None, problem))
                return
            verdicts.append(_verdict(text, answer))
            self._count()

    def _count(self) -> None:
        with self._lock:
            self._num_done += 1
            self._advance(self._num_done / self._num_texts)

    def _add_failure(self, text: str) -> None:
        with self._lock:
            self._num_failures += 1
            if self._num_failures >= MAX_FAILURES:
                raise InvalidArgument(
                    f"validator {self._validator.target!r} must answer within {self._validator.timeout_s:g} s for each "
                    f"record, but hung or crashed {MAX_FAILURES} times, last on {text[:60]!r}"
                )


def _verdict(text: str, answer: bool | str | dict[str, str]) -> Verdict:
    if isinstance(answer, dict):
        return None, answer["error"]
    if isinstance(answer, str):
        return answer, None
    return (text, None) if answer else (None, "refused by the validator")


class _Process(AbstractContextManager["_Process"]):
    """A process that has imported the function; it is killed at the end."""

    def __init__(self, target: str, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._receive, daemon=True).start()
        try:
            problem = self.answer(START_S)
        except _Stopped:
            self.__exit__()
            raise
        except (EOFError, TimeoutError) as error:
            how = "took too long" if isinstance(error, TimeoutError) else "ended the process"
            problem = f"its import {how}"
        if problem is not None:
            self.__exit__()
            raise InvalidArgument(f"validator must be module:function, got {target!r}: {problem}")

    def send(self, texts: Sequence[str]) -> None:
        """Send all texts, on another thread, while the process responds."""
        threading.Thread(target=self._send, args=(texts,), daemon=True).start()

    def answer(self, timeout_s: float) -> Any:
        """Return the next response; raise TimeoutError if there is none in time, EOFError if the process has ended."""
        deadline = time.monotonic() + timeout_s
        while not self._stopped.is_set():
            try:
                answer = self._answers.get(timeout=min(_TICK_S, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                continue
            if isinstance(answer, EOFError):
                raise answer
            return answer
        raise _Stopped

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # the unsent rest
            _input(self._process).close()

    def _send(self, texts: Sequence[str]) -> None:
        with suppress(OSError, ValueError):  # it was killed
            for text in texts:
                _input(self._process).write(json.dumps(text).encode() + b"\n")
            _input(self._process).close()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(json.loads(line))
        self._answers.put(EOFError())


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def main() -> None:
    """Import a function and answer for each record on standard input, a line of JSON each; the process of a check."""
    # Ctrl-C reaches all processes of the terminal; the report's process ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The user's code may print to standard output.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())
    try:
        function = _load(sys.argv[1])
        _write(answers, None)
    except Exception as error:
        _write(answers, _reason(error))
        return
    for line in sys.stdin.buffer:
        try:
            found = function(json.loads(line))
            answer: Any = found if isinstance(found, str) else bool(found)
        except Exception as error:
            answer = {"error": f"the validator raised {_reason(error)}"}
        _write(answers, answer)


def _load(target: str) -> Callable[[str], Any]:
    module, _, name = target.partition(":")
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{name} is not callable")
    return function  # type: ignore[no-any-return]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_REASON]


def _write(answers: IO[str], value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
