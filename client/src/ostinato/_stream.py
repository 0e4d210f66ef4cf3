"""A generation while it happens. It knows events and what they mean; bytes and sockets are the body's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ostinato._answers import is_read_timeout, reason, stream_error
from ostinato._assembly import Assembly
from ostinato._body import Body
from ostinato._errors import StreamInterrupted, UnexpectedAnswer
from ostinato._sse import decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import requests

    from ostinato._results import Generation, Piece

DONE = "[DONE]"


class Stream:
    """The text of a generation, piece by piece, as the server sends it.

    Iterating gives the first choice's text as `str` pieces that are never empty; `events()` gives every choice's. If
    `prepend` was asked for, pieces of a text that leads up to a suffix go before those so far.
    It closes itself at its end, on an error, when a `with` block is left, and when nothing refers to it any more. One
    thread reads it; any thread may close it.

    Raises, while it is read:
        APIError: the server failed after it had begun; what came before has been delivered.
        StreamInterrupted: the connection was lost or fell silent before the end.
        UnexpectedAnswer: an event has another shape.
    """

    def __init__(self, response: requests.Response) -> None:
        """Take over an answer that was opened with `stream=True`."""
        self._body = Body(response)
        self._so_far = Assembly()
        self._pieces = _read(self._body, self._so_far)  # a function, not a method: a cycle would delay the closing

    def __iter__(self) -> Iterator[str]:
        """Return itself: a stream can be read once."""
        return self

    def __next__(self) -> str:
        """Return the next piece of the first choice's text."""
        for piece in self._pieces:
            if piece.index == 0 and piece.text:
                return piece.text
        raise StopIteration

    def events(self) -> Iterator[Piece]:
        """Return an iterator over the pieces of all choices, in the order in which they arrive."""
        return self._pieces

    @property
    def generation(self) -> Generation:
        """What has come so far. After the end it is the whole, with its finish reasons and usage."""
        return self._so_far.generation

    @property
    def text(self) -> str:
        """The first choice's text so far."""
        return self.generation.text

    def close(self) -> None:
        """Stop: the connection is closed, upon which the server frees the row. Safe to repeat, from any thread."""
        self._body.close()

    def __enter__(self) -> Stream:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, whether it was read to its end or not."""
        self.close()


def _read(body: Body, so_far: Assembly) -> Iterator[Piece]:
    """Yield the pieces of a stream, and close its body however that ends."""
    try:
        for data in decode(body):
            if body.closed:
                return
            if data == DONE:
                body.finish()
                return
            yield from so_far.add(_chunk(data, body))
        if not body.closed:
            raise _interruption(body, so_far.generation.text) from body.failure
    finally:
        body.close()


def _chunk(data: str, body: Body) -> dict[str, Any]:
    """Read an event's data, or raise the error that it stands for."""
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise UnexpectedAnswer(f"an event holds {data!r:.40}, no JSON object: check what base_url leads to")
    if chunk.get("error"):
        raise stream_error(chunk["error"], body.headers)
    return chunk


def _interruption(body: Body, text: str) -> StreamInterrupted:
    if body.failure is None:
        why = "it ended without [DONE]"
    elif is_read_timeout(body.failure):
        why = "nothing came within the read timeout"
    else:
        why = reason(body.failure)
    return StreamInterrupted(
        f"the stream broke off after {len(text)} characters ({why}): send the request again; .text holds what came",
        text=text,
    )
