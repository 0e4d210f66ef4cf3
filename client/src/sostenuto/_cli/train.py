"""`sostenuto train --server`: train on a server, the only way without the server's distribution."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from sostenuto._cli.errors import Failure
from sostenuto._cli.job_display import follow
from sostenuto._cli.options import connect, given_options, server_options
from sostenuto._cli.terminal import STDIN, write_text

LOCAL = (
    "without --server, `sostenuto train` trains in this process, which needs the distribution sostenuto-server: "
    "install it in the same environment, or pass --server URL"
)
SERVER_HELP = "Train on the server at this URL, which publishes the model there. An API key needs the role `train`."
DETACH_HELP = "With --server: print the id of the job, and do not wait for its end."

# Arguments of `Client.train` that are not settings.
_NO_SETTINGS = {"text", "minutes", "model"}

EPILOG = """\
\b
Examples:
  sostenuto train book.txt --server http://127.0.0.1:8000
  sostenuto train names.txt --server http://127.0.0.1:8000 --documents lines --units 256 --max-minutes 2"""


def train_on_server(
    server: str,
    corpus: str | None,
    *,
    recipe: str | None,
    base: str | None,
    name: str | None,
    validation: str | None,
    settings: dict[str, Any],
    detach: bool = False,
) -> None:
    """Train on a server, and show the progress; with `detach`, leave the job once it exists.

    `corpus` is the path of a file or directory, or `-` for standard input; `validation` that of a text to validate
    with. `base` is a served model to fine-tune; without it or a recipe, the default recipe trains a new model.
    """
    if corpus is None:
        raise click.UsageError("a corpus is required with --server: pass a file, a directory, or - for standard input")
    if "" in {corpus, validation}:
        raise click.UsageError('a path is empty: pass a file or a directory, such as "." for this one')
    if corpus == STDIN and name is None:
        raise click.UsageError("standard input has no name for the model: pass --name")
    given_options()["base_url"] = server
    text = sys.stdin.buffer.read() if corpus == STDIN else Path(corpus)
    fraction = settings.pop("validation", None)
    held_out = fraction if validation is None else Path(validation)
    with connect() as client:
        try:
            if base is not None and not {":", "@"} & set(base):
                # A name alone could be that of a recipe.
                base = f"{base}:{client.model(base).version}"
            job = client.train(text, model=recipe or base, name=name, validation=held_out, **settings)
        except OSError as error:  # its file is the corpus, one of its files, or the text to validate with
            raise Failure(f"cannot read {error.filename or corpus}: {error.strerror}") from error
        if detach:
            write_text(f"{job.id}\n")
        else:
            follow(job)


@click.command(
    epilog=EPILOG, short_help="Train a generator on a server.", context_settings={"ignore_unknown_options": True}
)
@click.argument("corpus", metavar="CORPUS [--SETTING VALUE]...")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option("--server", metavar="URL", help=SERVER_HELP)
@click.option("--config", metavar="RECIPE", help="Recipe of a new model.  [default: characters-3-minutes]")
@click.option("--from", "base", metavar="MODEL", help="Fine-tune this served model.")
@click.option("--name", metavar="NAME", help="Name of the model.  [default: that of the file or directory]")
@click.option("--validation-corpus", metavar="PATH", help="Text to validate with, instead of a part of CORPUS.")
@click.option("--detach", is_flag=True, help=DETACH_HELP)
@server_options
def train(
    corpus: str,
    settings: tuple[str, ...],
    *,
    server: str | None,
    config: str | None,
    base: str | None,
    name: str | None,
    validation_corpus: str | None,
    detach: bool,
) -> None:
    """Train a generator on CORPUS, on a server: a text file, a directory of text files, or - for standard input.

    Any other option is a setting of the training, such as --units 512 or --max-minutes 20; the server checks them. With
    the distribution sostenuto-server, `sostenuto train --help` lists them.
    """
    if server is None:
        raise Failure(LOCAL)
    if config is not None and base is not None:
        raise click.UsageError("--config and --from exclude each other: a model begins with a recipe or a model")
    parsed = _parsed(settings)
    require_one_validation("validation" in parsed, validation_corpus)
    train_on_server(
        server,
        corpus,
        recipe=config,
        base=base,
        name=name,
        validation=validation_corpus,
        settings=parsed,
        detach=detach,
    )


def require_one_validation(has_fraction: bool, corpus: str | None) -> None:
    """Raise UsageError if both the fraction to hold out and a text to validate with are given."""
    if has_fraction and corpus is not None:
        raise click.UsageError(
            "--validation and --validation-corpus exclude each other: a fraction of CORPUS is held out, or another text"
        )


def _parsed(words: tuple[str, ...]) -> dict[str, Any]:
    """Parse options without knowing them: `--units 512`, `--units=512`, `--bidirectional`, `--no-bidirectional`.

    One that is given several times has a list of values.
    """
    settings: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not option:
            raise click.UsageError(f"one CORPUS is required, got {word!r}, too")
        if option in _NO_SETTINGS:
            raise click.UsageError(f"there is no --{option}: see --config, --from, --name and --max-minutes")
        name = option.replace("-", "_")
        if has_value or (rest and not rest[0].startswith("--")):
            parsed = _value(value if has_value else rest.pop(0))
            before = settings.get(name, [])
            every = [*(before if isinstance(before, list) else [before]), parsed]
            settings[name] = every if name in settings else parsed
        else:
            settings[name.removeprefix("no_")] = not name.startswith("no_")
    return settings


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text
