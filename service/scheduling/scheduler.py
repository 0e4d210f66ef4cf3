"""Continuous batching: one thread that turns requests, replies and cancellations into calls.

The thread owns every queue and takes messages from an inbox, so nothing here is locked but the count that bounds the
queue. It sees no text and no protobuf; the backend is told to make a call and to say when it is answered.
"""

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from contract import signatures
from service.errors import BackendUnavailable, GatewayError, InternalError, ShuttingDown
from service.scheduling.admission import AdmissionControl
from service.scheduling.call import Call
from service.scheduling.padding import Arrays
from service.scheduling.policy import BatchLimits, ModelQueue
from service.scheduling.prefix_cache import Prefix, PrefixCache, block_hashes
from service.scheduling.sequence import Event, Failure, ModelVersion, Read, Sequence
from service.scheduling.slots import Slots

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.2


class Backend(Protocol):
    """Makes calls without waiting for them."""

    def call(self, call: Call, done: Callable[[Arrays | GatewayError, str | None], None]) -> None:
        """Send a call.

        `done` is given its outputs or the error, and the hash of the probe of whoever computed it, or None; once, on
        any thread, at once even.
        """

    def num_servers(self, model: ModelVersion) -> int:
        """Return how many model servers share a version's calls, at least one."""

    def num_free_calls(self, model: ModelVersion, max_calls: int) -> int:
        """Return how many more calls of a version those take, if each takes so many; one if there is no server."""


class Observer(Protocol):
    """Is told what happens, on the scheduler's thread, and must return at once."""

    def started(self, sequence: Sequence, waited_s: float) -> None:
        """The first sequence of a prompt got its first slot after it had waited.

        What it need not read, as its state is cached, is in `num_cached_tokens`.
        """

    def answered(self, call: Call, seconds: float) -> None:
        """The model server answered a call."""

    def failed(self, call: Call, error: GatewayError, again: bool) -> None:
        """A call failed; whether it will be made again."""


@dataclass(frozen=True)
class Load:
    """How many sequences of a model version hold a slot, and how many wait."""

    model: ModelVersion
    running: int
    waiting: int


@dataclass(frozen=True)
class Limits:
    """How much the scheduler takes on.

    Attributes:
        max_running: Sequences that hold a slot.
        max_queued: Sequences that may wait beyond those.
        max_tokens: Tokens that all of those may still read and write.
        max_calls: Calls in flight at each model server, of all models together: its cores.
        prefix_cache_bytes: For states of texts that may be begun again; 0: none are kept.
        backend_grace_s: How long sequences wait for a model server that does not answer, from its first failed call on.
    """

    max_running: int = 128
    max_queued: int = 256
    max_tokens: int = 4_000_000
    max_calls: int = 2
    prefix_cache_bytes: int = 0
    backend_grace_s: float = 30.0


@dataclass(frozen=True)
class _Submit:
    first: tuple[Sequence, ...]
    limits: BatchLimits


@dataclass(frozen=True)
class _Reply:
    call: Call
    outcome: Arrays | GatewayError
    computed_by: str | None


@dataclass(frozen=True)
class _Wake:
    """Look at the queues again: something was cancelled, or a pause is over."""


@dataclass(frozen=True)
class _Stop:
    error: GatewayError


_Message = _Submit | _Reply | _Wake | _Stop


@dataclass
class _Outage:
    """A model version whose calls fail.

    Attributes:
        since: Monotonic seconds at which the first of the failed calls was sent.
        resume_at: When to try again; None while an attempt is in flight.
    """

    since: float
    resume_at: float | None = None


class Scheduler:
    """Runs sequences on a backend; `start` before the first, `stop` after the last."""

    def __init__(self, backend: Backend, limits: Limits, observer: Observer) -> None:
        self._backend, self._limits, self._observer = backend, limits, observer
        self._admission = AdmissionControl(limits.max_running + limits.max_queued, limits.max_tokens)
        self._slots = Slots(limits.max_running)
        self._prefixes = PrefixCache(limits.prefix_cache_bytes)
        self._request_numbers = itertools.count()
        self._loads: tuple[Load, ...] = ()
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._queues: dict[ModelVersion, ModelQueue] = {}
        self._outages: dict[ModelVersion, _Outage] = {}
        # Calls in flight, and when each was sent.
        self._in_flight: dict[Call, float] = {}
        self._outbox: deque[tuple[Sequence, Event]] = deque()
        self._accepting = threading.Lock()
        self._stopped: GatewayError | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    @property
    def num_sequences(self) -> int:
        """Texts accepted and not yet ended."""
        return self._admission.num_sequences

    @property
    def num_tokens(self) -> int:
        """Tokens that those may read and write, as they were counted when they were accepted."""
        return self._admission.num_tokens

    @property
    def prefixes(self) -> PrefixCache:
        """States of texts that may be begun again; to be read by others for its numbers alone."""
        return self._prefixes

    @property
    def loads(self) -> tuple[Load, ...]:
        """Where the texts of each model version stood after the thread's last turn."""
        return self._loads

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, error: GatewayError | None = None) -> None:
        """End every sequence with an error, and then the thread."""
        self._inbox.put(_Stop(error or ShuttingDown("the server was stopped")))
        self._thread.join(timeout=5)

    def submit(self, groups: Many[Many[Sequence]], limits: BatchLimits) -> None:
        """Accept the sequences of one request, all or none.

        Args:
            groups: One per prompt: its choices, at least one. All are of one model version and one account.
            limits: Sizes that may be sent for that version.

        Raises:
            InvalidRequest: they are more than may ever be accepted.
            Overloaded: the queue cannot take them all now.
            ShuttingDown: the scheduler was stopped.
        """
        now, request = time.monotonic(), next(self._request_numbers)
        for first, *others in groups:
            first.forks = others
            first.cost = first.num_remaining_prompt_tokens + first.max_tokens
            if self._caches(first):
                first.prefix_blocks = block_hashes(first.scope, first.prompt_ids)
            for sequence in others:
                sequence.cost = sequence.max_tokens
            for sequence in (first, *others):
                sequence.accepted_at, sequence.request = now, request
        with self._accepting:
            if self._stopped is not None:
                raise type(self._stopped)(str(self._stopped))
            self._admission.admit([sequence for group in groups for sequence in group])
            # Under the lock, so that nothing is put behind the end that `_close` makes.
            self._inbox.put(_Submit(tuple(group[0] for group in groups), limits))

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Forget sequences: each frees its slot with the call that holds it. Ended ones are left alone."""
        for sequence in sequences:
            sequence.cancelled = True
        self._inbox.put(_Wake())

    def _run(self) -> None:
        try:
            while self._stopped is None:
                try:
                    self._turn()
                except Exception:
                    log.exception("the scheduler failed; every running sequence ends")
                    self._end_all(InternalError("the scheduler failed; the log says why"))
        finally:
            self._close(self._stopped or InternalError("the scheduler failed; the log says why"))

    def _turn(self) -> None:
        """Take in what has come, send what can be sent, and only then tell the clients."""
        self._handle(self._next_message())
        # One at a time: should one fail, the others are still in the inbox.
        while self._stopped is None and not self._inbox.empty():
            self._handle(self._inbox.get())
        self._dispatch()
        self._deliver()
        self._loads = tuple(
            Load(model, queue_.num_running, queue_.num_waiting) for model, queue_ in self._queues.items()
        )

    def _next_message(self) -> _Message:
        """Wait for a message, or for the time to try a failed call again."""
        times = [outage.resume_at for outage in self._outages.values() if outage.resume_at is not None]
        try:
            return self._inbox.get(timeout=max(0.0, min(times) - time.monotonic()) if times else None)
        except queue.Empty:
            return _Wake()

    def _handle(self, message: _Message) -> None:
        match message:
            case _Submit():
                self._enqueue(message.first, message.limits)
            case _Reply():
                self._apply_reply(message.call, message.outcome, message.computed_by)
            case _Wake():
                self._remove(lambda sequence: sequence.cancelled)
            case _Stop():
                self._close(message.error)

    def _enqueue(self, first: Many[Sequence], limits: BatchLimits) -> None:
        """Let the first sequence of each prompt of a request wait for a slot."""
        model = first[0].model
        queue_ = self._queues.setdefault(model, ModelQueue(model, limits))
        # What was verified may have changed while there was something to do all the time.
        queue_.limits = limits
        for sequence in first:
            queue_.sequences.update((sequence, *sequence.forks))
        for sequence in first:
            self._slots.enqueue(sequence)

    def _apply_reply(self, call: Call, outcome: Arrays | GatewayError, computed_by: str | None) -> None:
        sent_at = self._in_flight.pop(call, None)
        if sent_at is None:
            return
        queue_ = self._queues[call.model]
        queue_.calls.remove(call)
        if isinstance(outcome, GatewayError):
            self._apply_failure(queue_, call, outcome, sent_at)
            return
        events = call.apply(outcome)
        self._observer.answered(call, time.monotonic() - sent_at)
        self._outages.pop(call.model, None)
        for sequence, event in zip(call.sequences, events, strict=True):
            sequence.is_reproducible &= computed_by == sequence.expected_probe_hash
            self._cache_state(sequence)
            self._requeue(queue_, sequence, event)

    def _caches(self, sequence: Sequence) -> bool:
        return sequence.scope is not None and self._limits.prefix_cache_bytes > 0

    def _cache_state(self, sequence: Sequence) -> None:
        """Cache the state of a sequence that has come to the end of its prompt or of itself, or a good way further."""
        if sequence.prefix is None or not sequence.is_reproducible:
            return
        if sequence.ended or (sequence.num_remaining_prompt_tokens == 0 and sequence.num_generated == 0):
            self._prefixes.keep(sequence.prefix, sequence.state)
        elif sequence.num_generated == 0:
            self._prefixes.keep_now_and_then(sequence.prefix, sequence.state)

    def _lookup_prefix(self, sequence: Sequence) -> None:
        """Begin with the longest cached prefix of the prompt, unless all of its tokens are to be looked at."""
        if not self._caches(sequence):
            return
        # A sequence that draws nothing is to have something to read, or there would be no call that it ends with.
        wanted = sequence.num_remaining_prompt_tokens - (sequence.max_tokens == 0)
        known = sequence.prompt_ids[: wanted if sequence.prefill_signature == signatures.PREFILL else 0]
        hit = self._prefixes.find(sequence.prefix_blocks, known)
        # No longer needed, and up to 16 kB for the longest prompt.
        sequence.prefix_blocks = ()
        if hit is None:
            sequence.prefix = Prefix(sequence.scope)
            return
        prefix, state = hit
        sequence.resume_from_prefix(prefix, state)
        if sequence.returns_state:
            self._outbox.append((sequence, Read(sequence.index, sequence.num_remaining_prompt_tokens, state=state)))

    def _requeue(self, queue_: ModelQueue, sequence: Sequence, event: Event | None) -> None:
        """Put a sequence where its next call will find it, or end it."""
        if sequence.cancelled or isinstance(event, Failure) or sequence.ended:
            self._end(sequence, event)
            return
        queue_.enqueue(sequence)
        self._enqueue_forks(sequence)
        if event is not None:
            self._outbox.append((sequence, event))

    def _enqueue_forks(self, sequence: Sequence) -> None:
        """Let the choices wait for slots whose prompt has now been read."""
        if sequence.num_remaining_prompt_tokens == 0:
            for fork in _take_forks(sequence):
                fork.fork_from(sequence)
                self._slots.enqueue(fork)

    def _apply_failure(self, queue_: ModelQueue, call: Call, error: GatewayError, sent_at: float) -> None:
        """Try again after a pause, as nothing of a failed call has happened; or give up."""
        again = isinstance(error, BackendUnavailable)
        for sequence in reversed(call.sequences):
            if again and not sequence.cancelled:
                queue_.enqueue(sequence, first=True)
            else:
                self._end(sequence, Failure(sequence.index, error))
        self._observer.failed(call, error, again)
        if not again:
            return
        now = time.monotonic()
        outage = self._outages.setdefault(call.model, _Outage(since=sent_at))
        outage.resume_at = now + RETRY_DELAY_S
        if now - outage.since >= self._limits.backend_grace_s:
            # Whoever waits here has waited for the same server; those in other calls hear of it with their replies.
            ended = self._remove(lambda sequence: sequence.model == call.model)
            self._outbox += [(sequence, Failure(sequence.index, error)) for sequence in ended]

    def _end(self, sequence: Sequence, event: Event | None) -> None:
        """Let a sequence go, and with it the choices that wait for its prompt."""
        forks = _take_forks(sequence)
        if isinstance(event, Failure):
            self._outbox += [(fork, Failure(fork.index, event.error)) for fork in forks]
        if event is not None:
            self._outbox.append((sequence, event))
        self._forget([sequence, *forks])

    def _remove(self, unwanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Let the unwanted sequences go that no call holds, each with the choices that wait for its prompt."""
        removed = self._slots.remove(unwanted)
        for queue_ in self._queues.values():
            removed += queue_.remove(unwanted)
        removed += [fork for sequence in removed for fork in _take_forks(sequence)]
        self._forget(removed)
        return removed

    def _forget(self, sequences: Many[Sequence]) -> None:
        """Free what sequences hold that have ended: their slots, and their part of what may be accepted."""
        for sequence in sequences:
            self._queues[sequence.model].sequences.remove(sequence)
            self._slots.release(sequence)
        self._admission.release(sequences)

    def _dispatch(self) -> None:
        """Send calls while some may be in flight; models take turns."""
        for model, queue_ in list(self._queues.items()):
            if queue_.empty:
                del self._queues[model]
                self._outages.pop(model, None)
        self._admit()
        sent = True
        while sent:
            sent = False
            for model in list(self._queues):
                sent = self._send_one(model) or sent

    def _admit(self) -> None:
        """Give free slots, and those that are more than a request's share, to the sequences that wait."""
        now = time.monotonic()
        while self._slots.any_waiting and (self._slots.num_free > 0 or self._preempt()):
            sequence = self._slots.admit()
            if not sequence.started:
                sequence.started = True
                self._lookup_prefix(sequence)
                self._observer.started(sequence, now - sequence.accepted_at)
            self._queues[sequence.model].enqueue(sequence)
            self._enqueue_forks(sequence)

    def _preempt(self) -> bool:
        """Let a sequence wait whose request holds more than its share of the slots; return whether there was one."""
        for request in self._slots.over_share():
            for queue_ in self._queues.values():
                sequence = queue_.preempt(request)
                if sequence is not None:
                    self._slots.release(sequence)
                    self._slots.enqueue(sequence, first=True)
                    return True
        return False

    def _send_one(self, model: ModelVersion) -> bool:
        """Send the next call of a model, if it has one and it is not to wait; return whether."""
        outage, limits = self._outages.get(model), self._limits
        if outage is not None and outage.resume_at is not None:
            if time.monotonic() < outage.resume_at:
                return False
            outage.resume_at = None
        queue_ = self._queues[model]
        max_calls = limits.max_calls * self._backend.num_servers(model)
        num_free_calls = self._backend.num_free_calls(model, limits.max_calls)
        call = queue_.next_call(num_free_calls, max_calls) if num_free_calls > 0 else None
        if call is None:
            return False
        self._in_flight[call] = time.monotonic()
        self._backend.call(call, lambda outcome, computed_by: self._inbox.put(_Reply(call, outcome, computed_by)))
        # To the end of the line: the next call is another model's, if that has one.
        self._queues[model] = self._queues.pop(model)
        return True

    def _deliver(self) -> None:
        while self._outbox:
            sequence, event = self._outbox.popleft()
            if not sequence.cancelled:
                sequence.emit(event)

    def _close(self, error: GatewayError) -> None:
        """Accept nothing any more, and end what was accepted."""
        with self._accepting:
            self._stopped = error
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, _Submit):
                self._handle(message)
        self._end_all(error)

    def _end_all(self, error: GatewayError) -> None:
        """End every sequence with an error; replies that still come are ignored."""
        ended = [sequence for queue_ in self._queues.values() for sequence in queue_.sequences]
        self._in_flight.clear()
        self._queues.clear()
        self._outages.clear()
        self._slots = Slots(self._limits.max_running)
        self._outbox += [(sequence, Failure(sequence.index, error)) for sequence in ended]
        self._admission.release(ended)
        self._deliver()


def _take_forks(sequence: Sequence) -> list[Sequence]:
    """Return the choices that wait for a sequence's prompt, which it no longer speaks for."""
    forks, sequence.forks = sequence.forks, []
    return forks
