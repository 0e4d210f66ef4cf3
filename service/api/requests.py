"""Request bodies: the fields, limits and defaults of each endpoint, and their validation.

`/openapi.json` derives from these types. No other module validates a body again, except for what depends on the model:
whether ids are in its vocabulary, and its direction.
"""

import re
import secrets
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from contract.signatures import GREEDY_BELOW_TEMPERATURE
from service.api.body import UNRESOLVED, Body, require, shorten
from service.api.compatibility import (
    COMPLETION_FIELDS,
    EMBEDDING_FIELDS,
    JSON_SCHEMA_FIELDS,
    STREAM_FIELDS,
    STRUCTURED_OUTPUT_FIELDS,
    accept_without_effect,
)
from service.errors import InvalidRequest
from service.scheduling.sampling_inputs import SamplingParams
from service.settings import Settings
from service.structured_outputs.patterns import Constraint, Pattern

MAX_CHOICES, MAX_BEST_OF, MAX_TOP_TEXTS = 10_000, 128, 1000
MAX_STOPS = 16
MAX_INTERVENTIONS, MAX_INTERVENTION = 64, 100.0
# As many as the signatures return.
MAX_LOGPROBS, DEFAULT_LOGPROBS = 50, 5
MAX_BIAS = 1024
# Characters of a regular expression or JSON Schema, and texts to choose from.
MAX_REGEX = 10_000
MAX_SCHEMA = 50_000
MAX_CONSTRAINT_CHOICES = 10_000
MAX_MIN_LENGTH = 10_000
# Whatever SOSTENUTO_MAX_PROMPTS is (at most this): longer lists are refused unvalidated.
MAX_PROMPTS = 4096
MAX_ID = 2**31 - 1
# Characters of a resume token: with two layers of 1,024 units it has some 20,000.
MAX_STATE = 2**21
# Random seeds are exact as doubles, the only numbers of some clients.
SEED_BITS = 53
DEFAULT_MAX_TOKENS = 16
MAX_NEXT_WORDS, DEFAULT_NEXT_TOKENS = 100, 2000

PromptText = str | list[int]
# Columns: more than a model can have.
MAX_LABELS = 64


def _as_integers(value: Any) -> Any:
    """Convert a number such as 1.0, or those of a list: in JSON Schema it is an integer."""
    if isinstance(value, list) and float in set(map(type, value)):
        return [int(item) if isinstance(item, float) and item.is_integer() else item for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Last among the annotations of an integer or of a list of integers.
INTEGRAL = BeforeValidator(_as_integers)
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=0), INTEGRAL]
PositiveCount = Annotated[int, Field(ge=1), INTEGRAL]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), INTEGRAL]
TokenId = Annotated[int, Field(ge=0, le=MAX_ID)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
# A single stop string becomes a list of one, and an empty one, which clients send for none, an empty list: a union of
# both types would report every error twice.
StopList = Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)]
Stops = Annotated[
    StopList,
    BeforeValidator(
        lambda value: [value] * bool(value) if isinstance(value, str) else value,
        json_schema_input_type=Annotated[str, Field(max_length=1000)] | StopList,
    ),
]


def _require_few(value: Any, limit: int) -> Any:
    """Refuse a long mapping before its values are validated: each invalid one would be a separate error."""
    if isinstance(value, dict) and len(value) > limit:
        raise PydanticCustomError("too_long", "Dictionary should have at most {n} items", {"n": limit})
    return value


LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIAS),
    BeforeValidator(lambda value: _require_few(value, MAX_BIAS)),
]


def _as_labels(value: Any) -> Any:
    """Convert numbers to texts, which columns of numbers also accept."""
    if not isinstance(_require_few(value, MAX_LABELS), dict):
        return value
    return {name: str(each) if type(each) in (int, float) else each for name, each in value.items()}


Labels = Annotated[
    dict[str, Annotated[str, Field(max_length=1000)]],
    Field(max_length=MAX_LABELS),
    BeforeValidator(_as_labels, json_schema_input_type=dict[str, str | float]),
]


def _prompt_kind(value: Any) -> str:
    """Return the kind of a prompt by its first item, so that a wrong one gets one error, not one for each kind."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list):
        return "|token lists"
    if isinstance(first, str):
        return "|texts"
    return "|tokens" if isinstance(value, list) else "|text"


Tokens = Annotated[list[TokenId], Field(fail_fast=True), INTEGRAL]
PromptForms = Annotated[
    Annotated[str, Tag("|text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("|texts")]
    | Annotated[list[TokenId], Field(min_length=1, fail_fast=True), INTEGRAL, Tag("|tokens")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("|token lists")],
    Discriminator(_prompt_kind),
]


OnePrompt = Annotated[
    Annotated[str, Tag("|text")]
    | Annotated[list[TokenId], Field(min_length=1, fail_fast=True), INTEGRAL, Tag("|tokens")],
    Discriminator(lambda value: "|tokens" if isinstance(value, list) else "|text"),
]


class TimedBody(Body):
    """A request with prompts and a deadline."""

    prompt_field: ClassVar[str] = "input"
    timeout_s: Annotated[float, Field(gt=0)] = UNRESOLVED
    """Deadline in seconds, after which the request fails; the server's maximum by default."""

    def resolve(self, settings: Settings) -> Self:
        timeout_s, limit = self.timeout_s or settings.max_timeout_s, settings.max_timeout_s
        require(timeout_s <= limit, "timeout_s", f"be at most {limit:g}, got {timeout_s:g}")
        return self.model_copy(update={"timeout_s": timeout_s})

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """Prompts: at least one, each a text or token ids; one empty text if the field was empty or absent."""
        return _as_prompts(getattr(self, self.prompt_field))


@accept_without_effect(STREAM_FIELDS)
class StreamOptions(Body):
    """How a stream is delivered."""

    include_usage: bool = False
    """Whether to send a final chunk with `usage` and an empty `choices` list."""
    prepend: bool = False
    """Whether to stream the choices of a backward model as chunks with `prepend: true`, each of which goes before the
    chunks received so far; if false, each choice is sent as one chunk when it finishes."""
    state_interval: PositiveCount | None = None
    """Number of tokens of a choice between chunks with a resume token (`state`) and `usage`, so that an interrupted
    stream can be resumed; `return_state` adds a resume token to the last chunk only."""


NO_OPTIONS = StreamOptions()

RegexText = Annotated[str, Field(min_length=1, max_length=MAX_REGEX)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(min_length=1, max_length=MAX_CONSTRAINT_CHOICES, fail_fast=True),
]
# A JSON Schema, as an object or a JSON string.
Schema = Annotated[
    Annotated[dict[str, Any], Tag("|object")] | Annotated[bool, Tag("|boolean")] | Annotated[str, Tag("|text")],
    Discriminator(lambda value: {bool: "|boolean", str: "|text"}.get(type(value), "|object")),
]
Characters = Annotated[str, Field(min_length=1, max_length=1000)]


@accept_without_effect(STRUCTURED_OUTPUT_FIELDS)
class StructuredOutputs(Body):
    """Constraints that a whole completion must match; see `docs/structured-outputs.md`."""

    regex: RegexText | None = None
    """Regular expression, in the syntax of Rust's regex crate without anchors and look-around."""
    choice: Choices | None = None
    """The completion is one of these strings."""
    json_: Schema | None = Field(None, alias="json")
    """JSON Schema, as an object or a JSON string."""
    json_object: bool = False
    """Any JSON object."""
    allowed_characters: Characters | None = None
    """The completion contains only these characters; can be combined with a pattern."""
    banned_characters: Characters | None = None
    """The completion contains none of these characters; can be combined with a pattern."""


NO_STRUCTURED_OUTPUTS = StructuredOutputs()


@accept_without_effect(JSON_SCHEMA_FIELDS)
class JsonSchemaFormat(Body):
    """The schema of a `response_format`."""

    name: str | None = None
    """Ignored."""
    schema_: Schema = Field(alias="schema")
    """JSON Schema, as an object or a JSON string."""
    strict: bool = True
    """Ignored: a completion always matches the schema."""


class ResponseFormat(Body):
    """OpenAI's form of structured outputs."""

    type: Literal["text", "json_object", "json_schema"]
    """text: no constraint."""
    json_schema: JsonSchemaFormat | None = None
    """Required with type json_schema."""


InterventionValue = Annotated[float, Field(ge=-MAX_INTERVENTION, le=MAX_INTERVENTION)]


class Intervention(Body):
    """A unit whose value is changed before each generated token; the prompt is read unchanged."""

    layer: PositiveCount
    """Number of the recurrent layer, from 1."""
    unit: Count
    """Index of the unit in the layer, from 0."""
    kind: Literal["hidden", "cell"] | None = None
    """Hidden or cell state; by default the cell state, if the layer has one."""
    set: InterventionValue | None = None
    """The value it gets; 0 removes the unit."""
    scale: InterventionValue | None = None
    """The factor its value is multiplied by, instead of `set`; the product is limited to ±1000."""


# Fields of a completion that must have their default in a search.
_NOT_IN_SEARCHES = (
    *("stream", "echo", "logprobs", "prompt_logprobs", "state", "return_state", "unique", "not_in_training", "stop"),
    *("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
    "interventions",
)


@accept_without_effect(COMPLETION_FIELDS)
class CompletionRequest(TimedBody):
    """A request of `/v1/completions`: prompts to continue, or suffixes to generate the text before."""

    prompt_field = "prompt"
    model: str | None = None
    """NAME, NAME:VERSION or NAME@LABEL of a model, as /v1/models lists them; required if several models are served,
    unless `state` is given: then it is the resume token's model."""
    prompt: PromptForms | None = None
    """Text, token ids, or a list of either, to continue; an empty prompt starts a new text. Must be empty for a
    backward model."""
    labels: Labels = Field({})
    """Labels of the text by label column, as `/v1/models` lists them, such as {"style": "elvish"}; a number selects its
    bin. The prompt is then the beginning of such a text. Cannot be combined with `state`: that text has its labels."""
    max_tokens: Count = UNRESOLVED
    """Maximum number of tokens to generate for each choice; 16 by default."""
    max_completion_tokens: Count | None = None
    """Another name for max_tokens; if both are given they must be equal."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), INTEGRAL] = 1
    """Choices to return for each prompt."""
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES), INTEGRAL] = UNRESOLVED
    """Number of choices to generate for each prompt; the n with the highest mean log probability are returned. Default:
    n. A value above n must be at most 128 and cannot be combined with stream, unique or not_in_training."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Sampling temperature; 0 is greedy decoding."""
    top_p: Probability = 1.0
    """Nucleus sampling: from the smallest set of most probable tokens whose probabilities add up to at least this."""
    top_k: Annotated[int, Field(ge=-1, le=MAX_ID), INTEGRAL] = 0
    """Sample from this many of the most probable tokens; 0 or -1: all."""
    min_p: Probability = 0.0
    """Exclude tokens whose probability is below this fraction of the highest probability."""
    presence_penalty: Penalty = 0.0
    """Subtracted from the logit of every token that is in the output so far."""
    frequency_penalty: Penalty = 0.0
    """Subtracted from the logit of a token for each time that it is in the output so far."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Divides the logit of every token that occurs in the prompt or the output (multiplies a negative logit); 1 is off.
    """
    logit_bias: LogitBias = Field({})
    """Added to the logits of these token ids."""
    logprobs: NumLogprobs | None = None
    """Return the log probability of each token, and of this many most probable tokens at its position."""
    prompt_logprobs: NumLogprobs | None = None
    """Return the log probability of each token of the prompt or suffix, and of this many most probable tokens at its
    position, in vLLM's form; cannot be combined with stream."""
    echo: bool = False
    """Return the prompt before the completion, or the suffix after it; with max_tokens 0, return only that."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), INTEGRAL] | None = None
    """Sampling seed: the same seed gives the same output; if omitted, a random seed is used and returned in the
    response. Choice 0 of every prompt is sampled with the same random numbers, so its output does not depend on the
    others; for independent ones send a request with another seed for each."""
    stop: Stops = Field([])
    """Stop strings: generation stops before the first one that occurs; the text of a backward model starts after it."""
    min_tokens: Count = 0
    """The EOS token is not sampled before this many tokens."""
    ignore_eos: bool = False
    """Never sample the EOS token."""
    unique: bool = False
    """Whether to replace duplicate choices of a prompt with new ones; each choice is then sent as one chunk."""
    not_in_training: bool = False
    """Whether to replace choices that equal a training document or contain a long passage of the training text; each
    choice is then sent as one chunk."""
    top_texts: Annotated[int, Field(ge=1, le=MAX_TOP_TEXTS), INTEGRAL] | None = None
    """Instead of sampling, return the most probable completions of each prompt, this many, the most probable first."""
    use_beam_search: bool = False
    """Instead of sampling, return the n best completions that beam search finds; best_of is the beam width."""
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Exponent of the length by which beam search divides a log probability; above 1 it favors long completions."""
    min_length: Annotated[int, Field(ge=0, le=MAX_MIN_LENGTH), INTEGRAL] = 0
    """Minimum number of characters of a completion."""
    structured_outputs: StructuredOutputs | None = None
    """A regular expression, strings, a JSON Schema or characters that a completion must match."""
    guided_regex: RegexText | None = None
    """Another name for structured_outputs.regex."""
    guided_choice: Choices | None = None
    """Another name for structured_outputs.choice."""
    guided_json: Schema | None = None
    """Another name for structured_outputs.json."""
    response_format: ResponseFormat | None = None
    """Another form of structured_outputs.json and .json_object, as OpenAI's clients send it."""
    interventions: Annotated[list[Intervention], Field(max_length=MAX_INTERVENTIONS)] = Field([])
    """Units whose values are changed before each token that is generated, to see what they do."""
    complete_within_max_tokens: bool = True
    """Whether the last tokens before max_tokens complete the match; otherwise max_tokens may cut it off."""
    stream: bool = False
    """Send the text as server-sent events while it is generated."""
    stream_options: StreamOptions = NO_OPTIONS
    suffix: PromptForms | None = None
    """Text, token ids, or a list of either, before which a backward model generates text; with an empty suffix it
    generates the end of a text. Must be empty for a forward model."""
    return_state: bool = False
    """Return a resume token with each choice, for `state` of another request."""
    state: Annotated[str, Field(max_length=MAX_STATE)] | None = None
    """Resume token of a choice: generation continues where that choice ended; text to add before continuing goes into
    prompt (suffix for a backward model)."""
    add_special_tokens: bool = False
    """Ignored: prompts get no special tokens."""
    user: str | None = None
    """Ignored."""

    def resolve(self, settings: Settings) -> Self:
        """See `Body.resolve`; a seed is generated unless one is given or comes with the resume token."""
        self._require_consistent()
        best_of, max_tokens = self._best_of(), self._max_tokens(settings)
        require(self.min_tokens <= max_tokens, "min_tokens", f"be at most max_tokens, {max_tokens}", self.min_tokens)
        _require_few_prompts(self.prompts, settings, "prompt")
        _require_few_prompts(self.suffixes, settings, "suffix")
        self._require_few_tokens(best_of, max_tokens, settings)
        draws = self.seed is None and self.state is None
        seed = secrets.randbits(SEED_BITS) if draws else self.seed
        resolved = {"best_of": best_of, "max_tokens": max_tokens, "seed": seed}
        request = super().resolve(settings).model_copy(update=resolved)
        # Parse the token ids of `logit_bias` and the patterns, and keep the results.
        _ = request.sampling, request.constraint_by_field
        is_varied = self.n == 1 or not (self.unique and request.sampling.is_greedy)
        greedy = f"greedy decoding (temperature below {GREEDY_BELOW_TEMPERATURE:g}, top_k 1 or top_p 0)"
        limit = f"be 1 with unique and {greedy}, as all choices of a prompt would be equal"
        require(is_varied, "n", limit, self.n)
        return request

    def _require_consistent(self) -> None:
        for number, each in enumerate(self.interventions):
            if (each.set is None) == (each.scale is None):
                message = f"interventions[{number}] must have either set or scale"
                raise InvalidRequest(message, param="interventions")
        is_scored, form = self.prompt_logprobs is not None, self.response_format
        require(not (is_scored and self.stream), "prompt_logprobs", "be absent with stream; use echo and logprobs")
        require(self.stream or self.stream_options is NO_OPTIONS, "stream_options", "be absent without stream")
        _require_no_labels_with_state(self)
        if form is not None and (form.json_schema is None) == (form.type == "json_schema"):
            what = "given" if form.json_schema is None else "absent"
            message = f"response_format.json_schema must be {what} with type {form.type}"
            raise InvalidRequest(message, param="response_format")

        self._require_searchable()

    def _require_searchable(self) -> None:
        """Refuse fields that have no meaning in a search."""
        penalized = self.use_beam_search or self.length_penalty == 1
        require(penalized, "length_penalty", "be absent without use_beam_search", self.length_penalty)
        if not self.searches:
            return
        name = "use_beam_search" if self.use_beam_search else "top_texts"
        is_one = self.top_texts is None or not self.use_beam_search
        require(is_one, "top_texts", "be absent with use_beam_search", self.top_texts)
        single = ("n", "best_of") if self.top_texts is not None else ()
        for field in (*single, *_NOT_IN_SEARCHES):
            value = getattr(self, field)
            default = type(self).model_fields[field].default
            is_default = value == default or (field, value) in (("top_k", -1), ("best_of", 1))
            require(is_default, field, f"be absent with {name}", value)
        require(self.temperature in (0, 1), "temperature", f"be 0, 1 or absent with {name}", self.temperature)

    @property
    def searches(self) -> bool:
        """Whether choices are searched for, not sampled."""
        return self.use_beam_search or self.top_texts is not None

    @property
    def num_choices(self) -> int:
        """Maximum number of choices of each prompt in the response."""
        return self.top_texts or self.n

    def _best_of(self) -> int:
        """Return the number of choices to generate for each prompt; above `n`, whole choices are ranked."""
        best_of = self.n if self.best_of is UNRESOLVED else self.best_of
        got = f"best_of {best_of} and n {self.n}"
        require(best_of >= self.n, "best_of", f"be at least n, got {got}")
        if best_of > self.n:
            require(not self.stream, "best_of", f"be n with stream, as only whole choices can be ranked; got {got}")
            require(best_of <= MAX_BEST_OF, "best_of", f"be at most n, or {MAX_BEST_OF}", best_of)
            for field in ("unique", "not_in_training"):
                is_absent = not getattr(self, field)
                require(is_absent, "best_of", f"be n with {field}, which rejects choices; got {got}")
        return best_of

    @property
    def suffixes(self) -> tuple[PromptText, ...]:
        """Suffixes, in the form of `prompts`; a model reads one or the other."""
        return _as_prompts(self.suffix)

    @cached_property
    def sampling(self) -> SamplingParams:
        """Sampling parameters; `resolve` raises InvalidRequest if a name in `logit_bias` is not a token id."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            bias=tuple(_by_token_id(self.logit_bias).items()),
            min_tokens=self.max_tokens if self.ignore_eos else self.min_tokens,
        )

    @cached_property
    def constraint_by_field(self) -> dict[str, Pattern]:
        """Constraints by field, the pattern first; `resolve` raises InvalidRequest for several patterns."""
        outputs, form = self.structured_outputs or NO_STRUCTURED_OUTPUTS, self.response_format
        one = "one of regex, choice, json, json_object, allowed_characters and banned_characters"
        require(self.structured_outputs != NO_STRUCTURED_OUTPUTS, "structured_outputs", f"have {one}")
        schema = form.json_schema.schema_ if form and form.json_schema else None
        patterns = {
            "structured_outputs.regex": outputs.regex and Pattern("regex", outputs.regex),
            "structured_outputs.choice": outputs.choice and Pattern.choice(outputs.choice),
            "structured_outputs.json": _schema_pattern("structured_outputs.json", outputs.json_),
            "structured_outputs.json_object": outputs.json_object and Pattern("json_object", ""),
            "guided_regex": self.guided_regex and Pattern("regex", self.guided_regex),
            "guided_choice": self.guided_choice and Pattern.choice(self.guided_choice),
            "guided_json": _schema_pattern("guided_json", self.guided_json),
            "response_format.json_schema.schema": _schema_pattern("response_format.json_schema.schema", schema),
            "response_format": form and form.type == "json_object" and Pattern("json_object", ""),
        }
        allowed, banned, length = outputs.allowed_characters, outputs.banned_characters, self.min_length
        combined = {
            "structured_outputs.allowed_characters": allowed and Pattern("allowed_characters", allowed),
            "structured_outputs.banned_characters": banned and Pattern("banned_characters", banned),
            "min_length": length and Pattern("min_length", str(length)),
        }
        given = [field for field, pattern in patterns.items() if pattern]
        for other in given[1:]:
            require(False, other, f"be absent if {given[0]} is given: a completion has one pattern")
        return {field: pattern for field, pattern in (patterns | combined).items() if pattern}

    @property
    def constraint(self) -> Constraint | None:
        """Constraint of the completions, or None."""
        return tuple(self.constraint_by_field.values()) or None

    @property
    def issues_resume_tokens(self) -> bool:
        """Whether resume tokens are requested, at the end of choices or before."""
        return self.return_state or self.stream_options.state_interval is not None

    def _max_tokens(self, settings: Settings) -> int:
        """Return the maximum tokens of each choice, by either name: guidellm sends both."""
        name, value = "max_tokens", self.max_tokens
        if value is UNRESOLVED and self.max_completion_tokens is not None:
            name, value = "max_completion_tokens", self.max_completion_tokens
        elif self.max_completion_tokens not in (None, value):
            limit = f"be absent or equal to max_tokens ({value})"
            require(False, "max_completion_tokens", limit, self.max_completion_tokens)
        if value is UNRESOLVED:
            return min(DEFAULT_MAX_TOKENS, settings.max_tokens)
        require(value <= settings.max_tokens, name, f"be at most {settings.max_tokens}", value)
        return value

    def _require_few_tokens(self, best_of: int, max_tokens: int, settings: Settings) -> None:
        if self.searches:
            require(max_tokens > 0, "max_tokens", "be at least 1 in a search", max_tokens)
        if self.use_beam_search:
            limit, work = settings.max_search_tokens, best_of * max_tokens
            what = f"be at most {limit} with use_beam_search when multiplied by n (best_of if it is given)"
            require(work <= limit, "max_tokens", f"{what}, got {best_of} × {max_tokens} = {work}")
        field, each = ("n", "n (best_of if it is given)") if self.top_texts is None else ("top_texts", "top_texts")
        best_of = self.top_texts or best_of
        # A model reads prompts or suffixes; the engine refuses the request if the others are not empty.
        num_prompts = max(len(self.prompts), len(self.suffixes))
        what = f"{'suffixes' if self.suffix else 'prompts'} × {each}"
        counts, total = f"{num_prompts} × {best_of}", num_prompts * best_of * max_tokens
        if num_prompts * best_of > MAX_CHOICES:
            raise InvalidRequest(f"{what} must be at most {MAX_CHOICES}, got {counts}", param=field)
        if total > settings.max_request_tokens:
            what = f"{what} × max_tokens must be at most {settings.max_request_tokens}"
            raise InvalidRequest(f"{what}, got {counts} × {max_tokens} = {total}", param="max_tokens")


@accept_without_effect(EMBEDDING_FIELDS)
class EmbeddingsRequest(TimedBody):
    """A request of `/v1/embeddings`: inputs, and how the hidden states of each are pooled."""

    model: str | None = None
    """Name of a model; required if several models are served."""
    input: PromptForms
    """Text, token ids, or a list of either."""
    labels: Labels = Field({})
    """Labels of the texts by label column, which the model reads before each."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean of the top layer's hidden states over all tokens, those of labels included, or the last of them."""
    encoding_format: Literal["float", "base64"] = "float"
    """Numbers, or float32 little-endian in base64."""
    dimensions: PositiveCount | None = None
    """Must be the model's own, if given."""
    user: str | None = None
    """Ignored."""

    def resolve(self, settings: Settings) -> Self:
        _require_few_prompts(self.prompts, settings, "input")
        return super().resolve(settings)


class ScoreRequest(TimedBody):
    """A request of `/v1/score`: texts, and what their scores are compared with."""

    model: str | None = None
    """Name of a model; required if several models are served, unless `state` is given."""
    input: PromptForms
    """Text, token ids, or a list of either."""
    whole: bool | None = None
    """Whether each input is a whole document: its first token is scored after the BOS token, and then its EOS token;
    otherwise the token that the model reads first has no score. Default: whether labels are given or the model was
    trained on short documents, such as the lines of a list."""
    tokens: bool = False
    """Return each token with its surprisal as well."""
    ratio_to: str | None = None
    """Name of a second model: return the log-likelihood ratio of each text."""
    labels: Labels = Field({})
    """Labels of the texts by label column, for `model` alone. Requires whole; cannot be combined with carry_state."""
    carry_state: bool = False
    """Whether the inputs are consecutive parts of one text: each is scored after those before it, and a resume token
    (`state`) is returned. Not with a backward model or ratio_to."""
    state: Annotated[str, Field(max_length=MAX_STATE)] | None = None
    """Resume token of a score or of a completion's choice, which the first input follows; requires carry_state."""

    def resolve(self, settings: Settings) -> Self:
        _require_few_prompts(self.prompts, settings, "input")
        require(self.carry_state or self.state is None, "state", "be absent without carry_state")
        require(not (self.carry_state and self.ratio_to), "ratio_to", "be absent with carry_state", self.ratio_to)
        return super().resolve(settings)


class InspectRequest(TimedBody):
    """A request of `/v1/inspect`: an input, and which activations to return."""

    model: str | None = None
    """Name of a model; required if several models are served, unless `state` is given."""
    input: OnePrompt
    """Text or token ids."""
    state: Annotated[str, Field(max_length=MAX_STATE)] | None = None
    """Resume token of a completion's choice: the input is processed after that text."""
    labels: Labels = Field({})
    """Labels of the text by label column, which the model reads before it. Cannot be combined with `state`."""
    include: Annotated[list[Literal["hidden", "cell", "gates"]], Field(max_length=3)] = Field(
        ["hidden", "cell", "gates"]
    )
    """What to return of each layer: hidden state, cell state, gates."""
    layers: Annotated[list[Count], Field(max_length=64)] | None = None
    """Numbers of recurrent layers, from 1; all by default."""
    return_sequences: bool = True
    """Return the values of every token, or only of the last one."""
    return_state: bool = False
    """Return each layer's whole state after the last token as well."""
    go_backwards: bool = False
    """Process the input in the other direction; the response stays in reading order."""
    logprobs: NumLogprobs = DEFAULT_LOGPROBS
    """Number of most probable tokens to return at each position."""
    max_positions: PositiveCount | None = None
    """Maximum number of tokens with values, spread evenly over the input; all by default."""
    units: Annotated[list[Count], Field(min_length=1, max_length=4096)] | None = None
    """Numbers of the units to return of each layer, from 0; all by default."""
    max_units: PositiveCount | None = None
    """Maximum number of units of each layer, spread evenly over those; all by default."""
    encoding_format: Literal["float", "base64", "base64_float16"] = "float"
    """A list of numbers, or base64 of little-endian float32 or float16, in row-major order."""

    def resolve(self, settings: Settings) -> Self:
        _require_no_labels_with_state(self)
        return super().resolve(settings)


class NextRequest(TimedBody):
    """A request of `/v1/next`: a text, and how many of the most probable words that continue it to return."""

    prompt_field = "prompt"
    model: str | None = None
    """Name of a model; required if several models are served."""
    prompt: OnePrompt = ""
    """Text or token ids to continue. If it ends within a word, the words complete that, or follow it."""
    labels: Labels = Field({})
    """Labels of the text, as in completions. The prompt is then the beginning of such a text."""
    n: Annotated[int, Field(ge=1, le=MAX_NEXT_WORDS), INTEGRAL] = 10
    """Number of words to return."""
    max_tokens: PositiveCount = UNRESOLVED
    """Maximum number of tokens that the search computes; 2,000 by default."""
    user: str | None = None
    """Ignored."""

    def resolve(self, settings: Settings) -> Self:
        limit, given = settings.max_search_tokens, self.max_tokens
        max_tokens = min(limit, DEFAULT_NEXT_TOKENS) if given is UNRESOLVED else given
        require(max_tokens <= limit, "max_tokens", f"be at most {limit}", max_tokens)
        return super().resolve(settings).model_copy(update={"max_tokens": max_tokens})


class TokenizeRequest(Body):
    """A request of `/tokenize`: a text."""

    model: str | None = None
    """Name of a model; required if several models are served."""
    prompt: str
    """Text to tokenize; a prompt that is exactly the name of a special token is encoded as that token."""
    return_token_strs: bool = False
    """Return the text of each token as well."""
    add_special_tokens: bool = False
    """Ignored: prompts get no special tokens."""


class DetokenizeRequest(Body):
    """A request of `/detokenize`: token ids."""

    model: str | None = None
    """Name of a model; required if several models are served."""
    tokens: Tokens
    """Token ids."""


def _as_prompts(value: Any) -> tuple[PromptText, ...]:
    if value is None:
        return ("",)
    is_single = isinstance(value, str) or isinstance(value[0], int)
    return (value,) if is_single else tuple(value)


def _require_no_labels_with_state(body: "CompletionRequest | InspectRequest") -> None:
    rule = "be absent with state: the text that it continues has its labels"
    require(not (body.labels and body.state is not None), "labels", rule)


def _require_few_prompts(prompts: tuple[PromptText, ...], settings: Settings, field: str) -> None:
    limit = settings.max_prompts
    require(len(prompts) <= limit, field, f"have at most {limit} items, got {len(prompts)}")


def _by_token_id(logit_bias: dict[str, float]) -> dict[int, float]:
    """Parse token ids, which are strings in JSON."""
    bias: dict[int, float] = {}
    for name, value in logit_bias.items():
        if not re.fullmatch(r"[0-9]{1,10}", name):
            raise InvalidRequest(f"logit_bias must have token ids as names, got {shorten(name)}", param="logit_bias")
        if int(name) in bias:
            raise InvalidRequest(f"logit_bias must name a token id once, got {int(name)} twice", param="logit_bias")
        bias[int(name)] = value
    return bias


def _schema_pattern(field: str, schema: Schema | None) -> Pattern | None:
    """Return the pattern of a JSON Schema, which may be given as text."""
    if schema is None:
        return None
    if isinstance(schema, str):
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                f"{field} must be a JSON Schema, as an object or a JSON string: {error}", param=field
            ) from error
    try:
        pattern = Pattern.json(schema)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{field} cannot be written as JSON: {error}", param=field) from error
    if (length := len(pattern.source)) > MAX_SCHEMA:
        raise InvalidRequest(f"{field} must have at most {MAX_SCHEMA} characters, got {length}", param=field)
    return pattern
