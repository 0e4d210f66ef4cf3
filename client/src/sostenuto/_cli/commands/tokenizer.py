"""`sostenuto tokenizer`: download a model's tokenizer for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from sostenuto._cli.connection import connect, server_options
from sostenuto._cli.errors import failing_to

EPILOG = """\
\b
Example:
  sostenuto tokenizer demo -o tokenizers/demo"""


@click.command(epilog=EPILOG, short_help="Download a model's tokenizer for other tools.")
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
