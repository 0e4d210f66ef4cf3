"""`python -m benchmarks.filters`: sampling with top-k and top-p from large vocabularies, over sorting all tokens.

One sampling step of the graph. Logits are normally distributed with a standard deviation of 2 to 5, so that some nuclei
have a dozen tokens and some have hundreds. Both variants sample the same tokens, or the run fails.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from unittest import mock

import numpy as np
import tensorflow as tf

from benchmarks.report import Comparison, each_round, parse_rounds, print_heading, print_table, write_results
from export.graphs import sampling

VOCABULARIES = (100, 1000, 3000, 20_000)
BATCH_SIZES = (8, 64)
FILTERS = {"none": (0, 1.0), "top_k 40": (40, 1.0), "top_p 0.9": (0, 0.9)}
MEASURED_S = 1.0
NUM_BATCHES = 20

Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    rounds, started = parse_rounds("benchmarks.filters", __doc__), time.time()
    comparisons = [
        _compare(vocab_size, batch_size, name, rounds)
        for vocab_size in VOCABULARIES
        for batch_size in BATCH_SIZES
        for name in FILTERS
    ]
    print_heading("milliseconds of a sampling step", rounds)
    print_table(("", "candidates", "all sorted", "ratio"), [each.row(".2f") for each in comparisons])
    write_results("filters-", started, results=[asdict(each) for each in comparisons])


def _compare(vocab_size: int, batch_size: int, name: str, rounds: int) -> Comparison:
    rng = np.random.default_rng(0)
    deviations = rng.uniform(2, 5, (NUM_BATCHES, batch_size, 1))
    logits = (deviations * rng.normal(size=(NUM_BATCHES, batch_size, vocab_size))).astype(np.float32)
    batches, uniforms = list(map(tf.constant, logits)), tf.constant(rng.random(batch_size, dtype=np.float32))
    steps = [_step(batch_size, *FILTERS[name], candidates) for candidates in (sampling.NUM_CANDIDATES, ())]
    for batch in batches:
        ours, expected = (step(batch, uniforms).numpy().tolist() for step in steps)
        assert ours == expected
    comparison = Comparison(f"{vocab_size:,} tokens, {batch_size} sequences, {name}")
    for _ in each_round(rounds, f"{comparison.name}: "):
        comparison.add(*(_milliseconds(step, batches, uniforms) for step in steps))
    return comparison


def _step(batch_size: int, top_k: int, top_p: float, candidates: Sequence[int]) -> Step:
    """Return a sampling step at temperature 1."""
    controls = sampling.Controls(*(tf.fill([batch_size], value) for value in (1.0, top_k, top_p, 0.0)))

    @tf.function
    def step(logits: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
        with mock.patch.object(sampling, "NUM_CANDIDATES", candidates):
            return sampling.sample(logits, uniforms, sampling.prepare(controls))

    return step


def _milliseconds(step: Step, batches: Sequence[tf.Tensor], uniforms: tf.Tensor) -> float:
    """Return the mean time of a step."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < MEASURED_S:
        step(batches[count % len(batches)], uniforms)
        count += 1
    return 1000 * (time.perf_counter() - started) / count


if __name__ == "__main__":
    main()
