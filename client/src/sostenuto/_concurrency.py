"""Many prompts at once: a concurrent map with ordered results, a seed for each prompt, and a progress bar."""

from __future__ import annotations

import operator
import os
import queue
import re
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from itertools import count, repeat
from time import monotonic
from typing import Any, Generic, TextIO, TypeVar

import requests

from sostenuto._errors import InvalidArgument, SostenutoError
from sostenuto._retries import LinkedEvent

Input = TypeVar("Input")
Output = TypeVar("Output")

AHEAD = 4  # a slow item blocks the later ones only when this many times `concurrency` are pending
# The gateway's default SOSTENUTO_MAX_PROMPTS, and a quarter of SOSTENUTO_MAX_PROMPT_TOKENS: a character may be four.
BATCH_TEXTS, BATCH_CHARACTERS = 128, 32_768
THREAD_NAME = "sostenuto-worker"
BAR_WIDTH = 24  # characters
TERMINAL_INTERVAL_S, FILE_INTERVAL_S = 0.2, 30.0
# Characters that move the cursor, change colors, write titles or reorder a line; tab and newline are harmless.
_DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def in_order(
    make: Callable[[Input], Output],
    inputs: Iterable[Input],
    concurrency: Callable[[], int],
    *,
    total: int | None = None,
    show_progress: bool = False,
    return_errors: bool = False,
    stopped: LinkedEvent | None = None,
) -> Iterator[Output | SostenutoError]:
    """Yield `make(input)` for each input, in order; with `return_errors`, yield errors as results.

    `concurrency()` threads, evaluated at the first result, call `make`. Inputs are consumed only as far ahead as
    needed. `total` is their number, if known, for the progress bar. `stopped` is set at the end.
    """
    workers = Workers(make, concurrency())
    pending: deque[Future[Output]] = deque()
    source, failure = iter(inputs), None
    try:
        with Progress(total, shown=show_progress) as progress:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                pending.append(workers.submit(item))
                pending[-1].add_done_callback(lambda _: progress.advance())
                while pending and (pending[0].done() or len(pending) >= AHEAD * workers.count):
                    yield _result(pending.popleft(), return_errors)
            while pending:
                yield _result(pending.popleft(), return_errors)
        if failure is not None:
            raise failure
    finally:
        workers.stop()
        if stopped is not None:
            stopped.set()


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of consecutive texts, within the server's limits of a request."""
    batch, num_characters = list[str](), 0
    for text in texts:
        if batch and (len(batch) == BATCH_TEXTS or num_characters + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, num_characters = [], 0
        batch.append(text)
        num_characters += len(text)
    if batch:
        yield batch


class Workers(Generic[Input, Output]):
    """A pool of daemon threads, started on demand. They do not keep the program from exiting."""

    def __init__(self, make: Callable[[Input], Output], count: int) -> None:
        self.count = count
        self._make = make
        self._work: queue.SimpleQueue[tuple[Future[Output], Input] | None] = queue.SimpleQueue()
        self._num_threads, self._is_over = 0, False

    def submit(self, item: Input) -> Future[Output]:
        """Call `make` with an item in one of the threads; return its future result."""
        future: Future[Output] = Future()
        self._work.put((future, item))
        if self._num_threads < self.count:
            self._num_threads += 1
            threading.Thread(target=self._run, name=THREAD_NAME, daemon=True).start()
        return future

    def stop(self) -> None:
        """Start no more work; calls in progress finish in the background."""
        self._is_over = True
        for _ in range(self._num_threads):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._is_over:
            future, item = work
            try:
                future.set_result(self._make(item))
            except BaseException as error:
                future.set_exception(error)


def opened_unless(stopped: LinkedEvent, send: Callable[[], requests.Response]) -> requests.Response | None:
    """Open a stream in a separate thread, because `requests` cannot be interrupted while it waits for a response.

    Returns None if stopped first; a response that arrives later is closed.
    """
    worker: Workers[None, requests.Response] = Workers(lambda _: send(), 1)
    done = LinkedEvent(stopped)
    opening = worker.submit(None)
    opening.add_done_callback(lambda _: done.set())
    try:
        done.wait()
    finally:
        worker.stop()
        is_open = opening.done()
        if not is_open:
            opening.add_done_callback(_close)
    return opening.result() if is_open else None


def _close(opening: Future[requests.Response]) -> None:
    """Close the response of a stream that is not needed any more."""
    if opening.exception() is None:
        opening.result().close()


def _result(future: Future[Any], return_errors: bool) -> Any:
    try:
        return future.result()
    except SostenutoError as error:
        if return_errors:
            return error
        raise


def with_seeds(
    prompts: Iterable[Input], seed: int | None, seeds: Sequence[int] | None
) -> Iterator[tuple[Input, int | None]]:
    """Pair each prompt with its seed: `seed` + index, an entry of `seeds`, or None if neither is given.

    Raises:
        InvalidArgument: both are given, one is not an int, or `seeds` does not have one entry per prompt. Without the
            number of prompts, it is raised by the iterator, after the pairs that exist.
    """
    if seeds is None:
        derived = repeat(None) if seed is None else count(_integer("seed", seed, ", or seeds with one per prompt"))
        return zip(prompts, derived, strict=False)  # the seeds are infinite
    if seed is not None:
        raise InvalidArgument(f"seed is {seed!r} and seeds is given, too: pass one of them")
    given = [_integer(f"seeds[{index}]", entry) for index, entry in enumerate(seeds)]
    if isinstance(prompts, Sized) and len(prompts) != len(given):
        raise _wrong_length(given, f"{len(prompts):,}")
    return _one_by_one(prompts, given)


def _one_by_one(prompts: Iterable[Input], seeds: list[int]) -> Iterator[tuple[Input, int | None]]:
    num_prompts = 0
    for num_prompts, prompt in enumerate(prompts, 1):
        if num_prompts > len(seeds):
            raise _wrong_length(seeds, f"more than {len(seeds):,}")
        yield prompt, seeds[num_prompts - 1]
    if num_prompts < len(seeds):
        raise _wrong_length(seeds, f"{num_prompts:,}")


def _integer(field: str, value: object, instead: str = "") -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # it raises for other types
    except TypeError:
        raise InvalidArgument(f"{field} is {value!r}: pass an int{instead}") from None


def _wrong_length(seeds: list[int], num_prompts: str) -> InvalidArgument:
    return InvalidArgument(f"seeds has {len(seeds):,} entries for {num_prompts} prompts: pass one seed per prompt")


class Progress(AbstractContextManager["Progress"]):
    """A thread-safe progress bar: one rewritten line in a terminal, a new line at intervals elsewhere.

    As a context manager it writes a last line on exit, and nothing afterwards. `num_done` items were done before.
    """

    def __init__(self, total: int | None, *, shown: bool, num_done: int = 0, file: TextIO | None = None) -> None:
        self.note = ""  # the end of a line
        self._total, self._file = total, file or sys.stderr
        # A program may have no standard error.
        self._shown = shown and self._file is not None
        self._terminal = self._shown and self._file.isatty()
        self._lock = threading.Lock()
        self._begun_at = self._written_at = monotonic()
        self._num_before = self._num_done = num_done

    def advance(self, num_items: int = 1) -> None:
        """Count finished items, and write a line if one is due."""
        with self._lock:
            self._num_done += num_items
            interval_s = TERMINAL_INTERVAL_S if self._terminal else FILE_INTERVAL_S
            if monotonic() - self._written_at >= interval_s:
                self._write("" if self._terminal else "\n")

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the last line."""
        with self._lock:
            self._write("\n")
            self._shown = False

    def _write(self, end: str) -> None:
        self._written_at = monotonic()
        if not self._shown:
            return
        line = visible(self._line())
        if self._terminal:  # a line that wraps could not be rewritten
            line = "\r\x1b[K" + line[: self._width() - 1]
        self._file.write(line + end)
        self._file.flush()

    def _width(self) -> int:
        """Return the number of columns of the file's terminal, which may not be that of standard output."""
        width = 0
        with suppress(OSError, ValueError):
            width = os.get_terminal_size(self._file.fileno()).columns
        return width or shutil.get_terminal_size().columns

    def _line(self) -> str:
        elapsed_s, done = monotonic() - self._begun_at, self._num_done
        rate = (done - self._num_before) / elapsed_s if elapsed_s > 0 else 0.0
        if not self._total:
            return f"{done:,} done, {_rate(rate)}/s{self.note}"
        filled = BAR_WIDTH * done // self._total
        left = f", {clock((self._total - done) / rate)} left" if rate and done < self._total else ""
        return f"{'█' * filled}{'·' * (BAR_WIDTH - filled)} {done:,}/{self._total:,}, {_rate(rate)}/s{left}{self.note}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def visible(text: str) -> str:
    """Escape the control characters of a text as JSON does, for a terminal."""
    return _DANGEROUS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def clock(seconds: float) -> str:
    """Format a duration as 1:40, or 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
