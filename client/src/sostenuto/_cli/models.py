"""`sostenuto models` and `sostenuto tokenizer`: list and change models, and download a model's tokenizer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from sostenuto import Client, Model, ModelVersion
from sostenuto._cli.errors import SERVER_FAILED, Failure, failing_to
from sostenuto._cli.options import connect, server_options
from sostenuto._cli.terminal import print_table, write_json, write_text

HEADINGS = ("id", "versions", "cell", "size", "token unit", "vocabulary", "direction", "deterministic")

VERSION_HEADINGS = ("version", "labels", "traffic", "loss", "bits/char", "parameters", "size", "corpus", "from")
NUMBERS = ("vocabulary", "version", "traffic", "loss", "bits/char", "parameters", "size")

MODELS_EPILOG = """\
\b
Examples:
  sostenuto models --json | jq -r .id
  sostenuto models show book
  sostenuto models promote book:2 --label canary
  sostenuto models split book stable=90 canary=10
  sostenuto models delete book:1"""


@click.group(
    epilog=MODELS_EPILOG,
    invoke_without_command=True,
    short_help="List the server's models; promote, roll back, delete.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON object of each model, one per line.")
@server_options
@click.pass_context
def models(context: click.Context, *, as_json: bool) -> None:
    """List the server's models: the values of --model, also as ID:VERSION and ID@LABEL. Size is layers × units.

    The commands below show and change a model of the server. Those without `models`, such as `sostenuto promote`,
    change the model repository of this machine.
    """
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        listed = client.models()
    if as_json:
        for model in listed:
            write_json(model.raw)
        return
    print_table(HEADINGS, map(_row, listed), numbers=NUMBERS)


@models.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON object.")
@server_options
def show(model: str, *, as_json: bool) -> None:
    """Show the versions of MODEL: labels, traffic, loss in nats per token, parameters, size on disk and corpus."""
    with connect() as client:
        found = client.model(model)
    if as_json:
        return write_json(found.raw)
    print_table(VERSION_HEADINGS, map(_version_row, found.versions), numbers=NUMBERS)
    if found.unloaded:
        write_text(f"not loaded: {', '.join(map(str, found.unloaded))}\n")
    return None


@models.command()
@click.argument("version")
@click.option("--label", default="stable", metavar="LABEL", help="Label to move.")
@server_options
def promote(version: str, *, label: str) -> None:
    """Move a label, by default stable, to VERSION, which is NAME:VERSION."""
    name, _, number = version.rpartition(":")
    if not name or not (number.isascii() and number.isdigit()):
        raise click.UsageError(f"VERSION must be NAME:VERSION, such as book:2, got {version!r}")
    _change(lambda client: client.promote(name, int(number), label=label))


@models.command()
@click.argument("model")
@click.argument("label")
@server_options
def unlabel(model: str, label: str) -> None:
    """Remove LABEL from MODEL."""
    _change(lambda client: client.update_model(model, labels={label: None}))


@models.command()
@click.argument("model")
@click.argument("shares", nargs=-1, metavar="[TARGET=SHARE]...")
@server_options
def split(model: str, shares: tuple[str, ...]) -> None:
    """Split the traffic of MODEL. TARGET is a label or the number of a version; without any, the split ends."""
    parsed = dict(map(_share, shares))
    if len(parsed) < len(shares):
        raise click.UsageError("each TARGET can have only one share")
    _change(lambda client: client.update_model(model, shares=parsed))


def _share(text: str) -> tuple[str, float]:
    target, _, share = text.partition("=")
    try:
        return target, float(share)
    except ValueError:
        raise click.UsageError(f"a share must be TARGET=NUMBER, such as canary=10, got {text!r}") from None


@models.command()
@click.argument("model")
@server_options
def rollback(model: str) -> None:
    """Make the version of MODEL stable that was stable before."""
    _change(lambda client: client.rollback(model))


@models.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation; required without a terminal.")
@server_options
def delete(model: str, *, yes: bool) -> None:
    """Delete MODEL, or the version NAME:VERSION of one, and its files."""
    if not yes and not sys.stdin.isatty():
        raise Failure("nothing was deleted: there is no terminal to confirm on; pass --yes")
    if not yes and not click.confirm(f"delete {model}? This cannot be undone.", err=True):
        write_text("nothing was deleted\n")
        click.get_current_context().exit(SERVER_FAILED)
    with connect() as client:
        client.delete_model(model)
    write_text(f"deleted {model}\n")


def _change(send: Callable[[Client], Model]) -> None:
    with connect() as client:
        model = send(client)
    print_table(VERSION_HEADINGS[:3], map(_traffic_row, model.versions), numbers=NUMBERS)
    for label, number in (model.labels or {}).items():
        if number in (model.unloaded or ()):
            write_text(f"{model.id}:{number} is being loaded for {label}\n")


def _traffic_row(version: ModelVersion) -> list[object]:
    return [version.version, ", ".join(version.labels) or None, f"{version.share:.0%}"]


def _version_row(version: ModelVersion) -> list[object]:
    return [
        *_traffic_row(version),
        _formatted(version.validation_loss, ".3f"),
        _formatted(version.bits_per_character, ".3f"),
        _formatted(version.parameters, ",d"),
        None if version.size_bytes is None else f"{version.size_bytes / 1e6:.1f} MB",
        version.corpus,
        version.parent,
    ]


def _row(model: Model) -> list[object]:
    size = " × ".join("-" if number is None else str(number) for number in (model.layers, model.units))
    deterministic = None if model.deterministic is None else "yes" if model.deterministic else "no"
    vocabulary = _formatted(model.vocab_size, ",d")
    return [model.id, _versions(model), model.cell, size, model.unit, vocabulary, model.direction, deterministic]


def _versions(model: Model) -> object:
    """Return the versions with their labels, the default version first."""
    in_order = sorted(model.versions, key=lambda each: each.version != model.version)
    return ", ".join(" ".join([str(each.version), *each.labels]) for each in in_order) or model.version


def _formatted(number: float | None, form: str) -> str | None:
    return None if number is None else format(number, form)


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
