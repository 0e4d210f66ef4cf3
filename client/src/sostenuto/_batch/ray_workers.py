"""Execution on several machines: Ray Data maps `process_line` over the lines of IN.

One task on this machine reads IN, and this process writes OUT, so only requests and responses are transferred. A task
is a block of lines, shared by the threads of a worker; a worker has a few tasks at once, so that no thread waits for
the last line of one.
"""

from __future__ import annotations

import logging
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.context import DataContext

import sostenuto
from sostenuto._batch.client import CONNECT_TIMEOUT_S, BatchClient, process_line
from sostenuto._batch.errors import BatchError, Stopped
from sostenuto._batch.formats import OutputFormat, OutputLine
from sostenuto._batch.plan import PendingLines
from sostenuto._batch.requests_file import Line

TASKS_AT_ONCE = 4  # per worker, each with half as many lines as the worker has threads
YIELD_EVERY_S = 1.0  # a kill loses at most the responses since
# Almost zero, as workers wait for the gateway; Ray does not count workers with zero.
NUM_CPUS = 0.01

_LINE = pa.struct([("number", pa.int64()), ("content", pa.binary()), ("same_as", pa.int64())])
_OUTPUT = pa.struct([("content", pa.binary()), ("code", pa.string()), ("tokens", pa.int64()), ("stopped", pa.string())])


def process_lines(
    pending: PendingLines,
    connect: Callable[[], BatchClient],
    output_format: OutputFormat,
    concurrency: int,
    address: str | None,
    max_workers: int | None,
) -> Iterator[OutputLine]:
    """Yield lines of OUT in the order of completion.

    `address` is that of a running cluster, as for `ray.init`; None: one is started for this run and stopped after it.
    Without `max_workers` there is one per machine. `connect`, which is pickled, creates each worker's client.

    Raises:
        Stopped: no line would get a response, or there is no cluster at the address.
    """
    _connect(address)
    try:
        num_machines = sum(node["Alive"] for node in ray.nodes())
        num_workers = min(max_workers or num_machines, concurrency)
        for table in _map_lines(pending, (connect, output_format), concurrency, num_workers):
            for fields in _unpacked(table):
                if (stopped := fields.pop("stopped")) is not None:
                    raise Stopped(stopped)
                yield OutputLine(**fields)
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    if address is not None:
        _check_reachable(address)
    # Workers get this version of the package.
    packages = {"py_modules": [sostenuto.__path__[0]]}
    cluster = {"include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(runtime_env=packages, log_to_driver=False, logging_level=logging.ERROR, **cluster)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Stopped(f"no Ray cluster at {address or 'this machine'}: {error}") from None
    # Ray 2.64 is to have another option for SPREAD; the pinned 2.60 has none yet.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    # Each row, the lines of a task or some of its records, is transferred on its own; Ray would first collect 128 MiB.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _check_reachable(address: str) -> None:
    """Check that the address accepts connections; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise Stopped(f"no Ray cluster at {address}: {error}") from None


def _map_lines(
    pending: PendingLines, worker_args: tuple[Any, ...], concurrency: int, num_workers: int
) -> Iterator[pa.Table]:
    threads = -(-concurrency // num_workers)
    lines: Dataset = ray.data.read_datasource(
        _Source(ray.put(pending), -(-threads // 2)),
        override_num_blocks=1,
        num_cpus=NUM_CPUS,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )
    mapped = lines.map_batches(
        _Worker,
        fn_constructor_args=(*worker_args, threads),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=num_workers,
            max_tasks_in_flight_per_actor=TASKS_AT_ONCE,
            max_concurrent_calls_per_actor=TASKS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=NUM_CPUS,
        scheduling_strategy="SPREAD",
    )
    return iter(mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


class _Source(Datasource):  # type: ignore[misc]  # Ray's types are not followed
    """A data source: IN, read lazily by one task."""

    def __init__(self, pending: Any, lines_of_task: int) -> None:
        self._pending, self._lines_of_task = pending, lines_of_task

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_tables, self._pending, self._lines_of_task), metadata)]

    def estimate_inmemory_data_size(self) -> None:
        """Return None: the size is unknown."""


def _tables(pending: Any, lines_of_task: int) -> Iterator[pa.Table]:
    lines = map(asdict, ray.get(pending))
    while block := list(islice(lines, lines_of_task)):
        yield _packed(block, _LINE)


class _Worker:
    """A Ray actor that sends requests."""

    def __init__(self, connect: Callable[[], BatchClient], output_format: OutputFormat, num_threads: int) -> None:
        self._client, self._format = connect(), output_format
        self._threads = ThreadPoolExecutor(num_threads)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Process a block of lines; called by several threads at once."""
        records, yielded_at = [], time.monotonic()
        for future in as_completed([self._threads.submit(self._process, Line(**line)) for line in _unpacked(table)]):
            records.append(future.result())
            if time.monotonic() - yielded_at >= YIELD_EVERY_S:
                yield _packed(records, _OUTPUT)
                records, yielded_at = [], time.monotonic()
        if records:
            yield _packed(records, _OUTPUT)

    def _process(self, line: Line) -> dict[str, Any]:
        try:
            return {**asdict(process_line(line, self._client, self._format)), "stopped": None}
        except BatchError as error:
            # An exception would arrive wrapped, with a long traceback.
            return {**asdict(OutputLine(b"")), "stopped": str(error)}


def _packed(rows: list[dict[str, Any]], kind: pa.StructType) -> pa.Table:
    """Pack rows into a single row, which Ray does not split."""
    return pa.table({"rows": pa.array([rows], pa.list_(kind))})


def _unpacked(table: pa.Table) -> Iterator[dict[str, Any]]:
    for rows in table["rows"].to_pylist():
        yield from rows
