"""`python -m benchmarks.step`: wall and CPU time of a decode step on this CPU, and of its operations by kind.

One version runs in `model_server`'s session, as TensorFlow Serving runs it, and by `tf.saved_model.load`. Both are in
one process and are measured in alternation.
"""

import collections
import itertools
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixture_model import NAME, TEMPERATURE, UNITS
from benchmarks.report import Comparison, each_round, print_heading, print_table, rounds_parser, spread, write_results
from benchmarks.servers import publish_fixture_model
from contract.card import GeneratorCard, load_assets
from contract.machine import read_cpuinfo
from contract.signatures import DECODE, in_precision

BATCH_SIZES = (1, 8, 64)
NUM_STEPS = 64
# Calls of one measurement by batch size: 50 to 150 ms.
NUM_CALLS = {1: 4, 8: 4, 64: 1}
NUM_TRACED_CALLS = 15
# Kinds of operations that take less at every batch size are added up.
MIN_US = 4.0
_KIND = re.compile(r"= (\w+)\(")
Inputs = dict[str, Any]
# Microseconds in a step, by kind of operation.
Profile = dict[str, float]


class Session:
    """The signatures of a version in a session of `model_server`."""

    def __init__(self, version: Path) -> None:
        from model_server import saved_model, servable  # noqa: PLC0415 - it imports TensorFlow

        session, self._definitions = saved_model.load(version)
        self._session: Any = session
        self._signatures = {
            name: servable.Signature(name, definition, self._session) for name, definition in self._definitions.items()
        }

    def __call__(self, name: str, inputs: Inputs) -> None:
        self._signatures[name](inputs)

    def profile(self, name: str, inputs: Inputs) -> Profile:
        """Trace calls of a signature; return the median time of each kind of operation, the longest first."""
        from tensorflow.compat.v1 import RunMetadata, RunOptions  # noqa: PLC0415

        definition = self._definitions[name]
        options = RunOptions(trace_level=RunOptions.FULL_TRACE)
        feed = {definition.inputs[key].name: value for key, value in inputs.items()}
        calls: list[collections.Counter[str]] = []
        for _ in range(NUM_TRACED_CALLS + 1):
            metadata = RunMetadata()
            fetch = [output.name for output in definition.outputs.values()]
            self._session.run(fetch, feed, options, metadata)
            calls.append(_by_kind(metadata))
        kinds = calls[-1]
        medians = {kind: statistics.median(call[kind] for call in calls[1:]) / NUM_STEPS / 1e3 for kind in kinds}
        return dict(sorted(medians.items(), key=lambda item: -item[1]))


def _by_kind(metadata: Any) -> collections.Counter[str]:
    """Add up the nanoseconds of a call's operations by kind."""
    total = collections.Counter[str]()
    for node in itertools.chain.from_iterable(device.node_stats for device in metadata.step_stats.dev_stats):
        if kind := _KIND.search(node.timeline_label):
            total[kind[1]] += node.op_end_rel_nanos - node.op_start_rel_nanos
    return total


class Loaded:
    """The signatures of a version by `tf.saved_model.load`."""

    def __init__(self, version: Path) -> None:
        import tensorflow as tf  # noqa: PLC0415

        self._constant, self._signatures = tf.constant, tf.saved_model.load(str(version)).signatures

    def __call__(self, name: str, inputs: Inputs) -> None:
        outputs = self._signatures[name](**{key: self._constant(value) for key, value in inputs.items()})
        for value in outputs.values():
            value.numpy()


def main() -> None:
    parser = rounds_parser("benchmarks.step", __doc__, rounds=15)
    parser.add_argument("--units", type=int, default=UNITS, help=f"width of the LSTM (default: {UNITS})")
    parser.add_argument("--layers", type=int, default=1, help="number of layers (default: 1)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads that run the operations of a call; -1: its own (default: 2)"
    )
    parser.add_argument(
        "--checkout",
        type=Path,
        help="directory of another checkout: the baseline is the version that it publishes, in a session",
    )
    options = parser.parse_args()
    started = time.time()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = Path(directory) / "ours", Path(directory) / "theirs"
        publish_fixture_model(ours, options.units, options.layers)
        if options.checkout:
            publish_fixture_model(theirs, options.units, options.layers, checkout=options.checkout)
        version = Path(NAME) / "1"
        comparisons, profiles = measure(
            ours / version, theirs / version if options.checkout else None, options.rounds, options.threads
        )
    network = f"LSTM of {options.units} units, {options.layers} layers"
    setup = f"decode, {NUM_STEPS} steps a call, {network}, threads: {options.threads}"
    print_heading(f"{_cpu()};\n{setup}", options.rounds)
    baseline = str(options.checkout or "tf.saved_model.load")
    rows = [(each.name, spread(each.ours, ".0f"), spread(each.baseline, ".0f"), each.ratio()) for each in comparisons]
    print_table(("µs a step", "session", baseline, "ratio"), rows)
    print("\nWhere a step of the session goes, in µs, while its operations are traced:\n")
    _print_profiles(profiles)
    write_results("step-", started, cpu=_cpu(), setup=setup, results=comparisons, profiles=profiles)


def measure(ours: Path, theirs: Path | None, rounds: int, threads: int) -> tuple[list[Comparison], dict[str, Profile]]:
    """Measure decode steps of a version in a session, in each precision and at each batch size.

    The baseline is that of `theirs`, or ours by `tf.saved_model.load`. Returns wall and CPU time of a step in
    microseconds, and the profiles of ours.
    """
    import tensorflow as tf  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    card, _ = load_assets(ours)
    session = Session(ours)
    baseline = Session(theirs) if theirs else Loaded(ours)
    cases = [
        (f"{precision}, batch size {size}", in_precision(DECODE, precision), _inputs(card, size))
        for precision in card.precisions
        for size in BATCH_SIZES
    ]
    comparisons: dict[str, Comparison] = {}
    for number in each_round(rounds + 1):
        for label, name, inputs in cases:
            times = [_time(side, name, inputs) for side in (session, baseline)]
            for kind in ("wall", "CPU") if number else ():  # the first calls optimize the graph
                comparison = comparisons.setdefault(label + kind, Comparison(f"{label}, {kind} time"))
                comparison.add(*(each[kind] for each in times))
    return list(comparisons.values()), {label: session.profile(name, inputs) for label, name, inputs in cases}


def _inputs(card: GeneratorCard, batch_size: int) -> Inputs:
    """Return the inputs of a call that samples without filters, from the zero state."""
    controls = {"temperature": TEMPERATURE, "top_p": 1.0, "min_p": 0.0}
    return {
        "token_id": np.full(batch_size, 5, np.int32),
        "state": np.zeros((batch_size, card.state_size), np.float32),
        "uniforms": np.random.default_rng(0).random((batch_size, NUM_STEPS), dtype=np.float32),
        "steps": np.full(batch_size, NUM_STEPS, np.int32),
        "top_k": np.zeros(batch_size, np.int32),
        **{name: np.full(batch_size, value, np.float32) for name, value in controls.items()},
    }


def _time(call: Callable[[str, Inputs], None], name: str, inputs: Inputs) -> dict[str, float]:
    """Return wall and CPU time of a step in microseconds."""
    num_calls = NUM_CALLS[len(inputs["token_id"])]
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(num_calls):
        call(name, inputs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {kind: value / num_calls / NUM_STEPS * 1e6 for kind, value in (("wall", wall), ("CPU", cpu))}


def _cpu() -> str:
    """Describe what determines the kernels of this CPU."""
    cpuinfo = read_cpuinfo()
    flags = cpuinfo.get("flags", "").split()
    amx, avx512 = ("yes" if flag in flags else "no" for flag in ("amx_bf16", "avx512_bf16"))
    family = f"family {cpuinfo.get('cpu family', '?')}, model {cpuinfo.get('model', '?')}"
    return f"{cpuinfo.get('vendor_id', 'unknown maker')}, {family}, AMX {amx}, AVX512-BF16 {avx512}"


def _print_profiles(profiles: Mapping[str, Profile]) -> None:
    """Print a line for each kind of operation, and one for those that take less than `MIN_US` everywhere."""
    totals = collections.Counter[str]()
    for profile in profiles.values():
        totals.update(profile)
    kinds = [
        kind for kind, _ in totals.most_common() if max(each.get(kind, 0.0) for each in profiles.values()) > MIN_US
    ]
    rows = [[kind, *(f"{each.get(kind, 0.0):.0f}" for each in profiles.values())] for kind in kinds]
    others = [f"{sum(us for kind, us in each.items() if kind not in kinds):.0f}" for each in profiles.values()]
    print_table(("operation", *profiles), [*rows, ["others", *others]])


if __name__ == "__main__":
    main()
