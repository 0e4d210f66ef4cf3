"""Fields of OpenAI's and vLLM's requests that have no effect here, and equivalents of other servers' fields.

Every other unknown field is refused: a request for an unsupported feature must not get ordinary text with 200.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

AnyBody = TypeVar("AnyBody", bound=BaseModel)
# The accepted values of each field, besides null.
Accepted = Mapping[str, tuple[Any, ...]]

# Every value is accepted.
ANY = ("any value",)

_OF_CLIENTS: Accepted = dict.fromkeys(
    (
        *("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("priority", "cache_salt", "request_id"),
    ),
    ANY,
)
# Besides these, values that vLLM's types have by default.
COMPLETION_FIELDS: Accepted = {
    **_OF_CLIENTS,
    "spaces_between_special_tokens": ANY,
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "truncate_prompt_tokens": (),
    "prompt_embeds": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "kv_transfer_params": (),
    "vllm_xargs": (),
}
EMBEDDING_FIELDS: Accepted = {
    **_OF_CLIENTS,
    "add_special_tokens": ANY,
    "normalize": (False,),
    "truncate_prompt_tokens": (),
}
STREAM_FIELDS: Accepted = {"include_obfuscation": ANY, "continuous_usage_stats": ANY}
STRUCTURED_OUTPUT_FIELDS: Accepted = {
    "grammar": (),
    "structural_tag": (),
    "whitespace_pattern": (),
    "disable_fallback": ANY,
    "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
}
JSON_SCHEMA_FIELDS: Accepted = {"description": ANY}

# Names on other servers by the name here, where spelling alone would suggest another field or none.
_EQUIVALENTS: Mapping[str, tuple[str, ...]] = {
    "max_tokens": ("max_new_tokens", "max_length", "max_output_tokens", "n_predict", "num_predict"),
    "min_tokens": ("min_new_tokens",),
    "stop": ("stop_sequences", "stop_words", "stop_strings", "stopping_strings", "stop_token_ids", "stop_regex"),
    "seed": ("random_seed",),
    "n": ("num_return_sequences", "num_completions", "candidate_count"),
    "temperature": ("do_sample",),
    "logit_bias": ("allowed_token_ids", "bad_words", "bad_words_ids", "logits_processors", "suppress_tokens"),
    "logprobs": ("n_probs", "details"),
    "repetition_penalty": ("repeat_penalty", "no_repeat_ngram_size"),
    "echo": ("return_full_text",),
    "timeout_s": ("max_time", "t_max_predict_ms"),
    "prompt": ("messages", "input", "inputs", "text"),
    "input": ("messages", "inputs", "prompt", "text"),
    "structured_outputs": (
        *("choice", "grammar", "grammar_string", "ebnf", "guided_decoding", "guided_grammar", "json", "json_object"),
        *("json_schema", "regex", "structural_tag"),
    ),
    # Members of `structured_outputs` and `response_format`.
    "json": ("json_schema", "schema"),
    "regex": ("pattern", "grammar"),
    "json_schema": ("schema",),
}


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """Return the known field that a client probably meant, or None."""
    known = set(known)
    equivalent = next((ours for ours, theirs in _EQUIVALENTS.items() if name in theirs and ours in known), None)
    # At a lower cutoff `structural_tag` would be `structured_outputs`, and `mirostat` would be `state`.
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75) if len(name) < 100 else []
    return equivalent or next(iter(close), None)


def accept_without_effect(fields: Accepted) -> Callable[[type[AnyBody]], type[AnyBody]]:
    """Return a class decorator that accepts these fields with these values, and drops them."""

    def extend(body: type[AnyBody]) -> type[AnyBody]:
        known = [field.alias or name for name, field in body.model_fields.items()]
        definitions: dict[str, Any] = {}
        for name, values in fields.items():
            schema: dict[str, Any] = {} if values is ANY else {"enum": [None, *values]}
            check = AfterValidator(partial(_drop, values=values, instead=suggestion(name, known)))
            described = "ignored" if values is ANY else "unsupported: only values that request nothing are accepted"
            definitions[name] = (Annotated[Any, check, WithJsonSchema(schema)], Field(None, description=described))
        return create_model(body.__name__, __base__=body, __doc__=body.__doc__, **definitions)

    return extend


def _drop(value: Any, values: tuple[Any, ...], instead: str | None) -> None:
    """Accept a value without an effect; refuse any other."""
    if values is ANY or any(type(value) is type(each) and value == each for each in values):
        return
    hint = f"unsupported; use {instead}" if instead else "unsupported"
    allowed = " or ".join(["absent", *map(repr, values)])
    raise PydanticCustomError("unsupported", "be {allowed} ({hint})", {"allowed": allowed, "hint": hint})
