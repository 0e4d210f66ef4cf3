"""The responses that tests put into a scripted server's script, and the events that streams consist of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.unit.client.scripted_server import Answer, Handler

COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "tiny",
    "system_fingerprint": "fp-1",
    "seed": 7,
    "choices": [{"index": 0, "text": " upon a time", "finish_reason": "length", "logprobs": None}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
}

DONE = "[DONE]"


def answer_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Respond with a JSON value."""
    return answer_bytes(json.dumps(value).encode(), "application/json", status, headers)


def answer_bytes(
    content: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """Respond with these bytes."""

    def answer(handler: Handler) -> None:
        handler.start(status, {"Content-Type": content_type, "Content-Length": str(len(content)), **(headers or {})})
        handler.wfile.write(content)

    return answer


def refusal(status: int, message: str, *, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
    """Respond with an error body of the API."""
    return answer_json({"error": {"message": message, **fields}}, status, headers)


def models(*names: str) -> Answer:
    """Respond with a list of models."""
    return answer_json({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


def stream(
    events: Iterable[Any], *, then: Callable[[Handler], None] | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Respond with these events, one HTTP chunk each, then end the body, or call `then` if it is passed."""

    def answer(handler: Handler) -> None:
        kind = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        handler.start(200, {**kind, **(headers or {})})
        for event in events:
            handler.write_chunk(event if isinstance(event, bytes) else as_event(event))
        if then is None:
            handler.write_chunk(b"")
        else:
            then(handler)

    return answer


def as_event(value: Any) -> bytes:
    """Encode a value as a server-sent event: a string unchanged, anything else as JSON."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def chunk(text: str, finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a stream's chunk with one choice."""
    choice = {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None, **fields}
    return {"id": "cmpl-1", "model": "tiny", "seed": 7, "system_fingerprint": "fp-1", "choices": [choice]}


def usage_chunk() -> dict[str, Any]:
    """Return the chunk that carries the usage, with no choices."""
    return {**COMPLETION, "choices": []}


def linger(handler: Handler) -> None:
    """Keep the connection open until the client closes it."""
    handler.wait_until_client_leaves()


def hang_up(handler: Handler) -> None:
    """Close the connection immediately."""
    handler.hang_up()


WHOLE = [chunk(" upon"), b": ping\n\n", chunk(" a"), chunk(" time"), chunk("", "length"), usage_chunk(), DONE]
