"""Responses of the endpoints that look into a model: scores, tokens, embeddings and activations."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sostenuto._errors import UnexpectedResponse
from sostenuto._fields import Prompt, is_many
from sostenuto._results import required, shortened

Matrix: TypeAlias = list[list[float]]


@dataclass(frozen=True)
class ScoredToken:
    """One token of a text with its log probability.

    Attributes:
        text: str. The token's text, or its name if it has no text.
        logprob: float or None. Natural log probability; None for the token that the model processes first, which has
            no context.
        offset: int. Start of the token in the text, in characters.
        alternatives: dict of str to float. The most probable tokens at this position, and the token itself, with their
            natural log probabilities; empty in a `Score`.
    """

    text: str
    logprob: float | None
    offset: int
    alternatives: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def probability(self) -> float | None:
        """The probability, from 0 to 1; None for the token that the model processes first."""
        return None if self.logprob is None else math.exp(self.logprob)


@dataclass(frozen=True, repr=False)
class Score:
    """The score of a text: its negative log probability in nats.

    A text that is scored as a whole document includes its end. Otherwise the token that the model processes first has
    no log probability.

    Attributes:
        text: str. The text; empty if token ids were given.
        nats: float. Negative log probability of all scored tokens.
        nats_per_token: float or None. Mean over the scored tokens; None if there is none.
        nats_per_character: float or None. `nats` divided by their characters; comparable between tokenizers.
        num_tokens: int. Number of scored tokens.
        percentile: float or None. Percentage of held-out texts with fewer nats per character; None if unknown for the
            model's version or for texts that are scored in this way.
        ratio: float or None. Log probability minus that by the model of `ratio_to`, in nats.
        tokens: tuple of ScoredToken, in reading order; empty unless they were requested.
        model: str. NAME:VERSION.
        state: str or None. With `carry_state`, of the last text: a resume token.
    """

    text: str
    nats: float
    nats_per_token: float | None
    nats_per_character: float | None
    num_tokens: int
    percentile: float | None = None
    ratio: float | None = None
    tokens: tuple[ScoredToken, ...] = ()
    model: str = ""
    state: str | None = None

    @classmethod
    def from_response(cls, raw: dict[str, Any], given: Prompt) -> list[Score]:
        """Parse a response of `/v1/score` to a text or a list; raise UnexpectedResponse if it has another shape."""
        data, model = required(raw, "data", list), f"{raw.get('model')}:{raw.get('version')}"
        texts = list(given) if is_many(given) else [given]
        if not data or len(data) != len(texts):
            raise UnexpectedResponse(f"'data' should have {len(texts)} entries but has {len(data)}: check base_url")
        return [
            cls(
                text if isinstance(text, str) else "",
                required(entry, "nats", float),
                entry.get("nats_per_token"),
                entry.get("nats_per_character"),
                required(entry, "num_tokens", int),
                entry.get("percentile"),
                entry.get("ratio"),
                _surprising_tokens(entry),
                model,
                raw.get("state") if number == len(texts) else None,
            )
            for number, (text, entry) in enumerate(zip(texts, data, strict=True), 1)
        ]

    @property
    def perplexity(self) -> float:
        """Perplexity per token, exp(nats_per_token)."""
        return math.nan if self.nats_per_token is None else math.exp(self.nats_per_token)

    @property
    def bits_per_character(self) -> float:
        """Bits per character, nats_per_character / ln 2."""
        return math.nan if self.nats_per_character is None else self.nats_per_character / math.log(2)

    def __repr__(self) -> str:
        means = f"nats_per_character={self.nats_per_character}, percentile={self.percentile}"
        return f"Score({shortened(self.text)!r}, nats={self.nats:.4g}, num_tokens={self.num_tokens}, {means})"


@dataclass(frozen=True)
class Tokens:
    """A tokenized text; `len()` is the number of tokens.

    Attributes:
        ids: list of int. Token ids, as `prompt` and `detokenize` accept them.
        texts: list of str. Text of each token, or its name if it has no text.
    """

    ids: list[int]
    texts: list[str]

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Tokens:
        """Parse a response of `/tokenize`; raise UnexpectedResponse if it has another shape."""
        return cls(required(raw, "tokens", list), required(raw, "token_strs", list))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class VocabularyToken:
    """A token of a model's vocabulary.

    Attributes:
        token: str. The token's text, or its name if it has no text.
        token_id: int.
        special: bool. Whether the token has no text: padding, the end token and the like.
    """

    token: str
    token_id: int
    special: bool

    @classmethod
    def from_response(cls, raw: Any) -> VocabularyToken:
        """Parse an entry of the response's `vocabulary`; raise UnexpectedResponse if it has another shape."""
        return cls(required(raw, "token", str), required(raw, "token_id", int), required(raw, "special", bool))


@dataclass(frozen=True)
class Neighbor:
    """A nearest neighbor of a token in the embedding matrix.

    Attributes:
        token: str. The token's text, or its name if it has no text.
        token_id: int.
        cosine: float. Cosine similarity of the two vectors, from -1 to 1.
    """

    token: str
    token_id: int
    cosine: float

    @classmethod
    def from_response(cls, raw: Any) -> Neighbor:
        """Parse an entry of the response's `data`; raise UnexpectedResponse if it has another shape."""
        return cls(required(raw, "token", str), required(raw, "token_id", int), required(raw, "cosine", float))


@dataclass(frozen=True)
class GuessNumber:
    """The guess number of a text: its rank among all texts, the most probable first.

    Attributes:
        text: str.
        logprob: float. Natural log probability of the whole text, from its beginning to its end.
        value: float. Estimated number of texts that are more probable; infinity beyond 1e308.
        standard_error: float. Standard error of the estimate. If no text of the sample is more probable, both are 0.
    """

    text: str
    logprob: float
    value: float
    standard_error: float


@dataclass(frozen=True)
class NextWord:
    """A word that may follow a prompt.

    Attributes:
        word: str. The whole word, including the part in the prompt.
        text: str. What to append to the prompt: the rest of the word, or the separators before it and the word.
        logprob: float. Natural log probability of the text, followed by its end or a character outside the word.
    """

    word: str
    text: str
    logprob: float

    @property
    def probability(self) -> float:
        """The probability, from 0 to 1."""
        return math.exp(self.logprob)

    @classmethod
    def from_response(cls, raw: Any) -> NextWord:
        """Parse an entry of the response's `data`; raise UnexpectedResponse if it has another shape."""
        return cls(required(raw, "word", str), required(raw, "text", str), required(raw, "logprob", float))


@dataclass(frozen=True, repr=False)
class EmbeddingMap:
    """Embedding vectors, projected onto two principal components. All lists but `explained` have an entry per token.

    Attributes:
        tokens: list of str.
        token_ids: list of int.
        x: list of float. First principal component.
        y: list of float. Second principal component.
        explained: list of float. Share of the variance that each of the two components explains.
    """

    tokens: list[str]
    token_ids: list[int]
    x: list[float]
    y: list[float]
    explained: list[float]

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> EmbeddingMap:
        """Parse a response of `embedding/map`; raise UnexpectedResponse if it has another shape."""
        return cls(*(required(raw, name, list) for name in ("tokens", "token_ids", "x", "y", "explained")))

    def __repr__(self) -> str:
        return f"EmbeddingMap({len(self.tokens)} tokens, explained={self.explained})"


@dataclass(frozen=True, repr=False)
class InspectedLayer:
    """Activations of one recurrent layer.

    Attributes:
        layer: int. Layer number, from 1; 0 for the top outputs of a sliding-window model.
        units: list of int. Indices of the units in `values`.
        values: dict of str to list of list of float, shape (positions, units), by kind: `hidden`; for an LSTM also
            `cell` and the gates `forget`, `input`, `candidate`, `output`; for a GRU `update`, `reset`, `candidate`;
            `top` for layer 0. Rows correspond to `Inspection.positions`.
        state: dict of str to list of float. `hidden` and `cell` of all units after the last token; empty unless
            `return_state` was set.
    """

    layer: int
    units: list[int]
    values: dict[str, Matrix]
    state: dict[str, list[float]] = field(default_factory=dict)

    @property
    def learn(self) -> Matrix:
        """What an LSTM adds to its cell state at each token, input ⊙ candidate, shape (positions, units)."""
        rows = zip(self.values["input"], self.values["candidate"], strict=True)
        return [[gate * candidate for gate, candidate in zip(*pair, strict=True)] for pair in rows]

    def __repr__(self) -> str:
        return f"InspectedLayer({self.layer}, units={len(self.units)}, values={sorted(self.values)})"


@dataclass(frozen=True, repr=False)
class Inspection:
    """States, gate activations and predictions of a model at each token of a text.

    Attributes:
        model: str.
        version: int or None.
        tokens: tuple of ScoredToken, in reading order.
        token_ids: list of int.
        expected: dict of str to float. The most probable tokens after the one processed last, with their log
            probabilities.
        positions: list of int. Indices of the tokens that the layers' values belong to.
        layers: tuple of InspectedLayer.
        raw: dict. The JSON response.
    """

    model: str
    version: int | None
    tokens: tuple[ScoredToken, ...]
    token_ids: list[int]
    expected: dict[str, float]
    positions: list[int]
    layers: tuple[InspectedLayer, ...]
    raw: dict[str, Any] = field(compare=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Inspection:
        """Parse a response with numbers in base64; raise UnexpectedResponse if it has another shape."""
        positions = required(raw, "positions", list)
        return cls(
            model=raw.get("model") or "",
            version=raw.get("version"),
            tokens=scored_tokens(raw),
            token_ids=required(raw, "token_ids", list),
            expected=required(raw, "expected", dict),
            positions=positions,
            layers=tuple(_layer(entry) for entry in required(raw, "layers", list)),
            raw=raw,
        )

    @property
    def text(self) -> str:
        """The concatenated text of all tokens."""
        return "".join(token.text for token in self.tokens)

    def __repr__(self) -> str:
        return f"Inspection({shortened(self.text)!r}, model={self.model!r}, layers={list(self.layers)})"


def scored_tokens(logprobs: dict[str, list[Any]]) -> tuple[ScoredToken, ...]:
    """Convert the API's parallel lists to tokens; raise UnexpectedResponse if one is missing."""
    tokens, scores = required(logprobs, "tokens", list), required(logprobs, "token_logprobs", list)
    offsets, tops = required(logprobs, "text_offset", list), required(logprobs, "top_logprobs", list)
    return tuple(
        ScoredToken(text, score, offset, top or {})
        for text, score, offset, top in zip(tokens, scores, offsets, tops, strict=False)
    )


def _surprising_tokens(raw: dict[str, Any]) -> tuple[ScoredToken, ...]:
    if "tokens" not in raw:
        return ()
    tokens, surprisals, offsets = (required(raw, name, list) for name in ("tokens", "surprisals", "text_offset"))
    return tuple(
        ScoredToken(text, None if surprisal is None else -surprisal, offset)
        for text, surprisal, offset in zip(tokens, surprisals, offsets, strict=False)
    )


def _layer(raw: Any) -> InspectedLayer:
    units, values, state = required(raw, "units", list), required(raw, "values", dict), raw.get("state") or {}
    return InspectedLayer(
        required(raw, "layer", int),
        units,
        {kind: _rows(numbers(packed), len(units)) for kind, packed in values.items()},
        {kind: numbers(packed) for kind, packed in state.items()},
    )


def numbers(packed: Any) -> list[float]:
    """Decode little-endian float32 (n,) from base64; raise UnexpectedResponse if it is something else."""
    try:
        unpacked = array("f", base64.b64decode(packed, validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise UnexpectedResponse(
            f"numbers should be float32 in base64 but are {packed!r:.40}: check that base_url is a Sostenuto server"
        ) from error
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked.tolist()


def _rows(values: list[float], width: int) -> Matrix:
    return [values[start : start + width] for start in range(0, len(values), width)] if width else []
