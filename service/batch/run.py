"""A run: plan the remaining lines of IN, send them, and write OUT."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.batch import threads
from service.batch.cluster import Cluster, prepare
from service.batch.display import Display
from service.batch.errors import UsageError
from service.batch.gateway import Address, Gateway
from service.batch.journal import Journal
from service.batch.output_record import Answer, OutputRecord
from service.batch.plan import Done, Pending, survey
from service.batch.requests_file import check_readable
from service.batch.retries import Patience
from service.batch.worker import answer

# Higher concurrency was not faster (docs/batch.md).
MAX_CONCURRENCY = 64


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        source: IN.
        target: OUT.
        address: Address of the gateway.
        concurrency: Concurrent requests; None: as many as the gateway would admit, up to MAX_CONCURRENCY.
        give_up_after_s: Seconds without any response after which the run ends.
        retry_errors: Whether to retry the lines of OUT that are errors.
        ray: The Ray cluster that sends the requests; None: threads of this process send them.
    """

    source: Path
    target: Path
    address: Address
    concurrency: int | None
    give_up_after_s: float
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
    with Journal(options.target) as journal:
        done, errors = _recovered(journal, retry_errors=options.retry_errors)
        pending = survey(options.source, done)
        if pending.num_unknown:
            warning = f"{pending.num_unknown:,} lines of OUT have a custom_id that IN has not; they are kept"
            print(warning, file=sys.stderr)
        _answer_all(pending, journal, errors, options)
    return not errors


def _recovered(journal: Journal, *, retry_errors: bool) -> tuple[Done, Counter[str]]:
    done, errors = Done(), Counter[str]()

    def add(record: OutputRecord) -> None:
        if record.code is not None:
            if retry_errors:
                return
            errors[record.code] += 1
        done.add(record)

    journal.recover(add)
    if retry_errors:
        journal.drop_errors()
    return done, errors


def _answer_all(pending: Pending, journal: Journal, errors: Counter[str], options: Options) -> None:
    patience = Patience(options.give_up_after_s)
    gateway = Gateway(options.address, patience)
    display = Display(pending.num_lines, pending.num_lines - pending.num_to_do, errors)
    try:
        for result in _answers(pending, gateway, patience, options):
            if result is None:
                journal.sync_if_due()
            else:
                journal.append(result.content)
                display.add(result)
            display.show(patience.trouble)
    finally:
        display.close()


def _answers(pending: Pending, gateway: Gateway, patience: Patience, options: Options) -> Iterator[Answer | None]:
    """Yield output records as they complete, and None at intervals while there are none."""
    if not pending.num_to_do:
        return
    num_free = gateway.num_free()
    concurrency = min(options.concurrency or min(num_free, MAX_CONCURRENCY), pending.num_to_do)
    if options.ray is None:
        yield from threads.answers(pending, partial(answer, gateway=gateway), concurrency, patience.end)
    else:
        from service.batch import ray_workers  # noqa: PLC0415 - an optional package, and seconds of imports

        yield from ray_workers.answers(pending, options.address, concurrency, options.give_up_after_s, options.ray)
