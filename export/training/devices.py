"""Devices of a training run: the CPU cores of this machine, its GPUs, or several machines by `tf.distribute`."""

import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from contract.machine import num_cores
from contract.processes import suppress_stderr
from export.errors import ConfigError
from export.interrupts import signal_handlers
from export.terminal import echo

# With fewer rows or units per core, an operation's overhead exceeds its computation (`benchmarks/HISTORY.md`).
MIN_ROWS_PER_CORE, MIN_UNITS_PER_CORE = 8, 128
# From this ratio of units to rows per core on, a step is bound by reading weights; units are partitioned then.
UNITS_FOR_A_ROW = 32
_MEMINFO = Path("/proc/meminfo")
# The memory limit of a container: cgroups v2, and v1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Options of `mallopt(3)`, and the largest values that it accepts on every platform.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_TRIM_THRESHOLD, _MAX_MMAP_THRESHOLD = 2**31 - 1, 32 * 2**20


@dataclass(frozen=True)
class Compute:
    """Precision, device and partitioning of a forward pass.

    Partitions of rows never synchronize, but each reads all weights in every step. Partitions of units read only their
    own weights, and synchronize once per step.
    """

    precision: tf.DType = tf.float32  # of matrix products; bfloat16 only on a CPU
    on_gpu: bool = False  # whether Keras's own layers run, by cuDNN
    row_parts: int = 1  # partitions of the batch, one per core
    unit_parts: int = 1  # partitions of the units of a layer, one per core


@dataclass(frozen=True)
class Devices:
    """Devices of a training run."""

    # For one device, for the GPUs of this machine, or for several machines.
    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    cores: int = 1  # of the CPU, over which a replica's computation is partitioned; 1 on a GPU
    on_gpu: bool = False  # whether the training runs on GPUs

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
                echo(f"waiting until all {num_workers} processes of TF_CONFIG have started")
                # TensorFlow blocks in C++, where Python handles no signals; Ctrl-C must end that, too. It also sets a
                # SIGTERM handler for preempted machines, which must not stay.
                with signal_handlers(signal.SIG_DFL):
                    # Must come first: it starts the server that the other workers connect to.
                    strategy = tf.distribute.MultiWorkerMirroredStrategy()
            else:
                strategy = tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
            tf.zeros([1])
        return cls(strategy, cores, bool(gpus))

    @property
    def num_replicas(self) -> int:
        """Number of replicas; each holds the whole model and trains a share of the batch."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints and publishes; of several machines, one does."""
        return bool(self.strategy.extended.should_checkpoint)

    def broadcast(self, value: float) -> float:
        """Broadcast the chief's value to every process; each blocks until all have called it.

        Raises:
            ConnectionError: another process is gone.
        """
        if self.num_replicas == 1:
            return value
        # The sum is over the replicas of all processes.
        own = tf.constant(value if self.is_chief else 0.0) / len(self.strategy.extended.worker_devices)
        with self.detect_lost_workers():
            return float(self.strategy.reduce("SUM", self.distribute(lambda _: own, 1), axis=None))

    @contextlib.contextmanager
    def detect_lost_workers(self) -> Iterator[None]:
        """Translate TensorFlow's errors within the context into ConnectionError, if another process is gone."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            if self.num_replicas == 1:
                raise
            raise ConnectionError("another process of TF_CONFIG is unreachable; restart all of them") from error

    def distribute(self, take: Callable[[slice], Any], rows: int) -> Any:
        """Distribute a batch over the replicas; `take` returns the value of a slice of it.

        Returns the value of a single replica; of several, a distributed value for `strategy.run`.
        """

        def of(context: tf.distribute.experimental.ValueContext) -> Any:
            i, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
            return take(slice(rows * i // count, rows * (i + 1) // count))

        return self.strategy.experimental_distribute_values_from_function(of)

    def compute(self, rows: int, units: int) -> Compute:
        """Return how a forward pass in float32 is computed, for the size of the global batch and of the layers."""
        own_rows = rows // self.num_replicas
        row_parts = _parts(own_rows, MIN_ROWS_PER_CORE, self.cores)
        unit_parts = _parts(units, MIN_UNITS_PER_CORE, self.cores)
        is_memory_bound = unit_parts == row_parts and units * self.cores >= UNITS_FOR_A_ROW * own_rows
        if unit_parts > row_parts or is_memory_bound:
            return Compute(on_gpu=self.on_gpu, unit_parts=unit_parts)
        return Compute(on_gpu=self.on_gpu, row_parts=row_parts)

    def describe(self) -> str:
        """Describe the devices in a few words."""
        replicas = f"{self.num_replicas} × " if self.num_replicas > 1 else ""
        return f"{replicas}GPU" if self.on_gpu else f"{replicas}{self.cores} core(s)"


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


def cores_for(rows: int, units: int, cores: int) -> int:
    """Return how many cores a layer can use: all, unless the partitions become too small."""
    return max(_parts(rows, MIN_ROWS_PER_CORE, cores), _parts(units, MIN_UNITS_PER_CORE, cores))


def _parts(length: int, least: int, cores: int) -> int:
    return max(1, min(cores, length // least))


def _set_threads(parts: int) -> None:
    """Set one thread per part, or several with more cores: small operations do not benefit from many threads."""
    # In a notebook or a test TensorFlow may have started already, and its threads cannot change.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(max(1, num_cores() // parts))
        tf.config.threading.set_inter_op_parallelism_threads(max(2, parts))


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory.

    Every update allocates and frees the same arrays. By default glibc returns large ones to the kernel each time, which
    then has to map thousands of pages again (measured: `benchmarks/HISTORY.md`).
    """
    set_option = ctypes.CDLL(None).mallopt
    set_option(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    set_option(_M_TRIM_THRESHOLD, _MAX_TRIM_THRESHOLD)


def free_bytes() -> float:
    """Return the available memory, or the container's limit if that is less; infinity if neither is known."""
    limits = [path.read_text().strip() for path in _LIMITS if path.exists()]
    meminfo = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    available = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    return min([float("inf"), *available, *(int(limit) for limit in limits if limit.isdigit())])
