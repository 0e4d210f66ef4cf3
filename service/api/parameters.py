"""A request's body, checked once: JSON in, a frozen request with every default filled in out.

Messages name the field, the bound and what was given. Nothing below this checks again, but for what only a model can
tell: whether ids are in its vocabulary, and from which end it reads.
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

# Seeds that we draw fit a double, so that they survive clients whose numbers are doubles.
SEED_BITS = 53
DEFAULT_MAX_TOKENS = 16

COMPLETION_BODY = refuse_unsupported(CompletionBody, COMPLETION_FIELDS)
EMBEDDINGS_BODY = refuse_unsupported(EmbeddingsBody, EMBEDDING_FIELDS)

AnyBody = TypeVar("AnyBody", bound=BaseModel)
PromptText = str | list[int]


@dataclass(frozen=True)
class Bounds:
    """What one request may ask for on this server.

    Attributes:
        max_tokens: Largest `max_tokens`.
        max_request_tokens: Largest number of texts × `max_tokens`.
        max_prompts: Most prompts or inputs.
        max_sequences: Most texts: prompts × n, or best_of if it is more.
        timeout_s: Longest `timeout_s`, and what a request without one gets.
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
        model: None: that of the state, or the only one.
        prompts: At least one; each a text or token ids. An empty one if the field was empty or absent.
        suffixes: The same of the field `suffix`. A model reads the one or the other.
        max_tokens: Of each choice.
        seed: Given, or drawn now; either way it is returned. None: that of the state.
        stops: Not empty strings.
        num_choices: Choices wanted of each prompt, `n` in the body.
        best_of: Choices made of each prompt, at least `num_choices`.
        num_top: `logprobs` in the body: most probable tokens wanted beside each; None: no log probabilities at all.
        prepend: Whether the client puts pieces of a stream before those so far, where they say so.
        state: Token of the text to go on with; None: of none.
        return_state: Whether each choice is to have such a token at its end.
        state_interval: Tokens of a choice after which it is to have one before its end; None: it is to have none.
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
        """Whether a choice may have to be put down before its end, or at it."""
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
        state: Token of the text that it is read after; None: of none.
        include: "hidden", "cell" and "gates", those of them that are wanted.
        layers: Numbers of layers; None: all of them.
        num_top: Most probable tokens wanted in each token's place.
        max_positions: Most tokens to tell values of; None: all.
        max_units: Most units of each layer to tell; None: all.
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


def parse_completion(body: bytes, bounds: Bounds) -> CompletionRequest:
    """Check a body and fill in its defaults.

    Raises:
        InvalidRequest: not JSON, or a field that is wrong.
    """
    given = parse(COMPLETION_BODY, body)
    num_choices = _or(given.n, 1)
    best_of = _or(given.best_of, num_choices)
    prompts, suffixes = _prompts(given.prompt, bounds, "prompt"), _prompts(given.suffix, bounds, "suffix")
    wanted = _max_tokens(given, bounds)
    _check_interplay(given, num_choices, best_of)
    options = given.stream_options or StreamOptions()
    # A model reads but one of them, and refuses the request if the other is more than an empty text.
    what, num_prompts = "suffixes" if given.suffix else "prompts", max(len(prompts), len(suffixes))
    _require_few(what, num_prompts, best_of, wanted, bounds)
    return CompletionRequest(
        model=given.model,
        prompts=prompts,
        suffixes=suffixes,
        max_tokens=wanted,
        sampling=_sampling(given, wanted),
        seed=_seed(given),
        stops=tuple(given.stop or ()),
        num_choices=num_choices,
        best_of=best_of,
        num_top=given.logprobs,
        echo=bool(given.echo),
        stream=bool(given.stream),
        include_usage=bool(options.include_usage),
        prepend=bool(options.prepend),
        timeout_s=_timeout(given.timeout_s, bounds),
        state=given.state,
        return_state=bool(given.return_state),
        state_interval=options.state_interval,
    )


def parse_embeddings(body: bytes, bounds: Bounds) -> EmbeddingsRequest:
    """Check a body and fill in its defaults.

    Raises:
        InvalidRequest: not JSON, or a field that is wrong.
    """
    given = parse(EMBEDDINGS_BODY, body)
    return EmbeddingsRequest(
        model=given.model,
        prompts=_prompts(given.input, bounds, "input"),
        mean=given.pooling != "last",
        base64=given.encoding_format == "base64",
        dimensions=given.dimensions,
        timeout_s=_timeout(given.timeout_s, bounds),
    )


def parse_inspect(body: bytes, bounds: Bounds) -> InspectRequest:
    """Check a body and fill in its defaults.

    Raises:
        InvalidRequest: not JSON, or a field that is wrong.
    """
    given = parse(InspectBody, body)
    return InspectRequest(
        model=given.model,
        given=given.input,
        state=given.state,
        include=tuple(_or(given.include, ("hidden", "cell", "gates"))),
        layers=None if given.layers is None else tuple(given.layers),
        return_sequences=_or(given.return_sequences, True),
        return_state=bool(given.return_state),
        go_backwards=bool(given.go_backwards),
        num_top=_or(given.logprobs, MAX_LOGPROBS),
        max_positions=given.max_positions,
        max_units=given.max_units,
        encoding=given.encoding_format or "float",
        timeout_s=_timeout(given.timeout_s, bounds),
    )


def parse_number(given: str | None, field: str, bounds: tuple[int, int], default: int | None = None) -> int:
    """Read a number out of a query.

    Raises:
        InvalidRequest: it is none, is out of its bounds, or is missing and has no default.
    """
    if given is None and default is not None:
        return default
    least, most = bounds
    if given is None or not re.fullmatch(r"[0-9]{1,10}", given) or not least <= int(given) <= most:
        raise InvalidRequest(f"{field} must be a number from {least} to {most}, got {_shorten(given)}", param=field)
    return int(given)


def parse(kind: type[AnyBody], body: bytes) -> AnyBody:
    """Check each field of a body by itself.

    Raises:
        InvalidRequest: not JSON, or a field that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from error


def _prompts(given: Any, bounds: Bounds, field: str) -> tuple[PromptText, ...]:
    """Bring every form of a prompt into one: a few texts or lists of ids."""
    one = isinstance(given, str) or (isinstance(given, list) and isinstance(given[0], int))
    prompts = ("",) if given is None else (given,) if one else tuple(given)
    if len(prompts) > bounds.max_prompts:
        raise InvalidRequest(f"{field} must have at most {bounds.max_prompts} items, got {len(prompts)}", param=field)
    return prompts


def _require_few(what: str, num_prompts: int, best_of: int, max_tokens: int, bounds: Bounds) -> None:
    """Refuse a request of too many texts or tokens before anything is made of it."""
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


def _max_tokens(given: CompletionBody, bounds: Bounds) -> int:
    """Return the tokens wanted of each choice, by either name: guidellm gives both."""
    name, wanted = "max_tokens", given.max_tokens
    if wanted is None and given.max_completion_tokens is not None:
        name, wanted = "max_completion_tokens", given.max_completion_tokens
    elif given.max_completion_tokens not in (None, wanted):
        other = _shorten(given.max_completion_tokens)
        raise InvalidRequest(
            f"max_completion_tokens must be absent or max_tokens, {wanted}, got {other}", param="max_completion_tokens"
        )
    if wanted is None:
        return min(DEFAULT_MAX_TOKENS, bounds.max_tokens)
    _require_at_most(name, wanted, bounds.max_tokens)
    return wanted


def _check_interplay(given: CompletionBody, num_choices: int, best_of: int) -> None:
    if best_of < num_choices:
        raise InvalidRequest(f"best_of must be at least n, got best_of {best_of} and n {num_choices}", param="best_of")
    if given.stream and best_of > num_choices:
        raise InvalidRequest(
            f"best_of must be n with stream, as a choice can only be made of whole texts; got best_of {best_of} and n "
            f"{num_choices}",
            param="best_of",
        )
    if given.stream_options is not None and not given.stream:
        raise InvalidRequest("stream_options must be absent without stream", param="stream_options")


def _sampling(given: CompletionBody, max_tokens: int) -> SamplingParams:
    min_tokens = _or(given.min_tokens, 0)
    _require_at_most("min_tokens", min_tokens, max_tokens, "max_tokens, ")
    return SamplingParams(
        temperature=_or(given.temperature, 1.0),
        top_k=max(0, _or(given.top_k, 0)),
        top_p=_or(given.top_p, 1.0),
        min_p=_or(given.min_p, 0.0),
        presence_penalty=_or(given.presence_penalty, 0.0),
        frequency_penalty=_or(given.frequency_penalty, 0.0),
        repetition_penalty=_or(given.repetition_penalty, 1.0),
        bias=_bias(given.logit_bias or {}),
        min_tokens=max_tokens if given.ignore_eos else min_tokens,
    )


def _seed(given: CompletionBody) -> int | None:
    if given.seed is None and given.state is None:
        return secrets.randbits(SEED_BITS)
    return given.seed


def _bias(given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Read the ids, which JSON has as strings."""
    bias: dict[int, float] = {}
    for name, value in given.items():
        if not re.fullmatch(r"[0-9]{1,10}", name):
            raise InvalidRequest(f"logit_bias must have token ids as names, got {_shorten(name)}", param="logit_bias")
        if int(name) in bias:
            raise InvalidRequest(f"logit_bias must name a token id once, got {int(name)} twice", param="logit_bias")
        bias[int(name)] = value
    return tuple(bias.items())


def _timeout(given: float | None, bounds: Bounds) -> float:
    if given is not None and given > bounds.timeout_s:
        raise InvalidRequest(f"timeout_s must be at most {bounds.timeout_s:g}, got {given:g}", param="timeout_s")
    return bounds.timeout_s if given is None else given


def _require_at_most(field: str, value: int, bound: int, what: str = "") -> None:
    if value > bound:
        raise InvalidRequest(f"{field} must be at most {what}{bound}, got {_shorten(value)}", param=field)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _explain(error: ValidationError) -> InvalidRequest:
    """Put the first problem into one line; pydantic names each branch of a union, the client knows only the field."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return InvalidRequest(f"the body must be JSON: {problem['ctx']['error']}")
    if not problem["loc"]:
        return InvalidRequest(f"the body must be a JSON object, got {_shorten(problem['input'])}")
    field = str(problem["loc"][0])
    if problem["type"] == "missing":
        return InvalidRequest(f"{field} is required", param=field)
    # Of a nested field, say which part of it is wrong: stop[1], stream_options.include_usage.
    rest = [part for part in problem["loc"][1:] if part not in PROMPT_KINDS]
    place = field + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    message = re.sub(r"^\w+ should ", "", problem["msg"]).split(" after validation")[0]
    if problem["loc"][1:] == ("text",):
        message = "be a string, a list of strings, a list of token ids or a list of such lists"
    return InvalidRequest(
        f"{_shorten(place, quoted=False)} must {message}, got {_shorten(problem['input'])}", param=field
    )


def _shorten(value: Any, *, quoted: bool = True) -> str:
    """Return a value as a message may show it: a million items are not spelt out to be cut."""
    if isinstance(value, list | str) and len(value) > 60:
        value = value[:60]
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
