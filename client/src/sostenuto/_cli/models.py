"""`sostenuto models` and `sostenuto tokenizer`: list models, and download a model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import click

from sostenuto import Model
from sostenuto._cli.errors import failing_to
from sostenuto._cli.options import connect, server_options
from sostenuto._cli.terminal import on_one_line, print_table, write_json

HEADINGS = ("id", "versions", "cell", "size", "token unit", "vocabulary", "direction", "deterministic")
UNKNOWN = "-"

MODELS_EPILOG = """\
\b
Example:
  sostenuto models --json | jq -r .id"""


@click.command(epilog=MODELS_EPILOG, short_help="List the server's models.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON object of each model, one per line.")
@server_options
def models(*, as_json: bool) -> None:
    """List the server's models: the values of --model, also as ID:VERSION and ID@LABEL. Size is layers × units."""
    with connect() as client:
        listed = client.models()
    if as_json:
        for model in listed:
            write_json(model.raw)
        return
    print_table(HEADINGS, [[on_one_line(cell) for cell in _row(model)] for model in listed], numbers=("vocabulary",))


def _row(model: Model) -> list[str]:
    size = f"{_or_unknown(model.layers)} × {_or_unknown(model.units)}"
    vocabulary = UNKNOWN if model.vocab_size is None else f"{model.vocab_size:,}"
    deterministic = None if model.deterministic is None else "yes" if model.deterministic else "no"
    cells = (model.cell, size, model.unit, vocabulary, model.direction, deterministic)
    return [model.id, _versions(model), *map(_or_unknown, cells)]


def _versions(model: Model) -> str:
    """Return the versions with their labels, the default version first."""
    versions = model.raw.get("versions")
    if not isinstance(versions, list):
        return _or_unknown(model.version)
    in_order = sorted(versions, key=lambda entry: entry.get("version") != model.version)
    return ", ".join(" ".join([str(entry.get("version")), *entry.get("labels", [])]) for entry in in_order)


def _or_unknown(value: object) -> str:
    return UNKNOWN if value is None else str(value)


TOKENIZER_EPILOG = """\
\b
Example:
  sostenuto tokenizer demo -o tokenizers/demo"""


@click.command(epilog=TOKENIZER_EPILOG, short_help="Download a model's tokenizer for other tools.")
@click.argument("model", required=False, envvar="SOSTENUTO_MODEL")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Directory for tokenizer.json and tokenizer_config.json; it is created if there is none.",
)
@server_options
def tokenizer(model: str | None, *, output: Path) -> None:
    """Write the tokenizer of MODEL to a directory that Transformers' AutoTokenizer.from_pretrained loads.

    MODEL is NAME, NAME:VERSION or NAME@LABEL; if omitted, SOSTENUTO_MODEL, or the first model that the server lists.
    """
    with connect() as client, failing_to(f"write {output}"):
        client.save_tokenizer(output, model=model)
