"""`python -m benchmarks.long_text`: costs of long sequences, for themselves and for concurrent sequences.

Three claims, each a ratio within one run: the time per token does not depend on the position in the sequence; a long
prompt in the prefix cache has the time to first token of a short one; and concurrent sequences keep decoding during the
prefill of a long prompt.
"""

import contextlib
import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

from benchmarks.fixture_model import CHARACTERS, EMBEDDING, NAME, TEMPERATURE, UNITS
from benchmarks.report import (
    Comparison,
    each_round,
    parse_rounds,
    percentile,
    print_heading,
    print_table,
    spread,
    write_results,
)
from benchmarks.servers import fixture_servers

# Ranges of tokens over which speed is measured; the first tokens are excluded, because the first calls have few steps.
POSITIONS = ((200, 2_000), (10_000, 12_000), (50_000, 52_000), (98_000, 100_000))
CACHED_LENGTHS = (10, 10_000)
LONG_PROMPT, NUM_BACKGROUND = 100_000, 8


class StreamError(Exception):
    """The service refused a stream or ended it with an error."""


def text_of(length: int, salt: int) -> str:
    """Return a prompt whose prefix is unique to the salt."""
    return (f"{salt:06d}" + CHARACTERS * (length // len(CHARACTERS) + 1))[:length]


def stream(port: int, **fields: Any) -> Generator[tuple[float, int]]:
    """Yield the arrival time and the number of characters of each text delta; every character is one token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"model": NAME, "temperature": TEMPERATURE, "seed": 1, "stream": True, **fields}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            raise StreamError(f"{response.status}: {response.read()!r}")
        for line in response:
            if line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise StreamError(str(event))
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
    sent = time.perf_counter()
    with contextlib.closing(stream(port, prompt=prompt, max_tokens=1, seed=seed)) as deltas:
        return 1000 * (next(moment for moment, length in deltas if length) - sent)


class BackgroundLoad:
    """Concurrent sequences that decode continuously, and the gaps between their text deltas."""

    def __init__(self, port: int) -> None:
        self.gaps: list[tuple[float, float, int]] = []
        self._errors: list[StreamError] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, seed)) for seed in range(NUM_BACKGROUND)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, seed: int) -> None:
        try:
            while not self._ended.is_set():
                self._decode(port, seed)
        except StreamError as error:
            self._errors.append(error)

    def _decode(self, port: int, seed: int) -> None:
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

    def percentile99_ms(self, begin: float, end: float) -> float:
        """Return the 99th percentile of the gaps between text deltas."""
        return 1000 * percentile([gap for moment, gap, _ in self.gaps if begin <= moment <= end], 0.99)

    def stop(self) -> None:
        """Stop the sequences; raise the error of one that failed, as fewer were measured then."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error


class LongTextBenchmark:
    """The comparisons, each within one run."""

    def __init__(self) -> None:
        # For each round milliseconds per token in each range of POSITIONS.
        self.curves: list[list[float]] = []
        first, *later = (last for _, last in POSITIONS)
        short, long = CACHED_LENGTHS
        self._later = [Comparison(f"a token at {last:,}, over one at {first:,}", 1.1) for last in later]
        self._cached = Comparison(f"first token after {long:,} cached prompt tokens, over {short} new ones", 2)
        self._mean = Comparison(
            f"{NUM_BACKGROUND} sequences during a prefill of {LONG_PROMPT:,} tokens, over without: time per token", 2
        )
        self._tail = Comparison("the same: 99th percentile of the time between text deltas", 2)
        self.comparisons = [*self._later, self._cached, self._mean, self._tail]

    def run(self, rounds: int) -> None:
        with fixture_servers() as servers:
            _, gateway = servers.start(SOSTENUTO_PREFIX_CACHE_BYTES=str(64 * 2**20))
            for number in each_round(rounds):
                self._compare_positions(gateway.port, number)
                self._compare_cached(gateway.port, number)
                self._compare_background(gateway.port, number)

    def _compare_positions(self, port: int, number: int) -> None:
        costs = curve(port, number)
        self.curves.append(costs)
        for comparison, cost in zip(self._later, costs[1:], strict=True):
            comparison.add(cost, costs[0])

    def _compare_cached(self, port: int, number: int) -> None:
        short, long = CACHED_LENGTHS
        first_token_ms(port, text_of(long, number), 0)
        cached, new = [], []
        for seed in range(1, 21):
            cached.append(first_token_ms(port, text_of(long, number), seed))
            new.append(first_token_ms(port, text_of(short, 1000 * number + seed), seed))
        self._cached.add(statistics.median(cached), statistics.median(new))

    def _compare_background(self, port: int, number: int) -> None:
        background = BackgroundLoad(port)
        time.sleep(1)
        begin = time.perf_counter()
        time.sleep(5)
        middle = time.perf_counter()
        first_token_ms(port, text_of(LONG_PROMPT, 900_000 + number), 0)
        end = time.perf_counter()
        background.stop()
        self._mean.add(background.ms_per_token(middle, end), background.ms_per_token(begin, middle))
        self._tail.add(background.percentile99_ms(middle, end), background.percentile99_ms(begin, middle))
        print(f"  prefill beside {NUM_BACKGROUND} sequences: {end - middle:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    rounds = parse_rounds("benchmarks.long_text", __doc__)
    started, benchmark = time.time(), LongTextBenchmark()
    benchmark.run(rounds)
    print_heading(f"model_server, LSTM of {UNITS} units, embedding {EMBEDDING}", rounds)
    columns = zip(POSITIONS, zip(*benchmark.curves, strict=True), strict=True)
    rows = [[f"{first:,} to {last:,}", spread(costs, ".3f")] for (first, last), costs in columns]
    print_table(("tokens generated", "ms per token"), rows)
    print()
    rows = [[*each.row(".3g", " ms"), f"≤ {each.aim:g}"] for each in benchmark.comparisons]
    print_table(("", "ours", "baseline", "ratio", "aim"), rows)
    write_results("long-text-", started, positions=POSITIONS, curves=benchmark.curves, results=benchmark.comparisons)


if __name__ == "__main__":
    main()
