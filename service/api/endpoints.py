"""The endpoints of the API: path, method, title, types of request and response, and statuses of errors.

Data alone. A test compares the endpoints with the application's routes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from service.api import responses
from service.api.requests import (
    MAX_ID,
    MAX_MAPPED,
    MAX_NEIGHBORS,
    MAX_VOCABULARY,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    InspectRequest,
    TokenizeRequest,
)

COMPLETIONS, HIDDEN_STATES, MODELS, TOKENIZER, OPERATION = (
    "Completions",
    "Embeddings and inspection",
    "Models",
    "Tokenizer",
    "Health and status",
)
# Groups of endpoints, in the order of the reference.
TAGS = {
    COMPLETIONS: "Generate text, score it, and resume it",
    HIDDEN_STATES: "Hidden states, gates and the token embedding",
    MODELS: "Served models, their versions, labels and traffic split",
    TOKENIZER: "Text to tokens and back",
    OPERATION: "For load balancers, orchestrators and people",
}
_BODY_ERRORS = ("400", "401", "404", "408", "413", "429")
_MODEL_ERRORS = (*_BODY_ERRORS, "499", "500", "503", "504")
_STATE_ERRORS = (*_MODEL_ERRORS, "403", "410")
_TOKENIZER_ERRORS = ("400", "401", "404", "429", "503")
_EMBEDDING_ERRORS = ("400", "401", "404", "429", "499", "503")


@dataclass(frozen=True)
class QueryParameter:
    """An optional parameter in the query.

    Attributes:
        schema: Its JSON schema.
        example: A value, or None.
    """

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    example: Any = None


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    Attributes:
        tag: Its group; a key of TAGS.
        summary: Its title.
        description: What it does beyond the title, in Markdown.
        request: Type of the request body, or None.
        response: Type of a successful response, or None.
        errors: Statuses of error responses.
        query: Query parameters.
        public: Whether it never requires an API key.
        streams: Whether the response may also come as server-sent events.
        is_empty: Whether a successful response has no body.
    """

    path: str
    method: str
    tag: str
    summary: str
    description: str
    request: type[BaseModel] | None = None
    response: Any = None
    errors: tuple[str, ...] = ()
    query: tuple[QueryParameter, ...] = ()
    public: bool = False
    streams: bool = False
    is_empty: bool = False


def _count(description: str, default: int, maximum: int) -> QueryParameter:
    schema = {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}
    return QueryParameter("count", description, schema, 3)


ENDPOINTS = (
    Endpoint(
        "/v1/completions",
        "post",
        COMPLETIONS,
        "Generate completions",
        "Continues each prompt; a backward model generates the text before each `suffix`. `stream` returns a stream of "
        "server-sent events, `state` continues from a resume token, `echo` with `max_tokens` 0 scores the prompt.",
        CompletionRequest,
        responses.CompletionObject,
        _STATE_ERRORS,
        streams=True,
    ),
    Endpoint(
        "/v1/chat/completions",
        "post",
        COMPLETIONS,
        "Chat completions (unsupported)",
        "Always returns 404: these models have no chat format. Use `/v1/completions` with a prompt.",
        errors=("401", "404", "408", "413"),
    ),
    Endpoint(
        "/v1/embeddings",
        "post",
        HIDDEN_STATES,
        "Create embeddings",
        "Returns the hidden state of the top layer for each input: its mean over all tokens, or the last one. The "
        "example shows the first three numbers of each vector.",
        EmbeddingsRequest,
        responses.EmbeddingsObject,
        _MODEL_ERRORS,
    ),
    Endpoint(
        "/v1/inspect",
        "post",
        HIDDEN_STATES,
        "Inspect a text",
        "Returns hidden state, cell state and gates of each layer at each token, and the most probable tokens there.",
        InspectRequest,
        responses.InspectionObject,
        _STATE_ERRORS,
    ),
    Endpoint(
        "/v1/models/{name}/embedding/neighbors",
        "get",
        HIDDEN_STATES,
        "List the nearest neighbors of a token",
        "By cosine similarity in the token embedding. `token` or `token_id` is required.",
        response=responses.NeighborsObject,
        errors=_EMBEDDING_ERRORS,
        query=(
            QueryParameter("token", "text of the token, or its name if it has no text", example="e"),
            QueryParameter("token_id", "id of the token, instead of `token`", {"type": "integer", "minimum": 0}),
            _count("number of neighbors to return", 10, MAX_NEIGHBORS),
        ),
    ),
    Endpoint(
        "/v1/models/{name}/embedding/map",
        "get",
        HIDDEN_STATES,
        "Map the token embedding",
        "Projects the first tokens of the vocabulary to the plane of the two principal components.",
        response=responses.EmbeddingMapObject,
        errors=_EMBEDDING_ERRORS,
        query=(_count("number of tokens to map, from the start of the vocabulary", 1000, MAX_MAPPED),),
    ),
    Endpoint(
        "/v1/models",
        "get",
        MODELS,
        "List models",
        "Returns every served model.",
        response=responses.ModelList,
        errors=("401", "503"),
    ),
    Endpoint(
        "/v1/models/{name}",
        "get",
        MODELS,
        "Get a model",
        "Returns its stable version, or the version that `name` selects.",
        response=responses.ModelObject,
        errors=("401", "404", "503"),
    ),
    Endpoint(
        "/tokenize",
        "post",
        TOKENIZER,
        "Tokenize a text",
        "Returns token ids, and with `return_token_strs` the text of each token.",
        TokenizeRequest,
        responses.TokenizeObject,
        (*_BODY_ERRORS, "503"),
    ),
    Endpoint(
        "/detokenize",
        "post",
        TOKENIZER,
        "Detokenize token ids",
        "Returns their text.",
        DetokenizeRequest,
        responses.DetokenizeObject,
        (*_BODY_ERRORS, "503"),
    ),
    Endpoint(
        "/tokenizer_info",
        "get",
        TOKENIZER,
        "Get the tokenizer of a model",
        "Returns its class, unit, vocabulary size and special tokens, and with `vocabulary` the tokens by id: the text "
        "of each, or its name if it is special and has no text.",
        response=responses.TokenizerObject,
        errors=("400", "401", "404", "429", "503"),
        query=(
            QueryParameter("model", "name of a model; required if several models are served", example="demo"),
            QueryParameter("vocabulary", "return tokens as well", {"type": "boolean", "default": False}, True),
            QueryParameter(
                "offset",
                "with `vocabulary`: the first id",
                {"type": "integer", "minimum": 0, "maximum": MAX_ID, "default": 0},
            ),
            _count("with `vocabulary`: maximum number of tokens", MAX_VOCABULARY, MAX_VOCABULARY),
        ),
    ),
    Endpoint(
        "/v1/models/{name}/tokenizer/tokenizer.json",
        "get",
        TOKENIZER,
        "Download `tokenizer.json`",
        "Returns a model's tokenizer in the format of Hugging Face's `tokenizers`; 404 if that has no equal. Beside "
        "`tokenizer_config.json` in a directory, Transformers loads it, and encodes and decodes as this server does; "
        "`tokenizers` alone does so once `encode_special_tokens` is set.",
        response=responses.TokenizerFile,
        errors=_TOKENIZER_ERRORS,
    ),
    Endpoint(
        "/v1/models/{name}/tokenizer/tokenizer_config.json",
        "get",
        TOKENIZER,
        "Download `tokenizer_config.json`",
        "Returns the special tokens of a model for Transformers, and that no text spells one.",
        response=responses.TokenizerConfigFile,
        errors=_TOKENIZER_ERRORS,
    ),
    Endpoint(
        "/v1/status",
        "get",
        OPERATION,
        "Get the status",
        "Returns served versions, load, limits, and the backends with the reason for each ejection and config drift.",
        response=responses.StatusObject,
        errors=("401",),
    ),
    Endpoint(
        "/readyz",
        "get",
        OPERATION,
        "Readiness",
        "Returns 200 if at least one model is served, none is probed for the first time, and the server is not "
        "shutting down.",
        response=responses.ReadyObject,
        errors=("503",),
        public=True,
    ),
    Endpoint(
        "/healthz",
        "get",
        OPERATION,
        "Liveness",
        "Returns 200 while the process runs.",
        response=responses.HealthObject,
        public=True,
    ),
    Endpoint(
        "/health",
        "get",
        OPERATION,
        "Readiness, as in vLLM",
        "Returns 200 without a body if `/readyz` returns 200, else 503.",
        errors=("503",),
        public=True,
        is_empty=True,
    ),
    Endpoint(
        "/ping",
        "get",
        OPERATION,
        "Readiness, as in SageMaker",
        "The same as `/health`.",
        errors=("503",),
        public=True,
        is_empty=True,
    ),
    Endpoint(
        "/version",
        "get",
        OPERATION,
        "Get the version of the service",
        "Returns the version of the gateway, not of a model.",
        response=responses.ServiceVersion,
        public=True,
    ),
)
