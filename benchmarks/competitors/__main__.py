"""`python -m benchmarks.competitors`: serving speed beside llama.cpp's server and LSTMs of other libraries, in one run.

All systems complete the same requests on the same cores and take turns: tokens/s, time to first token, CPU time per
token and memory, each with Sostenuto's ratio in the same round. `make competitors` installs what it needs.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.competitors.libraries import EMBEDDING
from benchmarks.competitors.systems import FLOAT32, Alternative, Measurement, Starter, Workload, prepare_systems
from benchmarks.fixture_model import NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.report import Comparison, each_round, print_heading, print_table, spread, write_results

STREAMS = (1, 8, 64)
# By number of streams and system: one measurement per round.
Results = dict[tuple[int, str], list[Measurement]]


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.competitors", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round of short measurements; settings are chosen at 8 streams"
    )
    parser.add_argument("--rounds", type=int, help="number of rounds (default: 3; quick: 1)")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="default: 1 8 64")
    parser.add_argument("--prompt", type=int, default=PROMPT_LENGTH, help="prompt tokens (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=NEW_TOKENS, help="completion tokens (default: %(default)s)")
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("RESULTS", "PNG"), help="only plot an earlier run")
    options = parser.parse_args()
    if options.plot:
        plot(*options.plot)
        return
    rounds, seconds = options.rounds or (1 if options.quick else 3), 0.5 if options.quick else 2.0
    started = time.time()
    workload = Workload(options.prompt, options.tokens, max(options.streams))
    results = measure(workload, options.streams, rounds, seconds, choose_at=(8,) if options.quick else options.streams)
    sizes = f"LSTM of {UNITS} units, embedding {EMBEDDING}; llama.cpp: a model of nanoGPT's shape"
    print_heading(f"{sizes}; {options.prompt} prompt tokens and {options.tokens} completion tokens per request", rounds)
    columns = "streams", "system", "setting", "tokens/s", "Sostenuto, float32, over it", "first token, p50 ms", "p99 ms"
    print_table((*columns, "CPU µs per token", "over Sostenuto's", "memory, MB"), list(speed_rows(results)))
    print()
    print_table(("streams", "server", "part", "CPU µs per token"), list(cpu_rows(results)))
    rows = {f"{streams} streams, {name}": values for (streams, name), values in results.items()}
    write_results("competitors-", started, results=rows)


def measure(
    workload: Workload, all_streams: Sequence[int], rounds: int, seconds: float, choose_at: Sequence[int]
) -> Results:
    """Measure every system at each number of streams, in turn, with the best of its settings.

    These are chosen at the numbers of streams in `choose_at`; the others use the nearest one's.
    """
    results: Results = {}
    with prepare_systems(workload) as systems, contextlib.ExitStack() as stack:
        chosen = {name: choose(stack, name, starters, choose_at, seconds / 2) for name, starters in systems.items()}
        for _ in each_round(rounds):
            for streams, name in itertools.product(all_streams, systems):
                nearest = min(choose_at, key=lambda candidate: abs(candidate - streams))
                measurement = chosen[name][nearest].measure(streams, seconds)
                results.setdefault((streams, name), []).append(measurement)
    return results


def choose(
    stack: contextlib.ExitStack, name: str, starters: Sequence[Starter], choose_at: Sequence[int], seconds: float
) -> dict[int, Alternative]:
    """Start a system with the settings that have the highest throughput, by number of streams, and warm it up.

    They are tried one after another, as the KV caches of all of them would not fit into memory together.
    """
    winners = dict.fromkeys(choose_at, starters[0])
    if len(starters) > 1:
        tried = [try_setting(start, choose_at, seconds) for start in starters]
        for streams in choose_at:
            rates = [rates[streams] for _, rates in tried]
            winners[streams] = starters[rates.index(max(rates))]
            described = ", ".join(f"{setting} {rate:,.0f}" for (setting, _), rate in zip(tried, rates, strict=True))
            print(f"{streams} streams, {name}: tokens/s {described}", file=sys.stderr, flush=True)
    started = {start: start(stack) for start in set(winners.values())}
    for streams, start in winners.items():
        started[start].measure(streams, 0)
    return {streams: started[start] for streams, start in winners.items()}


def try_setting(start: Starter, choose_at: Sequence[int], seconds: float) -> tuple[str, dict[int, float]]:
    """Start a system with a setting and stop it again; return the setting and tokens/s by number of streams."""
    with contextlib.ExitStack() as stack:
        alternative = start(stack)
        return alternative.setting, {streams: throughput(alternative, streams, seconds) for streams in choose_at}


def throughput(alternative: Alternative, streams: int, seconds: float) -> float:
    """Return tokens per second at a number of streams, of a second measurement if the first was short."""
    started = time.perf_counter()
    rate = alternative.measure(streams, 0).tokens_per_s
    return rate if time.perf_counter() - started >= seconds else alternative.measure(streams, seconds).tokens_per_s


def speed_rows(results: Results) -> Iterator[list[object]]:
    """Yield a row for each number of streams and system: medians, and ratios with their range over the rounds."""
    for (streams, name), values in results.items():
        ours = results[streams, FLOAT32]
        speeds = Comparison("", None, [each.tokens_per_s for each in ours], [each.tokens_per_s for each in values])
        cpu = Comparison("", None, [each.total_cpu_us for each in values], [each.total_cpu_us for each in ours])
        firsts = median([each.first_p50_ms for each in values]), median([each.first_p99_ms for each in values])
        memory = median([each.resident_mb for each in values])
        yield [
            streams, name, values[0].setting, median(speeds.baseline), speeds.ratio(), *firsts,
            f"{statistics.median(cpu.ours):,.1f}", cpu.ratio(), memory,
        ]  # fmt: skip


def cpu_rows(results: Results) -> Iterator[list[object]]:
    """Yield the CPU time of each part of a server, and of the load generator, at each number of streams."""
    for (streams, name), values in results.items():
        if all(each.load_us == 0 for each in values):
            continue
        for part in values[0].cpu_us:
            yield [streams, name, part, spread([each.cpu_us[part] for each in values], ",.1f")]
        yield [streams, name, "load generator", spread([each.load_us for each in values], ",.1f")]


def plot(results: Path, image: Path) -> None:
    """Plot the tokens/s of every system, from the results of a run: medians as dots, ranges as lines."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only this step needs it

    rates: dict[str, dict[str, list[float]]] = {}
    for name, measurements in json.loads(results.read_text())["results"].items():
        streams, _, system = name.partition(", ")
        rates.setdefault(system, {})[streams] = [measurement["tokens_per_s"] for measurement in measurements]
    groups = list(next(iter(rates.values())))
    figure = Figure(figsize=(8, 1 + 0.26 * len(rates) * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), sharex=True, squeeze=False)[:, 0]
    for streams, each in zip(groups, axes, strict=True):
        medians = [statistics.median(values[streams]) for values in rates.values()]
        ranges = [
            (middle - min(values[streams]), max(values[streams]) - middle)
            for middle, values in zip(medians, rates.values(), strict=True)
        ]
        for row, (system, middle, spread_of) in enumerate(zip(rates, medians, ranges, strict=True)):
            color = "#2563a8" if system.startswith("Sostenuto") else "#4b5563"
            each.errorbar(middle, row, xerr=[[spread_of[0]], [spread_of[1]]], fmt="o", color=color)
            end = middle + spread_of[1], row
            each.annotate(f"{middle:,.0f}", end, (9, -3), textcoords="offset points", fontsize=8, color=color)
        each.set_yticks(range(len(rates)), [system.replace("`", "") for system in rates])
        each.grid(axis="x", color="#e5e7eb")
        each.set(xscale="log", title=streams.replace("1 streams", "1 stream"))
        each.invert_yaxis()
        each.margins(x=0.15)
        each.tick_params(labelsize=8)
        each.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("tokens per second, more is better")
    figure.savefig(image, dpi=110)


def median(values: Sequence[float]) -> str:
    """Format the median without decimals."""
    return f"{statistics.median(values):,.0f}"


if __name__ == "__main__":
    main()
