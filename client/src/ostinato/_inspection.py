"""A text that was looked into, as the SDK gives it. It knows the shape of the answer, and the bytes of its numbers."""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from dataclasses import dataclass, field
from typing import Any

from ostinato._errors import UnexpectedResponse
from ostinato._results import required, shortened
from ostinato._scores import ScoredToken, scored_tokens

Matrix = list[list[float]]


@dataclass(frozen=True, repr=False)
class InspectedLayer:
    """What went on in one recurrent layer.

    Attributes:
        layer: int. From 1; 0 for the top of a model whose layers are not looked into.
        units: list of int. Which units the values are of.
        values: dict of str to list of list of float. By kind, a row for each of `Inspection.positions`, a number for
            each unit: `hidden`; of an LSTM also `cell` and the gates `forget`, `input`, `candidate`, `output`; of a GRU
            `update`, `reset`, `candidate`; `top` of layer 0.
        state: dict of str to list of float. `hidden` and `cell` after the last token, of all units, if asked for.
    """

    layer: int
    units: list[int]
    values: dict[str, Matrix]
    state: dict[str, list[float]] = field(default_factory=dict)

    @property
    def learn(self) -> Matrix:
        """What an LSTM takes in at each token: input ⊙ candidate."""
        return [_products(*rows) for rows in zip(self.values["input"], self.values["candidate"])]

    def __repr__(self) -> str:
        """Show what there is, and not the numbers."""
        return f"InspectedLayer({self.layer}, units={len(self.units)}, values={sorted(self.values)})"


@dataclass(frozen=True, repr=False)
class Inspection:
    """What a model held, did and expected at each token of a text.

    Attributes:
        model: str. And `version`, int.
        tokens: tuple of ScoredToken, in order of reading; `alternatives` are what might have stood in its place.
        token_ids: list of int.
        expected: dict of str to float. The most probable tokens behind the last one, with their logarithms.
        positions: list of int. Of which tokens the layers' values are.
        layers: tuple of InspectedLayer.
        raw: dict. The answer as it came.
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
        """Read an answer of `/v1/inspect`, with its numbers in base64.

        Raises:
            UnexpectedResponse: a field is missing or of another type.
        """
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
        """The text of all tokens, joined."""
        return "".join(token.text for token in self.tokens)

    def __repr__(self) -> str:
        """Show what one looks for first."""
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
    """Unpack float32 (n,), little-endian, from base64.

    Raises:
        UnexpectedResponse: it is something else.
    """
    try:
        unpacked = array("f", base64.b64decode(packed, validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise UnexpectedResponse(
            f"numbers should be float32 in base64 but are {packed!r:.40}: check that base_url is an Ostinato server"
        ) from error
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked.tolist()


def _rows(values: list[float], width: int) -> Matrix:
    return [values[start : start + width] for start in range(0, len(values), width)] if width else []


def _products(left: list[float], right: list[float]) -> list[float]:
    return [one * other for one, other in zip(left, right)]
