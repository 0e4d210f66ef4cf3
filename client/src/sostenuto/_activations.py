"""The activations of a text, written to a file in the format of safetensors."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sostenuto._errors import InvalidArgument

if TYPE_CHECKING:
    from sostenuto._client import Client
    from sostenuto._results import Model

# Per request: the server's limit on values is some 17 million.
MAX_TOKENS, MAX_VALUES = 2048, 8_000_000
_ITEM_BYTES = {"F16": 2, "I32": 4}


def write_activations(
    client: Client,
    text: str,
    path: str | PathLike[str],
    *,
    model: Model,
    fields: Mapping[str, Any],
    labels: Mapping[str, str | float] | None,
    observe: Callable[[int, int], object],
) -> None:
    """Write the activations of each token of a text; see `Client.save_activations`. `fields` go into each request."""
    # All requests are for one version: the default may change meanwhile.
    version = f"{model.id}:{model.version}"
    token_ids = client.tokenize(text, model=version).ids
    if not token_ids:
        raise InvalidArgument("text has no tokens: pass a text that is not empty")
    draft = Path(f"{os.fspath(path)}.part")
    try:
        with draft.open("wb") as file:
            writer, done = None, 0
            is_backward = model.direction == "backward"
            for start, response in _inspections(client, token_ids, version, is_backward, fields, labels):
                writer = writer or _Writer(file, response, len(token_ids))
                writer.write(start, response)
                done += len(response["token_ids"])
                observe(done, len(token_ids))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _inspections(
    client: Client,
    token_ids: list[int],
    version: str,
    is_backward: bool,
    fields: Mapping[str, Any],
    labels: Mapping[str, str | float] | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Inspect a text in windows, each from the state after the previous one; yield the start of each, and the response.

    A backward model reads the last window first.
    """
    wanted = {"model": version, **fields, "logprobs": 0, "encoding_format": "base64_float16"}
    # Layers may have different widths, which only a response tells.
    width = _width(_post(client, "/v1/inspect", {**wanted, "input": token_ids[:1]}))
    size = max(1, min(MAX_TOKENS, MAX_VALUES // max(1, width)))
    starts, state = range(0, len(token_ids), size), None
    for number, start in enumerate(reversed(starts) if is_backward else starts, 1):
        window = token_ids[start : start + size]
        # The state after a window has read the labels.
        before = {"state": state} if state or not labels else {"labels": dict(labels)}
        yield start, _post(client, "/v1/inspect", {**wanted, **before, "input": window})
        if number < len(starts):
            read = {"suffix" if is_backward else "prompt": window, "max_tokens": 0, "return_state": True}
            (choice,) = _post(client, "/v1/completions", {"model": version, **before, **read})["choices"]
            state = choice["state"]


def _width(response: dict[str, Any]) -> int:
    """Return the number of values of each token, in a response to one."""
    values = [packed for layer in response["layers"] for packed in layer["values"].values()]
    return sum(len(base64.b64decode(packed)) for packed in values) // _ITEM_BYTES["F16"]


def _post(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response: dict[str, Any] = json.loads(client.post(path, body).content)
    return response


class _Writer:
    """Writes tensors whose rows are tokens: https://huggingface.co/docs/safetensors, "Format"."""

    def __init__(self, file: BinaryIO, response: dict[str, Any], num_tokens: int) -> None:
        """Write the header. The first response tells the layers and their units."""
        self._file, self._places = file, dict[str, tuple[int, int]]()
        tensors = {"token_ids": ("I32", [num_tokens])}
        for layer in response["layers"]:
            for kind in layer["values"]:
                tensors[f"{kind}_{layer['layer']}"] = ("F16", [num_tokens, len(layer["units"])])
        header: dict[str, Any] = {"__metadata__": {"model": response["model"], "version": str(response["version"])}}
        end = 0
        for name, (dtype, shape) in tensors.items():
            row_bytes = _ITEM_BYTES[dtype] * (shape[1] if len(shape) > 1 else 1)
            self._places[name] = end, row_bytes
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + num_tokens * row_bytes]}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        self._start = file.tell()

    def write(self, start: int, response: dict[str, Any]) -> None:
        """Write the rows of a response, whose first token is at `start`."""
        ids = response["token_ids"]
        self._put("token_ids", start, struct.pack(f"<{len(ids)}i", *ids))
        for layer in response["layers"]:
            for kind, packed in layer["values"].items():
                self._put(f"{kind}_{layer['layer']}", start, base64.b64decode(packed))

    def _put(self, name: str, start: int, content: bytes) -> None:
        place, row_bytes = self._places[name]
        self._file.seek(self._start + place + start * row_bytes)
        self._file.write(content)
