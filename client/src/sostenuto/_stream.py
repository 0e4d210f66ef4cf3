"""A generation that is streamed: its events, its end, and its continuation after an interruption."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, suppress

import requests

from sostenuto._assembly import Assembly
from sostenuto._errors import SostenutoError, StreamInterrupted
from sostenuto._responses import is_lost_host, is_read_timeout, reason, stream_error
from sostenuto._results import Generation, TextDelta
from sostenuto._resuming import Resumption
from sostenuto._sse import Body, json_events


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
        self._reader = _Reader(Body(response), resumption)
        # The reader does not refer to it: a reference cycle would delay the close on garbage collection.
        self._deltas = _Deltas(self._reader.deltas())

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
        return self._reader.assembly.generation

    @property
    def text(self) -> str:
        """The first choice's text so far."""
        return self.generation.text

    @property
    def num_resumed(self) -> int:
        """Number of interruptions after which the stream was resumed."""
        return self._reader.num_resumed

    def _when_ended(self, call: Callable[[Generation], None]) -> None:
        """Call back with the generation when the stream has ended, for whatever reason; never if it is not read."""
        self._reader.ended = call

    def close(self) -> None:
        """Cancel the generation: close the connection, so that the server frees its slots.

        Idempotent, callable from any thread.
        """
        self._reader.close()
        self._deltas.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
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


class _Reader:
    """Reads the body of a stream, and those of its resumptions, into an assembly. Closing is final."""

    def __init__(self, body: Body, resumption: Resumption | None) -> None:
        self.assembly, self.num_resumed = Assembly(), 0
        self.ended: Callable[[Generation], None] | None = None  # called when the stream has ended
        self._body, self._resumption = body, resumption
        self._closed = False

    def deltas(self) -> Generator[TextDelta, None, None]:
        """Yield the deltas of the stream and of its resumptions; close their bodies in any case."""
        try:
            while True:
                try:
                    yield from self._body_deltas(self._body)
                    return
                except SostenutoError as error:
                    error.choices = self.assembly.generation.choices
                    if self._resumption is None or not self._resumption.is_resumable(error):
                        raise
                    if self.assembly.generation.finish_reason is not None:
                        self.assembly.end_early()
                        return  # only the end of the stream is missing
                    self._resume(self._resumption, error)
        finally:
            self.close()
            if self.ended is not None:
                self.ended(self.assembly.generation)

    def close(self) -> None:
        """Close the body and stop resumption."""
        self._closed = True
        if self._resumption is not None:
            self._resumption.stop()
        self._body.close()

    def _body_deltas(self, body: Body) -> Iterator[TextDelta]:
        for chunk in json_events(body, body):
            error = chunk.get("error")
            # An error event may contain the last choices.
            if not error or chunk.get("choices"):
                yield from self.assembly.add({name: value for name, value in chunk.items() if name != "error"})
            if error:
                raise stream_error(error, body.headers)
        if not (body.closed or body.is_complete):
            raise _interruption(body, self.assembly.generation.text) from body.failure

    def _resume(self, resumption: Resumption, error: SostenutoError) -> None:
        """Continue with a new body, unless the stream was closed; raise an error with the text so far if it fails."""
        self._body.close()
        try:
            response = resumption.open_next(self.assembly)
        except SostenutoError as failed:
            failed.choices = self.assembly.generation.choices
            raise failed from error
        if response is not None:
            self._body, self.num_resumed = Body(response), self.num_resumed + 1
            if self._closed:  # meanwhile, by a thread that closed only the previous body
                self._body.close()
        elif not self._closed:
            raise error


def _interruption(body: Body, text: str) -> StreamInterrupted:
    if body.failure is None:
        why = "it ended without [DONE]"
    elif is_lost_host(body.failure):
        why = "the server's host no longer responds"
    elif is_read_timeout(body.failure):
        why = "no byte arrived within the read timeout"
    else:
        why = reason(body.failure)
    return StreamInterrupted(
        f"the stream was interrupted after {len(text)} characters ({why}): send the request again, or stream with "
        "resume=True; .text holds the text so far"
    )
