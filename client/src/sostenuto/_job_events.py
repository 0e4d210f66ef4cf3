"""Events of a training job: read as they come, with new connections after interruptions."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from sostenuto._concurrency import opened_unless
from sostenuto._errors import APIError, ConnectionFailed, StreamInterrupted, Timeout
from sostenuto._fields import with_query
from sostenuto._responses import stream_error
from sostenuto._results import required
from sostenuto._retries import Backoff, LinkedEvent
from sostenuto._sse import Body, json_events
from sostenuto._transport import Transport

MIN_READ_S = 45.0  # a server sends a comment after 15 s without an event, and no headers before it


@dataclass(frozen=True)
class JobEvent:
    """An event of a training job: a message, or the metrics of a moment or of a complete epoch.

    Metrics are None where the event has none. Losses are in nats per token.

    Attributes:
        id: str. `Job.events(after=id)` continues after it.
        created_at: int. Unix time in seconds.
        level: str. "info", "warn" or "error".
        type: str. "message" or "metrics".
        message: str. The event in words.
        epoch: int or None. Number of the epoch, from 1.
        train_loss: float or None. Training loss of the epoch so far.
        validation_loss: float or None. After a complete epoch: the loss on the text held out.
        is_best: bool or None. After a complete epoch: whether its loss is the lowest so far.
        samples: list of dict. After a complete epoch: `text` that the model has written, `given` (the prompt, or of a
            backward model the suffix), `labels` and `temperature`.
        tokens: int or None. Tokens trained on since the job began.
        fraction: float or None. Fraction of the training that is done, in [0, 1].
        seconds_left: float or None. Estimate of the remaining seconds of the training.
        raw: dict. The JSON event; all metrics are in its `data`.
    """

    id: str
    created_at: int
    level: str
    type: str
    message: str
    epoch: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    is_best: bool | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    tokens: int | None = None
    fraction: float | None = None
    seconds_left: float | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> JobEvent:
        """Parse an event; raise UnexpectedResponse if it has another shape."""
        values: dict[str, Any] = {name: required(raw, name, str) for name in ("id", "level", "type", "message")}
        values |= {"created_at": required(raw, "created_at", int), "raw": raw}
        metrics, known = raw.get("data") or {}, {entry.name for entry in fields(cls)} - values.keys()
        return cls(**values, **{name: value for name, value in metrics.items() if name in known})


class JobEvents(Iterator[JobEvent], AbstractContextManager["JobEvents"]):
    """The events of a job, as they come. Iteration ends when the job has ended, or the iterator is closed.

    After a lost connection it reconnects for up to two minutes and continues after the last event. The read timeout is
    that of the client, but at least 45 seconds, as a server is silent for 15 between events. One thread reads; any
    thread may close.

    Raises, while it is read:
        ConnectionFailed, Timeout, StreamInterrupted, ServerError: the server was lost for two minutes.
        NotFound: there is no such job.
    """

    def __init__(self, transport: Transport, path: str, after: str | None) -> None:
        """Prepare to read the events at a path after the one with an id; sends nothing."""
        self._reader = _Reader(transport, path, after)
        # The reader does not refer to it: a reference cycle would delay the close on garbage collection.
        self._events = self._reader.events()

    def __next__(self) -> JobEvent:
        return next(self._events)

    def close(self) -> None:
        """Stop reading; the job continues. Idempotent, callable from any thread."""
        self._reader.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Reader:
    """Reads the event stream of a job, and connects again after an interruption."""

    def __init__(self, transport: Transport, path: str, after: str | None) -> None:
        self._transport, self._path, self._after = transport, path, after
        self._stopped = LinkedEvent(transport.closed)
        self._is_closed = False
        self._body: Body | None = None
        self._backoff = Backoff(self._stopped)  # since the last response

    def events(self) -> Generator[JobEvent, None, None]:
        """Yield the events until the job has ended, or the reader is closed."""
        try:
            while not self._is_closed:
                try:
                    body = self._backoff.attempt(self._open)
                    if body is not None:
                        self._backoff.waited_s = 0.0
                        yield from self._body_events(body)
                    return
                except (ConnectionFailed, StreamInterrupted, APIError, Timeout) as error:
                    is_lost = error.retryable or isinstance(error, Timeout)
                    if not self._is_closed and not (is_lost and self._backoff.wait()):
                        raise
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, and open no more."""
        self._is_closed = True
        self._stopped.set()
        if self._body is not None:
            self._body.close()

    def _open(self) -> Body | None:
        """Open the stream after the last event; None if the reader was closed meanwhile."""
        path, stopped = with_query(self._path, stream="true", after=self._after), self._stopped
        open_stream = partial(self._transport.open_stream, "GET", path, stopped=stopped, min_read_s=MIN_READ_S)
        response = opened_unless(stopped, open_stream)
        if response is None:
            return None
        self._body = Body(response)
        if self._is_closed:
            self._body.close()
        return self._body

    def _body_events(self, body: Body) -> Iterator[JobEvent]:
        """Yield the events of one response, until the job has ended or the reader is closed.

        Raises:
            StreamInterrupted: the response ended before the job.
        """
        for raw in json_events(body, body):
            if raw.get("error"):
                raise stream_error(raw["error"], body.headers)
            event = JobEvent.from_response(raw)
            self._after = event.id
            yield event
        if not (body.is_complete or self._is_closed):
            body.close()
            raise StreamInterrupted("the connection was lost while the job's events were read: read them again")
