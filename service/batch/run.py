"""A whole run: what is left of IN, who answers it, and OUT."""

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

# More made nothing faster (docs/batch.md).
MAX_CONCURRENCY = 64


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        source: IN.
        target: OUT.
        address: The gateway's.
        concurrency: Requests at once; None: as many as the gateway has room for, up to MAX_CONCURRENCY.
        give_up_after_s: Seconds without any answer.
        retry_errors: Whether lines of OUT that are errors are answered again.
        ray: Where the workers are; None: there are none.
    """

    source: Path
    target: Path
    address: Address
    concurrency: int | None
    give_up_after_s: float
    retry_errors: bool
    ray: Cluster | None


def run(options: Options) -> bool:
    """Answer every line that has no answer. Returns whether all lines of OUT are successes.

    Raises:
        BatchError: it ends before the last line. What is done is kept.
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
            unknown = f"{pending.num_unknown:,} lines of OUT have a custom_id that IN has not; they are kept"
            print(unknown, file=sys.stderr)
        _answer_all(pending, journal, errors, options)
    return not errors


def _recovered(journal: Journal, *, retry_errors: bool) -> tuple[Done, Counter[str]]:
    done, errors = Done(), Counter[str]()

    def take(written: OutputRecord) -> None:
        if written.code is not None:
            if retry_errors:
                return
            errors[written.code] += 1
        done.add(written)

    journal.recover(take)
    if retry_errors:
        journal.drop_errors()
    return done, errors


def _answer_all(pending: Pending, journal: Journal, errors: Counter[str], options: Options) -> None:
    patience = Patience(options.give_up_after_s)
    gateway = Gateway(options.address, patience)
    display = Display(pending.num_lines, pending.num_lines - pending.num_to_do, errors)
    try:
        for made in _answers(pending, gateway, patience, options):
            if made is None:
                journal.sync_if_due()
            else:
                journal.append(made.content)
                display.add(made)
            display.show(patience.trouble)
    finally:
        display.close()


def _answers(pending: Pending, gateway: Gateway, patience: Patience, options: Options) -> Iterator[Answer | None]:
    """Yield answers as they come, and None now and then while there are none."""
    if not pending.num_to_do:
        return
    num_free = gateway.num_free()
    concurrency = min(options.concurrency or min(num_free, MAX_CONCURRENCY), pending.num_to_do)
    if options.ray is None:
        yield from threads.answers(pending, partial(answer, gateway=gateway), concurrency, patience.end)
    else:
        from service.batch import ray_workers  # noqa: PLC0415 - an optional package, and seconds of imports

        yield from ray_workers.answers(pending, options.address, concurrency, options.give_up_after_s, options.ray)
