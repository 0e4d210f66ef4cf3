"""What a training runs on: the cores of this machine, its GPUs, or several machines.

Knows `tf.distribute`, threads and how rows are shared out. Does not know models or text.
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

from contract.quiet import stderr_held_back
from export.errors import ConfigError, WorkerLost
from export.layout import say

# Fewer rows or units leave a core with more to do for each operation than within it (measured: `docs/log.md`).
MIN_ROWS_PER_CORE, MIN_UNITS_PER_CORE = 8, 128
# From so many units for each row of a core on, a step takes its time for reading weights, which are then cut.
UNITS_FOR_A_ROW = 32
# Processors without it compute with bfloat16 by converting every number, which takes longer than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO = "/proc/cpuinfo"
# Of `mallopt(3)`, and the largest values that it takes everywhere.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_TRIM_THRESHOLD, _MAX_MMAP_THRESHOLD = 2**31 - 1, 32 * 2**20


@dataclass(frozen=True)
class Cut:
    """Into how many parts the work of a layer is cut, a core each.

    Parts of rows never meet, but each reads all weights in every step. Parts of units read their own, and meet once a
    step.

    Attributes:
        rows: Parts of the rows.
        units: Parts of the units.
    """

    rows: int = 1
    units: int = 1


@dataclass(frozen=True)
class Devices:
    """What a training runs on.

    Attributes:
        strategy: Of one device, of the GPUs of this machine, or of several machines.
        cores: Over which a replica's work is shared out; 1 on a GPU.
        on_gpu: Whether it is a GPU that computes.
    """

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    cores: int = 1
    on_gpu: bool = False

    @classmethod
    def find(cls, rows: int, units: int) -> "Devices":
        """Look at `TF_CONFIG`, at GPUs and at cores, in this order, and start TensorFlow for them.

        It must come before whatever else makes TensorFlow start: what runs already keeps the threads that it has.

        Args:
            rows: Sequences that are trained side by side, on all devices together.
            units: Width of the layers.

        Raises:
            ConfigError: `TF_CONFIG` is damaged.
        """
        num_workers, gpus = _num_workers(), tf.config.list_physical_devices("GPU")
        num_replicas = num_workers * max(1, len(gpus))
        cores = 1 if gpus else cores_for(rows // num_replicas, units, num_cores())
        with stderr_held_back():
            if not gpus:
                _use_cores(cores)
                _keep_memory()
            if num_workers > 1:
                # It must come first of all: it starts the server that the others speak to.
                strategy = _join(num_workers)
            else:
                strategy = tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
            tf.zeros([1])
        return cls(strategy, cores, bool(gpus))

    @property
    def num_replicas(self) -> int:
        """Devices that each hold the whole model and train a share of the rows."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def num_own(self) -> int:
        """Of these, the devices of this process."""
        return len(self.strategy.extended.worker_devices)

    @property
    def is_alone(self) -> bool:
        """Whether there is one device."""
        return self.num_replicas == 1

    @property
    def is_chief(self) -> bool:
        """Whether this process keeps the run and publishes; of several machines, one does."""
        resolver = self.strategy.cluster_resolver
        return resolver is None or not resolver.task_type or (resolver.task_type, resolver.task_id) in _chiefs(resolver)

    @property
    def task(self) -> str:
        """What `TF_CONFIG` calls this process, such as "worker 1"."""
        resolver = self.strategy.cluster_resolver
        return f"{resolver.task_type} {resolver.task_id}" if resolver and resolver.task_type else "worker 0"

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Compute with all other processes.

        Raises:
            WorkerLost: one of them is gone.
        """
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            if self.is_alone:
                raise
            raise WorkerLost(
                "another process that TF_CONFIG names does not answer any more; start all of them again"
            ) from error

    def agreed(self, value: float) -> float:
        """Return the chief's value in every process; each waits here for all others."""
        if self.is_alone:
            return value
        own = tf.constant(value if self.is_chief else 0.0) / self.num_own
        return float(self.strategy.reduce("SUM", self.share(lambda _: own, 1), axis=None))

    def wait(self) -> None:
        """Wait for all other processes.

        Raises:
            WorkerLost: one of them is gone.
        """
        with self.together():
            self.agreed(0.0)

    def share(self, take: Callable[[slice], Any], rows: int) -> Any:
        """Give each replica its rows.

        Args:
            take: Returns what belongs to a slice of the rows.
            rows: Of all replicas together.

        Returns:
            What one replica takes; of several, what `strategy.run` hands out to them.
        """

        def of(context: tf.distribute.experimental.ValueContext) -> Any:
            i, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
            return take(slice(rows * i // count, rows * (i + 1) // count))

        return self.strategy.experimental_distribute_values_from_function(of)

    def cut(self, rows: int, units: int) -> Cut:
        """Say how layers are cut.

        Args:
            rows: Sequences that are trained side by side, on all devices together.
            units: Width of the layers.
        """
        own = rows // self.num_replicas
        by_rows, by_units = _parts(own, MIN_ROWS_PER_CORE, self.cores), _parts(units, MIN_UNITS_PER_CORE, self.cores)
        reads_long = by_units == by_rows and units * self.cores >= UNITS_FOR_A_ROW * own
        return Cut(units=by_units) if by_units > by_rows or reads_long else Cut(rows=by_rows)

    def describe(self) -> str:
        """Say in a few words what it is."""
        replicas = f"{self.num_replicas} × " if self.num_replicas > 1 else ""
        return f"{replicas}GPU" if self.on_gpu else f"{replicas}{self.cores} core(s)"


def _chiefs(resolver: Any) -> set[tuple[str, int]]:
    jobs = resolver.cluster_spec().as_dict()
    return {("chief", 0)} if "chief" in jobs else {("worker", 0)}


def _join(num_workers: int) -> tf.distribute.Strategy:
    """Wait for all processes that `TF_CONFIG` names."""
    say(f"waiting until all {num_workers} processes that TF_CONFIG names have started")
    # It waits within TensorFlow, where Python hears nothing, and Ctrl-C must end that too.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        signal.signal(signal.SIGINT, before)
        # TensorFlow keeps it to itself, for machines that are taken away; `kill` must end a training.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _num_workers() -> int:
    """Return how many processes `TF_CONFIG` names; 1 without it."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1
    try:
        cluster = json.loads(text).get("cluster", {})
        return max(1, sum(len(cluster.get(job, ())) for job in ("chief", "worker")))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"TF_CONFIG: not what TensorFlow reads there ({error}), got {text!r}") from error


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_for(rows: int, units: int, cores: int) -> int:
    """Return how many cores have enough to do: all, unless the parts became too narrow."""
    return max(_parts(rows, MIN_ROWS_PER_CORE, cores), _parts(units, MIN_UNITS_PER_CORE, cores))


def _parts(length: int, least: int, cores: int) -> int:
    return max(1, min(cores, length // least))


def _use_cores(parts: int) -> None:
    """Let each part have a thread, or several where there are more cores: small operations gain nothing by many."""
    # In a notebook, or a test, TensorFlow may have started: then its threads are what they are.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(max(1, num_cores() // parts))
        tf.config.threading.set_inter_op_parallelism_threads(max(2, parts))


def _keep_memory() -> None:
    """Let what is freed stay with the process.

    An update makes and frees the same arrays again and again. glibc gives the large ones back to the system each time,
    which then has to hand out thousands of pages anew (measured: `docs/log.md`).
    """
    # Other C libraries have no such setting.
    with contextlib.suppress(AttributeError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        set_option(_M_TRIM_THRESHOLD, _MAX_TRIM_THRESHOLD)


def multiplies_bfloat16() -> bool:
    """Say whether this processor has instructions for products of bfloat16."""
    with contextlib.suppress(OSError), open(_CPUINFO, encoding="ascii", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
    return False
