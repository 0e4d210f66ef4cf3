"""Names and types of the API's fields. The client rejects misspelt ones before it sends a request."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Union

from sostenuto._errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

OnePrompt = Union[str, "Sequence[int]"]
ManyPrompts = Union["Sequence[str]", "Sequence[Sequence[int]]"]
Prompt = Union[OnePrompt, ManyPrompts]

COMPLETION_FIELDS = frozenset({
    "model", "prompt", "suffix", "max_tokens", "min_tokens", "ignore_eos", "temperature", "top_p", "top_k", "min_p",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed", "stop", "n", "best_of",
    "echo", "logprobs", "prompt_logprobs", "stream_options", "return_state", "state", "timeout_s",
    "add_special_tokens", "user", "min_length", "structured_outputs", "guided_regex", "guided_choice", "guided_json",
    "response_format", "complete_within_max_tokens", "unique", "not_in_training",
})  # fmt: skip
EMBEDDING_FIELDS = frozenset({"model", "input", "pooling", "dimensions", "timeout_s", "user"})
TOKENIZE_FIELDS = frozenset({"prompt", "return_token_strs", "tokens"})  # and of detokenize
INSPECT_FIELDS = frozenset({
    "model", "input", "state", "include", "layers", "return_sequences", "return_state", "go_backwards", "logprobs",
    "max_positions", "max_units", "timeout_s",
})  # fmt: skip


def present_fields(fields: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """Return the fields to send: those that are not None, and what `extra_body` contains.

    Raises:
        InvalidArgument: a name is no field of the API.
    """
    extra_body = fields.pop("extra_body", None) or {}
    for name in fields.keys() - allowed:
        matches = difflib.get_close_matches(name, allowed, n=1)
        instead = f"did you mean {matches[0]}? " if matches else ""
        raise InvalidArgument(
            f"unknown argument {name}: {instead}pass fields that are not arguments in extra_body={{{name!r}: …}}"
        )
    return {name: value for name, value in {**fields, **extra_body}.items() if value is not None}


def is_many(prompt: Prompt) -> bool:
    """Return whether it is a list of prompts, not a single one."""
    return not isinstance(prompt, str) and len(prompt) > 0 and not isinstance(prompt[0], int)
