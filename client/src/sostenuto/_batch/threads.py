"""Execution on one machine: one thread per concurrent request."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from sostenuto._batch.output_record import OutputLine
from sostenuto._batch.requests_file import Line

TICK_S = 1.0


def process_lines(
    lines: Iterable[Line], process: Callable[[Line], OutputLine], concurrency: int, end: Callable[[], None]
) -> Iterator[OutputLine | None]:
    """Yield lines of OUT in the order of completion, and None after a second without one.

    Lines are read only as fast as threads and queue have room for them. `end` wakes waiting threads at the end. Threads
    in the middle of a request are left until the process exits, as their response is not needed. The first exception
    that `lines` or `process` raised is raised here.
    """
    done: queue.Queue[OutputLine | BaseException | None] = queue.Queue(2 * concurrency)
    source, lock, over = iter(lines), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            while not over.is_set():
                with lock:
                    line = next(source, None)
                if line is None:
                    break
                done.put(process(line))
            done.put(None)
        except BaseException as error:  # top of a thread: the generator raises it
            done.put(error)

    for _ in range(concurrency):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield from _drain(done, concurrency)
    finally:
        over.set()
        end()


def _drain(done: queue.Queue[OutputLine | BaseException | None], num_threads: int) -> Iterator[OutputLine | None]:
    while num_threads:
        try:
            item = done.get(timeout=TICK_S)
        except queue.Empty:
            yield None
            continue
        if isinstance(item, BaseException):
            raise item
        if item is None:
            num_threads -= 1
        else:
            yield item
