"""`python -m benchmarks.long_text`: what long texts cost, those that write them and those beside them.

Three claims, each a ratio within one run: a token costs the same wherever it stands in a text; a long prompt that was
read before starts as a short one does; and while a long prompt is read, the texts beside it go on.
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

# Tokens between which a text's speed is taken; the first are left out, as calls begin short.
PLACES = ((200, 2_000), (10_000, 12_000), (50_000, 52_000), (98_000, 100_000))
KNOWN_LENGTHS = (10, 10_000)
LONG_PROMPT, NUM_BESIDE = 100_000, 8


@dataclass
class Ratio:
    """A figure over another of the same round.

    Attributes:
        aim: What it should be at most.
        values: Of the figure, and of what it is compared with, by rounds.
    """

    name: str
    unit: str
    aim: float
    values: list[tuple[float, float]] = field(default_factory=list)

    def row(self) -> str:
        """Return a line of the table: medians, and the spread of the ratio."""
        ours, base = (statistics.median(column) for column in zip(*self.values, strict=True))
        ratios = [value / other for value, other in self.values]
        return f"| {self.name} | {ours:.3g} {self.unit} | {base:.3g} {self.unit} | {spread(ratios)} | ≤ {self.aim:g} |"


def text_of(length: int, salt: int) -> str:
    """Return a prompt that no other salt begins with."""
    return (f"{salt:06d}" + CHARACTERS * (length // len(CHARACTERS) + 1))[:length]


def stream(port: int, **fields: Any) -> Iterator[tuple[float, int]]:
    """Yield, for each piece of a streamed text, when it came and how many characters it has, each of them a token."""
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
    """Write one text of 100,000 tokens; return milliseconds per token at each of the places."""
    marks, count = [(0, 0.0)], 0
    for moment, length in stream(port, max_tokens=PLACES[-1][1], seed=seed):
        count += length
        marks.append((count, moment))
    found = []
    for first, last in PLACES:
        inside = [mark for mark in marks if first <= mark[0] <= last]
        (begin, began), (end, ended) = inside[0], inside[-1]
        found.append(1000 * (ended - began) / (end - begin))
    return found


def first_token_ms(port: int, prompt: str, seed: int) -> float:
    """Return milliseconds to the first text."""
    sent = time.perf_counter()
    with contextlib.closing(stream(port, prompt=prompt, max_tokens=1, seed=seed)) as pieces:
        return 1000 * (next(moment for moment, length in pieces if length) - sent)


class Beside:
    """Texts that are written all the time, and how long each waits for its next tokens."""

    def __init__(self, port: int) -> None:
        self.gaps: list[tuple[float, float, int]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, seed)) for seed in range(NUM_BESIDE)]
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
        """Return the mean over the tokens that came within a time."""
        inside = [(gap, length) for moment, gap, length in self.gaps if begin <= moment <= end]
        return 1000 * sum(gap for gap, _ in inside) / sum(length for _, length in inside)

    def longest_ms(self, begin: float, end: float) -> float:
        """Return the 99th percentile of the times between two pieces."""
        gaps = sorted(gap for moment, gap, _ in self.gaps if begin <= moment <= end)
        return 1000 * gaps[int(0.99 * (len(gaps) - 1))]

    def stop(self) -> None:
        """End the texts."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def measure(rounds: int) -> tuple[list[list[float]], list[Ratio]]:
    """Run everything `rounds` times; return the curves, and the ratios."""
    later = [Ratio(f"a token at {last:,}, over one at {PLACES[0][1]:,}", "ms", 1.1) for _, last in PLACES[1:]]
    known = Ratio(f"first token behind {KNOWN_LENGTHS[1]:,} known tokens, over 10 new ones", "ms", 2)
    mean = Ratio(f"{NUM_BESIDE} texts while {LONG_PROMPT:,} tokens are read, over without: time per token", "ms", 2)
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
            short, long = KNOWN_LENGTHS
            first_token_ms(port, text_of(long, number), 0)
            pairs = [
                (
                    first_token_ms(port, text_of(long, number), i),
                    first_token_ms(port, text_of(short, 1000 * number + i), i),
                )
                for i in range(1, 21)
            ]
            known.values.append(tuple(statistics.median(column) for column in zip(*pairs, strict=True)))  # type: ignore[arg-type]
            beside = Beside(port)
            time.sleep(1)
            begin = time.perf_counter()
            time.sleep(5)
            middle = time.perf_counter()
            first_token_ms(port, text_of(LONG_PROMPT, 900_000 + number), 0)
            end = time.perf_counter()
            beside.stop()
            mean.values.append((beside.ms_per_token(middle, end), beside.ms_per_token(begin, middle)))
            tail.values.append((beside.longest_ms(middle, end), beside.longest_ms(begin, middle)))
            print(f"  {LONG_PROMPT:,} tokens were read in {end - middle:.1f} s beside {NUM_BESIDE} texts", flush=True)
    return curves, [*later, known, mean, tail]


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.long_text", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    options = parser.parse_args()
    started = time.time()
    curves, ratios = measure(options.rounds)
    print(f"\n{machine()}, model_server as the model server; LSTM of {UNITS} units, embedding {EMBEDDING};")
    print(f"medians of {options.rounds} rounds, the ratio's range in brackets\n")
    print("| tokens written | ms per token |\n|---|---|")
    for (first, last), costs in zip(PLACES, zip(*curves, strict=True), strict=True):
        print(f"| {first:,} to {last:,} | {spread(costs, '.3f')} |")
    print("\n| | ours | compared with | ratio | aim |\n|---|---|---|---|---|")
    for ratio in ratios:
        print(ratio.row())
    write_results("long-text-", started, places=PLACES, curves=curves, ratios=[asdict(ratio) for ratio in ratios])


if __name__ == "__main__":
    main()
