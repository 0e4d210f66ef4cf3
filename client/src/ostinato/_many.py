"""Many requests, some at a time, with their results in order. It knows neither HTTP nor texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from concurrent.futures import Future, ThreadPoolExecutor
from time import sleep
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from ostinato._errors import OstinatoError, TooManyRequests
from ostinato._progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Given = TypeVar("Given")
Made = TypeVar("Made")

AHEAD = 4  # a slow one holds up those behind it only when so many times `concurrency` are done
PAUSE_S = 1.0  # where the server does not say how long to wait


def in_order(
    make: Callable[[Given], Made],
    given: Iterable[Given],
    concurrency: Callable[[], int],
    show_progress: bool,
    return_errors: bool,
) -> Iterator[Made | OstinatoError]:
    """Yield what is made of each, in order.

    Args:
        make: Called by several threads.
        given: Read as far ahead as needed.
        concurrency: How many at once; asked when the first result is.
        show_progress: Whether to show on standard error how far it is.
        return_errors: Whether to yield an error in its place, and not raise it.
    """
    num_threads = concurrency()
    total = len(given) if isinstance(given, Sized) else None
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="ostinato")
    pending: deque[Future[Made]] = deque()
    try:
        with Progress(total, shown=show_progress) as progress:
            for one in given:
                pending.append(pool.submit(_patiently, make, one))
                pending[-1].add_done_callback(lambda _: progress.advance())
                if len(pending) >= AHEAD * num_threads:
                    yield _result(pending.popleft(), return_errors)
            while pending:
                yield _result(pending.popleft(), return_errors)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _patiently(make: Callable[[Given], Made], one: Given) -> Made:
    """Make it, however long there is no room for it."""
    while True:
        try:
            return make(one)
        except TooManyRequests as error:
            sleep(PAUSE_S if error.retry_after_s is None else error.retry_after_s)


def _result(made: Future[Any], return_errors: bool) -> Any:
    try:
        return made.result()
    except OstinatoError as error:
        if return_errors:
            return error
        raise
