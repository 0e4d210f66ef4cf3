"""Many requests, some at a time, with their results in order. It knows neither HTTP nor texts."""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Sized
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from ostinato._errors import OstinatoError, TooManyRequests
from ostinato._events import LinkedEvent
from ostinato._progress import Progress
from ostinato._retries import JITTER, MAX_ASKED_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Given = TypeVar("Given")
Made = TypeVar("Made")

AHEAD = 4  # a slow one holds up those behind it only when so many times `concurrency` are done
PAUSE_S = 1.0  # where the server does not say how long to wait
LEAST_PAUSE_S = 0.1  # where it says not at all


def in_order(
    make: Callable[[Given], Made],
    given: Iterable[Given],
    concurrency: Callable[[], int],
    show_progress: bool,
    return_errors: bool,
    stopped: LinkedEvent | None = None,
) -> Iterator[Made | OstinatoError]:
    """Yield what is made of each, in order.

    Args:
        make: Called by several threads.
        given: Read as far ahead as needed.
        concurrency: How many at once; asked when the first result is.
        show_progress: Whether to show on standard error how far it is.
        return_errors: Whether to yield an error in its place, and not raise it.
        stopped: Set when no further results are wanted; a wait before another attempt ends with it.
    """
    workers = _Workers(make, concurrency(), stopped or LinkedEvent())
    total = len(given) if isinstance(given, Sized) else None
    pending: deque[Future[Made]] = deque()
    source, failure = iter(given), None
    try:
        with Progress(total, shown=show_progress) as progress:
            while True:
                try:
                    one = next(source)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                pending.append(workers.submit(one))
                pending[-1].add_done_callback(lambda _: progress.advance())
                while pending and (pending[0].done() or len(pending) >= AHEAD * workers.count):
                    yield _result(pending.popleft(), return_errors)
            while pending:
                yield _result(pending.popleft(), return_errors)
        if failure is not None:
            raise failure
    finally:
        workers.stop()


class _Workers:
    """Threads that make things, begun as they are needed. A program may end while they are at it."""

    def __init__(self, make: Callable[[Any], Any], count: int, stopped: LinkedEvent) -> None:
        self.count = count
        self._make = make
        self._work: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._num_threads = 0
        self._stopped, self._is_over = stopped, False

    def submit(self, one: Any) -> Future[Any]:
        made: Future[Any] = Future()
        self._work.put((made, one))
        if self._num_threads < self.count:
            self._num_threads += 1
            threading.Thread(target=self._run, name="ostinato-many", daemon=True).start()
        return made

    def stop(self) -> None:
        """Begin nothing new; what is on its way is finished in the background."""
        self._is_over = True
        self._stopped.set()
        for _ in range(self._num_threads):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._is_over:
            made, one = work
            try:
                made.set_result(self._make_patiently(one))
            except BaseException as error:
                made.set_exception(error)

    def _make_patiently(self, one: Any) -> Any:
        """Make it, however long there is no room for it."""
        while True:
            try:
                return self._make(one)
            except TooManyRequests as error:
                pause_s = PAUSE_S if error.retry_after_s is None else max(error.retry_after_s, LEAST_PAUSE_S)
                if not error.retryable or pause_s > MAX_ASKED_WAIT_S:
                    raise
                # Where the client was closed, and results are still wanted, the next attempt says so.
                if self._stopped.wait(pause_s * (1 + JITTER * random.random())) and self._is_over:
                    raise


def _result(made: Future[Any], return_errors: bool) -> Any:
    try:
        return made.result()
    except OstinatoError as error:
        if return_errors:
            return error
        raise
