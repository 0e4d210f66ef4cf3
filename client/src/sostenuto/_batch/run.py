"""A run: plan the remaining lines of IN, send them, write OUT, and show progress on standard error."""

from __future__ import annotations

import importlib.util
import os
import queue
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from sostenuto._batch.client import BatchClient, process_line
from sostenuto._batch.errors import UsageError
from sostenuto._batch.formats import OutputFormat, OutputLine
from sostenuto._batch.output_files import OutputFiles
from sostenuto._batch.plan import CompletedLines, PendingLines, find_pending
from sostenuto._batch.requests_file import Line, check_readable
from sostenuto._concurrency import Progress, Workers, visible
from sostenuto._settings import Settings

# Higher concurrency was not faster (docs/batch.md).
MAX_CONCURRENCY = 64
LOCAL = "local"
TICK_S = 1.0


@dataclass(frozen=True)
class Options:
    """The options of a run."""

    source: Path  # IN
    target: Path  # OUT
    output_format: OutputFormat
    settings: Settings  # how to reach the gateway
    give_up_after_s: float  # without any response
    concurrency: int | None  # None: as many as the gateway would admit, up to MAX_CONCURRENCY
    retry_errors: bool  # those in OUT
    ray: str | None  # address of a cluster, or LOCAL: started for this run; None: threads of this process send
    ray_workers: int | None  # None: one per machine


def run(options: Options) -> bool:
    """Send every line without an output record. Return whether all lines of OUT are successes.

    Raises:
        BatchError: the run ends before the last line. Written lines are kept.
    """
    source = check_readable(options.source)
    if options.target.exists() and os.path.samestat(source, options.target.stat()):
        raise UsageError(f"IN and OUT must be two files, got {options.source} for both")
    if options.ray is not None:
        _prepare_ray(options.ray)
    with OutputFiles(options.target, options.output_format) as files:
        completed = CompletedLines()
        files.recover(completed.add, drops_errors=options.retry_errors)
        pending = find_pending(options.source, completed)
        if pending.num_unknown:
            warning = f"{pending.num_unknown:,} lines of OUT have a custom_id that is not in IN; they are kept"
            print(warning, file=sys.stderr)
        _complete(pending, files, completed.errors, options)
        files.check()
    return not completed.errors


def _prepare_ray(address: str) -> None:
    """Check that Ray is installed, and set the environment variables that it reads on import."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs Ray: pip install 'sostenuto[batch-ray]'")
    # No usage statistics, and the logs of its processes stay in their files.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == LOCAL and "RAY_AUTH_MODE" not in os.environ:
        # Otherwise Ray stores a token in the home directory, for all clusters of this user.
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})


def _complete(pending: PendingLines, files: OutputFiles, errors: Counter[str], options: Options) -> None:
    connect = partial(BatchClient, options.settings, options.give_up_after_s)
    client, display = connect(), _Display(pending, errors, files.errors_path)
    try:
        for line in _output_lines(pending, client, connect, options):
            if line is None:
                files.sync_if_due()
            else:
                files.append(line)
            display.show(line, client.trouble)
    finally:
        display.close()


def _output_lines(
    pending: PendingLines, client: BatchClient, connect: Callable[[], BatchClient], options: Options
) -> Iterator[OutputLine | None]:
    """Yield lines of OUT as they complete, and None at intervals while there are none."""
    if not pending.num_pending:
        return
    num_free = client.num_free()
    concurrency = min(options.concurrency or min(num_free, MAX_CONCURRENCY), pending.num_pending)
    if options.ray is None:
        process = partial(process_line, client=client, output_format=options.output_format)
        yield from in_threads(pending, process, concurrency, client.close)
        return
    from sostenuto._batch import ray_workers  # noqa: PLC0415 - an optional package, and seconds of imports

    address = None if options.ray == LOCAL else options.ray
    yield from ray_workers.process_lines(
        pending, connect, options.output_format, concurrency, address, options.ray_workers
    )


def in_threads(
    lines: Iterable[Line], process: Callable[[Line], OutputLine], concurrency: int, end: Callable[[], None]
) -> Iterator[OutputLine | None]:
    """Yield lines of OUT in the order of completion, and None after a second without one.

    A thread has one line in process and two ahead, so that it does not wait while OUT is synced. `end` wakes waiting
    threads at the end. Threads in the middle of a request run until the process exits, as their response is not needed.
    Raises the first exception of `lines` or `process`.
    """

    def work(line: Line) -> OutputLine:
        try:
            return process(line)
        except BaseException:
            workers.stop()  # at once: no thread sends another line
            raise

    done: queue.SimpleQueue[Future[OutputLine]] = queue.SimpleQueue()
    workers, source, num_pending = Workers(work, concurrency), iter(lines), 0
    try:
        while True:
            for line in islice(source, 3 * concurrency - num_pending):
                workers.submit(line).add_done_callback(done.put)
                num_pending += 1
            if not num_pending:
                return
            try:
                future = done.get(timeout=TICK_S)
            except queue.Empty:
                yield None
                continue
            num_pending -= 1
            yield future.result()
    finally:
        workers.stop()
        end()


class _Display:
    """A progress bar, and a summary at the end.

    `errors` counts errors by code, including those of earlier runs; `errors_path` is their file, if it is not OUT.
    """

    def __init__(self, pending: PendingLines, errors: Counter[str], errors_path: Path | None) -> None:
        self._num_lines, self._num_before = pending.num_lines, pending.num_lines - pending.num_pending
        self._errors, self._errors_path = errors, errors_path
        self._num_new = self._num_tokens = 0
        self._began_at = time.monotonic()
        self._progress = Progress(self._num_lines, shown=pending.num_pending > 0, num_done=self._num_before)

    def show(self, line: OutputLine | None, trouble: str | None) -> None:
        """Count a line of OUT, if there is one; show progress, and the trouble that the run waits for."""
        if line is not None:
            self._num_new += 1
            self._num_tokens += line.tokens
            self._errors.update([] if line.code is None else [line.code])
        speed, waiting = f"{self._per_s(self._num_tokens):,.0f} tokens/s", f", waiting: {trouble}" if trouble else ""
        self._progress.note = f", {speed}, {self._errors.total():,} errors{waiting}"
        self._progress.advance(0 if line is None else 1)

    def close(self) -> None:
        """End the progress bar and print the summary."""
        self._progress.close()
        errors = ", ".join(f"{count:,} {code}" for code, count in self._errors.most_common())
        errors += f", in {self._errors_path}" if errors and self._errors_path else ""
        before = f", {self._num_before:,} in earlier runs" if self._num_before else ""
        speed = f"{self._per_s(self._num_new):,.1f} lines/s, {self._per_s(self._num_tokens):,.0f} tokens/s"
        seconds = time.monotonic() - self._began_at
        completed = f"{self._num_new:,} completed in {seconds:.1f} s ({speed})" if self._num_new else "none completed"
        summary = f"{self._num_lines:,} lines: {completed}{before}; errors: {errors or 'none'}"
        print(visible(summary), file=sys.stderr)

    def _per_s(self, count: int) -> float:
        return count / max(time.monotonic() - self._began_at, 1e-3)
