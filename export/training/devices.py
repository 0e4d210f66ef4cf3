"""Devices of a training run: the CPU cores of this machine, its GPUs, or several machines.

Knows `tf.distribute`, threads and how a batch is split over replicas. Does not know models or text.
"""

import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from contract.quiet import suppress_stderr
from export.errors import ConfigError, WorkerLost
from export.interrupts import signal_handlers
from export.terminal import echo

# With fewer rows or units per core, the overhead of an operation exceeds its computation (measured: `docs/log.md`).
MIN_ROWS_PER_CORE, MIN_UNITS_PER_CORE = 8, 128
# From this ratio of units to rows per core on, a step is bound by reading weights; units are partitioned then.
UNITS_FOR_A_ROW = 32
# A CPU without one of these flags emulates bfloat16 by converting every number, which is slower than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO = "/proc/cpuinfo"
# Options of `mallopt(3)`, and the largest values that it accepts on every platform.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_TRIM_THRESHOLD, _MAX_MMAP_THRESHOLD = 2**31 - 1, 32 * 2**20


@dataclass(frozen=True)
class Cut:
    """Partitioning of a layer's computation over cores.

    Partitions of rows never synchronize, but each reads all weights in every step. Partitions of units read only their
    own weights, and synchronize once per step.

    Attributes:
        rows: Number of partitions of the batch.
        units: Number of partitions of the units.
    """

    rows: int = 1
    units: int = 1


@dataclass(frozen=True)
class Devices:
    """Devices of a training run.

    Attributes:
        strategy: For one device, for the GPUs of this machine, or for several machines.
        cores: CPU cores that a replica's computation is partitioned over; 1 on a GPU.
        on_gpu: Whether the training runs on GPUs.
    """

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    cores: int = 1
    on_gpu: bool = False

    @classmethod
    def find(cls, rows: int, units: int) -> "Devices":
        """Detect devices from `TF_CONFIG`, GPUs and cores, in this order, and start TensorFlow for them.

        Call it before anything else starts TensorFlow: a running runtime cannot change its threads. The rows are those
        of the global batch, the units the width of the layers.

        Raises:
            ConfigError: `TF_CONFIG` is damaged.
        """
        num_workers, gpus = _num_workers(), tf.config.list_physical_devices("GPU")
        num_replicas = num_workers * max(1, len(gpus))
        cores = 1 if gpus else cores_for(rows // num_replicas, units, num_cores())
        with suppress_stderr():
            if not gpus:
                _set_threads(cores)
                _keep_freed_memory()
            if num_workers > 1:
                # Must come first: it starts the server that the other workers connect to.
                strategy = _join(num_workers)
            else:
                strategy = tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
            tf.zeros([1])
        return cls(strategy, cores, bool(gpus))

    @property
    def num_replicas(self) -> int:
        """Number of replicas; each holds the whole model and trains a share of the batch."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_single(self) -> bool:
        """Whether there is only one replica."""
        return self.num_replicas == 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints and publishes; of several machines, one does."""
        resolver = self.strategy.cluster_resolver
        if resolver is None or not resolver.task_type:
            return True
        chief = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
        return (resolver.task_type, resolver.task_id) == (chief, 0)

    @property
    def task(self) -> str:
        """Task of this process in `TF_CONFIG`, such as "worker 1"."""
        resolver = self.strategy.cluster_resolver
        return f"{resolver.task_type} {resolver.task_id}" if resolver and resolver.task_type else "worker 0"

    @contextlib.contextmanager
    def detect_lost_workers(self) -> Iterator[None]:
        """Translate TensorFlow's errors within the context into WorkerLost, if another worker is gone."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            if self.is_single:
                raise
            raise WorkerLost("another process of TF_CONFIG is unreachable; restart all of them") from error

    def broadcast(self, value: float) -> float:
        """Broadcast the chief's value to every process; each blocks until all have called it."""
        if self.is_single:
            return value
        # The sum is over the replicas of all processes.
        own = tf.constant(value if self.is_chief else 0.0) / len(self.strategy.extended.worker_devices)
        return float(self.strategy.reduce("SUM", self.distribute(lambda _: own, 1), axis=None))

    def wait(self) -> None:
        """Block until all workers get here (a barrier); raise WorkerLost if one is gone."""
        with self.detect_lost_workers():
            self.broadcast(0.0)

    def distribute(self, take: Callable[[slice], Any], rows: int) -> Any:
        """Distribute a batch over the replicas; `take` returns the value of a slice of it.

        Returns the value of a single replica; of several, a distributed value for `strategy.run`.
        """

        def of(context: tf.distribute.experimental.ValueContext) -> Any:
            i, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
            return take(slice(rows * i // count, rows * (i + 1) // count))

        return self.strategy.experimental_distribute_values_from_function(of)

    def cut(self, rows: int, units: int) -> Cut:
        """Return the partitioning of layers, of the width `units`, over the cores, for a global batch of some rows."""
        own_rows = rows // self.num_replicas
        by_rows = _parts(own_rows, MIN_ROWS_PER_CORE, self.cores)
        by_units = _parts(units, MIN_UNITS_PER_CORE, self.cores)
        is_memory_bound = by_units == by_rows and units * self.cores >= UNITS_FOR_A_ROW * own_rows
        return Cut(units=by_units) if by_units > by_rows or is_memory_bound else Cut(rows=by_rows)

    def describe(self) -> str:
        """Describe the devices in a few words."""
        replicas = f"{self.num_replicas} × " if self.num_replicas > 1 else ""
        return f"{replicas}GPU" if self.on_gpu else f"{replicas}{self.cores} core(s)"


def _join(num_workers: int) -> tf.distribute.Strategy:
    """Return a strategy once all processes that `TF_CONFIG` names have started."""
    echo(f"waiting until all {num_workers} processes of TF_CONFIG have started")
    # TensorFlow blocks in C++, where Python handles no signals; Ctrl-C must end that too. It also sets a handler of its
    # own for SIGTERM, for preempted machines, which must not stay.
    with signal_handlers(signal.SIG_DFL):
        return tf.distribute.MultiWorkerMirroredStrategy()


def _num_workers() -> int:
    """Return how many processes `TF_CONFIG` names; 1 without it."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1
    try:
        cluster = json.loads(text).get("cluster", {})
        return max(1, sum(len(cluster.get(job, ())) for job in ("chief", "worker")))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"TF_CONFIG is invalid ({error}), got {text!r}") from error


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_for(rows: int, units: int, cores: int) -> int:
    """Return how many cores a layer can use: all, unless the partitions become too small."""
    return max(_parts(rows, MIN_ROWS_PER_CORE, cores), _parts(units, MIN_UNITS_PER_CORE, cores))


def _parts(length: int, least: int, cores: int) -> int:
    return max(1, min(cores, length // least))


def _set_threads(parts: int) -> None:
    """Set one thread per part, or several if there are more cores: small operations do not profit from many threads."""
    # In a notebook or a test TensorFlow may have started already, and its threads cannot change.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(max(1, num_cores() // parts))
        tf.config.threading.set_inter_op_parallelism_threads(max(2, parts))


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory.

    Every update allocates and frees the same arrays. By default glibc returns large ones to the kernel each time, which
    then has to map thousands of pages again (measured: `docs/log.md`).
    """
    # Other C libraries have no `mallopt`.
    with contextlib.suppress(AttributeError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        set_option(_M_TRIM_THRESHOLD, _MAX_TRIM_THRESHOLD)


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 products."""
    with contextlib.suppress(OSError), open(_CPUINFO, encoding="ascii", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
    return False
