"""`python -m benchmarks.long_text`: costs of long sequences, for themselves and for concurrent sequences.

Three claims, each a ratio within one run: the time per token does not depend on the position in the sequence; a long
prompt in the prefix cache has the time to first token of a short one; and concurrent sequences keep decoding during the
prefill of a long prompt.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.__main__ import child, machine, service, spread, write_results
from benchmarks.fixture_model import CHARACTERS, EMBEDDING, NAME, TEMPERATURE, UNITS

# Ranges of tokens over which speed is measured; the first tokens are excluded, because the first calls have few steps.
POSITIONS = ((200, 2_000), (10_000, 12_000), (50_000, 52_000), (98_000, 100_000))
CACHED_LENGTHS = (10, 10_000)
LONG_PROMPT, NUM_BACKGROUND = 100_000, 8


@dataclass
class Ratio:
    """A metric as a ratio to another of the same round.

    Attributes:
        aim: Maximum of the ratio.
        values: The metric and its baseline, per round.
    """

    name: str
    unit: str
    aim: float
    values: list[tuple[float, float]] = field(default_factory=list)

    def row(self) -> str:
        """Return a row of the table: medians, and the range of the ratio."""
        ours, base = (statistics.median(column) for column in zip(*self.values, strict=True))
        ratios = [value / other for value, other in self.values]
        return f"| {self.name} | {ours:.3g} {self.unit} | {base:.3g} {self.unit} | {spread(ratios)} | ≤ {self.aim:g} |"


def text_of(length: int, salt: int) -> str:
    """Return a prompt whose prefix is unique to the salt."""
    return (f"{salt:06d}" + CHARACTERS * (length // len(CHARACTERS) + 1))[:length]


def stream(port: int, **fields: Any) -> Iterator[tuple[float, int]]:
    """Yield the arrival time and the number of characters of each text delta; every character is one token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"model": NAME, "temperature": TEMPERATURE, "seed": 1, "stream": True, **fields}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"error: {response.read()!r}")
        for line in response:
            if line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise SystemExit(f"error: {event}")
                yield time.perf_counter(), sum(len(choice["text"]) for choice in event["choices"])
    finally:
        connection.close()


def curve(port: int, seed: int) -> list[float]:
    """Generate one sequence of 100,000 tokens; return milliseconds per token in each range of POSITIONS."""
    marks, count = [(0, 0.0)], 0
    for moment, length in stream(port, max_tokens=POSITIONS[-1][1], seed=seed):
        count += length
        marks.append((count, moment))
    costs = []
    for first, last in POSITIONS:
        inside = [mark for mark in marks if first <= mark[0] <= last]
        (begin, began), (end, ended) = inside[0], inside[-1]
        costs.append(1000 * (ended - began) / (end - begin))
    return costs


def first_token_ms(port: int, prompt: str, seed: int) -> float:
    """Return the time to first token in milliseconds."""
    sent = time.perf_counter()
    with contextlib.closing(stream(port, prompt=prompt, max_tokens=1, seed=seed)) as deltas:
        return 1000 * (next(moment for moment, length in deltas if length) - sent)


class BackgroundLoad:
    """Concurrent sequences that decode continuously, and the gaps between their text deltas."""

    def __init__(self, port: int) -> None:
        self.gaps: list[tuple[float, float, int]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, seed)) for seed in range(NUM_BACKGROUND)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, seed: int) -> None:
        while not self._ended.is_set():
            last = None
            for moment, length in stream(port, max_tokens=20_000, seed=seed):
                if last is not None and length:
                    self.gaps.append((moment, moment - last, length))
                last = moment
                if self._ended.is_set():
                    return

    def ms_per_token(self, begin: float, end: float) -> float:
        """Return the mean over the tokens that arrived within a time range."""
        inside = [(gap, length) for moment, gap, length in self.gaps if begin <= moment <= end]
        return 1000 * sum(gap for gap, _ in inside) / sum(length for _, length in inside)

    def longest_ms(self, begin: float, end: float) -> float:
        """Return the 99th percentile of the gaps between text deltas."""
        gaps = sorted(gap for moment, gap, _ in self.gaps if begin <= moment <= end)
        return 1000 * gaps[int(0.99 * (len(gaps) - 1))]

    def stop(self) -> None:
        """Stop the sequences."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def measure(rounds: int) -> tuple[list[list[float]], list[Ratio]]:
    """Run everything `rounds` times; return the curves and the ratios."""
    later = [Ratio(f"a token at {last:,}, over one at {POSITIONS[0][1]:,}", "ms", 1.1) for _, last in POSITIONS[1:]]
    known = Ratio(f"first token behind {CACHED_LENGTHS[1]:,} known tokens, over 10 new ones", "ms", 2)
    mean = Ratio(f"{NUM_BACKGROUND} texts while {LONG_PROMPT:,} tokens are read, over without: time per token", "ms", 2)
    tail = Ratio("the same: 99th percentile of the time between two pieces", "ms", 2)
    curves = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with child("benchmarks.publish", folder) as publishing:
            publishing.communicate()
        variables = {"OSTINATO_PREFIX_CACHE_BYTES": str(64 * 2**20)}
        port, _, _ = stack.enter_context(service(Path(folder), stack, **variables))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            curves.append(curve(port, number))
            for ratio, cost in zip(later, curves[-1][1:], strict=True):
                ratio.values.append((cost, curves[-1][0]))
            short, long = CACHED_LENGTHS
            first_token_ms(port, text_of(long, number), 0)
            pairs = [
                (
                    first_token_ms(port, text_of(long, number), i),
                    first_token_ms(port, text_of(short, 1000 * number + i), i),
                )
                for i in range(1, 21)
            ]
            known.values.append(tuple(statistics.median(column) for column in zip(*pairs, strict=True)))  # type: ignore[arg-type]
            background = BackgroundLoad(port)
            time.sleep(1)
            begin = time.perf_counter()
            time.sleep(5)
            middle = time.perf_counter()
            first_token_ms(port, text_of(LONG_PROMPT, 900_000 + number), 0)
            end = time.perf_counter()
            background.stop()
            mean.values.append((background.ms_per_token(middle, end), background.ms_per_token(begin, middle)))
            tail.values.append((background.longest_ms(middle, end), background.longest_ms(begin, middle)))
            print(
                f"  {LONG_PROMPT:,} tokens were read in {end - middle:.1f} s beside {NUM_BACKGROUND} texts", flush=True
            )
    return curves, [*later, known, mean, tail]


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.long_text", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    options = parser.parse_args()
    started = time.time()
    curves, ratios = measure(options.rounds)
    print(f"\n{machine()}, model_server as the model server; LSTM of {UNITS} units, embedding {EMBEDDING};")
    print(f"medians of {options.rounds} rounds, the ratio's range in brackets\n")
    print("| tokens written | ms per token |\n|---|---|")
    for (first, last), costs in zip(POSITIONS, zip(*curves, strict=True), strict=True):
        print(f"| {first:,} to {last:,} | {spread(costs, '.3f')} |")
    print("\n| | ours | compared with | ratio | aim |\n|---|---|---|---|---|")
    for ratio in ratios:
        print(ratio.row())
    write_results("long-text-", started, places=POSITIONS, curves=curves, ratios=[asdict(ratio) for ratio in ratios])


if __name__ == "__main__":
    main()
