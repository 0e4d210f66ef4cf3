"""Request bodies as clients send them: name, type, limits and description of every field.

Validation and `/openapi.json` derive from these types. `service.api.parameters` validates fields against each other.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_LOGPROBS = 5
MAX_BIAS = 1024
MAX_NEIGHBORS = 100
MAX_MAPPED = 10_000
# Whatever the server's own limit (OSTINATO_MAX_PROMPTS, at most this): longer lists are refused unvalidated.
MAX_PROMPTS = 4096
MAX_ID = 2**31 - 1
# Characters of a resume token: that of a model of 1,024 units and two layers has some 20,000.
MAX_STATE = 2**21

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, le=MAX_ID)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
# A single stop string becomes a list of one: a union of both types would report every error twice.
Stops = Annotated[
    list[Stop],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 1000},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 1000},
                    "maxItems": MAX_STOPS,
                },
            ]
        }
    ),
]


def _require_few_biases(value: Any) -> Any:
    """Refuse a long mapping before its values are validated: each wrong one would be an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_BIAS:
        raise PydanticCustomError("too_long", "Dictionary should have at most {n} items", {"n": MAX_BIAS})
    return value


LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_require_few_biases),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_BIAS,
        }
    ),
]


def _prompt_kind(value: Any) -> str:
    """Return the kind of a prompt by its first item, so that a wrong one gets one error and not one for each kind."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list):
        return "token lists"
    if isinstance(first, str):
        return "texts"
    return "tokens" if isinstance(value, list) else "text"


# Kinds of prompt: pydantic puts them into the location of an error, but a client knows only the field.
PROMPT_KINDS = {"text", "texts", "tokens", "token lists"}
Tokens = Annotated[list[TokenId], Field(fail_fast=True)]
PromptForms = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("texts")]
    | Annotated[list[TokenId], Field(min_length=1, fail_fast=True), Tag("tokens")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("token lists")],
    Discriminator(_prompt_kind),
]


OnePrompt = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TokenId], Field(min_length=1, fail_fast=True), Tag("tokens")],
    Discriminator(lambda value: "tokens" if isinstance(value, list) else "text"),
]


class Body(BaseModel):
    """A request body: null means absent; unknown fields are ignored, as OpenAI's clients expect; see `unsupported`."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _with_example(**fields: Any) -> ConfigDict:
    """Return a configuration that puts an example into the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class StreamOptions(Body):
    """How a stream is delivered."""

    include_usage: bool | None = Field(None, description="whether a last chunk, without choices, carries the usage")
    prepend: bool | None = Field(
        None,
        description="whether choices of a model that reads backwards may come in pieces, each with `prepend: true`, to "
        "be put before those so far; without it each comes as one piece at its end",
    )
    state_interval: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="after so many tokens of a choice its next piece has a `state`, and `usage` beside the choices: a "
        "stream that is cut can be gone on with. `return_state` is for the last piece alone",
    )


class CompletionBody(Body):
    """What to go on with or to lead up to, and how."""

    model_config = _with_example(model="demo", prompt="The ", max_tokens=100, temperature=0.7)

    model: str | None = Field(
        None,
        description="NAME, NAME:VERSION or NAME@LABEL of a model, as /v1/models lists them; needed where there are "
        "several, unless `state` is given: then it is the model of that",
    )
    prompt: PromptForms | None = Field(
        None,
        description="text, token ids, or a list of either, to go on with; an empty one begins a new text. Of a model "
        "that reads backwards it must be empty",
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="tokens to write at most for each choice; 16 by default"
    )
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="another name for max_tokens; if both are given they must be equal"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(None, description="texts to write for each prompt")
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description="texts to write and choose the n with the highest mean log probability from; not with stream"
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="0 takes the most probable token; 1 by default"
    )
    top_p: Probability | None = Field(None, description="draw among the most probable tokens that hold this much")
    top_k: Annotated[int, Field(ge=-1, le=MAX_ID)] | None = Field(
        None, description="draw among this many of the most probable tokens; 0 or -1: all"
    )
    min_p: Probability | None = Field(None, description="drop tokens less probable than this times the most probable")
    presence_penalty: Penalty | None = Field(
        None, description="taken off the logit of every token that stands in the output so far"
    )
    frequency_penalty: Penalty | None = Field(
        None, description="taken off the logit of a token for each time that it stands in the output so far"
    )
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="divides the logit of every token in prompt or output, or multiplies it if negative; 1 is off"
    )
    logit_bias: LogitBias | None = Field(None, description="added to the logits of these token ids")
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        None, description="tell the log probability of each token, and of so many of the most probable in its place"
    )
    echo: bool | None = Field(
        None, description="begin the answer with the prompt, or end it with the suffix; with max_tokens 0 just that"
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="same seed, same text; drawn and told if not given"
    )
    stop: Stops | None = Field(
        None,
        description="end before this text, or before any of these; a text that is written from its end, behind it",
    )
    min_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the end of the text is not drawn before so many tokens"
    )
    ignore_eos: bool | None = Field(None, description="the end of the text is never drawn")
    stream: bool | None = Field(None, description="send text as it is written, as server-sent events")
    stream_options: StreamOptions | None = None
    suffix: PromptForms | None = Field(
        None,
        description="text, token ids, or a list of either, to lead up to, for a model that reads backwards; an empty "
        "one begins from a text's end. Of a model that reads forwards it must be empty",
    )
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="seconds after which the request is given up and answered with an error"
    )
    return_state: bool | None = Field(
        None, description="put a token into each choice, by which `state` of another request goes on with it"
    )
    state: Annotated[str, Field(max_length=MAX_STATE)] | None = Field(
        None,
        description="token of a choice to go on with, as if it had not ended; what is to be read after it goes into "
        "prompt, or suffix of a model that reads backwards",
    )
    add_special_tokens: bool | None = Field(None, description="without effect: prompts get no special tokens")
    user: str | None = Field(None, description="without effect")


class EmbeddingsBody(Body):
    """Texts to be read, and what is wanted of the model's hidden state."""

    model_config = _with_example(model="demo", input=["The end", "The beginning"])

    model: str | None = Field(None, description="name of a model; needed where there are several")
    input: PromptForms = Field(description="text, token ids, or a list of either")
    pooling: Literal["mean", "last"] | None = Field(
        None, description="mean of the top layer's outputs over all tokens (the default), or its last output"
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="numbers (the default), or float32 little-endian in base64"
    )
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="must be the model's own, if given")
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds after which it is given up")
    user: str | None = Field(None, description="without effect")


class InspectBody(Body):
    """A text to be looked into, and what is to be told of it."""

    model_config = _with_example(model="demo", input="The end", include=["hidden"], max_units=8)

    model: str | None = Field(
        None, description="name of a model; needed where there are several, unless `state` is given"
    )
    input: OnePrompt = Field(description="text or token ids")
    state: Annotated[str, Field(max_length=MAX_STATE)] | None = Field(
        None, description="token of a choice of a completion: the input is read after that text"
    )
    include: Annotated[list[Literal["hidden", "cell", "gates"]], Field(max_length=3)] | None = Field(
        None, description="what to tell of each layer: its hidden state, its cell state, its gates; all by default"
    )
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = Field(
        None, description="numbers of recurrent layers, from 1; all by default"
    )
    return_sequences: bool | None = Field(
        None, description="tell of every token (the default), or of the last one alone"
    )
    return_state: bool | None = Field(None, description="tell each layer's whole state after the last token, too")
    go_backwards: bool | None = Field(
        None, description="read the text from its other end; the answer is in order of reading all the same"
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        None, description="how many of the most probable tokens to tell in each token's place; 5 by default"
    )
    max_positions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="tell values of so many tokens at most, spread evenly over the text"
    )
    max_units: Annotated[int, Field(ge=1)] | None = Field(
        None, description="tell so many units of each layer at most, spread evenly"
    )
    encoding_format: Literal["float", "base64", "base64_float16"] | None = Field(
        None, description="numbers (the default), or float32 or float16, little-endian, row by row, in base64"
    )
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds after which it is given up")


class TokenizeBody(Body):
    """A text to be cut into tokens."""

    model_config = _with_example(model="demo", prompt="The end")

    model: str | None = Field(None, description="name of a model; needed where there are several")
    prompt: str = Field(description="the text; just the name of a special token is that token")
    return_token_strs: bool | None = Field(None, description="tell the text of each token, too")
    add_special_tokens: bool | None = Field(None, description="without effect: prompts get no special tokens")


class DetokenizeBody(Body):
    """Tokens to be joined."""

    model_config = _with_example(model="demo", tokens=[5, 6, 7])

    model: str | None = Field(None, description="name of a model; needed where there are several")
    tokens: Tokens = Field(description="token ids")
