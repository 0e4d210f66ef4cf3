"""The API's fields as keyword arguments: names, types, and conversion to a request body, a path or a query."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote, urlencode

from sostenuto._errors import InvalidArgument

OnePrompt: TypeAlias = str | Sequence[int]
ManyPrompts: TypeAlias = Sequence[str] | Sequence[Sequence[int]]
Prompt: TypeAlias = OnePrompt | ManyPrompts
JSONSchema: TypeAlias = dict[str, Any] | bool | str | type[Any]

Method = TypeVar("Method", bound=Callable[..., Any])


class CompletionArguments(TypedDict, total=False):
    """Keyword arguments of `Client.generate`, which documents the most important ones, and of `Client.stream`."""

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    n: int | None
    labels: Mapping[str, str | float] | None
    # Members of the field `structured_outputs`.
    regex: str | None
    choices: Sequence[str] | None
    json_schema: JSONSchema | None
    allowed: str | None
    banned: str | None
    # Further fields of the API.
    min_length: int | None
    min_tokens: int | None
    ignore_eos: bool | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[str, float] | None
    best_of: int | None
    echo: bool | None
    logprobs: int | None
    prompt_logprobs: int | None
    return_state: bool | None
    state: str | None
    timeout_s: float | None
    unique: bool | None
    not_in_training: bool | None
    complete_within_max_tokens: bool | None
    top_texts: int | None
    use_beam_search: bool | None
    length_penalty: float | None
    interventions: Sequence[Mapping[str, Any]] | None
    add_special_tokens: bool | None
    user: str | None
    stream_options: Mapping[str, Any] | None
    # Other notations of structured outputs, from vLLM and OpenAI.
    structured_outputs: Mapping[str, Any] | None
    guided_regex: str | None
    guided_choice: Sequence[str] | None
    guided_json: Any
    response_format: Mapping[str, Any] | None
    # Fields that this client does not know.
    extra_body: Mapping[str, Any] | None
    suffix: Prompt | None


class ManyArguments(CompletionArguments, total=False):
    """Keyword arguments of `Client.generate_many`."""

    seeds: Sequence[int] | None
    concurrency: int | None
    progress: bool | None


STRUCTURED_OUTPUTS = "structured_outputs"
PATTERNS = ("regex", "choices", "json_schema")  # a completion has one of them
# Members of `structured_outputs`, by argument.
_MEMBERS = {
    "regex": "regex",
    "choices": "choice",
    "json_schema": "json",
    "allowed": "allowed_characters",
    "banned": "banned_characters",
}


def with_signature(arguments: type) -> Callable[[Method], Method]:
    """Return a decorator that replaces `**` in a signature with these arguments, for `help()`, notebooks and docs."""

    def decorate(method: Method) -> Method:
        signature = inspect.signature(method)
        *own, _ = signature.parameters.values()
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
            for name, kind in arguments.__annotations__.items()
        ]
        vars(method)["__signature__"] = signature.replace(parameters=[*own, *named])
        return method

    return decorate


def present_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields to send: those that are not None, and those in `extra_body`.

    Unknown names are left to the server, which refuses them with a suggestion.
    """
    every = {**fields, **(fields.get("extra_body") or {})}
    return {name: value for name, value in every.items() if value is not None and name != "extra_body"}


def with_structured_outputs(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with `structured_outputs` instead of its arguments.

    Raise InvalidArgument for arguments that contradict each other or have the name of a member.
    """
    for argument, member in _MEMBERS.items():
        if member in fields and member not in _MEMBERS:
            raise InvalidArgument(f"unknown argument {member}: did you mean {argument}?")
    given = {name: fields[name] for name in _MEMBERS if fields.get(name) is not None}
    rest = {name: value for name, value in fields.items() if name not in _MEMBERS}
    if not given:
        return rest
    patterns = [name for name in given if name in PATTERNS]
    if len(patterns) > 1:
        raise InvalidArgument(
            f"{patterns[0]} and {patterns[1]} exclude each other, as a completion has one pattern: pass one of them"
        )
    if any(each.get(STRUCTURED_OUTPUTS) is not None for each in (rest, rest.get("extra_body") or {})):
        raise InvalidArgument(f"{next(iter(given))} and {STRUCTURED_OUTPUTS} exclude each other: pass one of them")
    if "json_schema" in given:
        given["json_schema"] = as_json_schema(given["json_schema"])
    return {**rest, STRUCTURED_OUTPUTS: {_MEMBERS[name]: value for name, value in given.items()}}


def as_json_schema(schema: JSONSchema) -> Any:
    """Return a schema as JSON; for a pydantic model, its `model_json_schema()`."""
    return schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema


def is_many(prompt: Prompt) -> bool:
    """Return whether it is a list of prompts, not a single one."""
    return not isinstance(prompt, str) and len(prompt) > 0 and not isinstance(prompt[0], int)


def path_of(parent: str, **segments: str) -> str:
    """Return a path with further segments, percent-encoded.

    Raise InvalidArgument, with the segment's name, for one that a path cannot have: "" would request the parent, and
    HTTP clients remove "." and "..", also in percent-encoding.
    """
    for name, segment in segments.items():
        if not isinstance(segment, str) or segment in {"", ".", ".."}:
            raise InvalidArgument(f"{name} is {segment!r}: pass a str other than '', '.' and '..'")
        parent = f"{parent}/{quote(as_utf8(name, segment), safe='')}"
    return parent


def with_query(path: str, **fields: str | int | None) -> str:
    """Return a path with a query of those fields that are not None; raise InvalidArgument if one cannot be encoded."""
    given = {name: as_utf8(name, str(value)) for name, value in fields.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def as_utf8(name: str, text: str, *, errors: str = "strict") -> bytes:
    """Encode a text; raise InvalidArgument, with its name, if it has a lone surrogate."""
    try:
        return text.encode(errors=errors)
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{name} has a lone surrogate, {text[error.start]!a}, at character {error.start:,}, which UTF-8 cannot "
            "encode: decode the text with its own encoding"
        ) from None
