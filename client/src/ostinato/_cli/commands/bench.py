"""`ostinato bench`: how fast a server is, as this client sees it."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ostinato import __version__
from ostinato._cli.connection import connect, model_option, server_options
from ostinato._cli.load import Figure, Round, quantile, run_round
from ostinato._cli.screen import on_one_line, print_table, write_json, write_text
from ostinato._progress import Progress

if TYPE_CHECKING:
    from ostinato import Client

HEADINGS = ("at once", "tokens/s", "first, ms", "99th", "gap, ms", "99th")

EPILOG = """\
\b
Example:
  ostinato bench --concurrency 1,8,32 --max-tokens 200

Each figure is the median of the rounds, ± half their range; --json has the range itself. First: from a request to its
first text. Gap: from one piece of text to the next; a piece may have several tokens. Of both the median and the 99th
percentile. This client takes time itself: where it runs on the server's cores, it measures both."""


def _counts(given: str) -> tuple[int, ...]:
    """Read numbers from 1 on, separated by commas."""
    words = given.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{given!r} is not a list of numbers from 1 on, such as 1,8,32")
    return tuple(int(word) for word in words)


@click.command(epilog=EPILOG, short_help="Measure how fast a server is.")
@click.option("--concurrency", type=_counts, default="1,8,32", metavar="N,N,…", help="Requests at once; one line each.")
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    metavar="N",
    help="Requests of a round.  [default: 4 times as many as at once]",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=200, metavar="N", help="Tokens of a request.")
@click.option("--prompt", default="The ", metavar="TEXT", help="What each of them begins with.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, metavar="N", help="Rounds; one more goes before, unmeasured."
)
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON, on one line; times in seconds.")
@click.option("-q", "--quiet", is_flag=True, help="Don't show how far it is.")
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
    """Measure a server: tokens per second, the time to the first text, and the gaps between pieces of text."""
    asked = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    with connect() as client:
        facts = _subject(client, model)
        asked["model"] = facts["model"]
        numbers = {count: requests or 4 * count for count in concurrency}
        with Progress(sum(numbers.values()) * (rounds + 1), shown=not quiet and sys.stderr.isatty()) as progress:
            levels = {
                count: [run_round(client, count, number, asked, progress.advance) for _ in range(rounds + 1)][1:]
                for count, number in numbers.items()
            }
    facts = {**facts, "max_tokens": max_tokens, "rounds": rounds, "prompt": prompt}
    if as_json:
        return write_json({**facts, "levels": [_level(count, numbers[count], made) for count, made in levels.items()]})
    told = f"{{model}} version {{version}}, {{system_fingerprint}}: {max_tokens} tokens a request, {rounds} rounds"
    write_text(on_one_line(told.format(**facts)) + "\n\n")
    return print_table(HEADINGS, [_row(count, made) for count, made in levels.items()], numbers=HEADINGS)


def _subject(client: Client, model: str | None) -> dict[str, Any]:
    """Return what answers, by its own words."""
    answer = client.generate("The ", model=model, max_tokens=1)
    return {
        "model": answer.model,
        "version": answer.raw.get("version"),
        "system_fingerprint": answer.system_fingerprint,
        "client": f"ostinato-client {__version__}",
    }


def _figures(rounds: list[Round]) -> dict[str, Figure]:
    return {
        "tokens_per_s": Figure.of(made.tokens_per_s for made in rounds),
        "first_s": Figure.of(quantile(made.firsts_s, 0.5) for made in rounds),
        "first_99th_s": Figure.of(quantile(made.firsts_s, 0.99) for made in rounds),
        "gap_s": Figure.of(quantile(made.gaps_s, 0.5) for made in rounds),
        "gap_99th_s": Figure.of(quantile(made.gaps_s, 0.99) for made in rounds),
    }


def _level(concurrency: int, num_requests: int, rounds: list[Round]) -> dict[str, Any]:
    figures = {
        name: {key: None if math.isnan(value) else value for key, value in asdict(figure).items()}
        for name, figure in _figures(rounds).items()
    }
    return {"concurrency": concurrency, "requests": num_requests, **figures}


def _row(concurrency: int, rounds: list[Round]) -> list[str]:
    tokens, *times = _figures(rounds).values()
    return [str(concurrency), _shown(tokens, 1), *(_shown(figure, 1000) for figure in times)]


def _shown(figure: Figure, unit: float) -> str:
    """Return a median, of few units with a place behind the point, and half the range in percent of it."""
    if math.isnan(figure.median):
        return "-"
    places = 0 if figure.median * unit >= 100 else 1
    spread = (figure.high - figure.low) / 2 / figure.median if figure.median else 0.0
    return f"{figure.median * unit:,.{places}f} ±{spread:.0%}"
