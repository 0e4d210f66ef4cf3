"""`sostenuto score`: log probabilities and perplexities of texts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sostenuto._cli.connection import connect, model_option, reading, server_options
from sostenuto._cli.inputs import from_file, text_or_stdin
from sostenuto._cli.screen import on_one_line, print_table, write_json

if TYPE_CHECKING:
    from sostenuto import Score

BATCH = 32  # texts per request
MAX_SHOWN = 24  # characters of a text in the table
HEADINGS = ("text", "tokens", "log probability", "perplexity", "bits/character")

EPILOG = """\
\b
Examples:
  sostenuto score "The end"
  sostenuto score --file a.txt --file b.txt
  sostenuto score --lines --json < sentences.txt | jq .perplexity"""


@click.command(epilog=EPILOG, short_help="Score TEXT: log probability and perplexity.")
@click.argument("text", required=False)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Score the text of a file, in place of TEXT. Repeatable.",
)
@click.option("--lines", is_flag=True, help="Score each line separately, without its newline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per text, one per line.")
@model_option
@server_options
def score(text: str | None, *, files: tuple[Path, ...], lines: bool, as_json: bool, model: str | None) -> None:
    """Score TEXT with a model: log probability, perplexity and bits per character.

    If TEXT is omitted or -, it is read from standard input. The log probability is a natural logarithm (nats), summed
    over the tokens; the first token that the model processes has none. Bits per character can be compared between
    models of different token units, perplexities cannot.
    """
    if text is not None and files:
        raise click.UsageError("TEXT and --file exclude each other: omit one")
    inputs = [(str(path), from_file(path)) for path in files] or [("", text_or_stdin(text, "text"))]
    texts = [(name, line) for name, whole in inputs for line in (_lines(whole) if lines else [whole])]
    scores = _scores([content for _, content in texts], model)
    if as_json:
        for result in scores:
            write_json(_fields(result))
        return
    rows = [
        [_shortened(result.text if lines or not name else name), *_cells(result)]
        for (name, _), result in zip(texts, scores, strict=False)
    ]
    print_table(HEADINGS, rows, numbers=HEADINGS[1:])


def _scores(texts: list[str], model: str | None) -> Iterator[Score]:
    """Yield the score of each text, with BATCH texts per request."""
    rest = iter(texts)
    with connect() as client:
        model, backward = reading(client, model)
        while batch := list(islice(rest, BATCH)):
            yield from client.score([""], suffix=batch, model=model) if backward else client.score(batch, model=model)


def _lines(text: str) -> list[str]:
    """Split a text into lines at line feeds only, unlike splitlines(), which also splits at form feeds."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _fields(result: Score) -> dict[str, Any]:
    return {
        "text": result.text,
        "tokens": len(result.tokens),
        "logprob": result.logprob,
        "perplexity": _or_none(result.perplexity),
        "bits_per_character": _or_none(result.bits_per_character),
    }


def _cells(result: Score) -> list[str]:
    metrics = (result.logprob, result.perplexity, result.bits_per_character)
    return [f"{len(result.tokens):,}", *("-" if math.isnan(metric) else f"{metric:,.3f}" for metric in metrics)]


def _or_none(metric: float) -> float | None:
    return None if math.isnan(metric) else metric


def _shortened(text: str) -> str:
    text = on_one_line(text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
