"""Unsupported fields of other servers that would change the text. They are rejected, not ignored.

A client that requests JSON by a schema must not get ordinary text with status 200. Fields that do not change the text
(`user`, `metadata`, `store`, `priority`, `cache_salt`, …) are ignored, and so are unknown fields.

The fields are those of OpenAI's completions and chat, vLLM, SGLang, llama.cpp, text-generation-inference and
text-generation-webui.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

AnyBody = TypeVar("AnyBody", bound=BaseModel)

# Values without an effect, whatever the field.
EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True)
class Unsupported:
    """An unsupported field.

    Attributes:
        reason: Why, or what to use instead.
        neutral: Values without an effect, in addition to the empty ones; they are accepted.
    """

    reason: str
    neutral: tuple[Any, ...] = ()

    def check(self, value: Any) -> Any:
        """Return a value without an effect; reject any other."""
        if any(type(value) in _equal_types(neutral) and value == neutral for neutral in (*EMPTY, *self.neutral)):
            return value
        raise PydanticCustomError(
            "unsupported", "be {allowed}: {reason}", {"allowed": self.allowed, "reason": self.reason}
        )

    @property
    def allowed(self) -> str:
        """The accepted values, for the error message."""
        return " or ".join(["absent", *map(repr, self.neutral)])


def _equal_types(neutral: Any) -> tuple[type, ...]:
    """Return the types of JSON values that may equal a neutral value: 1 is 1.0, but True is neither."""
    return (int, float) if type(neutral) in (int, float) else (type(neutral),)


_CONSTRAINED = "use structured_outputs"
_GRAMMAR = "grammars are not supported; use structured_outputs with regex or json"
_CHAT = "these models have no chat format and call no tools"
_SAMPLER = "this sampling method is not supported"
_BEAMS = "beam search is not supported"
_LORA = "adapters are not supported"
_LENGTH = "use max_tokens"
_PROMPT = "use prompt"
_STOP = "use stop"

COMPLETION_FIELDS: Mapping[str, Unsupported] = {
    # Structured outputs.
    "structural_tag": Unsupported(_GRAMMAR),
    "guided_grammar": Unsupported(_GRAMMAR),
    "guided_whitespace_pattern": Unsupported("at most one space follows a comma or colon"),
    "grammar": Unsupported(_GRAMMAR),
    "ebnf": Unsupported(_GRAMMAR),
    "json_schema": Unsupported(_CONSTRAINED),
    "regex": Unsupported(_CONSTRAINED),
    "allowed_token_ids": Unsupported("use logit_bias"),
    "bad_words": Unsupported("use logit_bias"),
    "logits_processors": Unsupported("use logit_bias"),
    "custom_logit_processor": Unsupported("use logit_bias"),
    "vllm_xargs": Unsupported("extensions of vLLM are not supported"),
    # Conversations.
    "messages": Unsupported(f"{_CHAT}; {_PROMPT}"),
    "tools": Unsupported(_CHAT),
    "tool_choice": Unsupported(_CHAT, ("none", "auto")),
    "functions": Unsupported(_CHAT),
    "function_call": Unsupported(_CHAT, ("none", "auto")),
    "web_search_options": Unsupported(_CHAT),
    "reasoning_effort": Unsupported(_CHAT, ("none",)),
    "modalities": Unsupported("these models generate text only", (["text"],)),
    "audio": Unsupported("these models generate text only"),
    "image_data": Unsupported("these models accept text only"),
    # The prompt.
    "inputs": Unsupported(_PROMPT),
    "parameters": Unsupported("put parameters at the top level of the request"),
    "prompt_embeds": Unsupported("embeddings are not accepted; use prompt"),
    "input_prefix": Unsupported(_PROMPT),
    "input_suffix": Unsupported("use suffix, with a backward model"),
    "truncate": Unsupported("prompts are not truncated"),
    "truncate_prompt_tokens": Unsupported("prompts are not truncated"),
    "return_full_text": Unsupported("use echo", (False,)),
    # Length and end.
    "max_new_tokens": Unsupported(_LENGTH),
    "n_predict": Unsupported(_LENGTH),
    "min_new_tokens": Unsupported("use min_tokens"),
    "t_max_predict_ms": Unsupported("use timeout_s", (0,)),
    "n_indent": Unsupported("minimum indentation is not supported", (0,)),
    "stop_sequences": Unsupported(_STOP),
    "stop_token_ids": Unsupported(_STOP),
    "stop_regex": Unsupported(_STOP),
    "include_stop_str_in_output": Unsupported("the output does not include the stop string", (False,)),
    "no_stop_trim": Unsupported("the output does not include the stop string", (False,)),
    "skip_special_tokens": Unsupported("special tokens have no text", (True,)),
    "watermark": Unsupported("watermarking is not supported", (False,)),
    # Sampling.
    "do_sample": Unsupported("use temperature 0", (True,)),
    "repeat_penalty": Unsupported("use repetition_penalty", (1,)),
    "no_repeat_ngram_size": Unsupported("use repetition_penalty", (0,)),
    "encoder_repetition_penalty": Unsupported("use repetition_penalty", (1,)),
    "typical_p": Unsupported(_SAMPLER, (1,)),
    "tfs": Unsupported(_SAMPLER, (1,)),
    "tfs_z": Unsupported(_SAMPLER, (1,)),
    "top_a": Unsupported(_SAMPLER, (0,)),
    "top_n_sigma": Unsupported(_SAMPLER, (-1, 0)),
    "min_keep": Unsupported(_SAMPLER, (0, 1)),
    "epsilon_cutoff": Unsupported(_SAMPLER, (0,)),
    "eta_cutoff": Unsupported(_SAMPLER, (0,)),
    "mirostat": Unsupported(_SAMPLER, (0,)),
    "mirostat_mode": Unsupported(_SAMPLER, (0,)),
    "dynatemp_range": Unsupported(_SAMPLER, (0,)),
    "dynamic_temperature": Unsupported(_SAMPLER, (False,)),
    "smoothing_factor": Unsupported(_SAMPLER, (0,)),
    "xtc_probability": Unsupported(_SAMPLER, (0,)),
    "dry_multiplier": Unsupported(_SAMPLER, (0,)),
    "penalty_alpha": Unsupported(_SAMPLER, (0,)),
    "samplers": Unsupported("the order of samplers is fixed"),
    "sampler_priority": Unsupported("the order of samplers is fixed"),
    "temperature_last": Unsupported("the order of samplers is fixed", (False,)),
    "guidance_scale": Unsupported(_SAMPLER, (1,)),
    "cfg_scale": Unsupported(_SAMPLER, (1,)),
    "negative_prompt": Unsupported(_SAMPLER),
    # Beams and other models.
    "use_beam_search": Unsupported(_BEAMS, (False,)),
    "num_beams": Unsupported(_BEAMS, (1,)),
    "length_penalty": Unsupported(_BEAMS, (1,)),
    "num_return_sequences": Unsupported("use n", (1,)),
    "lora": Unsupported(_LORA),
    "lora_path": Unsupported(_LORA),
    "adapter_id": Unsupported(_LORA),
}

# Of `structured_outputs`.
STRUCTURED_OUTPUT_FIELDS: Mapping[str, Unsupported] = {
    "grammar": Unsupported("grammars are not supported; use regex or json"),
    "structural_tag": Unsupported("these models have no chat format"),
    "whitespace_pattern": Unsupported("at most one space follows a comma or colon"),
}

EMBEDDING_FIELDS: Mapping[str, Unsupported] = {
    "messages": Unsupported("these models have no chat format; use input"),
    "normalize": Unsupported("embeddings are not normalized", (False,)),
    "truncate": Unsupported("inputs are not truncated", (False,)),
    "truncate_prompt_tokens": Unsupported("inputs are not truncated"),
    "prompt_name": Unsupported("prepend it to the input"),
    "instruction": Unsupported("prepend it to the input"),
    "lora_path": Unsupported(_LORA),
}


def refuse_unsupported(fields: Mapping[str, Unsupported]) -> Callable[[type[AnyBody]], type[AnyBody]]:
    """Return a class decorator that rejects these fields, unless their value has no effect."""
    definitions: dict[str, Any] = {
        name: (
            Annotated[Any, AfterValidator(field.check), WithJsonSchema({"enum": [*EMPTY, *field.neutral]})],
            Field(None, description=f"unsupported; rejected unless its value has no effect: {field.reason}"),
        )
        for name, field in fields.items()
    }

    def extend(body: type[AnyBody]) -> type[AnyBody]:
        return create_model(body.__name__, __base__=body, __doc__=body.__doc__, **definitions)

    return extend
