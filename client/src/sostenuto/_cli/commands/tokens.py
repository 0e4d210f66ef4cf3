"""`sostenuto tokens`: tokenize and detokenize."""

from __future__ import annotations

import re
import shutil
import sys

import click
from rich.cells import cell_len
from rich.text import Text

from sostenuto._cli.connection import connect, model_option, server_options
from sostenuto._cli.inputs import STDIN, from_argument, text_or_stdin
from sostenuto._cli.screen import console, on_one_line, write_json, write_text

EPILOG = """\
\b
Examples:
  sostenuto tokens "The end"
  sostenuto tokens --decode 55 74 71
  cat page.txt | sostenuto tokens | cut -f1 | sostenuto tokens --decode"""


@click.command(epilog=EPILOG, short_help="Tokenize TEXT, or detokenize ids.")
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
    words = text_or_stdin(None, "list of ids") if given in {(), (STDIN,)} else from_argument(" ".join(given), "ids")
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
