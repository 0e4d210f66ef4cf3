"""`sostenuto inspect`: token probabilities of a text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from sostenuto._cli.connection import connect, model_option, reading, server_options
from sostenuto._cli.inputs import text_or_stdin
from sostenuto._cli.screen import console, on_one_line, print_table, visible, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from sostenuto import Score, ScoredToken

# Minimum probability and style. Black on colours of the 256-colour palette that dark and light terminals show alike.
SHADES = ((0.5, ""), (0.1, "black on color(194)"), (0.01, "black on color(229)"), (0.001, "black on color(216)"))
LEAST = "black on color(210)"
MAX_ALTERNATIVES = 5
CONTEXT = 12  # characters before a token
HEADINGS = ("token", "probability", "alternatives")

EPILOG = """\
\b
Examples:
  sostenuto inspect "The end of the world"
  sostenuto inspect --least 5 --top 3 < page.txt
  sostenuto inspect --json "The end" | jq '.tokens[].probability'"""


@click.command(epilog=EPILOG, short_help="Show the probability of each token of TEXT.")
@click.argument("text", required=False)
@click.option(
    "--top", type=click.IntRange(0, MAX_ALTERNATIVES), default=3, metavar="N", help="Number of alternatives per token."
)
@click.option(
    "--least", type=click.IntRange(min=0), default=10, metavar="K", help="Number of least probable tokens to list."
)
@click.option("--json", "as_json", is_flag=True, help="Print all tokens as JSON, on one line.")
@model_option
@server_options
def inspect(text: str | None, *, top: int, least: int, as_json: bool, model: str | None) -> None:
    """Show TEXT with each token shaded by its probability, and list the least probable ones with their alternatives.

    If TEXT is omitted or -, it is read from standard input. Without colors, as in a pipe, all tokens are listed.
    """
    content = text_or_stdin(text, "text")
    with connect() as client:
        model, backward = reading(client, model)
        score = client.score("" if backward else content, suffix=content if backward else None, model=model, top=top)
    if as_json:
        return write_json({"text": score.text, "tokens": [_fields(token) for token in score.tokens]})
    screen = console()
    if screen.color_system is None or screen.no_color:
        return print_table(HEADINGS, [_row(token) for token in score.tokens], numbers=HEADINGS[1:2])
    _print_shaded(screen, score)
    scored = [token for token in score.tokens if token.probability is not None]
    worst = sorted(scored, key=lambda token: token.probability or 0)[:least]
    if worst:
        screen.print()
        print_table(
            ("after", *HEADINGS), [[_context(score, token), *_row(token)] for token in worst], numbers=HEADINGS[1:2]
        )
    return None


def _print_shaded(screen: Console, score: Score) -> None:
    shaded = Text()
    for token in score.tokens:
        # A line break has no width, so a visible character carries its colour.
        shaded.append(visible(token.text.replace("\n", "⏎\n")), _style(token.probability))
    screen.print(shaded)
    legend = Text("\nprobability ", "dim")
    for threshold, style in SHADES:
        legend.append(f" ≥ {threshold:.1%} ".replace(".0%", "%"), style).append(" ")
    screen.print(legend.append(f" < {SHADES[-1][0]:.1%} ", LEAST))


def _style(probability: float | None) -> str:
    if probability is None:
        return "dim"
    return next((style for threshold, style in SHADES if probability >= threshold), LEAST)


def _row(token: ScoredToken) -> list[str]:
    others = sorted(
        ((logprob, text) for text, logprob in token.alternatives.items() if text != token.text), reverse=True
    )
    return [
        f"‹{on_one_line(token.text)}›",
        "-" if token.probability is None else _percent(token.logprob or 0.0),
        " ".join(f"‹{on_one_line(text)}› {_percent(logprob)}" for logprob, text in others),
    ]


def _context(score: Score, token: ScoredToken) -> str:
    """Return the text right before a token."""
    before = score.text[max(0, token.offset - CONTEXT) : token.offset]
    return on_one_line(before)


def _percent(logprob: float) -> str:
    percent = 100 * math.exp(logprob)
    return f"{percent:.1f}%" if percent >= 0.1 else f"{percent:.0e}%"


def _fields(token: ScoredToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in ("text", "offset", "logprob", "probability", "alternatives")}
