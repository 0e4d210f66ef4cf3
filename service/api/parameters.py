"""Request parsing: validates a JSON body once, and returns a frozen request with every default filled in.

Error messages name the field, the limit and the given value. No other module validates again, except what depends on
the model: whether ids are in its vocabulary, and its direction.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.api.requests import MAX_LOGPROBS, PROMPT_KINDS, CompletionBody, EmbeddingsBody, InspectBody, StreamOptions
from service.api.unsupported import COMPLETION_FIELDS, EMBEDDING_FIELDS, refuse_unsupported
from service.errors import InvalidRequest
from service.scheduling.sequence import SamplingParams

# Random seeds fit a double, so that they survive clients whose numbers are doubles.
SEED_BITS = 53
DEFAULT_MAX_TOKENS = 16

COMPLETION_BODY = refuse_unsupported(CompletionBody, COMPLETION_FIELDS)
EMBEDDINGS_BODY = refuse_unsupported(EmbeddingsBody, EMBEDDING_FIELDS)

AnyBody = TypeVar("AnyBody", bound=BaseModel)
PromptText = str | list[int]


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request on this server.

    Attributes:
        max_tokens: Maximum of `max_tokens`.
        max_request_tokens: Maximum number of sequences × `max_tokens`.
        max_prompts: Maximum number of prompts or inputs.
        max_sequences: Maximum number of sequences: prompts × `n`, or × `best_of` if that is given.
        timeout_s: Maximum and default of `timeout_s`.
    """

    max_tokens: int = 100_000
    max_request_tokens: int = 1_000_000
    max_prompts: int = 128
    max_sequences: int = 384
    timeout_s: float = 600.0


@dataclass(frozen=True)
class CompletionRequest:
    """A valid request with every default filled in.

    Attributes:
        model: Model name; None: the resume token's model, or the only one.
        prompts: At least one, each a text or token ids; one empty prompt if the field was empty or absent.
        suffixes: The same for the field `suffix`; a model reads either prompts or suffixes.
        max_tokens: Maximum number of tokens of each choice.
        seed: Given or random, and returned in the response; None: that of the resume token.
        stops: Stop strings, none of them empty.
        num_choices: Choices returned for each prompt, `n` in the body.
        best_of: Choices generated for each prompt, at least `num_choices`.
        num_top: `logprobs` in the body: top tokens returned with each token; None: no log probabilities at all.
        prepend: Whether the client can prepend chunks of a stream that say so.
        state: Resume token; None: start from the initial state.
        return_state: Whether each choice returns a resume token at its end.
        state_interval: Tokens of a choice between resume tokens before its end; None: only `return_state` counts.
    """

    model: str | None
    prompts: tuple[PromptText, ...]
    suffixes: tuple[PromptText, ...]
    max_tokens: int
    sampling: SamplingParams
    seed: int | None
    stops: tuple[str, ...]
    num_choices: int
    best_of: int
    num_top: int | None
    echo: bool
    stream: bool
    include_usage: bool
    prepend: bool
    timeout_s: float
    state: str | None = None
    return_state: bool = False
    state_interval: int | None = None

    @property
    def returns_states(self) -> bool:
        """Whether resume tokens are requested, at the end of choices or before."""
        return self.return_state or self.state_interval is not None


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A valid request with every default filled in; `model` and `prompts` as in `CompletionRequest`."""

    model: str | None
    prompts: tuple[PromptText, ...]
    mean: bool
    base64: bool
    dimensions: int | None
    timeout_s: float


@dataclass(frozen=True)
class InspectRequest:
    """A valid request with every default filled in; `model` as in `CompletionRequest`.

    Attributes:
        given: A text or token ids.
        state: Resume token whose state precedes the text; None: the initial state.
        include: The requested ones of "hidden", "cell" and "gates".
        layers: Numbers of layers; None: all of them.
        num_top: Top tokens returned with each token.
        max_positions: Maximum number of tokens with values; None: all.
        max_units: Maximum number of units with values in each layer; None: all.
        encoding: "float", "base64" or "base64_float16".
    """

    model: str | None
    given: PromptText
    state: str | None
    include: tuple[str, ...]
    layers: tuple[int, ...] | None
    return_sequences: bool
    return_state: bool
    go_backwards: bool
    num_top: int
    max_positions: int | None
    max_units: int | None
    encoding: str
    timeout_s: float


def parse_completion(body: bytes, bounds: RequestLimits) -> CompletionRequest:
    """Validate a body and fill in its defaults.

    Raises:
        InvalidRequest: it is not JSON, or a field is wrong.
    """
    fields = parse(COMPLETION_BODY, body)
    num_choices = _or(fields.n, 1)
    best_of = _or(fields.best_of, num_choices)
    prompts, suffixes = _prompts(fields.prompt, bounds, "prompt"), _prompts(fields.suffix, bounds, "suffix")
    max_tokens = _max_tokens(fields, bounds)
    _check_interplay(fields, num_choices, best_of)
    options = fields.stream_options or StreamOptions()
    # A model reads only one of them; the engine refuses the request if the other is not empty.
    what, num_prompts = "suffixes" if fields.suffix else "prompts", max(len(prompts), len(suffixes))
    _require_few(what, num_prompts, best_of, max_tokens, bounds)
    return CompletionRequest(
        model=fields.model,
        prompts=prompts,
        suffixes=suffixes,
        max_tokens=max_tokens,
        sampling=_sampling(fields, max_tokens),
        seed=_seed(fields),
        stops=tuple(fields.stop or ()),
        num_choices=num_choices,
        best_of=best_of,
        num_top=fields.logprobs,
        echo=bool(fields.echo),
        stream=bool(fields.stream),
        include_usage=bool(options.include_usage),
        prepend=bool(options.prepend),
        timeout_s=_timeout(fields.timeout_s, bounds),
        state=fields.state,
        return_state=bool(fields.return_state),
        state_interval=options.state_interval,
    )


def parse_embeddings(body: bytes, bounds: RequestLimits) -> EmbeddingsRequest:
    """Validate a body and fill in its defaults.

    Raises:
        InvalidRequest: it is not JSON, or a field is wrong.
    """
    fields = parse(EMBEDDINGS_BODY, body)
    return EmbeddingsRequest(
        model=fields.model,
        prompts=_prompts(fields.input, bounds, "input"),
        mean=fields.pooling != "last",
        base64=fields.encoding_format == "base64",
        dimensions=fields.dimensions,
        timeout_s=_timeout(fields.timeout_s, bounds),
    )


def parse_inspect(body: bytes, bounds: RequestLimits) -> InspectRequest:
    """Validate a body and fill in its defaults.

    Raises:
        InvalidRequest: it is not JSON, or a field is wrong.
    """
    fields = parse(InspectBody, body)
    return InspectRequest(
        model=fields.model,
        given=fields.input,
        state=fields.state,
        include=tuple(_or(fields.include, ("hidden", "cell", "gates"))),
        layers=None if fields.layers is None else tuple(fields.layers),
        return_sequences=_or(fields.return_sequences, True),
        return_state=bool(fields.return_state),
        go_backwards=bool(fields.go_backwards),
        num_top=_or(fields.logprobs, MAX_LOGPROBS),
        max_positions=fields.max_positions,
        max_units=fields.max_units,
        encoding=fields.encoding_format or "float",
        timeout_s=_timeout(fields.timeout_s, bounds),
    )


def parse_number(value: str | None, field: str, limits: tuple[int, int], default: int | None = None) -> int:
    """Parse a number in a query.

    Args:
        value: As given; None: absent.
        field: Name of the query parameter.
        limits: Minimum and maximum, both allowed.
        default: Returned if `value` is None; None: the parameter is required.

    Raises:
        InvalidRequest: it is not a number, is out of its limits, or is missing and required.
    """
    if value is None and default is not None:
        return default
    minimum, maximum = limits
    if value is None or not re.fullmatch(r"[0-9]{1,10}", value) or not minimum <= int(value) <= maximum:
        raise InvalidRequest(
            f"{field} must be a number from {minimum} to {maximum}, got {_shorten(value)}", param=field
        )
    return int(value)


def parse(body_type: type[AnyBody], body: bytes) -> AnyBody:
    """Parse a body and validate each field by itself.

    Raises:
        InvalidRequest: it is not JSON, or a field is wrong.
    """
    try:
        return body_type.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from error


def _prompts(value: Any, bounds: RequestLimits, field: str) -> tuple[PromptText, ...]:
    """Normalize every kind of a prompt to a tuple of texts or lists of ids."""
    is_single = isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], int))
    prompts = ("",) if value is None else (value,) if is_single else tuple(value)
    if len(prompts) > bounds.max_prompts:
        raise InvalidRequest(f"{field} must have at most {bounds.max_prompts} items, got {len(prompts)}", param=field)
    return prompts


def _require_few(what: str, num_prompts: int, best_of: int, max_tokens: int, bounds: RequestLimits) -> None:
    """Refuse a request for too many sequences or tokens."""
    if num_prompts * best_of > bounds.max_sequences:
        raise InvalidRequest(
            f"{what} × n (best_of if it is given) must be at most {bounds.max_sequences}, got "
            f"{num_prompts} × {best_of}",
            param="n",
        )
    total = num_prompts * best_of * max_tokens
    if total > bounds.max_request_tokens:
        raise InvalidRequest(
            f"{what} × n (best_of if it is given) × max_tokens must be at most {bounds.max_request_tokens}, got "
            f"{num_prompts} × {best_of} × {max_tokens} = {total}",
            param="max_tokens",
        )


def _max_tokens(fields: CompletionBody, bounds: RequestLimits) -> int:
    """Return the maximum tokens of each choice, by either name: guidellm sends both."""
    name, value = "max_tokens", fields.max_tokens
    if value is None and fields.max_completion_tokens is not None:
        name, value = "max_completion_tokens", fields.max_completion_tokens
    elif fields.max_completion_tokens not in (None, value):
        other = _shorten(fields.max_completion_tokens)
        raise InvalidRequest(
            f"max_completion_tokens must be absent or max_tokens, {value}, got {other}", param="max_completion_tokens"
        )
    if value is None:
        return min(DEFAULT_MAX_TOKENS, bounds.max_tokens)
    _require_at_most(name, value, bounds.max_tokens)
    return value


def _check_interplay(fields: CompletionBody, num_choices: int, best_of: int) -> None:
    if best_of < num_choices:
        raise InvalidRequest(f"best_of must be at least n, got best_of {best_of} and n {num_choices}", param="best_of")
    if fields.stream and best_of > num_choices:
        raise InvalidRequest(
            f"best_of must be n with stream, as a choice can only be made of whole texts; got best_of {best_of} and n "
            f"{num_choices}",
            param="best_of",
        )
    if fields.stream_options is not None and not fields.stream:
        raise InvalidRequest("stream_options must be absent without stream", param="stream_options")


def _sampling(fields: CompletionBody, max_tokens: int) -> SamplingParams:
    min_tokens = _or(fields.min_tokens, 0)
    _require_at_most("min_tokens", min_tokens, max_tokens, "max_tokens, ")
    return SamplingParams(
        temperature=_or(fields.temperature, 1.0),
        top_k=max(0, _or(fields.top_k, 0)),
        top_p=_or(fields.top_p, 1.0),
        min_p=_or(fields.min_p, 0.0),
        presence_penalty=_or(fields.presence_penalty, 0.0),
        frequency_penalty=_or(fields.frequency_penalty, 0.0),
        repetition_penalty=_or(fields.repetition_penalty, 1.0),
        bias=_bias(fields.logit_bias or {}),
        min_tokens=max_tokens if fields.ignore_eos else min_tokens,
    )


def _seed(fields: CompletionBody) -> int | None:
    if fields.seed is None and fields.state is None:
        return secrets.randbits(SEED_BITS)
    return fields.seed


def _bias(logit_bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Parse the token ids, which are strings in JSON."""
    bias: dict[int, float] = {}
    for name, value in logit_bias.items():
        if not re.fullmatch(r"[0-9]{1,10}", name):
            raise InvalidRequest(f"logit_bias must have token ids as names, got {_shorten(name)}", param="logit_bias")
        if int(name) in bias:
            raise InvalidRequest(f"logit_bias must name a token id once, got {int(name)} twice", param="logit_bias")
        bias[int(name)] = value
    return tuple(bias.items())


def _timeout(timeout_s: float | None, bounds: RequestLimits) -> float:
    if timeout_s is not None and timeout_s > bounds.timeout_s:
        raise InvalidRequest(f"timeout_s must be at most {bounds.timeout_s:g}, got {timeout_s:g}", param="timeout_s")
    return bounds.timeout_s if timeout_s is None else timeout_s


def _require_at_most(field: str, value: int, limit: int, what: str = "") -> None:
    if value > limit:
        raise InvalidRequest(f"{field} must be at most {what}{limit}, got {_shorten(value)}", param=field)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _explain(error: ValidationError) -> InvalidRequest:
    """Return the first error in one line; pydantic names each branch of a union, but a client knows only the field."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return InvalidRequest(f"the body must be JSON: {problem['ctx']['error']}")
    if not problem["loc"]:
        return InvalidRequest(f"the body must be a JSON object, got {_shorten(problem['input'])}")
    field = str(problem["loc"][0])
    if problem["type"] == "missing":
        return InvalidRequest(f"{field} is required", param=field)
    # The path of a nested field: stop[1], stream_options.include_usage.
    nested = [part for part in problem["loc"][1:] if part not in PROMPT_KINDS]
    path = field + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in nested)
    message = re.sub(r"^\w+ should ", "", problem["msg"]).split(" after validation")[0]
    if problem["loc"][1:] == ("text",):
        message = "be a string, a list of strings, a list of token ids or a list of such lists"
    return InvalidRequest(
        f"{_shorten(path, quoted=False)} must {message}, got {_shorten(problem['input'])}", param=field
    )


def _shorten(value: Any, *, quoted: bool = True) -> str:
    """Return a value for an error message; a long list is cut before it is formatted."""
    if isinstance(value, list | str) and len(value) > 60:
        value = value[:60]
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
