"""A generation as a stream. Knows events and their meaning. Does not know bytes or sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Callable, NoReturn

from sostenuto._assembly import Assembly
from sostenuto._body import Body
from sostenuto._errors import SostenutoError, StreamInterrupted, UnexpectedResponse
from sostenuto._responses import is_lost_host, is_read_timeout, json_or_none, reason, stream_error
from sostenuto._results import TextDelta
from sostenuto._sse import decode

if TYPE_CHECKING:
    from collections.abc import Generator

    import requests

    from sostenuto._results import Generation
    from sostenuto._resuming import Resumption

DONE = "[DONE]"


class Stream(Iterator[str], AbstractContextManager["Stream"]):
    """A generation that is streamed while the server generates it.

    Iteration yields the text deltas of the first choice as non-empty `str`; `events()` yields those of all choices. A
    stream can be read once. With `prepend`, each delta of a backward model goes before the earlier ones.

    The stream closes itself at its end, on an error, at the end of a `with` block, and when it is garbage-collected.
    One thread reads it; any thread may close it.

    Raises, while it is read:
        APIError: the server failed during the stream; earlier text was delivered.
        StreamInterrupted: the connection was lost, or the read timeout expired.
        UnexpectedResponse: an event has an unknown shape.

    The error's `choices` contain the text so far, and a resume token if the server sent one.
    """

    def __init__(self, response: requests.Response, resumption: Resumption | None = None) -> None:
        """Take ownership of a response that was opened with `stream=True`.

        Args:
            response: Its events are still unread.
            resumption: Resumes an interrupted stream; None: an interruption is an error.
        """
        self._connection = _Connection(Body(response), resumption)
        self._assembly = Assembly()
        # A function, not a method: a reference cycle would delay the close on garbage collection.
        self._deltas = _Deltas(_read(self._connection, self._assembly, resumption))

    def __next__(self) -> str:
        """Return the next text delta of the first choice."""
        for delta in self._deltas:
            if delta.index == 0 and delta.text:
                return delta.text
        raise StopIteration

    def events(self) -> Iterator[TextDelta]:
        """Return an iterator over the text deltas of all choices, in order of arrival."""
        return self._deltas

    @property
    def generation(self) -> Generation:
        """The generation so far; at the end of the stream it is complete, with finish reasons and usage."""
        return self._assembly.generation

    @property
    def text(self) -> str:
        """The first choice's text so far."""
        return self.generation.text

    @property
    def num_resumed(self) -> int:
        """Number of interruptions after which the stream was resumed."""
        return self._connection.num_resumed

    def _when_ended(self, call: Callable[[Generation], None]) -> None:
        """Call back with the generation when the stream has ended, for whatever reason; never if it is not read."""
        self._connection.ended = call

    def close(self) -> None:
        """Cancel the generation: close the connection, so that the server frees its slots.

        Idempotent, callable from any thread.
        """
        self._connection.close()
        self._deltas.close()

    def __exit__(self, *exception: object) -> None:
        """Close the stream, whether it was read to its end or not."""
        self.close()

    def __repr__(self) -> str:
        """Show the generation so far."""
        return f"Stream({self.generation!r})"


class _Deltas(Iterator[TextDelta]):
    """A generator of text deltas that one thread may close while another reads; plain generators do not allow that."""

    def __init__(self, deltas: Generator[TextDelta, None, None]) -> None:
        self._deltas = deltas
        self._running = threading.RLock()

    def __next__(self) -> TextDelta:
        with self._running:
            return next(self._deltas)

    def close(self) -> None:
        """Close the generator, or leave that to the reading thread, whose body has just been closed."""
        if self._running.acquire(blocking=False):
            try:
                with suppress(ValueError):  # a generator that closes itself is running
                    self._deltas.close()
            finally:
                self._running.release()


class _Connection:
    """The body that a stream currently reads. A resumption replaces it; closing is final."""

    def __init__(self, body: Body, resumption: Resumption | None) -> None:
        self.body, self.num_resumed = body, 0
        self._resumption = resumption
        self.closed = False
        self.ended: Callable[[Generation], None] | None = None
        self._lock = threading.Lock()

    def replace(self, body: Body) -> None:
        """Read from another body from now on."""
        with self._lock:
            self.body, self.num_resumed = body, self.num_resumed + 1
            closed = self.closed
        if closed:
            body.close()

    def close(self) -> None:
        """Close the body and stop resumption."""
        with self._lock:
            self.closed, body = True, self.body
        if self._resumption is not None:
            self._resumption.stop()
        body.close()


def _read(
    connection: _Connection, assembly: Assembly, resumption: Resumption | None
) -> Generator[TextDelta, None, None]:
    """Yield the deltas of a stream and of its resumptions; close their bodies in any case."""
    point, waited_s = assembly.resume_point, 0.0  # waited for new text
    try:
        while True:
            try:
                for delta in _body_deltas(connection.body, assembly):
                    if delta.text or assembly.resume_point is not point:
                        point, waited_s = assembly.resume_point, 0.0
                    yield delta
                return
            except SostenutoError as error:
                error.choices = assembly.generation.choices
                if resumption is None or not resumption.is_resumable(error):
                    raise
                if assembly.generation.finish_reason is not None:
                    return  # only the end of the stream is missing
                waited_s = _resume(connection, assembly, resumption, waited_s, error)
    finally:
        connection.close()
        if connection.ended is not None:
            connection.ended(assembly.generation)


def _resume(
    connection: _Connection, assembly: Assembly, resumption: Resumption, waited_s: float, error: SostenutoError
) -> float:
    """Continue the connection with a new body, unless it was closed; return the seconds waited without new text.

    Raises:
        SostenutoError: the stream could not be resumed; its `choices` contain the text so far.
    """
    connection.body.close()
    try:
        response, waited_s = resumption.open_next(assembly, waited_s)
    except SostenutoError as failed:
        failed.choices = assembly.generation.choices
        raise failed from error
    if response is not None:
        connection.replace(Body(response))
    elif not connection.closed:
        raise error
    return waited_s


def _body_deltas(body: Body, assembly: Assembly) -> Iterator[TextDelta]:
    """Yield the text deltas of a body, to its end."""
    for data in decode(body):
        if body.closed:
            return
        if data == DONE:
            body.finish()
            return
        chunk = json_or_none(data)
        if not isinstance(chunk, dict):
            raise UnexpectedResponse(f"an event has {data!r:.40} instead of a JSON object: check base_url")
        error = chunk.get("error")
        # An error event may contain the last choices.
        if not error or chunk.get("choices"):
            yield from assembly.add({name: value for name, value in chunk.items() if name != "error"})
        if error:
            raise stream_error(error, body.headers)
    if not body.closed:
        _raise_interrupted(body, assembly.generation.text)


def _raise_interrupted(body: Body, text: str) -> NoReturn:
    if body.failure is None:
        why = "it ended without [DONE]"
    elif is_lost_host(body.failure):
        why = "the server's host does not respond any more"
    elif is_read_timeout(body.failure):
        why = "no byte arrived within the read timeout"
    else:
        why = reason(body.failure)
    raise StreamInterrupted(
        f"the stream was interrupted after {len(text)} characters ({why}): send the request again, or stream with "
        "resume=True; .text holds the text so far"
    ) from body.failure
