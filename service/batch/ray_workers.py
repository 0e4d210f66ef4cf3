"""The engine of several machines: Ray Data maps `answering.answer` over the lines of IN.

IN is read by one task on the machine of this process and OUT is written by this process, so that only the requests and
their answers travel. A task is some lines, which the threads of a worker share; a worker has a few tasks at once, so
that none of its threads waits for the last line of one.
"""

import logging
import socket
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.context import DataContext

import service
from service.batch.cluster import LOCAL, Cluster
from service.batch.errors import BatchError, Stopped
from service.batch.gateway import CONNECT_TIMEOUT_S, Address, Gateway
from service.batch.output_record import Answer
from service.batch.plan import Pending
from service.batch.requests_file import Line
from service.batch.retries import Patience
from service.batch.worker import answer

TASKS_AT_ONCE = 4  # of each worker, with half as many lines as it has threads
TOLD_EVERY_S = 1.0  # a kill costs what was answered since, no more
# Next to nothing, as workers wait for the gateway; and something, or Ray would not count them.
NUM_CPUS = 0.01

_LINE = pa.struct([("number", pa.int64()), ("content", pa.binary()), ("same_as", pa.int64())])
_ANSWER = pa.struct([("content", pa.binary()), ("code", pa.string()), ("tokens", pa.int64()), ("stopped", pa.string())])


def answers(
    pending: Pending, address: Address, concurrency: int, give_up_after_s: float, cluster: Cluster
) -> Iterator[Answer]:
    """Yield answers in the order in which they come.

    Raises:
        Stopped: no line would be answered, or there is no cluster at the address.
    """
    _connect(cluster.address)
    try:
        num_workers = min(cluster.num_workers or _num_machines(), concurrency)
        for table in _answered(pending, address, give_up_after_s, concurrency, num_workers):
            for told in _unpacked(table):
                if (stopped := told.pop("stopped")) is not None:
                    raise Stopped(stopped)
                yield Answer(**told)
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    _check_there(address)
    # The workers get this package, of the version that runs here.
    packages = {"py_modules": [str(Path(service.__file__).parent)]}
    where = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(runtime_env=packages, log_to_driver=False, logging_level=logging.ERROR, **where)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Stopped(f"no Ray cluster at {address}: {error}") from None
    # Ray 2.64 is to have another way to say SPREAD, and 2.60, which is pinned, has none yet.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    # Each row, a task's lines or some of its answers, travels by itself; Ray would put 128 MiB of them together first.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _check_there(address: str) -> None:
    """Look whether anybody listens, as Ray would look for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise Stopped(f"no Ray cluster at {address}: {error}") from None


def _num_machines() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def _answered(
    pending: Pending, address: Address, give_up_after_s: float, concurrency: int, num_workers: int
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
        fn_constructor_args=(address, give_up_after_s, threads),
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
    """IN, read lazily by one task."""

    def __init__(self, pending: Any, lines_of_task: int) -> None:
        self._pending, self._lines_of_task = pending, lines_of_task

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Return the one task."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_tables, self._pending, self._lines_of_task), metadata)]

    def estimate_inmemory_data_size(self) -> None:
        """Say that it is not known."""


def _tables(pending: Any, lines_of_task: int) -> Iterator[pa.Table]:
    lines = map(asdict, ray.get(pending))
    while some := list(islice(lines, lines_of_task)):
        yield _packed(some, _LINE)


class _Worker:
    """A process that sends requests."""

    def __init__(self, address: Address, give_up_after_s: float, num_threads: int) -> None:
        self._gateway = Gateway(address, Patience(give_up_after_s))
        self._threads = ThreadPoolExecutor(num_threads)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Answer some lines; called by several threads at once."""
        told, told_at = [], time.monotonic()
        for future in as_completed([self._threads.submit(self._answer, Line(**line)) for line in _unpacked(table)]):
            told.append(future.result())
            if time.monotonic() - told_at >= TOLD_EVERY_S:
                yield _packed(told, _ANSWER)
                told, told_at = [], time.monotonic()
        if told:
            yield _packed(told, _ANSWER)

    def _answer(self, line: Line) -> dict[str, Any]:
        try:
            return {**asdict(answer(line, self._gateway)), "stopped": None}
        except BatchError as error:
            # As an exception it would arrive wrapped, with a page of trace.
            return {**asdict(Answer(b"")), "stopped": str(error)}


def _packed(rows: list[dict[str, Any]], kind: pa.StructType) -> pa.Table:
    """Put rows into one, which Ray does not part."""
    return pa.table({"rows": pa.array([rows], pa.list_(kind))})


def _unpacked(table: pa.Table) -> Iterator[dict[str, Any]]:
    for rows in table["rows"].to_pylist():
        yield from rows
