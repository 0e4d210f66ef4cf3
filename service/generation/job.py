"""One request's sequences while they are computed: their events, in order, until they end, fail or are given up.

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
    """What frees the rows of a job."""

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Forget sequences; ended ones are left alone."""


class Listener(Protocol):
    """Is told how a request goes, on its own thread."""

    def first_token(self, model: ModelVersion, seconds: float) -> None:
        """The first token of a request came."""

    def token_gap(self, model: ModelVersion, seconds: float, count: int) -> None:
        """So many more tokens of a choice came at once, so long after those before."""

    def finished(
        self, model: ModelVersion, *, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """A request is over; `reasons` are the finish reasons of its choices that ended."""

    def cancelled(self, sequences: Many[Sequence]) -> None:
        """These were given up: the client left, or the time was over."""


def _ignore(event: Event) -> None:
    """Drop an event that comes after its request is over."""


class Job:
    """The sequences of one request.

    Attributes:
        sequences: By their index within the request.
        num_prompt_tokens: Tokens of all prompts.
        num_completion_tokens: Tokens written so far.
        reasons: Finish reasons of the choices that have ended.
    """

    num_completion_tokens: int = 0
    reasons: Many[str] = ()

    def __init__(
        self, model: ModelVersion, num_prompt_tokens: int, runner: Canceller, listener: Listener, timeout_s: float
    ) -> None:
        """Start the clock.

        Args:
            model: What computes it.
            num_prompt_tokens: Tokens of all prompts.
            runner: What the sequences are cancelled at.
            listener: Told how it goes.
            timeout_s: Seconds from now after which the request is given up.
        """
        self.sequences: dict[int, Sequence] = {}
        self.num_prompt_tokens = num_prompt_tokens
        self._model, self._runner, self._listener = model, runner, listener
        self._started_at, self._timeout_s = time.monotonic(), timeout_s
        self._unfinished: set[int] = set()
        self._failed = self._closed = False
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def begin(self, sequences: Iterable[Sequence]) -> None:
        """Take the sequences whose events are to be waited for."""
        self.sequences = {sequence.index: sequence for sequence in sequences}
        self._unfinished = set(self.sequences)

    def put(self, event: Event) -> None:
        """Take an event, on the scheduler's thread."""
        self._events.put(event)

    @property
    def is_reproducible(self) -> bool:
        """Whether all that was computed so far has the bits that the model's fingerprint stands for."""
        return all(sequence.is_reproducible for sequence in self.sequences.values())

    def cancel(self) -> None:
        """Free the rows; from any thread, any number of times. An iteration that waits ends."""
        self._runner.cancel(list(self.sequences.values()))
        self._events.put(None)

    def close(self) -> None:
        """Free what still runs, and report; any number of times, on the request's own thread."""
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
        # Each held the job by `emit`: in a cycle, all that the request made would wait for a full garbage collection.
        for sequence in self.sequences.values():
            sequence.emit = _ignore

    def events(self) -> Iterator[Event]:
        """Yield the events of unfinished sequences until there are none; whoever takes a last event calls `finish`.

        Raises:
            ClientGone: `cancel` was called.
            DeadlineExceeded: the request's time is over.
            GatewayError: the model server failed for longer than a text may wait, or the gateway was stopped.
        """
        while self._unfinished:
            event = self._next()
            if event is None:
                raise ClientGone("the client closed its connection, or the sending half of it")
            if isinstance(event, Failure):
                self._failed = True
                # The same error may end many requests: each raises its own, with its own traceback.
                raise copy.copy(event.error)
            if event.index in self._unfinished:
                yield event

    def finish(self, index: int) -> None:
        """Note that a sequence has no more to say."""
        self._unfinished.discard(index)

    def _next(self) -> Event | None:
        left = self._started_at + self._timeout_s - time.monotonic()
        try:
            if left > 0:
                return self._events.get(timeout=left)
        except queue.Empty:
            pass
        raise DeadlineExceeded(f"the request was not finished within its timeout_s of {self._timeout_s:g} seconds")
