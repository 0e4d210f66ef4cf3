"""A concurrent map with ordered results. Knows threads and retries. Does not know HTTP or generations."""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from sostenuto._errors import SostenutoError, TooManyRequests
from sostenuto._events import LinkedEvent
from sostenuto._progress import Progress
from sostenuto._retries import JITTER, MAX_ASKED_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Input = TypeVar("Input")
Output = TypeVar("Output")

AHEAD = 4  # a slow item blocks the later ones only when this many times `concurrency` are pending
PAUSE_S = 1.0  # if the server sends no Retry-After
LEAST_PAUSE_S = 0.1  # if it sends 0
THREAD_NAME = "sostenuto-many"


def in_order(
    make: Callable[[Input], Output],
    inputs: Iterable[Input],
    concurrency: Callable[[], int],
    show_progress: bool,
    return_errors: bool,
    stopped: LinkedEvent | None = None,
    total: int | None = None,
) -> Iterator[Output | SostenutoError]:
    """Yield `make(input)` for each input, in order.

    Args:
        make: Called by several threads.
        inputs: Consumed only as far ahead as needed.
        concurrency: Returns the number of threads; called when the first result is requested.
        show_progress: Whether to show a progress bar on standard error.
        return_errors: Whether to yield an error in place of its result, instead of raising it.
        stopped: Set when the iteration ends; interrupts a wait before a retry.
        total: Number of inputs, for the progress bar; None: unknown.
    """
    workers = _Workers(make, concurrency(), stopped or LinkedEvent())
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


class _Workers:
    """A pool of daemon threads, started on demand. They do not keep the program from exiting."""

    def __init__(self, make: Callable[[Any], Any], count: int, stopped: LinkedEvent) -> None:
        self.count = count
        self._make = make
        self._work: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._num_threads = 0
        self._stopped, self._is_over = stopped, False

    def submit(self, item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.put((future, item))
        if self._num_threads < self.count:
            self._num_threads += 1
            threading.Thread(target=self._run, name=THREAD_NAME, daemon=True).start()
        return future

    def stop(self) -> None:
        """Start no more work; calls in progress finish in the background."""
        self._is_over = True
        self._stopped.set()
        for _ in range(self._num_threads):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._is_over:
            future, item = work
            try:
                future.set_result(self._make_with_retries(item))
            except BaseException as error:
                future.set_exception(error)

    def _make_with_retries(self, item: Any) -> Any:
        """Call `make`; wait and repeat while the server answers 429, unless the wait exceeds MAX_ASKED_WAIT_S."""
        while True:
            try:
                return self._make(item)
            except TooManyRequests as error:
                pause_s = PAUSE_S if error.retry_after_s is None else max(error.retry_after_s, LEAST_PAUSE_S)
                if not error.retryable or pause_s > MAX_ASKED_WAIT_S:
                    raise
                # If the client was closed but the iteration continues, the next attempt raises ClientClosed.
                if self._stopped.wait(pause_s * (1 + JITTER * random.random())) and self._is_over:
                    raise


def _result(future: Future[Any], return_errors: bool) -> Any:
    try:
        return future.result()
    except SostenutoError as error:
        if return_errors:
            return error
        raise
