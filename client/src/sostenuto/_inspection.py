"""Results of `/v1/inspect`. Knows the shape of the response and the encoding of its numbers."""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from dataclasses import dataclass, field
from typing import Any

from sostenuto._errors import UnexpectedResponse
from sostenuto._results import required, shortened
from sostenuto._scores import ScoredToken, scored_tokens

Matrix = list[list[float]]


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
        rows = zip(self.values["input"], self.values["candidate"])
        return [[gate * candidate for gate, candidate in zip(*pair)] for pair in rows]

    def __repr__(self) -> str:
        """Show the layer, the number of units and the kinds of values."""
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
        """Show the text, the model and the layers."""
        return f"Inspection({shortened(self.text)!r}, model={self.model!r}, layers={list(self.layers)})"


def _layer(raw: Any) -> InspectedLayer:
    units, values, state = required(raw, "units", list), required(raw, "values", dict), raw.get("state") or {}
    return InspectedLayer(
        required(raw, "layer", int),
        units,
        {kind: _rows(numbers(packed), len(units)) for kind, packed in values.items()},
        {kind: numbers(packed) for kind, packed in state.items()},
    )


def numbers(packed: Any) -> list[float]:
    """Decode little-endian float32 (n,) from base64.

    Raises:
        UnexpectedResponse: the value is not base64, or not a multiple of 4 bytes.
    """
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
