"""Reports of benchmarks: comparisons with a baseline, tables in Markdown, results in JSON."""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract.machine import read_cpuinfo

RESULTS = Path(__file__).parent / "results"


@dataclass
class Comparison:
    """A metric and its baseline, measured in alternation: a value of each per round."""

    name: str
    aim: float | None = None  # of the ratio
    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)

    def add(self, ours: float, baseline: float) -> None:
        self.ours.append(ours)
        self.baseline.append(baseline)

    def ratio(self) -> str:
        """Format the ratio of the metric to its baseline: median and range over the rounds."""
        return spread([ours / baseline for ours, baseline in zip(self.ours, self.baseline, strict=True)])

    def row(self, form: str = ",.0f", unit: str = "") -> list[str]:
        """Return a row of a table: name, medians of both, and ratio."""
        medians = statistics.median(self.ours), statistics.median(self.baseline)
        return [self.name, *(f"{median:{form}}{unit}" for median in medians), self.ratio()]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Format the median, and the range in brackets."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def rounds_parser(module: str, description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's command line, with the option of the number of rounds."""
    parser = argparse.ArgumentParser(f"python -m {module}", description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"number of rounds (default: {rounds})")
    return parser


def parse_rounds(module: str, description: str | None) -> int:
    """Parse the command line of a benchmark, whose only option is the number of rounds."""
    return int(rounds_parser(module, description).parse_args().rounds)


def each_round(rounds: int, label: str = "") -> Iterator[int]:
    """Yield the number of each round, from 0, and log it to standard error."""
    for number in range(rounds):
        print(f"{label}round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        yield number


def print_heading(setup: str, rounds: int) -> None:
    """Print what the tables show: the machine, what was measured, and what the numbers are."""
    print(f"\n{machine()};\n{setup};\nmedians of {rounds} rounds, range in brackets\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def machine() -> str:
    """Describe the machine: CPU model, cores and Python version."""
    name = read_cpuinfo().get("model name", platform.machine())
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def write_results(name: str, started: float, **results: Any) -> None:
    """Write results, with the machine, to a JSON file with this prefix and the time of the start; print its path.

    Data classes become objects.
    """
    path = RESULTS / f"{name}{time.strftime('%Y-%m-%dT%H%M%S', time.localtime(started))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1, default=asdict) + "\n")
    print(f"written to {path}; {time.time() - started:.0f} s")
