"""Types of the response objects that `service.web` builds and `/openapi.json` describes.

Field names and meanings are OpenAI's where it has them.
"""

from typing import Any, Literal, NotRequired

from pydantic import RootModel

# Before Python 3.12 pydantic supports only this TypedDict.
from typing_extensions import TypedDict

from contract.signatures import PrecisionName


class LogprobsObject(TypedDict):
    """Parallel lists, one entry per token, in reading order.

    `text_offset` counts from the beginning of the choice's text, or of a chunk with `prepend`.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(TypedDict):
    """A token's log probability, and its `rank` among all tokens by probability, from 1.

    `rank` is null for a token outside the 50 most probable ones.
    """

    logprob: float
    rank: int | None
    decoded_token: str


# By token id: first the token of the prompt, then the most probable tokens at its position.
PromptLogprobs = dict[str, PromptLogprob]


class ChoiceObject(TypedDict):
    """A choice, or in a stream a chunk of one; `finish_reason` is null before its end.

    `index // n` is the number of its prompt, from 0. With `unique` and `not_in_training` a prompt may have fewer
    choices than `n`; the other numbers are not used.

    A chunk with `prepend` goes before the chunks received so far (backward models only, if `stream_options` allow it).
    `state`, if requested, comes with the end: a resume token, for `state` of another request.

    `prompt_logprobs`, if requested, have an entry per token of the prompt, in reading order, by token id: first that of
    the token itself, then those of the most probable tokens. It is null for a token without predecessor.

    `cumulative_logprob` comes with `top_texts` and `use_beam_search`: the log probability of the tokens, of the EOS
    token, too, if the choice ends with it.
    """

    index: int
    text: str
    logprobs: LogprobsObject | None
    finish_reason: Literal["stop", "length"] | None
    prepend: NotRequired[Literal[True]]
    state: NotRequired[str]
    prompt_logprobs: NotRequired[list[PromptLogprobs | None]]
    cumulative_logprob: NotRequired[float]


class PromptTokensDetails(TypedDict):
    """Prefix cache: `cached_tokens` is the number of prompt tokens that needed no prefill."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Tokens of all prompts and of all generated choices, including discarded and rejected ones; or of a search.

    `rejected_choices` comes with `unique` and `not_in_training`: how many choices were replaced.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    rejected_choices: NotRequired[int]


class CompletionObject(TypedDict):
    """A response of `/v1/completions`, or an event of its stream, of which only the last has `usage`.

    `limit_reached` comes with `top_texts`: the search has ended at its limit (`SOSTENUTO_MAX_SEARCH_TOKENS`), with
    fewer choices than requested.
    """

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    version: int
    system_fingerprint: str
    seed: int
    choices: list[ChoiceObject]
    usage: NotRequired[CompletionUsage]
    limit_reached: NotRequired[bool]


class NextWord(TypedDict):
    """A word that may follow the prompt, the text to append for it, and its probability.

    It is the probability that the text continues with `text` and then ends, or continues with a character that does not
    belong to the word.
    """

    word: str
    text: str
    probability: float
    logprob: float


class NextWordsObject(TypedDict):
    """A response of `/v1/next`, the most probable word first.

    Every other word is at most as probable as the last one. `unexplored` is the probability of all continuations that
    the search has not followed to the end of a word. `limit_reached`: the search computed `max_tokens` tokens and found
    fewer than `n` words. `completion_tokens` in `usage` counts the tokens that the search computed.
    """

    object: Literal["list"]
    data: list[NextWord]
    unexplored: float
    limit_reached: bool
    model: str
    version: int
    system_fingerprint: str
    usage: CompletionUsage


class InspectedLayer(TypedDict):
    """The activations of a recurrent layer: for each kind a row per position, a number per unit.

    `values` are `hidden`, and of an LSTM `cell` (c) and the gates `forget` (f), `input` (i), `candidate` (g) and
    `output` (o), with c' = f⊙c + i⊙g and h' = o⊙tanh(c'); of a GRU `update` (z), `reset` (r) and `candidate` (g), with
    h' = z⊙h + (1 - z)⊙g. Layer 0 is the `top` of a model whose layers have no activations. In base64 they are float32
    or float16, little-endian, row by row. `state` is the whole `hidden` and `cell` after the last token, if requested.
    """

    layer: int
    units: list[int]
    values: dict[str, list[list[float]] | str]
    state: NotRequired[dict[str, list[float] | str]]


class InspectionObject(TypedDict):
    """An inspection of a text; lists have an entry per token, in reading order.

    `token_logprobs` and `top_logprobs` are null for a token without predecessor. `expected` are the most probable next
    tokens. `positions` are the token indexes of the rows in `layers`.
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
    """A token and the cosine similarity of its embedding to that of the requested token."""

    token_id: int
    token: str
    cosine: float


class NeighborsObject(TypedDict):
    """The nearest neighbors of a token in the embedding, nearest first, without special tokens."""

    object: Literal["list"]
    model: str
    version: int
    token_id: int
    token: str
    data: list[NeighborObject]


class EmbeddingMapObject(TypedDict):
    """The model's first tokens in the plane of the two principal components of their embeddings.

    `explained` is the share of the variance that each axis explains. In most vocabularies the first tokens are the most
    frequent.
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
    """A vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(TypedDict):
    """Prompt tokens."""

    prompt_tokens: int
    total_tokens: int


class ScoreObject(TypedDict):
    """The score of a text: the negative log probability of its tokens in nats, their sum and means.

    The EOS token of a `whole` text counts as a token and a character. Otherwise the token that the model reads first
    has no predecessor and does not count.

    `nats_per_token` and `nats_per_character` are null if nothing was scored. `percentile` is the percentage of held-out
    texts with fewer nats per character: whole documents for models of short documents, otherwise lines. It is null for
    texts that were scored differently, and for versions that were published without held-out text or by an earlier
    release. `ratio` is the log probability minus that by the model of `ratio_to`, in nats. `tokens`, `surprisals` and
    `text_offset`, if requested, have an entry per token, in reading order; the surprisal of a token without predecessor
    is null.
    """

    object: Literal["score"]
    index: int
    nats: float
    nats_per_token: float | None
    nats_per_character: float | None
    num_tokens: int
    percentile: float | None
    ratio: NotRequired[float]
    tokens: NotRequired[list[str]]
    surprisals: NotRequired[list[float | None]]
    text_offset: NotRequired[list[int]]


class ScoresObject(TypedDict):
    """A response of `/v1/score`; with `carry_state` it has a resume token, `state`. `usage` sums over both models."""

    object: Literal["list"]
    data: list[ScoreObject]
    whole: bool
    model: str
    version: int
    system_fingerprint: str
    state: NotRequired[str]
    usage: "EmbeddingsUsage"


class EmbeddingsObject(TypedDict):
    """A response of `/v1/embeddings`."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    version: int
    system_fingerprint: str
    usage: EmbeddingsUsage


class VersionObject(TypedDict):
    """A served version, its labels, and its share of the requests that name no version."""

    version: int
    labels: list[str]
    share: float


class SampleObject(TypedDict):
    """A text that the version generated after `given` at its publication; a backward model: before it.

    `labels` are the text's labels by column; empty for a model without labels.
    """

    temperature: float
    given: str
    text: str
    labels: dict[str, str]


class VersionDetails(VersionObject):
    """A served version, its size, and what it was trained on; unknown values are null.

    `size_bytes` are its files on disk. `weights_bytes` is the memory that its weights take in a model server, in all
    its precisions; the graph and running calls take more. `validation_loss` is in nats per token, and
    `bits_per_character` the same loss; `ngram_loss` is that of the best n-gram model of the same text. `corpus` is the
    name of the text that it was trained on, and `parent` the version that it was fine-tuned from.
    """

    created: int
    parameters: int | None
    size_bytes: int
    weights_bytes: int
    validation_loss: float | None
    bits_per_character: float | None
    ngram_loss: float | None
    accuracy: float | None
    corpus: str | None
    corpus_characters: int | None
    parent: str | None
    sample: SampleObject | None


class ProvenanceObject(TypedDict):
    """The public texts that a model was trained on: what they are, the package that has them, and their license."""

    title: str
    license: str
    package: str
    num_works: int
    num_bytes: int


class DiscoveryObject(TypedDict):
    """A unit that follows a feature of held-out text.

    The units were ranked by their correlation on one half of the text; `validated` is the correlation on the other.
    `feature` is `brackets` (how many are open), `quotes` (1 within quotation marks), `line` and `word` (characters
    since its beginning) or `upper` (1 within a word in capitals).
    """

    feature: str
    layer: int
    kind: str
    unit: int
    ranked: float
    validated: float


class ModelFacts(TypedDict):
    """A served model; `max_model_len` is null, as a recurrent model has no maximum sequence length.

    All fields but versions, labels and shares describe its stable version, or the requested one.

    `deterministic`: the same request with the same seed returns the same bytes under any load, from every backend with
    this `system_fingerprint`. The determinism probe verified `batch_sizes` to be bit-exact. It is false if no batch
    size is bit-exact in every slot.

    `cell` is null if the layers have several kinds of cells or unknown ones. `context` is the window of a
    sliding-window model in tokens, and null for a model with a carried state.

    `parent` is the version that it was fine-tuned from, such as `english:1`; null for a model that was trained from
    scratch or imported. `provenance` is null for a model that was trained on the user's own text.

    `label_columns` has the labels that a request may have, by column, in the order of the tokens; those of a column of
    numbers are bins, such as `20..35`, which includes 20 and not 35. It is empty for a model without labels.

    `corpus` is the name of the text that it was trained on, `validation_loss` is in nats per token, and `trained_s` the
    duration of the training in seconds; null if not known. `discoveries` is null for a version without a unit search.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    provenance: ProvenanceObject | None
    corpus: str | None
    validation_loss: float | None
    trained_s: float | None
    discoveries: list[DiscoveryObject] | None
    label_columns: dict[str, tuple[str, ...]]
    max_model_len: None
    version: int
    system_fingerprint: str
    cell: str | None
    layers: int
    units: int
    unit: str
    direction: Literal["forward", "backward"]
    context: int | None
    vocab_size: int
    precision: PrecisionName
    batch_sizes: tuple[int, ...]
    deterministic: bool


class ModelObject(ModelFacts):
    """A served model in a list; `/v1/models/{name}` has more about its versions."""

    versions: list[VersionObject]


class ModelDetails(ModelFacts):
    """A served model with the details of its versions.

    `labels` has the version of each label, and `shares` the traffic split as it was set, by label or version.
    `unloaded` are versions that exist, but that no model server serves: older ones without a label, and those that are
    being loaded.
    """

    versions: list[VersionDetails]
    labels: dict[str, int]
    shares: dict[str, float]
    unloaded: list[int]


class ModelRouting(TypedDict):
    """How this gateway routes requests for a model now; see `ModelDetails`.

    `version` gets most of the requests that name none; null while no version is loaded.
    """

    id: str
    object: Literal["model.routing"]
    version: int | None
    versions: list[VersionObject]
    labels: dict[str, int]
    shares: dict[str, float]
    unloaded: list[int]


class ModelList(TypedDict):
    """The served models."""

    object: Literal["list"]
    data: list[ModelObject]


class TokenizeObject(TypedDict):
    """The tokens of a text.

    `token_strs`, if requested, are the text that each adds, or the name of one that adds none; else null.
    """

    count: int
    tokens: list[int]
    token_strs: list[str] | None
    max_model_len: None


class DetokenizeObject(TypedDict):
    """The text of tokens; special tokens have none."""

    prompt: str


class VocabularyToken(TypedDict):
    """A token of the vocabulary: its text, or its name if it is `special` and has no text."""

    token_id: int
    token: str
    special: bool


class TokenizerObject(TypedDict):
    """A model's tokenizer, with the field names of Hugging Face's `tokenizer_config.json`.

    `vocabulary`, if requested, is a page of the tokens, by id; `vocab_size` is the number of all tokens.
    """

    tokenizer_class: str
    model: str
    version: int
    unit: str
    vocab_size: int
    bos_token: str
    eos_token: str | None
    pad_token: str
    unk_token: str | None
    chat_template: None
    vocabulary: NotRequired[list[VocabularyToken]]


class PretrainedFile(RootModel[dict[str, Any]]):
    """A file in the format of Hugging Face's `tokenizers` and Transformers."""


class HealthObject(TypedDict):
    """The process is alive."""

    status: Literal["ok"]


class ReadyObject(TypedDict):
    """Models are served; their names are omitted where API keys are required."""

    status: Literal["ready"]
    num_models: int
    models: NotRequired[list[str]]


class ServiceVersion(TypedDict):
    """The version of this service."""

    version: str


class ModelStatus(TypedDict):
    """A served version, and its running and waiting sequences."""

    id: str
    version: int
    system_fingerprint: str
    precision: PrecisionName
    batch_sizes: tuple[int, ...]
    running: int
    waiting: int


class LoadObject(TypedDict):
    """Current load and its maximum."""

    accepted: int
    max: int


class ConfigDriftObject(TypedDict):
    """The difference between `models.config` and what a backend serves, for over a minute: NAME:VERSION each.

    A `missing` one, or just NAME, is listed and not served; an `unexpected` one is served only.
    """

    seconds: float
    missing: list[str]
    unexpected: list[str]


class BackendStatus(TypedDict):
    """A backend, the reason for its ejection (null: in service), and its drift from `models.config`."""

    address: str
    ejected_because: str | None
    config_drift: ConfigDriftObject | None


class StatusObject(TypedDict):
    """The state of the gateway."""

    status: Literal["ok", "draining"]
    version: str
    uptime_s: float
    models: list[ModelStatus]
    sequences: LoadObject
    tokens: LoadObject
    memory: LoadObject
    backends: list[BackendStatus]


class ErrorDetail(TypedDict):
    """The error: `param` names the field, `code` is machine-readable."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(TypedDict):
    """An error response, with the partial output of a completion.

    In a stream, only the output that was not yet sent. `finish_reason` is null in a choice that did not finish.
    """

    error: ErrorDetail
    choices: NotRequired[list[ChoiceObject]]
    usage: NotRequired[CompletionUsage]
