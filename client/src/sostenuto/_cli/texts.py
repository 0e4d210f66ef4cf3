"""`sostenuto inspect`, `activations`, `next` and `tokens`: a model's view of a text."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sostenuto import ScoredToken
from sostenuto._cli.errors import failing_to
from sostenuto._cli.options import connect, label_option, model_option, server_options
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
    write_json,
    write_text,
)
from sostenuto._concurrency import visible

NEXT_HEADINGS = ("word", "text", "probability")
# Minimum probability and style. Black on colors of the 256-color palette that dark and light terminals show alike.
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
@label_option
@model_option
@server_options
def inspect(
    text: str | None, *, top: int, least: int, as_json: bool, labels: dict[str, str] | None, model: str | None
) -> None:
    """Show TEXT with each token shaded by its probability, and list the least probable ones with their alternatives.

    If TEXT is omitted or -, it is read from standard input. Without colors, as in a pipe, all tokens are listed.
    """
    content = text_or_stdin(text, "text")
    with connect() as client:
        inspection = client.inspect(content, model=model, include=[], max_positions=1, top=top, labels=labels)
    all_tokens = inspection.tokens
    if as_json:
        names = ("text", "offset", "logprob", "probability", "alternatives")
        return write_json(
            {"text": content, "tokens": [{name: getattr(token, name) for name in names} for token in all_tokens]}
        )
    screen = console()
    if screen.color_system is None or screen.no_color:
        return print_table(INSPECT_HEADINGS, [_row(token) for token in all_tokens], numbers=INSPECT_HEADINGS[1:2])
    _print_shaded(screen, all_tokens)
    scored = [token for token in all_tokens if token.probability is not None]
    worst = sorted(scored, key=lambda token: token.probability or 0)[:least]
    if worst:
        screen.print()
        rows = [[content[max(0, token.offset - CONTEXT) : token.offset], *_row(token)] for token in worst]
        print_table(("after", *INSPECT_HEADINGS), rows, numbers=INSPECT_HEADINGS[1:2])
    return None


def _print_shaded(screen: Console, all_tokens: Iterable[ScoredToken]) -> None:
    shaded = Text()
    for token in all_tokens:
        # A line break has no width, so a visible character carries its color.
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


def _row(token: ScoredToken) -> list[str | None]:
    others = sorted(
        ((logprob, text) for text, logprob in token.alternatives.items() if text != token.text), reverse=True
    )
    return [
        f"‹{token.text}›",
        None if token.logprob is None else _percent(token.logprob),
        " ".join(f"‹{text}› {_percent(logprob)}" for logprob, text in others),
    ]


def _percent(logprob: float) -> str:
    percent = 100 * math.exp(logprob)
    return f"{percent:.1f}%" if percent >= 0.1 else f"{percent:.0e}%"


NEXT_EPILOG = """\
\b
Examples:
  sostenuto next "To be, or not to "
  sostenuto next -n 3 --json "To be, or not to b" | jq -r '.[].word'"""


@click.command("next", epilog=NEXT_EPILOG, short_help="Show the most probable words after PROMPT.")
@click.argument("prompt", required=False)
@click.option("-n", "--n", type=click.IntRange(min=1), metavar="N", help="Number of words.  [default: 10]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list: word, text, probability and logprob of each.")
@label_option
@model_option
@server_options
def next_word(
    prompt: str | None, *, n: int | None, as_json: bool, labels: dict[str, str] | None, model: str | None
) -> None:
    """Show the most probable words that continue PROMPT: the rest of a word that it ends with, or the next word.

    If PROMPT is omitted or -, it is read from standard input.
    """
    content = text_or_stdin(prompt, "prompt")
    with connect() as client:
        words = client.next_words(content, n=n, model=model, labels=labels)
    if as_json:
        names = ("word", "text", "probability", "logprob")
        return write_json([{name: getattr(each, name) for name in names} for each in words])
    rows = [[each.word, f"‹{each.text}›", _percent(each.logprob)] for each in words]
    return print_table(NEXT_HEADINGS, rows, numbers=NEXT_HEADINGS[2:])


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
@label_option
@model_option
@server_options
def activations(
    file: Path,
    *,
    output: Path,
    include: tuple[str, ...],
    layers: tuple[int, ...],
    labels: dict[str, str] | None,
    model: str | None,
) -> None:
    """Write the hidden and cell states at each token of a text FILE, for probes and plots; - is standard input.

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
            labels=labels,
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
    invalid = next((word for word in ids if not re.fullmatch(r"\d{1,9}", word)), None)
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
