"""What the server answers, as frozen values. It knows the shape of answers, not where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from ostinato._errors import UnexpectedResponse

T = TypeVar("T")

_REPR_LIMIT = 60  # characters of text that a repr shows


class TextDelta(NamedTuple):
    """The next piece of one choice's text, as a stream delivers it.

    Attributes:
        index: int. The choice that it belongs to: prompt index · n + choice within the prompt.
        text: str. May be empty.
        finish_reason: str or None. "stop" or "length" in the choice's last piece, None before.
        prepend: bool. Whether the text goes before what came so far of the choice, and not behind it.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index; the API's own name is worth more
    text: str
    finish_reason: str | None
    prepend: bool = False


@dataclass(frozen=True)
class Choice:
    """One generated text.

    Attributes:
        index: int. Prompt index · n + choice within the prompt.
        text: str. The text, without the prompt or suffix unless `echo` was asked for.
        finish_reason: str or None. "stop" or "length"; None while a stream has not ended.
        state: str or None. What `state=` of another request goes on with, if `return_state=True` asked for it.
        logprobs: dict or None. If `logprobs=…` asked for them, lists with an entry per token: `tokens`,
            `token_logprobs`, `top_logprobs` and `text_offset`.
    """

    index: int
    text: str
    finish_reason: str | None
    state: str | None = field(default=None, repr=False)
    logprobs: dict[str, list[Any]] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Choice:
        """Read one of an answer's `choices`.

        Raises:
            UnexpectedResponse: a field is missing or of another type.
        """
        index, text = required(raw, "index", int), required(raw, "text", str)
        logprobs = None if raw.get("logprobs") is None else required(raw, "logprobs", dict)
        return cls(index, text, raw.get("finish_reason"), raw.get("state"), logprobs)


@dataclass(frozen=True)
class Usage:
    """What a request took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Usage:
        """Read an answer's `usage`; what it leaves out counts as 0."""
        return cls(*(raw.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")))


@dataclass(frozen=True, repr=False)
class Generation:
    """What one request generated. `str()` of it is the text.

    Attributes:
        id: str. The server's name for the request; empty while a stream has brought nothing.
        model: str. The model that generated the text.
        seed: int or None. Sent again with the same request, it brings the same text.
        system_fingerprint: str or None. Equal fingerprints mean equal texts from equal seeds.
        choices: tuple of Choice, by index.
        usage: Usage or None. None while a stream has not ended.
        raw: dict. The answer as it came, with the fields that have no attribute here.
    """

    id: str
    model: str
    seed: int | None
    system_fingerprint: str | None
    choices: tuple[Choice, ...]
    usage: Usage | None
    raw: dict[str, Any] = field(compare=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Generation:
        """Read an answer of `/v1/completions`.

        Raises:
            UnexpectedResponse: the choices are missing or of another shape.
        """
        choices = [Choice.from_response(choice) for choice in required(raw, "choices", list)]
        return cls(
            id=raw.get("id") or "",
            model=raw.get("model") or "",
            seed=raw.get("seed"),
            system_fingerprint=raw.get("system_fingerprint"),
            choices=tuple(sorted(choices, key=lambda choice: choice.index)),
            usage=Usage.from_response(required(raw, "usage", dict)) if raw.get("usage") else None,
            raw=raw,
        )

    @property
    def text(self) -> str:
        """The first choice's text; empty if there is no choice."""
        return self.choices[0].text if self.choices else ""

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: "stop" or "length"; None while a stream has not ended."""
        return self.choices[0].finish_reason if self.choices else None

    @property
    def state(self) -> str | None:
        """The first choice's state, which `state=` of another request goes on with; None if it was not asked for."""
        return self.choices[0].state if self.choices else None

    def __str__(self) -> str:
        """Return the first choice's text."""
        return self.text

    def __repr__(self) -> str:
        """Show what one looks for first; a long text is cut."""
        shown = {
            "text": shortened(self.text),
            "finish_reason": self.finish_reason,
            "model": self.model,
            "seed": self.seed,
        }
        if len(self.choices) != 1:
            shown["num_choices"] = len(self.choices)
        if self.usage:
            shown["completion_tokens"] = self.usage.completion_tokens
        return f"Generation({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


@dataclass(frozen=True, repr=False)
class Model:
    """A model that the server has. `str()` of it is its id, which is what `model=` takes.

    Attributes:
        id: str.
        created: int or None. Seconds since 1970.
        owned_by: str or None.
        max_model_len: int or None. The most tokens of prompt and text together; None for no limit.
        version: int or None. The one that answers who names the model alone.
        cell: str or None. "lstm", "gru" or "rnn"; None where layers are of several kinds or not known.
        layers, units, vocab_size: int or None.
        unit: str or None. What a token is: "character", "word", "exact_word" or "subword".
        direction: str or None. "forward", or "backward" for a model that leads up to an ending.
        deterministic: bool or None. Whether the same seed brings the same bytes, under any load.
        raw: dict. The entry as it came, with the fields that have no attribute here.
    """

    id: str
    created: int | None = None
    owned_by: str | None = None
    max_model_len: int | None = None
    version: int | None = None
    cell: str | None = None
    layers: int | None = None
    units: int | None = None
    unit: str | None = None
    vocab_size: int | None = None
    direction: str | None = None
    deterministic: bool | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Model:
        """Read an entry of `/v1/models`.

        Raises:
            UnexpectedResponse: it has no id.
        """
        required(raw, "id", str)
        known = {entry.name for entry in fields(cls)} - {"raw"}
        return cls(**{name: value for name, value in raw.items() if name in known}, raw=raw)

    def __repr__(self) -> str:
        """Show what one looks for first."""
        shown = ("id", "version", "cell", "units", "unit", "direction")
        known = [f"{name}={value!r}" for name in shown if (value := getattr(self, name)) is not None]
        return f"Model({', '.join(known)})"

    def __str__(self) -> str:
        """Return the id."""
        return self.id


@dataclass(frozen=True)
class Status:
    """How much a server has to do, and takes.

    Attributes:
        status: str. "ok", or "draining" before it stops.
        num_sequences: int. Texts that it has accepted and not ended.
        max_sequences: int. How many it takes at once, those that wait among them.
        raw: dict. The answer as it came.
    """

    status: str
    num_sequences: int
    max_sequences: int
    raw: dict[str, Any] = field(compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Status:
        """Read an answer of `/v1/status`.

        Raises:
            UnexpectedResponse: a field is missing or of another type.
        """
        texts = required(raw, "sequences", dict)
        return cls(required(raw, "status", str), required(texts, "accepted", int), required(texts, "max", int), raw)


def shortened(text: str) -> str:
    """Return a text as a repr shows it."""
    return text if len(text) <= _REPR_LIMIT else text[: _REPR_LIMIT - 1] + "…"


def required(raw: Any, name: str, kind: type[T]) -> T:
    """Return the field `name` of a JSON object.

    Raises:
        UnexpectedResponse: `raw` is no object, or the field is missing or of another type.
    """
    value = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(value, kind):
        raise UnexpectedResponse(
            f"the answer's {name!r} should be of type {kind.__name__} but is {value!r:.40}: "
            "check that base_url is an Ostinato server"
        )
    return value
