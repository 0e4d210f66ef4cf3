"""A request's body, checked once: JSON in, a frozen request with every default filled in out.

Messages name the field, the bound and what was given. Nothing below this checks again.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.errors import InvalidRequest
from service.sequence import Sampling

# Seeds that we draw fit a double, so that they survive clients whose numbers are doubles.
SEED_BITS = 53
MAX_STOPS = 16
Probability = Annotated[float, Field(ge=0, le=1)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
# One stop string is a list of one: a union of both would report every problem twice.
Stops = Annotated[
    list[Stop],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(max_length=MAX_STOPS, json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array"}]}),
]


class StreamOptions(BaseModel):
    """How a stream is delivered.

    Attributes:
        include_usage: Whether a last chunk, without choices, carries the usage.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class CompletionBody(BaseModel):
    """The body of `POST /v1/completions`. Null means absent; unknown fields are ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    model: str = Field(description="name of a model, as /v1/models lists them")
    prompt: str | None = Field(None, description="text to go on with; empty begins a new text")
    max_tokens: int | None = Field(None, ge=0, description="tokens to write at most; 16 by default")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 takes the most probable token")
    top_p: Probability | None = Field(None, description="draw among the most probable tokens that hold this much")
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        None, description="draw among this many of the most probable tokens; 0 or -1: all"
    )
    min_p: Probability | None = Field(None, description="drop tokens less probable than this times the most probable")
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(None, description="same seed, same text")
    stop: Stops | None = Field(None, description="end before this text, or before any of these")
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(None, description="texts to write")
    stream: bool | None = Field(None, description="send text as it is written")
    stream_options: StreamOptions | None = None


@dataclass(frozen=True)
class CompletionRequest:
    """A valid request with every default filled in.

    Attributes:
        seed: Given, or drawn now; either way it is returned.
        stops: Not empty strings.
        max_tokens: Of each choice.
        num_choices: Choices wanted, `n` in the body.
    """

    model: str
    prompt: str
    max_tokens: int
    sampling: Sampling
    seed: int
    stops: tuple[str, ...]
    num_choices: int
    stream: bool
    include_usage: bool


def parse_completion(body: bytes, *, max_tokens: int) -> CompletionRequest:
    """Check a body and fill in its defaults.

    Args:
        body: JSON.
        max_tokens: The largest `max_tokens` allowed.

    Raises:
        InvalidRequest: not JSON, or a field that is wrong.
    """
    try:
        given = CompletionBody.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from error
    wanted = 16 if given.max_tokens is None else given.max_tokens
    if wanted > max_tokens:
        raise InvalidRequest(f"max_tokens must be at most {max_tokens}, got {wanted}", param="max_tokens")
    return CompletionRequest(
        model=given.model,
        prompt=given.prompt or "",
        max_tokens=wanted,
        sampling=Sampling(
            temperature=_or(given.temperature, 1.0),
            top_k=max(0, _or(given.top_k, 0)),
            top_p=_or(given.top_p, 1.0),
            min_p=_or(given.min_p, 0.0),
        ),
        seed=secrets.randbits(SEED_BITS) if given.seed is None else given.seed,
        stops=tuple(given.stop or ()),
        num_choices=_or(given.n, 1),
        stream=bool(given.stream),
        include_usage=bool(given.stream_options and given.stream_options.include_usage),
    )


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
    rest = problem["loc"][1:]
    place = field + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    message = re.sub(r"^\w+ should ", "", problem["msg"])
    return InvalidRequest(f"{place} must {message}, got {_shorten(problem['input'])}", param=field)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
