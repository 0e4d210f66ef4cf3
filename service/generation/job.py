"""The running sequences of one request: their events, in order, until they finish, fail or are cancelled.

Knows sequences, time and queues. Does not know text or HTTP.
"""

import copy
import queue
import time
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from typing import Protocol

from service.errors import ClientGone, DeadlineExceeded
from service.scheduling.sequence import Event, Failure, ModelVersion, Sequence


class Canceller(Protocol):
    """Frees the slots of a job."""

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Remove sequences; finished ones are ignored."""


class RequestObserver(Protocol):
    """Observer of a request, called on the request's thread."""

    def first_token(self, model: ModelVersion, seconds: float) -> None:
        """Report the time to the first token of a request."""

    def token_gap(self, model: ModelVersion, seconds: float, count: int) -> None:
        """Report that `count` tokens of a choice arrived at once, `seconds` after those before."""

    def finished(
        self, model: ModelVersion, *, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """Report the end of a request; `reasons` are the finish reasons of its finished choices."""

    def cancelled(self, sequences: Many[Sequence]) -> None:
        """Report sequences that were cancelled: the client disconnected, or the deadline passed."""


def _ignore(event: Event) -> None:
    """Drop an event that arrives after the end of its request."""


class Job:
    """The sequences of one request.

    Attributes:
        sequences: By their index within the request.
        num_prompt_tokens: Tokens of all prompts.
        num_completion_tokens: Tokens generated so far.
        reasons: Finish reasons of the finished choices.
    """

    num_completion_tokens: int = 0
    reasons: Many[str] = ()

    def __init__(
        self,
        model: ModelVersion,
        num_prompt_tokens: int,
        runner: Canceller,
        listener: RequestObserver,
        timeout_s: float,
    ) -> None:
        """Start the clock.

        Args:
            model: The version that computes it.
            num_prompt_tokens: Tokens of all prompts.
            runner: Cancels its sequences.
            listener: Receives latencies and the outcome.
            timeout_s: Seconds from now until its deadline.
        """
        self.sequences: dict[int, Sequence] = {}
        self.num_prompt_tokens = num_prompt_tokens
        self._model, self._runner, self._listener = model, runner, listener
        self._started_at, self._timeout_s = time.monotonic(), timeout_s
        self._unfinished: set[int] = set()
        self._failed = self._closed = False
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def begin(self, sequences: Iterable[Sequence]) -> None:
        """Set the sequences whose events `events` waits for."""
        self.sequences = {sequence.index: sequence for sequence in sequences}
        self._unfinished = set(self.sequences)

    def put(self, event: Event) -> None:
        """Enqueue an event, on the scheduler's thread."""
        self._events.put(event)

    @property
    def is_reproducible(self) -> bool:
        """Whether all output so far was computed by backends with the model's expected probe hash."""
        return all(sequence.is_reproducible for sequence in self.sequences.values())

    def cancel(self) -> None:
        """Free the slots and end an iteration that waits; from any thread, any number of times."""
        self._runner.cancel(list(self.sequences.values()))
        self._events.put(None)

    def close(self) -> None:
        """Cancel what still runs, and report to the listener; any number of times, on the request's thread."""
        if self._closed:
            return
        self._closed = True
        if self._unfinished:
            self.cancel()
            if not self._failed:
                self._listener.cancelled([self.sequences[index] for index in self._unfinished])
        self._listener.finished(
            self._model,
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens,
            reasons=self.reasons,
        )
        # Each refers to the job by `emit`: this cycle would keep the request's objects until a full garbage collection.
        for sequence in self.sequences.values():
            sequence.emit = _ignore

    def events(self) -> Iterator[Event]:
        """Yield events of unfinished sequences until all have finished; the consumer calls `finish` at a last event.

        Raises:
            ClientGone: `cancel` was called.
            DeadlineExceeded: the deadline has passed.
            GatewayError: the backends failed for longer than a sequence may wait, or the gateway was stopped.
        """
        while self._unfinished:
            event = self._next_event()
            if event is None:
                raise ClientGone("the client closed its connection, or the sending half of it")
            if isinstance(event, Failure):
                self._failed = True
                # The same error may end many requests: each raises its own, with its own traceback.
                raise copy.copy(event.error)
            if event.index in self._unfinished:
                yield event

    def finish(self, index: int) -> None:
        """Mark a sequence as finished."""
        self._unfinished.discard(index)

    def _next_event(self) -> Event | None:
        remaining_s = self._started_at + self._timeout_s - time.monotonic()
        try:
            if remaining_s > 0:
                return self._events.get(timeout=remaining_s)
        except queue.Empty:
            pass
        raise DeadlineExceeded(f"the request was not finished within its timeout_s of {self._timeout_s:g} seconds")
