"""A run: plan the remaining lines of IN, send them, and write OUT."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sostenuto._batch import threads
from sostenuto._batch.client import BatchClient, ClientOptions
from sostenuto._batch.cluster import Cluster, prepare
from sostenuto._batch.display import Display
from sostenuto._batch.errors import UsageError
from sostenuto._batch.formats import OutputFormat
from sostenuto._batch.output_files import OutputFiles
from sostenuto._batch.output_record import OutputLine, OutputRecord
from sostenuto._batch.plan import CompletedLines, PendingLines, find_pending
from sostenuto._batch.requests_file import check_readable
from sostenuto._batch.worker import process_line

# Higher concurrency was not faster (docs/batch.md).
MAX_CONCURRENCY = 64


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        source: IN.
        target: OUT.
        output_format: The format of OUT.
        client: How to reach the gateway.
        concurrency: Concurrent requests; None: as many as the gateway would admit, up to MAX_CONCURRENCY.
        retry_errors: Whether to retry the lines of OUT that are errors.
        ray: The Ray cluster that sends the requests; None: threads of this process send them.
    """

    source: Path
    target: Path
    output_format: OutputFormat
    client: ClientOptions
    concurrency: int | None
    retry_errors: bool
    ray: Cluster | None


def run(options: Options) -> bool:
    """Send every line without an output record. Return whether all lines of OUT are successes.

    Raises:
        BatchError: the run ends before the last line. Written lines are kept.
    """
    source = check_readable(options.source)
    if options.target.exists() and os.path.samestat(source, options.target.stat()):
        raise UsageError(f"IN and OUT must be two files, got {options.source} for both")
    if options.ray is not None:
        prepare(options.ray)
    with OutputFiles(options.target, options.output_format) as files:
        completed, errors = _recover(files, retry_errors=options.retry_errors)
        pending = find_pending(options.source, completed)
        if pending.num_unknown:
            warning = f"{pending.num_unknown:,} lines of OUT have a custom_id that is not in IN; they are kept"
            print(warning, file=sys.stderr)
        _complete(pending, files, errors, options)
        files.check()
    return not errors


def _recover(files: OutputFiles, *, retry_errors: bool) -> tuple[CompletedLines, Counter[str]]:
    completed, errors = CompletedLines(), Counter[str]()

    def add(record: OutputRecord) -> None:
        if record.code is not None:
            errors[record.code] += 1
        completed.add(record)

    files.recover(add, drops_errors=retry_errors)
    return completed, errors


def _complete(pending: PendingLines, files: OutputFiles, errors: Counter[str], options: Options) -> None:
    client = BatchClient(options.client)
    display = Display(pending.num_lines, pending.num_lines - pending.num_pending, errors, files.errors_path)
    try:
        for line in _output_lines(pending, client, options):
            if line is None:
                files.sync_if_due()
            else:
                files.append(line)
                display.add(line)
            display.show(client.trouble)
    finally:
        display.close()


def _output_lines(pending: PendingLines, client: BatchClient, options: Options) -> Iterator[OutputLine | None]:
    """Yield lines of OUT as they complete, and None at intervals while there are none."""
    if not pending.num_pending:
        return
    num_free = client.num_free()
    concurrency = min(options.concurrency or min(num_free, MAX_CONCURRENCY), pending.num_pending)
    if options.ray is None:
        process = partial(process_line, client=client, output_format=options.output_format)
        yield from threads.process_lines(pending, process, concurrency, client.close)
    else:
        from sostenuto._batch import ray_workers  # noqa: PLC0415 - an optional package, and seconds of imports

        yield from ray_workers.process_lines(pending, options.client, concurrency, options.ray, options.output_format)
