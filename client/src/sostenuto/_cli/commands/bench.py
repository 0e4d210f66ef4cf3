"""`sostenuto bench`: benchmark a server from this client."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sostenuto import __version__
from sostenuto._cli.connection import connect, model_option, server_options
from sostenuto._cli.load import Figure, Round, quantile, run_round
from sostenuto._cli.screen import on_one_line, print_table, write_json, write_text
from sostenuto._progress import Progress

if TYPE_CHECKING:
    from sostenuto import Client

HEADINGS = ("concurrency", "tokens/s", "TTFT, ms", "p99", "chunk gap, ms", "p99")

EPILOG = """\
\b
Example:
  sostenuto bench --concurrency 1,8,32 --max-tokens 200

Each result is the median of the rounds, ± half their range; --json has the range itself. TTFT: time from the request to
the first chunk of text. Chunk gap: time from one chunk to the next; a chunk may have several tokens. Both as median and
99th percentile (p99). If the client shares the server's cores, its own CPU time lowers the results."""


def _counts(value: str) -> tuple[int, ...]:
    """Parse comma-separated positive integers."""
    words = value.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value!r} is not a list of positive integers, such as 1,8,32")
    return tuple(int(word) for word in words)


@click.command(epilog=EPILOG, short_help="Benchmark a server: throughput and latency.")
@click.option(
    "--concurrency",
    type=_counts,
    default="1,8,32",
    metavar="N,N,…",
    help="Concurrency levels, each benchmarked separately.",
)
@click.option(
    "--requests", type=click.IntRange(min=1), metavar="N", help="Requests per round.  [default: 4 × concurrency]"
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=200, metavar="N", help="Tokens per request.")
@click.option("--prompt", default="The ", metavar="TEXT", help="Prompt of all requests.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, metavar="N", help="Number of rounds, after one of warm-up."
)
@click.option("--json", "as_json", is_flag=True, help="Print all results as JSON, on one line; times in seconds.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar.")
@model_option
@server_options
def bench(
    *,
    concurrency: tuple[int, ...],
    requests: int | None,
    max_tokens: int,
    prompt: str,
    rounds: int,
    as_json: bool,
    quiet: bool,
    model: str | None,
) -> None:
    """Benchmark a server: tokens per second, time to first token (TTFT), and time between chunks."""
    fields = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    with connect() as client:
        facts = _served_model(client, model)
        fields["model"] = facts["model"]
        num_requests = {level: requests or 4 * level for level in concurrency}
        with Progress(sum(num_requests.values()) * (rounds + 1), shown=not quiet and sys.stderr.isatty()) as progress:
            levels = {
                level: [run_round(client, level, number, fields, progress.advance) for _ in range(rounds + 1)][1:]
                for level, number in num_requests.items()
            }
    facts = {**facts, "max_tokens": max_tokens, "rounds": rounds, "prompt": prompt}
    if as_json:
        records = [_level(level, num_requests[level], results) for level, results in levels.items()]
        return write_json({**facts, "levels": records})
    header = f"{{model}} version {{version}}, {{system_fingerprint}}: {max_tokens} tokens per request, {rounds} rounds"
    write_text(on_one_line(header.format(**facts)) + "\n\n")
    return print_table(HEADINGS, [_row(level, results) for level, results in levels.items()], numbers=HEADINGS)


def _served_model(client: Client, model: str | None) -> dict[str, Any]:
    """Return the model that the server resolves, its version and fingerprint."""
    generation = client.generate("The ", model=model, max_tokens=1)
    return {
        "model": generation.model,
        "version": generation.raw.get("version"),
        "system_fingerprint": generation.system_fingerprint,
        "client": f"sostenuto {__version__}",
    }


def _metrics(rounds: list[Round]) -> dict[str, Figure]:
    return {
        "tokens_per_s": Figure.of(result.tokens_per_s for result in rounds),
        "first_s": Figure.of(quantile(result.firsts_s, 0.5) for result in rounds),
        "first_99th_s": Figure.of(quantile(result.firsts_s, 0.99) for result in rounds),
        "gap_s": Figure.of(quantile(result.gaps_s, 0.5) for result in rounds),
        "gap_99th_s": Figure.of(quantile(result.gaps_s, 0.99) for result in rounds),
    }


def _level(concurrency: int, num_requests: int, rounds: list[Round]) -> dict[str, Any]:
    metrics = {
        name: {key: None if math.isnan(value) else value for key, value in asdict(metric).items()}
        for name, metric in _metrics(rounds).items()
    }
    return {"concurrency": concurrency, "requests": num_requests, **metrics}


def _row(concurrency: int, rounds: list[Round]) -> list[str]:
    tokens, *times = _metrics(rounds).values()
    return [str(concurrency), _formatted(tokens, 1), *(_formatted(metric, 1000) for metric in times)]


def _formatted(metric: Figure, unit: float) -> str:
    """Return the median, with one decimal place below 100, and half the range in percent of the median."""
    if math.isnan(metric.median):
        return "-"
    places = 0 if metric.median * unit >= 100 else 1
    spread = (metric.high - metric.low) / 2 / metric.median if metric.median else 0.0
    return f"{metric.median * unit:,.{places}f} ±{spread:.0%}"
