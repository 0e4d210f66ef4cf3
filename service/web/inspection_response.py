"""The response of `/v1/inspect`, serialized in parts: 1 MB of numbers becomes 3 MB of JSON."""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

from contract.card import Trace
from service.generation.inspection import InspectionBuilder, InspectionOutput

# Numbers per part, and list items per part.
_NUMBERS, _ITEMS = 2**14, 2**12


def inspection_parts(builder: InspectionBuilder) -> Iterator[bytes]:
    """Wait for the result, and return the parts of one JSON object; each array is freed once it is serialized."""
    # Not in the generator: errors are raised before the first byte is sent.
    return _parts(builder, builder.result())


def _parts(builder: InspectionBuilder, output: InspectionOutput) -> Iterator[bytes]:
    request = builder.request
    head = {
        "object": "inspection",
        "model": request.model.ref.name,
        "version": request.model.ref.version,
        "system_fingerprint": request.fingerprint,
        "expected": output.expected,
    }
    yield orjson.dumps(head)[:-1]
    logprobs = output.logprobs
    for name, items in (
        ("token_ids", output.token_ids),
        ("tokens", logprobs.tokens),
        ("token_logprobs", logprobs.token_logprobs),
        ("top_logprobs", logprobs.top_logprobs),
        ("text_offset", logprobs.text_offset),
        ("positions", output.positions.tolist()),
    ):
        yield b',"%b":' % name.encode()
        yield from _json_list(items)
    yield b',"layers":['
    yield from _layers(output, builder.body.encoding_format)
    usage = {"prompt_tokens": request.num_prompt_tokens, "total_tokens": request.num_prompt_tokens}
    yield b'],"usage":%b}' % orjson.dumps(usage)


def _layers(output: InspectionOutput, encoding: str) -> Iterator[bytes]:
    """Serialize every layer: its units, a matrix for each kind of value, and its state if requested."""
    layers = sorted({*output.units, *(trace.layer for trace, _ in output.state)})
    encode = _ENCODINGS[encoding]
    for index, layer in enumerate(layers):
        units = output.units[layer].tolist() if layer in output.units else []
        yield b'%b{"layer":%d,"units":%b,"values":{' % (b"," if index else b"", layer, orjson.dumps(units))
        yield from _by_kind(_pop_layer(output.values, layer), encode)
        state = _pop_layer(output.state, layer)
        if (first := next(state, None)) is not None:
            yield b'},"state":{'
            yield from _by_kind((pair for pairs in ([first], state) for pair in pairs), encode)
        yield b"}}"


def _pop_layer(arrays: list[tuple[Trace, np.ndarray]], layer: int) -> Iterator[tuple[Trace, np.ndarray]]:
    """Pop the arrays of a layer from a list, one after another."""
    while (index := next((i for i, (trace, _) in enumerate(arrays) if trace.layer == layer), None)) is not None:
        yield arrays.pop(index)


def _by_kind(
    arrays: Iterable[tuple[Trace, np.ndarray]], encode: Callable[[np.ndarray], Iterator[bytes]]
) -> Iterator[bytes]:
    comma = b""
    for trace, array in arrays:
        yield b'%b"%b":' % (comma, trace.kind.encode())
        yield from encode(array)
        comma = b","


def _json_list(items: Sequence[Any]) -> Iterator[bytes]:
    """Serialize a list, `_ITEMS` items at a time."""
    yield b"["
    for start in range(0, len(items), _ITEMS):
        yield (b"," if start else b"") + orjson.dumps(items[start : start + _ITEMS])[1:-1]
    yield b"]"


def _numbers(array: np.ndarray) -> Iterator[bytes]:
    """Serialize a vector or a matrix as lists of numbers, some rows at a time."""
    if array.ndim == 1:
        # orjson requires a contiguous array; a slice of a state is not.
        yield orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
        return
    num_rows = max(1, _NUMBERS // max(1, array.shape[1]))
    yield b"["
    for start in range(0, len(array), num_rows):
        rows = orjson.dumps(array[start : start + num_rows], option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if start else b"") + rows[1:-1]
    yield b"]"


def _base64(array: np.ndarray, kind: str) -> Iterator[bytes]:
    """Serialize an array in base64, little-endian and row-major; parts have 3 × n bytes, so they concatenate."""
    flat = np.ascontiguousarray(array).reshape(-1)
    yield b'"'
    for start in range(0, flat.size, 3 * _NUMBERS):
        yield base64.b64encode(flat[start : start + 3 * _NUMBERS].astype(kind).tobytes())
    yield b'"'


_ENCODINGS: dict[str, Callable[[np.ndarray], Iterator[bytes]]] = {
    "float": _numbers,
    "base64": partial(_base64, kind="<f4"),
    "base64_float16": partial(_base64, kind="<f2"),
}
