"""The engine of one machine: a thread for each request that is under way."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from service.batch.output_record import Answer
from service.batch.requests_file import Line

TICK_S = 1.0


def answers(
    lines: Iterable[Line], answer: Callable[[Line], Answer], concurrency: int, end: Callable[[], None]
) -> Iterator[Answer | None]:
    """Yield answers in the order in which they come, and None after a second without one.

    No more lines are read than are under way or wait to be taken.

    Args:
        lines: Read by all threads in turn.
        answer: Called by `concurrency` threads; waits.
        concurrency: Threads.
        end: Has those that wait stop waiting. Threads that are in the middle of a request are left to the end of the
            process, as nobody will take their answer.

    Raises:
        BaseException: whatever `lines` or `answer` raised, the first of it.
    """
    done: queue.Queue[Answer | BaseException | None] = queue.Queue(2 * concurrency)
    source, lock, over = iter(lines), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            while not over.is_set():
                with lock:
                    line = next(source, None)
                if line is None:
                    break
                done.put(answer(line))
            done.put(None)
        except BaseException as error:  # a thread's top: the one that yields raises it
            done.put(error)

    for _ in range(concurrency):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield from _taken(done, concurrency)
    finally:
        over.set()
        end()


def _taken(done: "queue.Queue[Answer | BaseException | None]", num_threads: int) -> Iterator[Answer | None]:
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
