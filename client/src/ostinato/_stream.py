"""A generation while it happens. It knows events and what they mean; bytes and sockets are the body's."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ostinato._assembly import Assembly
from ostinato._body import Body
from ostinato._errors import OstinatoError, StreamInterrupted, UnexpectedResponse
from ostinato._responses import is_read_timeout, reason, stream_error
from ostinato._sse import decode

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

    import requests

    from ostinato._results import Generation, TextDelta
    from ostinato._resuming import Resumption

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
        UnexpectedResponse: an event has another shape.

    Each of them has in `choices` what had come, and a state to go on with if the server gave one.
    """

    def __init__(self, response: requests.Response, resumption: Resumption | None = None) -> None:
        """Take over an answer that was opened with `stream=True`.

        Args:
            response: With its events still to be read.
            resumption: Goes on with a text whose stream broke off; None: that is an error.
        """
        self._line = _Connection(Body(response), resumption)
        self._so_far = Assembly()
        # A function, not a method: a cycle would delay the closing.
        self._pieces = _Pieces(_read(self._line, self._so_far, resumption))

    def __iter__(self) -> Iterator[str]:
        """Return itself: a stream can be read once."""
        return self

    def __next__(self) -> str:
        """Return the next piece of the first choice's text."""
        for piece in self._pieces:
            if piece.index == 0 and piece.text:
                return piece.text
        raise StopIteration

    def events(self) -> Iterator[TextDelta]:
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

    @property
    def num_resumed(self) -> int:
        """How often it broke off and was gone on with."""
        return self._line.num_resumed

    def _when_ended(self, call: Callable[[Generation], None]) -> None:
        """Have a conversation told what has come, once no more comes, for whatever reason; not if it is never read."""
        self._line.ended = call

    def close(self) -> None:
        """Stop: the connection is closed, upon which the server frees the row. Safe to repeat, from any thread."""
        self._line.close()
        self._pieces.close()

    def __enter__(self) -> Stream:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, whether it was read to its end or not."""
        self.close()

    def __repr__(self) -> str:
        """Show what has come."""
        return f"Stream({self.generation!r})"


class _Pieces:
    """A generator of pieces that one thread may close while another one reads: Python's own do not allow that."""

    def __init__(self, pieces: Generator[TextDelta, None, None]) -> None:
        self._pieces = pieces
        self._running = threading.RLock()

    def __iter__(self) -> Iterator[TextDelta]:
        return self

    def __next__(self) -> TextDelta:
        with self._running:
            return next(self._pieces)

    def close(self) -> None:
        """End it, or leave that to the thread that reads: it is about to see that nothing more comes."""
        if self._running.acquire(blocking=False):
            try:
                with suppress(ValueError):  # a generator that closes itself is running
                    self._pieces.close()
            finally:
                self._running.release()


class _Connection:
    """The body that a stream is read from now; it may be another one later, but for good only one end."""

    def __init__(self, body: Body, resumption: Resumption | None) -> None:
        self.body, self.num_resumed = body, 0
        self._resumption = resumption
        self.closed = False
        self.ended: Callable[[Generation], None] | None = None
        self._lock = threading.Lock()

    def go_on(self, body: Body) -> None:
        """Read from another body."""
        with self._lock:
            self.body, self.num_resumed = body, self.num_resumed + 1
            closed = self.closed
        if closed:
            body.close()

    def close(self) -> None:
        """End it."""
        with self._lock:
            self.closed, body = True, self.body
        if self._resumption is not None:
            self._resumption.stop()
        body.close()


def _read(line: _Connection, so_far: Assembly, resumption: Resumption | None) -> Generator[TextDelta, None, None]:
    """Yield the pieces of a stream, and of those that go on with it; close their bodies however that ends."""
    mark, waited_s = so_far.mark, 0.0  # for the next piece that is new
    try:
        while True:
            try:
                for piece in _pieces(line.body, so_far):
                    if piece.text or so_far.mark is not mark:
                        mark, waited_s = so_far.mark, 0.0
                    yield piece
                return
            except OstinatoError as error:
                error.choices = so_far.generation.choices
                if resumption is None or not resumption.is_resumable(error):
                    raise
                if so_far.generation.finish_reason is not None:
                    return  # all but the last words had come
                waited_s = _go_on(line, so_far, resumption, waited_s, error)
    finally:
        line.close()
        if line.ended is not None:
            line.ended(so_far.generation)


def _go_on(line: _Connection, so_far: Assembly, resumption: Resumption, waited_s: float, error: OstinatoError) -> float:
    """Have the line go on with another body, unless it was closed, and return how long it was waited for something new.

    Raises:
        OstinatoError: that cannot be done; it has what has come.
    """
    line.body.close()
    try:
        response, waited_s = resumption.open_next(so_far, waited_s)
    except OstinatoError as failed:
        failed.choices = so_far.generation.choices
        raise failed from error
    if response is not None:
        line.go_on(Body(response))
    elif not line.closed:
        raise error
    return waited_s


def _pieces(body: Body, so_far: Assembly) -> Iterator[TextDelta]:
    """Yield the pieces that a body brings, to its end."""
    for data in decode(body):
        if body.closed:
            return
        if data == DONE:
            body.finish()
            return
        chunk = _chunk(data)
        error = chunk.get("error")
        # An error brings what it cut off.
        if not error or chunk.get("choices"):
            yield from so_far.add({name: value for name, value in chunk.items() if name != "error"})
        if error:
            raise stream_error(error, body.headers)
    if not body.closed:
        _interrupt(body, so_far.generation.text)


def _chunk(data: str) -> dict[str, Any]:
    """Read an event's data."""
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise UnexpectedResponse(f"an event holds {data!r:.40}, no JSON object: check what base_url leads to")
    return chunk


def _interrupt(body: Body, text: str) -> NoReturn:
    if body.failure is None:
        why = "it ended without [DONE]"
    elif is_read_timeout(body.failure):
        why = "nothing came within the read timeout"
    else:
        why = reason(body.failure)
    raise StreamInterrupted(
        f"the stream broke off after {len(text)} characters ({why}): send the request again, or stream with "
        "resume=True; .text holds what came"
    ) from body.failure
