"""Sampling parameters of the API as command-line options. Leaves their limits to the server."""

from __future__ import annotations

import json
from typing import Any, Callable, TypeVar

import click

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
NAMES = (*(option[2:].replace("-", "_") for option, _, _ in _FIELDS), "stop", "ignore_eos")
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
        click.option(
            "--field",
            "fields",
            multiple=True,
            type=_field,
            metavar="NAME=JSON",
            help="Any other field of the API, such as logit_bias='{\"5\": -100}'.",
        ),
    )
    named = [click.option(name, type=kind, metavar=_metavar(kind), help=text) for name, kind, text in _FIELDS]
    for option in reversed((*named, *further)):
        command = option(command)
    return command


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are set, by the API's names."""
    options = {**options, "stop": list(options["stop"]) or None}
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


def _metavar(kind: type) -> str:
    return "N" if kind is int else "X"
