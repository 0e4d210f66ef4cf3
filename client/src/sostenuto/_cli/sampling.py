"""Sampling parameters and structured outputs as command-line options. Leaves their limits to the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sostenuto._cli.errors import Failure
from sostenuto._cli.inputs import from_file

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# option, type, help
_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("--max-tokens", int, "Maximum number of tokens to generate."),
    ("--temperature", float, "Sampling temperature; 0 is greedy decoding."),
    ("--top-p", float, "Sample from the most probable tokens whose probabilities add up to this."),
    ("--top-k", int, "Sample from this many of the most probable tokens."),
    ("--min-p", float, "Exclude tokens below this fraction of the highest probability."),
    ("--seed", int, "Seed of the sampling: the same seed reproduces the same text."),
    ("--presence-penalty", float, "Subtract this once from the logit of each generated token."),
    ("--frequency-penalty", float, "Subtract this from a token's logit each time it has been generated."),
    ("--repetition-penalty", float, "Above 1: make tokens of the prompt and of the output less probable; 1 is off."),
)
# Options of patterns, by the client's argument; a completion has one pattern.
_PATTERNS = {"regex": "--regex", "choices": "--choice", "json_schema": "--json-schema"}
NAMES = (
    *(option[2:].replace("-", "_") for option, _, _ in _FIELDS), "stop", "ignore_eos", *_PATTERNS, "allowed", "banned",
    "min_length",
)  # fmt: skip
# Fields that have an option of their own, so `--field` refuses them.
_OWN = {
    *NAMES, "model", "prompt", "suffix", "stream", "stream_options", "n", "echo", "logprobs", "state", "return_state",
}  # fmt: skip


def sampling_options(command: Decorated) -> Decorated:
    """Add an option for each field; its default is None, which leaves the default to the server."""
    further = (
        click.option(
            "--stop", multiple=True, metavar="TEXT", help="Stop string: generation stops before it. Repeatable."
        ),
        click.option("--ignore-eos", is_flag=True, default=None, help="Never sample the end token (EOS)."),
        click.option("--regex", metavar="REGEX", help="Regular expression that the whole completion matches."),
        click.option(
            "--choice", "choices", multiple=True, metavar="TEXT", help="The completion is one of these. Repeatable."
        ),
        click.option(
            "--json-schema",
            type=_schema,
            metavar="FILE|JSON",
            help="The completion is JSON that is valid against this JSON Schema.",
        ),
        click.option("--allowed", metavar="CHARACTERS", help="The completion has no other characters."),
        click.option("--banned", metavar="CHARACTERS", help="The completion has none of these characters."),
        click.option("--min-length", type=int, metavar="N", help="Minimum number of characters of the completion."),
        click.option(
            "--field",
            "fields",
            multiple=True,
            type=_field,
            metavar="NAME=JSON",
            help="Any other field of the API, such as logit_bias='{\"5\": -100}'.",
        ),
    )
    metavars = {int: "N", float: "X"}
    named = [click.option(name, type=kind, metavar=metavars[kind], help=text) for name, kind, text in _FIELDS]
    for option in reversed((*named, *further)):
        command = option(command)
    return command


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are set, as arguments of the client.

    Raises:
        click.UsageError: there are several patterns.
    """
    options = {**options, **{name: list(options[name]) or None for name in ("stop", "choices")}}
    patterns = [option for name, option in _PATTERNS.items() if options[name] is not None]
    if len(patterns) > 1:
        raise click.UsageError(f"{patterns[0]} and {patterns[1]} exclude each other: a completion has one pattern")
    further = dict(options.pop("fields"))
    fields = {name: value for name, value in options.items() if value is not None}
    return {**fields, "extra_body": further} if further else fields


def _field(argument: str) -> tuple[str, Any]:
    """Parse `NAME=JSON`."""
    name, _, value = argument.partition("=")
    if not name or name in _OWN:
        raise click.BadParameter(f"{argument!r} has an option of its own" if name else f"{argument!r} is not NAME=JSON")
    try:
        return name, json.loads(value)
    except ValueError:
        raise click.BadParameter(f"{argument!r} is not NAME=JSON") from None


def _schema(argument: str) -> Any:
    """Parse a JSON Schema, given directly or as the name of a file; raise Failure if it is not JSON."""
    is_json = argument.lstrip().startswith("{")
    try:
        return json.loads(argument if is_json else from_file(Path(argument)))
    except ValueError as error:
        raise Failure(f"{'--json-schema' if is_json else argument} is not JSON: {error}") from error
