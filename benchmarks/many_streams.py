"""`python -m benchmarks.many_streams`: time to first token and between chunks, with hundreds of streams.

The capacity is the rate at which requests complete while a fixed number of streams is in flight. Then requests arrive
at random times, at a share of that rate, however many are in flight: an open loop, as users do not wait for each other.
"""

import ast
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.fixture_model import BODY, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_arrivals, run_load
from benchmarks.report import each_round, print_heading, print_table, rounds_parser, spread, write_results
from benchmarks.servers import Servers, fixture_servers

STREAMS = (256, 1000)
# Of the capacity at which requests arrive.
SHARES = (0.5, 0.8, 0.95)
# Four waves, as the first, which starts all at once, and the end of the last are slower than the rest.
REQUESTS_PER_STREAM, SECONDS_OF_ARRIVALS = 4, 10
IN_FLIGHT = "in flight"


@dataclass(frozen=True)
class Measurement:
    """One load of one server: throughput, and percentiles in milliseconds."""

    requests_per_s: float
    tokens_per_s: float
    first_p50_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float

    @classmethod
    def of(cls, load: Load) -> "Measurement":
        firsts, gaps = map(load.first_ms, (0.5, 0.99)), map(load.gap_ms, (0.5, 0.99))
        return cls(len(load.first_s) / load.seconds, load.tokens_per_s, *firsts, *gaps)


@dataclass(frozen=True)
class Target:
    """A server: its port, the fields of its requests, and whether a connection takes a second request."""

    port: int
    body: dict[str, Any]
    keep_alive: bool


def measure(target: Target, streams: int) -> Iterator[tuple[str, Measurement]]:
    num_requests = REQUESTS_PER_STREAM * streams
    load = run_load(
        target.port, target.body, concurrency=streams, num_requests=num_requests, keep_alive=target.keep_alive
    )
    yield IN_FLIGHT, (closed := Measurement.of(load))
    for share in SHARES:
        rate = share * closed.requests_per_s
        load = run_arrivals(target.port, target.body, rate=rate, num_requests=max(1, round(rate * SECONDS_OF_ARRIVALS)))
        yield f"arrivals at {share:.0%}", Measurement.of(load)


def start_gateways(servers: Servers, all_streams: list[int]) -> dict[int, Target]:
    """Start a gateway for each number of streams, all of which run at once."""
    backend = servers.start_model_server()

    def start(streams: int) -> Target:
        limits: dict[str, Any] = {"SOSTENUTO_MAX_RUNNING": str(streams), "SOSTENUTO_MAX_QUEUED": str(4 * streams)}
        return Target(servers.start_gateway([backend], **limits).port, BODY, keep_alive=True)

    return {streams: start(streams) for streams in all_streams}


def main() -> None:
    parser = rounds_parser("benchmarks.many_streams", __doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="default: 256 1000")
    parser.add_argument(
        "--server", nargs=3, action="append", default=[], metavar=("NAME", "PORT", "FIELDS"),
        help="also measure a running server with OpenAI's API, such as llama.cpp's or vLLM; FIELDS is a JSON object "
        "that is added to its requests",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("RESULTS", "PNG"), help="only plot an earlier run")
    options = parser.parse_args()
    if options.plot:
        plot(*options.plot)
        return
    started, results = time.time(), dict[tuple[int, str, str], list[Measurement]]()
    # llama.cpp's server closes the connection after a stream.
    others = {
        name: Target(int(port), {**BODY, **json.loads(fields)}, keep_alive=False)
        for name, port, fields in options.server
    }
    with fixture_servers() as servers:
        systems = {"Sostenuto": start_gateways(servers, options.streams)}
        # A server that runs already has one setting.
        systems |= {name: dict.fromkeys(options.streams, target) for name, target in others.items()}
        for _ in each_round(options.rounds):
            for streams in options.streams:
                for name, targets in systems.items():
                    for load, measurement in measure(targets[streams], streams):
                        results.setdefault((streams, name, load), []).append(measurement)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"LSTM of {UNITS} units, {setup}", options.rounds)
    columns = "streams", "system", "load", "requests/s", "tokens/s", "first token, p50, ms", "p99"
    print_table((*columns, "between chunks, p50, ms", "p99"), [[*key, *_row(each)] for key, each in results.items()])
    write_results("many-streams-", started, results={str(key): each for key, each in results.items()})


def plot(results: Path, image: Path) -> None:
    """Plot latency over the rate of requests at the smallest number of streams, from the results of a run."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only this step needs it

    rounds = {ast.literal_eval(key): values for key, values in json.loads(results.read_text())["results"].items()}
    smallest = min(streams for streams, _, _ in rounds)
    systems: dict[str, list[dict[str, float]]] = {}
    for (streams, system, load), values in rounds.items():
        if streams == smallest and load != IN_FLIGHT:
            medians = {name: statistics.median(each[name] for each in values) for name in values[0]}
            systems.setdefault(system, []).append(medians)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = {"first": "time to first token", "gap": "time between chunks"}
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharex=True), panels.items(), strict=True):
        for (system, points), color in zip(systems.items(), ("#2563a8", "#b45309", "#4b5563"), strict=False):
            rates = [point["requests_per_s"] for point in points]
            for quantile, style in (("p50", "-"), ("p99", "--")):
                values = [point[f"{metric}_{quantile}_ms"] for point in points]
                axes.plot(rates, values, style, marker="o", markersize=4, color=color, label=f"{system}, {quantile}")
        axes.set(xscale="log", yscale="log", title=title, xlabel="requests per second", ylabel="ms")
        axes.grid(color="#e5e7eb")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(image, dpi=110)


def _row(values: list[Measurement]) -> list[str]:
    columns = zip(*(asdict(value).values() for value in values), strict=True)
    return [spread(column, ",.0f") for column in columns]


if __name__ == "__main__":
    main()
