"""`sostenuto score`, `inspect`, `activations` and `tokens`: what a model makes of a text."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sostenuto import Score, ScoredToken
from sostenuto._cli.errors import failing_to
from sostenuto._cli.options import backward_model, connect, model_option, server_options
from sostenuto._cli.report import ReportProgress
from sostenuto._cli.terminal import (
    STDIN,
    console,
    on_one_line,
    print_table,
    say,
    text_argument,
    text_of,
    text_or_stdin,
    visible,
    write_json,
    write_text,
)

BATCH = 32  # texts per request
MAX_SHOWN = 24  # characters of a text in the table
SCORE_HEADINGS = ("text", "tokens", "log probability", "perplexity", "bits/character")

SCORE_EPILOG = """\
\b
Examples:
  sostenuto score "The end"
  sostenuto score --file a.txt --file b.txt
  sostenuto score --lines --json < sentences.txt | jq .perplexity"""


@click.command(epilog=SCORE_EPILOG, short_help="Score TEXT: log probability and perplexity.")
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
    inputs = [(str(path), text_of(path)) for path in files] or [("", text_or_stdin(text, "text"))]
    texts = [(name, line) for name, whole in inputs for line in (_lines(whole) if lines else [whole])]
    scores = _scores([content for _, content in texts], model)
    if as_json:
        for result in scores:
            write_json(_score_fields(result))
        return
    rows = [
        [_shortened(result.text if lines or not name else name), *_cells(result)]
        for (name, _), result in zip(texts, scores, strict=True)
    ]
    print_table(SCORE_HEADINGS, rows, numbers=SCORE_HEADINGS[1:])


def _scores(texts: list[str], model: str | None) -> Iterator[Score]:
    """Yield the score of each text, with BATCH texts per request."""
    rest = iter(texts)
    with connect() as client:
        model, backward = backward_model(client, model)
        while batch := list(islice(rest, BATCH)):
            yield from client.score([""], suffix=batch, model=model) if backward else client.score(batch, model=model)


def _lines(text: str) -> list[str]:
    """Split a text into lines at line feeds only, unlike splitlines(), which also splits at form feeds."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _score_fields(result: Score) -> dict[str, Any]:
    means = {name: getattr(result, name) for name in ("perplexity", "bits_per_character")}
    means = {name: None if math.isnan(mean) else mean for name, mean in means.items()}
    return {"text": result.text, "tokens": len(result.tokens), "logprob": result.logprob, **means}


def _cells(result: Score) -> list[str]:
    metrics = (result.logprob, result.perplexity, result.bits_per_character)
    return [f"{len(result.tokens):,}", *("-" if math.isnan(metric) else f"{metric:,.3f}" for metric in metrics)]


def _shortened(text: str) -> str:
    text = on_one_line(text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


# Minimum probability and style. Black on colours of the 256-colour palette that dark and light terminals show alike.
SHADES = ((0.5, ""), (0.1, "black on color(194)"), (0.01, "black on color(229)"), (0.001, "black on color(216)"))
LEAST = "black on color(210)"
MAX_ALTERNATIVES = 5
CONTEXT = 12  # characters before a token
INSPECT_HEADINGS = ("token", "probability", "alternatives")

INSPECT_EPILOG = """\
\b
Examples:
  sostenuto inspect "The end of the world"
  sostenuto inspect --least 5 --top 3 < page.txt
  sostenuto inspect --json "The end" | jq '.tokens[].probability'"""


@click.command(epilog=INSPECT_EPILOG, short_help="Show the probability of each token of TEXT.")
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
        model, backward = backward_model(client, model)
        score = client.score("" if backward else content, suffix=content if backward else None, model=model, top=top)
    if as_json:
        return write_json({"text": score.text, "tokens": [_token_fields(token) for token in score.tokens]})
    screen = console()
    if screen.color_system is None or screen.no_color:
        return print_table(INSPECT_HEADINGS, [_row(token) for token in score.tokens], numbers=INSPECT_HEADINGS[1:2])
    _print_shaded(screen, score)
    scored = [token for token in score.tokens if token.probability is not None]
    worst = sorted(scored, key=lambda token: token.probability or 0)[:least]
    if worst:
        screen.print()
        contexts = [on_one_line(score.text[max(0, token.offset - CONTEXT) : token.offset]) for token in worst]
        rows = [[context, *_row(token)] for context, token in zip(contexts, worst, strict=True)]
        print_table(("after", *INSPECT_HEADINGS), rows, numbers=INSPECT_HEADINGS[1:2])
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


def _percent(logprob: float) -> str:
    percent = 100 * math.exp(logprob)
    return f"{percent:.1f}%" if percent >= 0.1 else f"{percent:.0e}%"


def _token_fields(token: ScoredToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in ("text", "offset", "logprob", "probability", "alternatives")}


ACTIVATIONS_EPILOG = """\
\b
Examples:
  sostenuto activations book.txt --output book.safetensors
  sostenuto activations - --include cell --layer 1 --output cells.safetensors < page.txt"""


@click.command(epilog=ACTIVATIONS_EPILOG, short_help="Write the activations of a text to a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="File in safetensors' format."
)
@click.option(
    "--include",
    multiple=True,
    type=click.Choice(["hidden", "cell", "gates"]),
    default=("hidden", "cell"),
    help="What to write of each layer. Repeatable.",
)
@click.option(
    "--layer", "layers", multiple=True, type=click.IntRange(min=1), metavar="N", help="Only this layer. Repeatable."
)
@model_option
@server_options
def activations(
    file: Path, *, output: Path, include: tuple[str, ...], layers: tuple[int, ...], model: str | None
) -> None:
    """Write the hidden and cell states at each token of FILE, a text, for probes and plots; - is standard input.

    The output has `token_ids`, and for each kind and layer a tensor such as `cell_1`: float16, tokens × units. Python
    reads it with `safetensors.numpy.load_file`.
    """
    text = text_or_stdin(STDIN, "text") if str(file) == STDIN else text_of(file)
    with connect() as client, ReportProgress() as progress, failing_to(f"write {output}"):
        client.save_activations(
            output,
            text,
            model=model,
            include=include,
            layers=layers or None,
            observe=lambda done, total: progress.show(done / total, "inspecting"),
        )
    say(f"wrote {output}")


TOKENS_EPILOG = """\
\b
Examples:
  sostenuto tokens "The end"
  sostenuto tokens --decode 55 74 71
  cat page.txt | sostenuto tokens | cut -f1 | sostenuto tokens --decode"""


@click.command(epilog=TOKENS_EPILOG, short_help="Tokenize TEXT, or detokenize ids.")
@click.argument("given", nargs=-1, metavar="[TEXT|-|ID...]")
@click.option("--decode", is_flag=True, help="Detokenize: convert ids, from arguments or standard input, to text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ids and texts, or with --decode the text.")
@model_option
@server_options
def tokens(given: tuple[str, ...], *, decode: bool, as_json: bool, model: str | None) -> None:
    """Tokenize TEXT and show each token in ‹ › with its id. In a pipe each line is an id, a tab and the token's text.

    If TEXT is omitted or -, it is read from standard input. Control characters are escaped.
    """
    if decode:
        ids = _ids(given)
        with connect() as client:
            text = client.detokenize(ids, model=model)
        return write_json({"text": text}) if as_json else write_text(text)
    if len(given) > 1:
        raise click.UsageError("TEXT must be one argument: quote it, or pass --decode for ids")
    text = text_or_stdin(given[0] if given else None, "text")
    with connect() as client:
        result = client.tokenize(text, model=model)
    if as_json:
        return write_json({"ids": result.ids, "texts": result.texts})
    cells = [
        (str(token_id), on_one_line(token_text)) for token_id, token_text in zip(result.ids, result.texts, strict=False)
    ]
    if sys.stdout.isatty():
        return _print_flowing(cells)
    return write_text("".join(f"{token_id}\t{token_text}\n" for token_id, token_text in cells))


def _ids(given: tuple[str, ...]) -> list[int]:
    words = text_or_stdin(None, "list of ids") if given in {(), (STDIN,)} else text_argument(" ".join(given), "ids")
    ids = [word for word in re.split(r"[\s,]+", words.strip("[], \t\r\n")) if word]
    invalid = next((word for word in ids if not word.isdecimal()), None)
    if invalid is not None:
        raise click.UsageError(f"{invalid!r} is not a token id: ids are whole numbers, separated by spaces or commas")
    return [int(word) for word in ids]


def _print_flowing(cells: list[tuple[str, str]]) -> None:
    """Print as many tokens per line as fit."""
    screen, width = console(), shutil.get_terminal_size().columns
    row = Text()
    for token_id, token_text in cells:
        cell_width = len(token_id) + cell_len(token_text) + 2
        if row and row.cell_len + 1 + cell_width > width:
            screen.print(row)
            row = Text()
        if row:
            row.append(" ")
        row.append(token_id, "dim").append("‹").append(token_text, "bold").append("›")
    screen.print(row)
