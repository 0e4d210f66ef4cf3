"""Continuous batching: one thread that turns submissions, outputs and cancellations into model calls.

The thread owns all queues and takes messages from an inbox, so it needs no locks. The backend makes the calls,
asynchronously, and reports their outputs.
"""

import itertools
import logging
import queue
import threading
import time
from collections import abc, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from contract import signatures
from service.errors import BackendUnavailable, GatewayError, InternalError, ShuttingDown
from service.scheduling.call import Arrays, Call, OnCompleted
from service.scheduling.prefix_cache import Prefix, PrefixCache, block_hashes
from service.scheduling.queues import BatchLimits, ModelQueue, Slots
from service.scheduling.sequence import ModelVersion, Result, Sequence, Status
from service.settings import Settings

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.2


class Backends(Protocol):
    """An asynchronous client of the model servers; `service.backends.replicas.Replicas` implements it."""

    def call(self, call: Call, done: OnCompleted) -> None:
        """Send a call; `done` is called on any thread, possibly before this returns."""

    def capacity(self, version: ModelVersion, max_calls: int) -> tuple[int, int]:
        """Return how many calls of a version they take, at `max_calls` each, and how many more of them now."""


class Observer(Protocol):
    """Callbacks for metrics, on the scheduler's thread; they must return at once."""

    def sequence_started(self, sequence: Sequence, waited_s: float) -> None:
        """Record that the first sequence of a prompt got its first slot, and its prefix cache hit."""

    def call_completed(self, call: Call, seconds: float) -> None:
        """Record a call that returned outputs."""

    def call_failed(self, call: Call, error: GatewayError, again: bool) -> None:
        """Record a failed call, and whether it will be retried."""


class Scheduler:
    """Runs sequences on the backends; call `start` before the first `submit`, `stop` after the last."""

    def __init__(self, backends: Backends, settings: Settings, observer: Observer) -> None:
        self._backends, self._settings, self._observer = backends, settings, observer
        self._slots = Slots(settings.max_running)
        self.prefix_cache = PrefixCache(settings.prefix_cache_bytes)  # other threads may only read its counters
        self._request_numbers = itertools.count()
        # Numbers of running and of waiting sequences of each model version after the thread's last iteration.
        self.loads: Mapping[ModelVersion, tuple[int, int]] = {}
        # Functions for the thread to call.
        self._inbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._queues: dict[ModelVersion, ModelQueue] = {}
        self._outbox: deque[tuple[Sequence, Result]] = deque()
        # Monotonic seconds at which calls were last chosen.
        self._dispatched_at = 0.0
        self._accepting = threading.Lock()
        self._stopped: GatewayError | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, error: GatewayError | None = None) -> None:
        """Fail every sequence, then end the thread."""
        self._inbox.put(partial(self._close, error or ShuttingDown("the server was stopped")))
        self._thread.join(timeout=5)

    def submit(
        self, groups: abc.Sequence[abc.Sequence[Sequence]], limits: BatchLimits, number: int | None = None
    ) -> int:
        """Enqueue admitted sequences of one request, and return the request's number.

        A group has the choices of one prompt, at least one. All are of one model version, whose calls have the limits.
        A request that submits more sequences later passes its number, for its share of the slots.

        Raises:
            ShuttingDown: the scheduler was stopped; the sequences are released.
        """
        now, is_first = time.monotonic(), number is None
        if number is None:
            number = next(self._request_numbers)
        for leader, *forks in groups:
            leader.forks = forks
            if leader.cache_namespace is not None and self._settings.prefix_cache_bytes > 0:
                leader.prefix_blocks = block_hashes(leader.cache_namespace, leader.prompt_ids)
        sequences = [sequence for group in groups for sequence in group]
        for sequence in sequences:
            sequence.accepted_at, sequence.request_number = now, number
        with self._accepting:
            if self._stopped is not None:
                for sequence in sequences:
                    sequence.status = Status.FINISHED
                    sequence.release()
                raise type(self._stopped)(str(self._stopped))
            # Under the lock, so that nothing is submitted after `_close` has drained the inbox.
            self._inbox.put(partial(self._enqueue, [leader for leader, *_ in groups], limits, is_first=is_first))
        return number

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Cancel sequences; one in a call frees its slot when the call returns. Finished ones are ignored."""
        self._inbox.put(partial(self._cancel, list(sequences)))

    def _run(self) -> None:
        try:
            while self._stopped is None:
                try:
                    self._iterate()
                except Exception:
                    log.exception("the scheduler failed; all sequences end with an error")
                    self._fail_all(InternalError("the scheduler failed; see the gateway's log"))
        finally:
            self._close(self._stopped or InternalError("the scheduler failed; see the gateway's log"))

    def _iterate(self) -> None:
        """Handle all messages, dispatch calls, and only then deliver results."""
        self._wait()
        # One at a time: if one fails, the others are still in the inbox.
        while self._stopped is None and not self._inbox.empty():
            self._inbox.get()()
        self._dispatch()
        self._deliver()
        self.loads = {version: (queue_.num_running, queue_.num_waiting) for version, queue_ in self._queues.items()}

    def _wait(self) -> None:
        """Handle the next message, or wait until a retry is due or prompts no longer wait for others."""
        queues = self._queues.values()
        times = [each.retry_at for each in queues if each.retry_at is not None]
        # Compared with the last dispatch, not with now: a wait that has ended since then still needs a dispatch.
        times += [until for each in queues if (until := each.waits_until) > self._dispatched_at]
        try:
            message = self._inbox.get(timeout=max(0.0, min(times) - time.monotonic()) if times else None)
        except queue.Empty:
            return
        message()

    def _enqueue(self, leaders: list[Sequence], limits: BatchLimits, *, is_first: bool) -> None:
        """Enqueue the first sequence of each prompt of a request for a slot."""
        version = leaders[0].version
        queue_ = self._queues.setdefault(version, ModelQueue(version, limits))
        # The limits of a request's first submission are current; those of a later one may be out of date.
        if is_first:
            queue_.limits = limits
        for sequence in leaders:
            queue_.sequences.update((sequence, *sequence.forks))
            self._slots.enqueue(sequence)
        num_arrived = sum(1 + len(each.forks) for each in leaders if not each.is_search_step)
        queue_.sequences_arrived(num_arrived, time.monotonic())

    def _apply_reply(self, call: Call, outcome: Arrays | GatewayError, probe_hash: str | None) -> None:
        queue_ = self._queues.get(call.version)
        if queue_ is None or call not in queue_.calls:
            return
        sent_at = queue_.calls.pop(call)
        if isinstance(outcome, GatewayError):
            self._apply_failure(queue_, call, outcome, sent_at)
            return
        for sequence in call.sequences:
            sequence.is_reproducible &= probe_hash == sequence.expected_probe_hash
        results = call.apply(outcome)
        now = time.monotonic()
        self._observer.call_completed(call, now - sent_at)
        queue_.failing_since = queue_.retry_at = None
        for sequence, result in zip(call.sequences, results, strict=True):
            self._cache_state(sequence)
            if sequence.is_complete and sequence.status is Status.RUNNING and not sequence.is_search_step:
                queue_.expect_prompt(now)
            self._requeue(queue_, sequence, result)

    def _cancel(self, sequences: list[Sequence]) -> None:
        """Remove cancelled sequences: a stop string completed the response, or the client has gone."""
        now = time.monotonic()
        for sequence in sequences:
            if sequence.status < Status.FINISHED:
                sequence.status = Status.CANCELLED
                if not sequence.is_search_step:
                    self._queues[sequence.version].expect_prompt(now)
        self._remove(lambda sequence: sequence.status is Status.CANCELLED)

    def _cache_state(self, sequence: Sequence) -> None:
        """Cache the state of a sequence at the end of its prompt, when it finishes, and at intervals during prefill."""
        if sequence.prefix is None or not sequence.is_reproducible:
            return
        if sequence.interventions is not None and sequence.num_generated:
            # Interventions: its state is not a function of its tokens.
            return
        # A search that begins with the same prompt reads its last token again.
        is_prefilled = sequence.num_remaining_prompt_tokens <= sequence.is_search_step
        if sequence.is_complete or (is_prefilled and sequence.num_generated == 0):
            self.prefix_cache.keep(sequence.prefix, sequence.state)
        elif sequence.num_generated == 0:
            self.prefix_cache.keep_if_due(sequence.prefix, sequence.state)

    def _lookup_prefix(self, sequence: Sequence) -> None:
        """Start from the longest cached prefix of the prompt, unless outputs are needed for all prompt tokens."""
        if not sequence.prefix_blocks:
            return
        # A sequence with `max_tokens` 0 needs a token to prefill: otherwise it has no call to finish with.
        num_cacheable = sequence.num_remaining_prompt_tokens - (sequence.max_tokens == 0)
        needs_outputs = sequence.next_prefill[0] not in (signatures.PREFILL, signatures.NEXT_LOGPROBS)
        cacheable = sequence.prompt_ids[: 0 if needs_outputs else num_cacheable]
        hit, root = self.prefix_cache.find(sequence.prefix_blocks, cacheable), sequence.prefix_blocks[0]
        # No longer needed; up to 0.3 MB.
        sequence.prefix_blocks = ()
        if hit is None:
            sequence.prefix = Prefix(root)
            return
        prefix, state = hit
        sequence.prefix, sequence.state = prefix, state
        sequence.num_prefilled = sequence.num_cached_tokens = prefix.length
        if sequence.returns_state:
            self._outbox.append((sequence, Result(sequence.index, sequence.num_remaining_prompt_tokens, state=state)))

    def _requeue(self, queue_: ModelQueue, sequence: Sequence, result: Result | None) -> None:
        """Enqueue a sequence for its next call, or finish it."""
        has_failed = result is not None and result.error is not None
        if has_failed or sequence.is_complete or sequence.status is Status.CANCELLED:
            self._finish(sequence, result)
            return
        queue_.enqueue(sequence)
        self._enqueue_forks(sequence)
        if result is not None:
            self._outbox.append((sequence, result))

    def _enqueue_forks(self, sequence: Sequence) -> None:
        """Fork the choices that share the prompt of a prefilled sequence, and enqueue them for slots."""
        if sequence.num_remaining_prompt_tokens == 0:
            for fork in _take_forks(sequence):
                if fork.status is Status.CANCELLED:
                    self._release([fork])
                    continue
                fork.fork_from(sequence)
                self._slots.enqueue(fork)

    def _apply_failure(self, queue_: ModelQueue, call: Call, error: GatewayError, sent_at: float) -> None:
        """Retry the call after a delay, as a failed call has no effect; or fail its sequences."""
        is_retried = isinstance(error, BackendUnavailable)
        for sequence in reversed(call.sequences):
            if is_retried and sequence.status is Status.RUNNING:
                queue_.enqueue(sequence, at_front=True)
            else:
                self._finish(sequence, Result(sequence.index, error=error))
        self._observer.call_failed(call, error, is_retried)
        if not is_retried:
            return
        now = time.monotonic()
        queue_.failing_since, queue_.retry_at = queue_.failing_since or sent_at, now + RETRY_DELAY_S
        if now - queue_.failing_since >= self._settings.backend_grace_s:
            # The queued sequences wait for the same backend; those in calls are handled when these return.
            removed = self._remove(lambda sequence: sequence.version == call.version)
            self._outbox += [(sequence, Result(sequence.index, error=error)) for sequence in removed]

    def _finish(self, sequence: Sequence, result: Result | None) -> None:
        """Finish a sequence, and with it the forks that wait for its prefill."""
        forks = _take_forks(sequence)
        if result is not None:
            if result.error is not None:
                self._outbox += [(fork, Result(fork.index, error=result.error)) for fork in forks]
            self._outbox.append((sequence, result))
        self._release([sequence, *forks])

    def _remove(self, unwanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove and return the unwanted sequences that are not in a call, and the forks that wait for them."""
        removed = self._slots.remove(unwanted)
        for queue_ in self._queues.values():
            removed += queue_.remove(unwanted)
        removed += [fork for sequence in removed for fork in _take_forks(sequence)]
        self._release(removed)
        return removed

    def _release(self, sequences: Iterable[Sequence]) -> None:
        """Release the slots and the admission of finished sequences."""
        for sequence in sequences:
            self._queues[sequence.version].sequences.remove(sequence)
            self._slots.release(sequence)
            sequence.status = max(sequence.status, Status.FINISHED)
            sequence.release()

    def _dispatch(self) -> None:
        """Send calls until no more may be in flight; models take turns."""
        self._dispatched_at = time.monotonic()
        for version, queue_ in list(self._queues.items()):
            if queue_.is_empty:
                queue_.failing_since = queue_.retry_at = None
                if self._dispatched_at >= queue_.waits_until:
                    del self._queues[version]
        self._fill_slots()
        sent = True
        while sent:
            sent = False
            for version in list(self._queues):
                sent = self._send_one(version) or sent

    def _fill_slots(self) -> None:
        """Give waiting sequences free slots, and slots above a request's fair share."""
        now = time.monotonic()
        while self._slots.any_waiting(self._may_run) and (self._slots.num_free > 0 or self._preempt()):
            sequence = self._slots.assign(self._may_run)
            if sequence.status is Status.WAITING:
                self._lookup_prefix(sequence)
                self._observer.sequence_started(sequence, now - sequence.accepted_at)
            sequence.status = Status.RUNNING
            self._queues[sequence.version].enqueue(sequence)
            self._enqueue_forks(sequence)

    def _may_run(self, sequence: Sequence) -> bool:
        """Return whether a sequence may take a slot; during its model's outage only one may, to retry."""
        queue_ = self._queues[sequence.version]
        return queue_.failing_since is None or not queue_.num_running

    def _preempt(self) -> bool:
        """Preempt a sequence, for one that may run; return whether there was one.

        First those of a model in an outage, then those of a request that holds more than its fair share of slots.
        """
        idle = [each for each in self._queues.values() if each.failing_since is not None and each.num_running > 1]
        candidates = itertools.chain(
            (queue_.preempt() for queue_ in idle),
            (
                queue_.preempt(request)
                for request in self._slots.over_share(self._may_run)
                for queue_ in self._queues.values()
            ),
        )
        sequence = next((each for each in candidates if each is not None), None)
        if sequence is None:
            return False
        sequence.status = Status.PREEMPTED
        self._slots.release(sequence)
        self._slots.enqueue(sequence, at_front=True)
        return True

    def _send_one(self, version: ModelVersion) -> bool:
        """Send the next call of a model, if there is one and no retry is pending; return whether one was sent."""
        queue_, settings = self._queues[version], self._settings
        if queue_.retry_at is not None:
            if time.monotonic() < queue_.retry_at:
                return False
            queue_.retry_at = None
        max_calls, num_free_calls = self._backends.capacity(version, settings.max_calls)
        call = queue_.next_call(num_free_calls, max_calls, self._dispatched_at) if num_free_calls > 0 else None
        if call is None:
            return False
        self._backends.call(
            call, lambda outcome, probe_hash: self._inbox.put(partial(self._apply_reply, call, outcome, probe_hash))
        )
        # To the end of the queue: the next call is another model's, if it has one.
        self._queues[version] = self._queues.pop(version)
        return True

    def _deliver(self) -> None:
        while self._outbox:
            sequence, result = self._outbox.popleft()
            if sequence.status is not Status.CANCELLED:
                sequence.deliver(result)

    def _close(self, error: GatewayError) -> None:
        """Reject further submissions, and fail all admitted sequences."""
        with self._accepting:
            self._stopped = error
        # Replies are ignored from now on.
        for queue_ in self._queues.values():
            queue_.calls.clear()
        while not self._inbox.empty():
            self._inbox.get()()
        self._fail_all(error)

    def _fail_all(self, error: GatewayError) -> None:
        """Fail every sequence; outputs of calls in flight are ignored."""
        failed = [sequence for queue_ in self._queues.values() for sequence in queue_.sequences]
        self._queues.clear()
        self._slots = Slots(self._settings.max_running)
        self._outbox += [(sequence, Result(sequence.index, error=error)) for sequence in failed]
        for sequence in failed:
            sequence.status = max(sequence.status, Status.FINISHED)
            sequence.release()
        self._deliver()


def _take_forks(sequence: Sequence) -> list[Sequence]:
    forks, sequence.forks = sequence.forks, []
    return forks
