"""Continuous batching: one thread that turns requests, replies and cancellations into calls.

The thread owns every queue and takes messages from an inbox, so nothing here is locked but the count that bounds the
queue. It sees no text and no protobuf; the backend is told to make a call and to say when it is answered.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from service.batch import Arrays, Call
from service.errors import BackendUnavailable, GatewayError, InternalError, Overloaded, ShuttingDown
from service.policy import ModelQueue, Shapes
from service.sequence import Event, Failure, ModelVersion, Sequence

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.2


class Backend(Protocol):
    """Makes calls without waiting for them."""

    def call(self, call: Call, done: Callable[[Arrays | GatewayError], None]) -> None:
        """Send a call; `done` is given its outputs or the error, once, on any thread."""


@dataclass(frozen=True)
class Limits:
    """How much the scheduler takes on.

    Attributes:
        max_running: Sequences that hold a row.
        max_queued: Sequences that may wait beyond those.
        max_calls: Calls in flight, of all models together: the cores of the model servers.
        backend_grace_s: How long a sequence waits for a model server that does not answer.
    """

    max_running: int = 128
    max_queued: int = 256
    max_calls: int = 2
    backend_grace_s: float = 30.0


@dataclass(frozen=True)
class _Submit:
    sequences: tuple[Sequence, ...]
    shapes: Shapes


@dataclass(frozen=True)
class _Reply:
    call: Call
    outcome: Arrays | GatewayError


@dataclass(frozen=True)
class _Wake:
    """Look at the queues again: something was cancelled, or a pause is over."""


@dataclass(frozen=True)
class _Stop:
    error: GatewayError


class Scheduler:
    """Runs sequences on a backend; `start` before the first, `stop` after the last."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self._backend, self._limits = backend, limits
        self._inbox: queue.SimpleQueue[_Submit | _Reply | _Wake | _Stop] = queue.SimpleQueue()
        self._queues: dict[ModelVersion, ModelQueue] = {}
        self._in_flight: set[Call] = set()
        self._resume_at = 0.0
        self._outbox: list[tuple[Sequence, Event]] = []
        self._accepted_lock = threading.Lock()
        self._num_accepted = 0
        self._stopped: GatewayError | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    @property
    def num_accepted(self) -> int:
        """Sequences accepted and not yet ended."""
        return self._num_accepted

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, error: GatewayError | None = None) -> None:
        """End every sequence with an error, and then the thread."""
        self._inbox.put(_Stop(error or ShuttingDown("the server was stopped")))
        self._thread.join(timeout=5)

    def submit(self, sequences: Many[Sequence], shapes: Shapes) -> None:
        """Accept the choices of one request, which share a prompt.

        Args:
            sequences: At least one.
            shapes: Sizes that may be sent for their model version.

        Raises:
            Overloaded: the queue cannot take them all.
            ShuttingDown: the scheduler was stopped.
        """
        bound = self._limits.max_running + self._limits.max_queued
        with self._accepted_lock:
            if self._stopped is not None:
                raise self._stopped
            if self._num_accepted + len(sequences) > bound:
                raise Overloaded(
                    f"the queue is full: {self._num_accepted} of {bound} sequences are accepted and this request has "
                    f"{len(sequences)}; try again later",
                    retry_after_s=1,
                )
            self._num_accepted += len(sequences)
        sequences[0].forks = list(sequences[1:])
        self._inbox.put(_Submit(tuple(sequences), shapes))

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Forget sequences: each frees its row with the call that holds it. Ended ones are left alone."""
        for sequence in sequences:
            sequence.cancelled = True
        self._inbox.put(_Wake())

    def _run(self) -> None:
        while self._stopped is None:
            try:
                self._turn()
            except Exception:
                log.exception("the scheduler failed; every running sequence ends")
                self._end_all(InternalError("the scheduler failed; the log says why"))

    def _turn(self) -> None:
        """Take in what has come, send what can be sent, and only then tell the clients."""
        for message in self._messages():
            match message:
                case _Submit():
                    self._accept(message)
                case _Reply():
                    self._take_reply(message.call, message.outcome)
                case _Wake():
                    self._drop_cancelled()
                case _Stop():
                    self._close(message.error)
        self._dispatch()
        self._deliver()

    def _messages(self) -> list[_Submit | _Reply | _Wake | _Stop]:
        """Wait for a message, or for the end of a pause, and return all that have come."""
        pause = self._resume_at - time.monotonic()
        try:
            messages = [self._inbox.get(timeout=pause if pause > 0 else None)]
        except queue.Empty:
            return [_Wake()]
        while not self._inbox.empty():
            messages.append(self._inbox.get())
        return messages

    def _accept(self, message: _Submit) -> None:
        first = message.sequences[0]
        if first.model not in self._queues:
            self._queues[first.model] = ModelQueue(first.model, message.shapes)
        self._queues[first.model].waiting.append(first)

    def _take_reply(self, call: Call, outcome: Arrays | GatewayError) -> None:
        if call not in self._in_flight:
            return
        # Applied while the call still counts as in flight: should this fail, its sequences must be found and ended.
        chunks = [] if isinstance(outcome, GatewayError) else call.apply(outcome)
        self._in_flight.remove(call)
        queue_ = self._queues[call.model]
        queue_.calls.remove(call)
        if isinstance(outcome, GatewayError):
            self._take_failure(queue_, call, outcome)
            return
        for sequence, chunk in zip(call.sequences, chunks, strict=True):
            sequence.failing_since = None
            if sequence.cancelled:
                self._end(queue_, sequence, None)
            elif chunk is None:
                queue_.place(sequence)
                queue_.release_forks(sequence)
            elif chunk.finish_reason is None:
                queue_.place(sequence)
                self._outbox.append((sequence, chunk))
            else:
                self._end(queue_, sequence, chunk)

    def _take_failure(self, queue_: ModelQueue, call: Call, error: GatewayError) -> None:
        """Try again after a pause, as nothing of a failed call has happened; or give up."""
        now = time.monotonic()
        again = isinstance(error, BackendUnavailable)
        if again:
            self._resume_at = now + RETRY_DELAY_S
        for sequence in reversed(call.sequences):
            since = sequence.failing_since = sequence.failing_since or now
            if sequence.cancelled:
                self._end(queue_, sequence, None)
            elif again and now - since < self._limits.backend_grace_s:
                queue_.place(sequence, first=True)
            else:
                self._end(queue_, sequence, Failure(sequence.choice, error))

    def _end(self, queue_: ModelQueue, sequence: Sequence, event: Event | None) -> None:
        """Let a sequence go, and with it the choices that wait for its prompt."""
        forks = queue_.forget_forks(sequence)
        if isinstance(event, Failure):
            self._outbox += [(fork, Failure(fork.choice, event.error)) for fork in forks]
        if event is not None:
            self._outbox.append((sequence, event))
        self._release(1 + len(forks))

    def _release(self, count: int) -> None:
        with self._accepted_lock:
            self._num_accepted -= count

    def _drop_cancelled(self) -> None:
        for queue_ in self._queues.values():
            self._release(len(queue_.take_out(lambda sequence: sequence.cancelled)))

    def _dispatch(self) -> None:
        """Send calls while some may be in flight; models take turns."""
        limits = self._limits
        if time.monotonic() < self._resume_at:
            return
        for model, queue_ in list(self._queues.items()):
            if queue_.empty:
                del self._queues[model]
        sent = True
        while sent:
            sent = False
            for queue_ in self._queues.values():
                num_running = sum(other.num_running for other in self._queues.values())
                queue_.admit(limits.max_running - num_running)
                num_free = limits.max_calls - len(self._in_flight)
                call = queue_.next_call(num_free, limits.max_calls) if num_free > 0 else None
                if call is not None:
                    self._send(call)
                    sent = True

    def _send(self, call: Call) -> None:
        self._in_flight.add(call)
        self._backend.call(call, lambda outcome: self._inbox.put(_Reply(call, outcome)))

    def _deliver(self) -> None:
        outbox, self._outbox = self._outbox, []
        for sequence, event in outbox:
            if not sequence.cancelled:
                sequence.emit(event)

    def _close(self, error: GatewayError) -> None:
        with self._accepted_lock:
            self._stopped = error
        self._end_all(error)

    def _end_all(self, error: GatewayError) -> None:
        """End every sequence with an error; replies that still come are ignored."""
        ended = [sequence for call in self._in_flight for sequence in call.sequences]
        ended += [fork for sequence in ended for fork in sequence.forks]
        for queue_ in self._queues.values():
            ended += queue_.take_out(lambda _: True)
        self._in_flight.clear()
        self._queues.clear()
        self._outbox += [(sequence, Failure(sequence.choice, error)) for sequence in ended]
        self._release(len(ended))
        self._deliver()
