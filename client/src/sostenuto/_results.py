"""Responses of the server as frozen values: generations, models and status."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from sostenuto._errors import UnexpectedResponse, first_of

T = TypeVar("T")

_REPR_LIMIT = 60  # characters of text that a repr shows


class TextDelta(NamedTuple):
    """A text delta of one choice in a stream.

    Attributes:
        index: int. Index of the choice: prompt index · n + choice within the prompt.
        text: str. May be empty.
        finish_reason: str or None. "stop" or "length" in the choice's last delta, None before.
        prepend: bool. Whether the text goes before the choice's earlier deltas instead of after them.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index; the API's own name is worth more
    text: str
    finish_reason: str | None
    prepend: bool = False


@dataclass(frozen=True)
class Choice:
    """One completion of a prompt.

    Attributes:
        index: int. Prompt index · n + choice within the prompt.
        text: str. The generated text, without the prompt or suffix unless `echo` was set.
        finish_reason: str or None. "stop" or "length"; None while a stream has not ended.
        state: str or None. Resume token for `state=` of another request, if `return_state=True` was set.
        logprobs: dict or None. If `logprobs=…` was set, lists with one entry per token: `tokens`, `token_logprobs`,
            `top_logprobs` and `text_offset`.
        cumulative_logprob: float or None. With `top_texts` and `use_beam_search`, the natural log probability of the
            generated tokens, including the end token.
    """

    index: int
    text: str
    finish_reason: str | None
    state: str | None = field(default=None, repr=False)
    logprobs: dict[str, list[Any]] | None = field(default=None, repr=False, compare=False)
    cumulative_logprob: float | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Choice:
        """Parse an entry of a response's `choices`; raise UnexpectedResponse if it has another shape."""
        index, text = required(raw, "index", int), required(raw, "text", str)
        logprobs = None if raw.get("logprobs") is None else required(raw, "logprobs", dict)
        return cls(index, text, raw.get("finish_reason"), raw.get("state"), logprobs, raw.get("cumulative_logprob"))


@dataclass(frozen=True)
class Usage:
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int  # their sum

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Usage:
        """Parse a response's `usage`; missing counts are 0."""
        return cls(*(raw.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")))


@dataclass(frozen=True, repr=False)
class Generation:
    """The response of a completion request. `str()` returns the first choice's text.

    Attributes:
        id: str. The server's id of the completion; empty before the first chunk of a stream.
        model: str. The model that generated the text.
        seed: int or None. The same request with this seed reproduces the same text.
        system_fingerprint: str or None. Equal fingerprints and equal seeds give equal texts.
        choices: tuple of Choice, by index.
        usage: Usage or None. None while a stream has not ended.
        raw: dict. The JSON response, including fields without an attribute.
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
        """Parse a response of `/v1/completions`; raise UnexpectedResponse if it has another shape."""
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
        first = first_of(self.choices)
        return first.text if first else ""

    @property
    def finish_reason(self) -> str | None:
        """The first choice's finish reason, "stop" or "length"; None while a stream has not ended."""
        first = first_of(self.choices)
        return first.finish_reason if first else None

    @property
    def state(self) -> str | None:
        """The first choice's resume token, for `state=` of another request; None if it was not requested."""
        first = first_of(self.choices)
        return first.state if first else None

    def __str__(self) -> str:
        """Return the first choice's text."""
        return self.text

    def __repr__(self) -> str:
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


@dataclass(frozen=True)
class ModelVersion:
    """A served version of a model. Values that are unknown, or that only `Client.model` returns, are None.

    Attributes:
        version: int.
        labels: tuple of str.
        share: float. Share of the requests that name no version.
        parameters: int or None. Number of weights.
        size_bytes: int or None. Size of the files on the server's disk.
        weights_bytes: int or None. Memory that the weights take in each model server.
        validation_loss: float or None. In nats per token.
        bits_per_character: float or None. The same loss.
        ngram_loss: float or None. That of the best n-gram model of the same text, in nats per token.
        corpus: str or None. Name of the text that it was trained on.
        parent: str or None. The version that it was fine-tuned from, such as "english:1".
        raw: dict. The JSON object, including fields without an attribute: `sample`, `created`, ….
    """

    version: int
    labels: tuple[str, ...] = ()
    share: float = 0.0
    parameters: int | None = None
    size_bytes: int | None = None
    weights_bytes: int | None = None
    validation_loss: float | None = None
    bits_per_character: float | None = None
    ngram_loss: float | None = None
    corpus: str | None = None
    parent: str | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> ModelVersion:
        """Parse an entry of a model's `versions`; raise UnexpectedResponse if it has no number."""
        required(raw, "version", int)
        known = {entry.name for entry in fields(cls)} - {"raw"}
        values = {name: value for name, value in raw.items() if name in known}
        return cls(**{**values, "labels": tuple(raw.get("labels") or ())}, raw=raw)


@dataclass(frozen=True, repr=False)
class Model:
    """A served model. `str()` returns its id, which `model=` accepts.

    Attributes:
        id: str.
        created: int or None. Unix time in seconds.
        owned_by: str or None.
        max_model_len: int or None. Maximum number of prompt and completion tokens together; None for no limit.
        version: int or None. The default version, for requests that name only the model.
        cell: str or None. "lstm", "gru" or "simple_rnn"; None if the layers are of several kinds or unknown.
        layers: int or None. Number of recurrent layers.
        units: int or None. Units of a layer.
        vocab_size: int or None.
        unit: str or None. What a token is: a "character", "word", "exact_word", "subword" or "regex".
        direction: str or None. "forward", or "backward" for a model that generates from right to left.
        deterministic: bool or None. Whether the same seed gives byte-identical output under any load.
        label_columns: dict or None. Labels that `labels=` accepts, by column: lists of str; bins for numbers.
        versions: tuple of ModelVersion. The served versions.
        labels: dict or None. Version of each label. None in a list, as the next two.
        shares: dict or None. The traffic split, by label or version; empty without one.
        unloaded: tuple of int or None. Versions that exist, but are not served.
        raw: dict. The JSON entry, including fields without an attribute.
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
    label_columns: dict[str, list[str]] | None = None
    versions: tuple[ModelVersion, ...] = ()
    labels: dict[str, int] | None = None
    shares: dict[str, float] | None = None
    unloaded: tuple[int, ...] | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Model:
        """Parse an entry of `/v1/models`; raise UnexpectedResponse if it has no id."""
        required(raw, "id", str)
        known = {entry.name for entry in fields(cls)} - {"raw"}
        values = {name: value for name, value in raw.items() if name in known}
        values["versions"] = tuple(map(ModelVersion.from_response, raw.get("versions") or ()))
        if "unloaded" in raw:
            values["unloaded"] = tuple(required(raw, "unloaded", list))
        return cls(**values, raw=raw)

    def __repr__(self) -> str:
        shown = ("id", "version", "cell", "units", "unit", "direction")
        known = [f"{name}={value!r}" for name in shown if (value := getattr(self, name)) is not None]
        return f"Model({', '.join(known)})"

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class RawResponse:
    """A successful response to `Client.post`, not parsed.

    Attributes:
        status: int. HTTP status.
        request_id: str or None. The `x-request-id` of the request in the server's log.
        content: bytes. The response body as received: JSON.
    """

    status: int
    request_id: str | None
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Status:
    """Load and limit of a server.

    Attributes:
        status: str. "ok", or "draining" during a shutdown.
        num_sequences: int. Waiting and running sequences.
        max_sequences: int. Maximum number of waiting and running sequences.
        raw: dict. The JSON response.
    """

    status: str
    num_sequences: int
    max_sequences: int
    raw: dict[str, Any] = field(compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Status:
        """Parse a response of `/v1/status`; raise UnexpectedResponse if it has another shape."""
        counts = required(raw, "sequences", dict)
        return cls(required(raw, "status", str), required(counts, "accepted", int), required(counts, "max", int), raw)


def shortened(text: str, limit: int = _REPR_LIMIT) -> str:
    """Truncate a text to a number of characters, by default for a repr."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def required(raw: Any, name: str, kind: type[T]) -> T:
    """Return the field `name` of a JSON object; raise UnexpectedResponse if it is missing or of another type."""
    value = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(value, kind):
        raise UnexpectedResponse(
            f"the response's {name!r} should be of type {kind.__name__} but is {value!r:.40}: "
            "check that base_url is a Sostenuto server"
        )
    return value
