"""Options for server and API key, valid before or after a command's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sostenuto import Client
from sostenuto._cli.errors import Failure, failing_to
from sostenuto._settings import DEFAULT_BASE_URL, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, LONGEST_S

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

CONNECT_S, READ_S = DEFAULT_TIMEOUT

ENVIRONMENT = """\
\b
Environment:
  SOSTENUTO_BASE_URL  URL of the server
  SOSTENUTO_API_KEY   API key; there is no option for it, since other users of
                     this machine could read it in the list of processes
  SOSTENUTO_MODEL     default of --model
  NO_COLOR           disables colors"""


def seconds(value: str) -> float:
    """Parse a timeout."""
    number = float(value)
    if not 0 < number <= LONGEST_S:
        raise click.BadParameter(f"must be above 0 and at most {LONGEST_S:,.0f}, got {value}")
    return number


def server_options(command: Decorated) -> Decorated:
    """Add the server options; those after a command's name override those before it."""
    for option in reversed(
        (
            _option(
                "--base-url",
                metavar="URL",
                help=f"URL of the server.  [default: SOSTENUTO_BASE_URL, or {DEFAULT_BASE_URL}]",
            ),
            _option(
                "--api-key-file",
                type=click.Path(dir_okay=False, path_type=Path),
                help="File with the API key.  [default: the key in SOSTENUTO_API_KEY]",
            ),
            _option(
                "--timeout",
                type=seconds,
                metavar="SECONDS",
                help=f"Read timeout: maximum wait for the next bytes.  [default: {READ_S:g}]",
            ),
            _option(
                "--retries",
                type=click.IntRange(min=0),
                metavar="N",
                help=f"Maximum retries of a request, where retrying is safe.  [default: {DEFAULT_MAX_RETRIES}]",
            ),
        )
    ):
        command = option(command)
    return command


model_option = click.option(
    "--model",
    envvar="SOSTENUTO_MODEL",
    metavar="NAME",
    help="Model: NAME, NAME:VERSION or NAME@LABEL.  [default: SOSTENUTO_MODEL, or the first model that the server "
    "lists]",
)


def connect() -> Client:
    """Create the client from the options.

    Raises:
        Failure: the API key file cannot be read.
        InvalidArgument: an option's value is invalid.
    """
    read_s, retries = given_option("timeout") or READ_S, given_option("retries")
    return Client(
        given_option("base_url"),
        api_key=api_key(),
        timeout=(min(CONNECT_S, read_s), read_s),
        max_retries=DEFAULT_MAX_RETRIES if retries is None else retries,
    )


def given_option(name: str) -> Any:
    """Return the value of a server option, or None if it is not given."""
    return _stored_options(click.get_current_context()).get(name)


def api_key() -> str | None:
    """Return the API key of --api-key-file, or None if it is not given.

    Raises:
        Failure: the file cannot be read.
    """
    path = given_option("api_key_file")
    return None if path is None else _read_key(path)


def reading(client: Client, model: str | None) -> tuple[str | None, bool]:
    """Return the model's name and whether it is a backward model, with one request."""
    models = client.models()
    if model is None:
        return (models[0].id, models[0].direction == "backward") if models else (None, False)
    root = model.replace("@", ":").partition(":")[0]
    return model, any(listed.id == root and listed.direction == "backward" for listed in models)


def _option(*names: str, **kwargs: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*names, expose_value=False, callback=_store, **kwargs)


def _store(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None:
        _stored_options(context)[str(option.name)] = value


def _stored_options(context: click.Context) -> dict[str, Any]:
    options: dict[str, Any] = context.find_root().ensure_object(dict)
    return options


def _read_key(path: Path) -> str:
    try:
        with failing_to(f"read {path}"):
            key = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise Failure(f"{path} has no API key: it is not text") from error
    if not key:
        raise Failure(f"{path} has no API key: it is empty")
    return key
