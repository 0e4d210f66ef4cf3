"""Options that commands share: server and API key, model, sampling parameters and structured outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from sostenuto import Client
from sostenuto._cli.errors import Failure
from sostenuto._cli.terminal import text_of
from sostenuto._settings import DEFAULT_BASE_URL, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, LONGEST_S

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

CONNECT_S, READ_S = DEFAULT_TIMEOUT
FILE = click.Path(dir_okay=False, path_type=Path)

ENVIRONMENT = """\
\b
Environment:
  SOSTENUTO_BASE_URL  URL of the server
  SOSTENUTO_API_KEY   API key; there is no option for it, since other users of
                     this machine could read it in the list of processes
  SOSTENUTO_MODEL     default of --model
  NO_COLOR           disables colors"""

# Names of patterns, by the client's argument; a completion has one pattern.
_PATTERNS = {"regex": "--regex", "choices": "--choice", "json_schema": "--json-schema"}
# Fields of sampling options, as arguments of the client.
NAMES = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "stop", "ignore_eos", *_PATTERNS, "allowed", "banned", "min_length", "labels",
)  # fmt: skip
# Fields that have an option of their own, so `--field` refuses them.
_OWN = {
    *NAMES, "model", "prompt", "suffix", "stream", "stream_options", "n", "echo", "logprobs", "state", "return_state",
    "top_texts", "use_beam_search", "length_penalty",
}  # fmt: skip


def seconds(value: str) -> float:
    number = float(value)
    if not 0 < number <= LONGEST_S:
        raise click.BadParameter(f"must be above 0 and at most {LONGEST_S:,.0f}, got {value}")
    return number


def server_options(command: Decorated, *, read_s: float = READ_S, max_retries: int = DEFAULT_MAX_RETRIES) -> Decorated:
    """Add the server options, whose help has these defaults; those after a command override those before it."""
    store: dict[str, Any] = {"expose_value": False, "callback": _store}
    url = f"URL of the server.  [default: SOSTENUTO_BASE_URL, or {DEFAULT_BASE_URL}]"
    key = "File with the API key.  [default: the key in SOSTENUTO_API_KEY]"
    timeout = f"Read timeout: maximum wait for the next bytes.  [default: {read_s:g}]"
    retries = f"Maximum retries of a request, where retrying is safe.  [default: {max_retries}]"
    return _with_options(
        command,
        click.option("--base-url", metavar="URL", help=url, **store),
        click.option("--api-key-file", type=FILE, help=key, **store),
        click.option("--timeout", type=seconds, metavar="SECONDS", help=timeout, **store),
        click.option("--retries", type=click.IntRange(min=0), metavar="N", help=retries, **store),
    )


model_option = click.option(
    "--model",
    envvar="SOSTENUTO_MODEL",
    metavar="NAME",
    help="Model: NAME, NAME:VERSION or NAME@LABEL.  [default: SOSTENUTO_MODEL, or the first model that the server "
    "lists]",
)


def chosen_model(model: str | None) -> str | None:
    """Return the model of `--model`; None for the environment's default, which is none where a text has its own."""
    source = click.get_current_context().get_parameter_source("model")
    return model if source is ParameterSource.COMMANDLINE else None


def _label(argument: str) -> tuple[str, str]:
    name, separator, label = argument.partition("=")
    if not name or not separator:
        raise click.BadParameter(f"{argument!r} is not COLUMN=LABEL")
    return name, label


label_option = click.option(
    "--label",
    "labels",
    multiple=True,
    type=_label,
    callback=lambda _context, _option, pairs: dict(pairs) or None,
    metavar="COLUMN=LABEL",
    help="Label of the text, for a model that was trained with labels; a number selects its bin. Repeatable.",
)


def connect() -> Client:
    options = given_options()
    read_s = options.get("timeout", READ_S)
    timeout, max_retries = (min(CONNECT_S, read_s), read_s), options.get("retries", DEFAULT_MAX_RETRIES)
    return Client(options.get("base_url"), api_key=api_key(), timeout=timeout, max_retries=max_retries)


def given_options() -> dict[str, Any]:
    options: dict[str, Any] = click.get_current_context().find_root().ensure_object(dict)
    return options


def api_key() -> str | None:
    path = given_options().get("api_key_file")
    if path is None:
        return None
    key = text_of(path).strip()
    if not key:
        raise Failure(f"{path} has no API key: it is empty")
    return key


def sampling_options(command: Decorated) -> Decorated:
    """Add an option for each of NAMES and `--field`; the default is None, which leaves the default to the server."""

    def number(name: str, kind: type, text: str) -> Callable[[Decorated], Decorated]:
        return click.option(name, type=kind, metavar="N" if kind is int else "X", help=text)

    stop, choice = "Stop string: generation stops before it. Repeatable.", "The completion is one of these. Repeatable."
    schema = "The completion is JSON that is valid against this JSON Schema."
    field = "Any other field of the API, such as logit_bias='{\"5\": -100}'."
    return _with_options(
        command,
        number("--max-tokens", int, "Maximum number of tokens to generate."),
        number("--temperature", float, "Sampling temperature; 0 is greedy decoding."),
        number("--top-p", float, "Sample from the most probable tokens whose probabilities add up to this."),
        number("--top-k", int, "Sample from this many of the most probable tokens."),
        number("--min-p", float, "Exclude tokens below this fraction of the highest probability."),
        number("--seed", int, "Seed of the sampling: the same seed reproduces the same text."),
        number("--presence-penalty", float, "Subtract this once from the logit of each generated token."),
        number("--frequency-penalty", float, "Subtract this from a token's logit each time it has been generated."),
        number("--repetition-penalty", float, "Above 1: make tokens of prompt and output less probable; 1 is off."),
        click.option("--stop", multiple=True, metavar="TEXT", help=stop),
        click.option("--ignore-eos", is_flag=True, default=None, help="Never sample the end token (EOS)."),
        click.option("--regex", metavar="REGEX", help="Regular expression that the whole completion matches."),
        click.option("--choice", "choices", multiple=True, metavar="TEXT", help=choice),
        click.option("--json-schema", type=parse_schema, metavar="FILE|JSON", help=schema),
        click.option("--allowed", metavar="CHARACTERS", help="The completion has no other characters."),
        click.option("--banned", metavar="CHARACTERS", help="The completion has none of these characters."),
        number("--min-length", int, "Minimum number of characters of the completion."),
        label_option,
        click.option("--field", "fields", multiple=True, type=_field, metavar="NAME=JSON", help=field),
    )


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are set, as arguments of the client."""
    options = {**options, **{name: list(options[name]) or None for name in ("stop", "choices")}}
    patterns = [option for name, option in _PATTERNS.items() if options[name] is not None]
    if len(patterns) > 1:
        raise click.UsageError(f"{patterns[0]} and {patterns[1]} exclude each other: a completion has one pattern")
    further = dict(options.pop("fields"))
    fields = {name: value for name, value in options.items() if value is not None}
    return {**fields, "extra_body": further} if further else fields


def _with_options(command: Decorated, *options: Callable[[Decorated], Decorated]) -> Decorated:
    """Add options in their order; decorators apply from the last to the first."""
    for option in reversed(options):
        command = option(command)
    return command


def _store(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None:
        context.find_root().ensure_object(dict)[option.name] = value


def _field(argument: str) -> tuple[str, Any]:
    name, _, value = argument.partition("=")
    if not name or name in _OWN:
        raise click.BadParameter(f"{argument!r} has its own option" if name else f"{argument!r} is not NAME=JSON")
    try:
        return name, json.loads(value)
    except ValueError:
        raise click.BadParameter(f"{argument!r} is not NAME=JSON") from None


def parse_schema(argument: str) -> Any:
    """Parse a JSON Schema, given directly or as the name of a file; raise Failure if it is not JSON."""
    is_json = argument.lstrip().startswith("{")
    try:
        return json.loads(argument if is_json else text_of(Path(argument)))
    except (ValueError, RecursionError) as error:
        raise Failure(f"{'--json-schema' if is_json else argument} is not JSON: {error}") from error
