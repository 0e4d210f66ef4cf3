"""Types of the response objects that `service.web.responses` builds and `/openapi.json` describes.

Types alone; field names and meanings are OpenAI's where it has them.
"""

from typing import Literal, NotRequired

# Before Python 3.12 pydantic supports only this TypedDict.
from typing_extensions import TypedDict


class LogprobsObject(TypedDict):
    """Parallel lists, one entry per token, in order of reading.

    `text_offset` counts from the beginning of the choice's text; in a piece with `prepend` from the piece's own.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class ChoiceObject(TypedDict):
    """One text, or in a stream a piece of one; `finish_reason` is null until its end.

    A piece with `prepend` goes before those so far: of a model that reads backwards, where `stream_options` allow it.
    `state`, where it was asked for, comes with the end: what `state` of another request goes on with.
    """

    index: int
    text: str
    logprobs: LogprobsObject | None
    finish_reason: Literal["stop", "length"] | None
    prepend: NotRequired[Literal[True]]
    state: NotRequired[str]


class PromptTokensDetails(TypedDict):
    """What became of the prompts' tokens: `cached_tokens` needed no reading, as the state after them was known."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Tokens of all prompts and of all texts made, those that `best_of` left out among them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionObject(TypedDict):
    """An answer of `/v1/completions`, or an event of its stream; `usage` is missing in all events but the last."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    version: int
    system_fingerprint: str
    seed: int
    choices: list[ChoiceObject]
    usage: NotRequired[CompletionUsage]


class InspectedLayer(TypedDict):
    """What went on in a recurrent layer: of each kind a row for each of `positions`, a number for each of `units`.

    `values` are `hidden`, and of an LSTM `cell` (c) and the gates `forget` (f), `input` (i), `candidate` (g) and
    `output` (o), with c' = f⊙c + i⊙g and h' = o⊙tanh(c'); of a GRU `update` (z), `reset` (r) and `candidate` (g), with
    h' = z⊙h + (1 - z)⊙g. Layer 0 is the `top` of a model whose layers are not looked into. In base64 they are float32
    or float16, little-endian, row by row. `state` are `hidden` and `cell` after the last token, whole, if asked for.
    """

    layer: int
    units: list[int]
    values: dict[str, list[list[float]] | str]
    state: NotRequired[dict[str, list[float] | str]]


class InspectionObject(TypedDict):
    """A text that was looked into; lists have an entry per token, in order of reading.

    `token_logprobs` and `top_logprobs` are null for the token that nothing goes before. `expected` are the most
    probable tokens behind the last one that was read. `positions` say which tokens the values of `layers` are of.
    """

    object: Literal["inspection"]
    model: str
    version: int
    system_fingerprint: str
    token_ids: list[int]
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    expected: dict[str, float]
    positions: list[int]
    layers: list[InspectedLayer]
    usage: "EmbeddingsUsage"


class NeighborObject(TypedDict):
    """A token and the cosine of the angle between its vector and that of the token that was asked for."""

    token_id: int
    token: str
    cosine: float


class NeighborsObject(TypedDict):
    """What lies beside a token in the model's embedding, nearest first; marks and padding are left out."""

    object: Literal["list"]
    model: str
    version: int
    token_id: int
    token: str
    data: list[NeighborObject]


class EmbeddingMapObject(TypedDict):
    """A model's first tokens in the plane in which their vectors differ most, by principal components.

    `explained` says which share of all differences each of the two axes shows. In most vocabularies the first tokens
    are the most frequent.
    """

    object: Literal["embedding_map"]
    model: str
    version: int
    token_ids: list[int]
    tokens: list[str]
    x: list[float]
    y: list[float]
    explained: list[float]


class EmbeddingObject(TypedDict):
    """One vector: numbers, or float32 little-endian in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(TypedDict):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsObject(TypedDict):
    """An answer of `/v1/embeddings`."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    version: int
    system_fingerprint: str
    usage: EmbeddingsUsage


class VersionObject(TypedDict):
    """A version that answers, by what it is called, and the share of the requests that name just the model."""

    version: int
    labels: list[str]
    share: float


class ModelObject(TypedDict):
    """A model that answers; `max_model_len` is null, as a recurrent model has no longest text.

    All but `versions` is of its stable version, or of the one that was asked for.

    `deterministic`: the same request with the same seed returns the same bytes under any load, from every backend with
    this `system_fingerprint`. The determinism probe verified `batch_sizes` to be bit-exact. It is false where no batch
    size computes the same bits in every slot.

    `cell` is null where layers are of several kinds or not known. `context` is the number of tokens that a model sees
    whose state is the window of its last ones, and null for one that carries what it has read.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: None
    version: int
    versions: list[VersionObject]
    system_fingerprint: str
    cell: str | None
    layers: int
    units: int
    unit: str
    direction: Literal["forward", "backward"]
    context: int | None
    vocab_size: int
    batch_sizes: tuple[int, ...]
    deterministic: bool


class ModelList(TypedDict):
    """The models that answer."""

    object: Literal["list"]
    data: list[ModelObject]


class TokenizeObject(TypedDict):
    """A text in tokens.

    `token_strs`, if asked for, are the text that each adds, or the name of one that adds none; else null.
    """

    count: int
    tokens: list[int]
    token_strs: list[str] | None
    max_model_len: None


class DetokenizeObject(TypedDict):
    """Tokens as a text; special tokens have none."""

    prompt: str


class TokenizerObject(TypedDict):
    """A model's tokenizer, by the names of Hugging Face's `tokenizer_config.json`."""

    tokenizer_class: str
    model: str
    unit: str
    vocab_size: int
    bos_token: str
    eos_token: str | None
    pad_token: str
    unk_token: str | None
    chat_template: None


class HealthObject(TypedDict):
    """The process lives."""

    status: Literal["ok"]


class ReadyObject(TypedDict):
    """Models answer; their names are not told where API keys are asked for."""

    status: Literal["ready"]
    num_models: int
    models: NotRequired[list[str]]


class ServiceVersion(TypedDict):
    """The version of this service."""

    version: str


class ModelStatus(TypedDict):
    """A version that answers, and its texts."""

    id: str
    version: int
    system_fingerprint: str
    batch_sizes: tuple[int, ...]
    running: int
    waiting: int


class LoadObject(TypedDict):
    """How much is accepted and not ended, and how much may be."""

    accepted: int
    max: int


class ConfigDriftObject(TypedDict):
    """What a model server serves otherwise than `models.config` lists it, for over a minute: NAME:VERSION each."""

    seconds: float
    missing: list[str]
    unexpected: list[str]


class BackendStatus(TypedDict):
    """A model server, why it gets no calls (null: it does), and where it does not follow `models.config`."""

    address: str
    ejected_because: str | None
    config_drift: ConfigDriftObject | None


class StatusObject(TypedDict):
    """What is going on."""

    status: Literal["ok", "draining"]
    version: str
    uptime_s: float
    models: list[ModelStatus]
    sequences: LoadObject
    tokens: LoadObject
    memory: LoadObject
    backends: list[BackendStatus]


class ErrorDetail(TypedDict):
    """What is wrong: `param` names the field, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(TypedDict):
    """Every answer that is not a success, and what had been made of a completion when it failed.

    Of a stream just what was not sent before. `finish_reason` is null in a choice that had not ended.
    """

    error: ErrorDetail
    choices: NotRequired[list[ChoiceObject]]
    usage: NotRequired[CompletionUsage]
