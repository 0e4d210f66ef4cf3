"""A running request: its sequences and their events, in order, until they finish, fail or are cancelled.

What it returns is made by the output builders in `completion`, `pooling` and `inspection`.
"""

import copy
import queue
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import numpy as np

from contract import signatures
from service.context import RequestContext
from service.errors import ClientGone, DeadlineExceeded, GatewayError
from service.generation.checkpoint import Checkpoint
from service.generation.prompts import NOTHING, EncodedPrompt
from service.models.registry import ServedModel
from service.observability.metrics import Metrics
from service.params import SamplingParams
from service.scheduling.admission import Admission
from service.scheduling.automaton import Match
from service.scheduling.scheduler import Scheduler
from service.scheduling.sequence import Event, Failure, Sequence

_DEFAULTS = SamplingParams()
T = TypeVar("T")


def _ignore(event: Event) -> None:
    """Drop an event that arrives after the end of its request."""


class Request:
    """A request whose model and prompts are known; its deadline is `timeout_s` after its creation.

    Attributes:
        model: The version that computes it.
        prompts: Its encoded prompts.
        checkpoint: The checkpoint whose state precedes each prompt; None: the initial state.
        initial_state: The state before the prompts, float32 (S,).
        sequences: Unfinished ones, by their index within the request.
        num_prompt_tokens: Tokens of all prompts.
        num_completion_tokens: Tokens generated so far; an output builder counts them.
    """

    def __init__(
        self,
        model: ServedModel,
        prompts: Many[EncodedPrompt],
        scheduler: Scheduler,
        admission: Admission,
        metrics: Metrics,
        context: RequestContext,
        timeout_s: float,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.model, self.prompts, self.checkpoint = model, prompts, checkpoint
        self.initial_state = checkpoint.point.state if checkpoint else np.zeros(model.card.state_size, np.float32)
        self.sequences: dict[int, Sequence] = {}
        self.num_prompt_tokens = sum(prompt.num_tokens for prompt in prompts)
        self.num_completion_tokens = 0
        self.admission = admission
        self._scheduler, self._metrics, self._context = scheduler, metrics, context
        self._started_at, self._timeout_s = time.monotonic(), timeout_s
        self._last_token_at: dict[int, float] = {}
        self._unfinished: set[int] = set()
        self._finish_reasons: dict[int, str] = {}
        self._submitted = self._failed = self._closed = self._cancelled = False
        self._cancelled_by: GatewayError | None = None
        # What `wait` waits for.
        self._awaited: Future[Any] | None = None
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._number: int | None = None
        # Of sequences that have finished.
        self._is_reproducible, self._num_cached_tokens = True, 0
        # The prompts, by identity, and the first sequence of each: a prompt counts once, however often it is found in
        # the prefix cache later.
        self._prefilled: set[int] = set()
        self._first_indexes: set[int] = set()

    def new_sequence(
        self,
        index: int,
        prompt: EncodedPrompt,
        prefill_signature: str,
        *,
        max_tokens: int = 0,
        sampling: SamplingParams = _DEFAULTS,
        seed: int = 0,
        random_stream: int = 0,
        num_top: int | None = None,
        match: Match | None = None,
        returns_state: bool = False,
        requested_activations: tuple[tuple[str, int], ...] = (),
        emit: Callable[[Event], None] | None = None,
    ) -> Sequence:
        """Return the next admitted sequence; see `Sequence` for the arguments. `emit` is `put` if not given."""
        model, checkpoint, tenant = self.model, self.checkpoint, self._context.quota.tenant
        if id(prompt) not in self._prefilled:
            self._prefilled.add(id(prompt))
            self._first_indexes.add(index)
        return Sequence(
            model=model.ref,
            prompt_ids=prompt.input_ids,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=seed,
            random_stream=random_stream,
            end_id=model.tokenizer.special.end,
            emit=emit or self.put,
            state=self.initial_state,
            seen_ids=prompt.seen_ids if sampling.repetition_penalty != 1 else NOTHING,
            index=index,
            vocab_size=model.card.vocab_size,
            release=self.admission.take(),
            prefill_signature=prefill_signature,
            requested_activations=requested_activations,
            num_sampled_before=checkpoint.point.num_sampled if checkpoint else 0,
            counts_before=checkpoint.token_counts if checkpoint else None,
            returns_state=returns_state,
            num_top=num_top,
            num_top_outputs=model.card.num_top,
            match=match,
            trace=self._context.trace,
            hidden_sum=np.zeros(model.card.units, np.float32) if prefill_signature == signatures.EMBED else None,
            expected_probe_hash=model.expected_probe_hash,
            cache_namespace=(tenant, model.ref, model.fingerprint, checkpoint.origin if checkpoint else b""),
        )

    def submit(self, groups: Many[Many[Sequence]]) -> None:
        """Submit sequences, grouped by prompt, to the scheduler; without any, nothing is computed.

        Raises:
            ShuttingDown: the scheduler was stopped.
        """
        self._submitted = True
        if groups:
            sequences = {sequence.index: sequence for group in groups for sequence in group}
            # Before the first event.
            self.sequences |= sequences
            self._number = self._scheduler.submit(groups, self.model.batch_limits, self._number)
            self._unfinished |= sequences.keys()

    def wait(self, future: "Future[T]") -> T:
        """Wait for a result, until the deadline or a call of `cancel`, which also cancel the future.

        Raises:
            GatewayError: as `events`.
        """
        self._awaited = future
        try:
            # `cancel` may have been called before.
            self.require_active()
            return future.result(timeout=max(0.0, self._remaining_s()))
        except CancelledError:
            raise self._cancellation() from None
        except TimeoutError:
            raise self._deadline_exceeded() from None
        finally:
            future.cancel()
            self._awaited = None

    def put(self, event: Event) -> None:
        """Enqueue an event, on the scheduler's thread."""
        self._events.put(event)

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint` of the output so far: whether only bit-exact backends have computed it."""
        is_reproducible = all(sequence.is_reproducible for sequence in self.sequences.values())
        return self.model.fingerprint_if(self._is_reproducible and is_reproducible)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of all prompts that were prefix cache hits."""
        return self._num_cached_tokens + sum(map(self._cached_tokens_of, self.sequences.values()))

    def _cached_tokens_of(self, sequence: Sequence) -> int:
        if sequence.index not in self._first_indexes:
            return 0
        # The checkpoint's unread tokens go before each prompt, and are not part of it.
        num_unread = len(self.checkpoint.point.unread_ids) if self.checkpoint else 0
        return max(0, sequence.num_cached_tokens - num_unread)

    @property
    def is_finished(self) -> bool:
        """Whether all submitted sequences have finished; an output builder may submit more."""
        return not self._unfinished

    @property
    def finish_reasons(self) -> list[str]:
        """Finish reasons of the choices that have finished, in their order."""
        return [self._finish_reasons[index] for index in sorted(self._finish_reasons)]

    def events(self) -> Iterator[Event]:
        """Yield events of unfinished sequences until all have finished; the consumer calls `finish` at a last event.

        Raises:
            GatewayError: that of `cancel`, which was called.
            DeadlineExceeded: the deadline has passed.
            GatewayError: the backends failed for longer than a sequence may wait, or the gateway was stopped.
        """
        while self._unfinished:
            event = self._next_event()
            if event is None:
                raise self._cancellation()
            if isinstance(event, Failure):
                self._failed = True
                # The same error may end many requests: each raises its own, with its own traceback.
                raise copy.copy(event.error)
            if event.index in self._unfinished:
                yield event

    def finish(self, index: int, reason: str | None = None) -> None:
        """Mark a sequence as finished, a choice with its finish reason."""
        self._unfinished.discard(index)
        if reason is not None:
            self._finish_reasons[index] = reason
        sequence = self.sequences.pop(index, None)
        if sequence is not None:
            self._is_reproducible &= sequence.is_reproducible
            self._num_cached_tokens += self._cached_tokens_of(sequence)
            # It refers to the request by `emit`: this cycle would keep its objects until a full garbage collection.
            sequence.emit = _ignore

    def report_tokens(self, index: int, count: int) -> None:
        """Report the latency of `count` tokens of a choice that have just arrived."""
        now = time.monotonic()
        if not self._last_token_at:
            self._metrics.first_token(self.model.ref, now - self._started_at)
        last_at = self._last_token_at.get(index)
        if last_at is not None and count:
            self._metrics.token_gap(self.model.ref, now - last_at, count)
        self._last_token_at[index] = now

    def cancel_sequence(self, index: int) -> None:
        """Cancel a sequence and free its slot; do nothing if it has finished or was never submitted."""
        if index in self.sequences:
            self._scheduler.cancel([self.sequences[index]])

    def cancel(self, error: GatewayError | None = None) -> None:
        """Free all slots and end a wait or an iteration; from any thread, any number of times.

        Args:
            error: What `wait` and `events` raise, if this is the first call; None: ClientGone.
        """
        if not self._cancelled:
            self._cancelled_by = error
        self._cancelled = True
        if (awaited := self._awaited) is not None:
            awaited.cancel()
        self._scheduler.cancel(list(self.sequences.values()))
        self._events.put(None)

    def close(self) -> None:
        """Cancel what still runs, and report the outcome; any number of times, on the request's thread."""
        if self._closed:
            return
        self._closed = True
        self.admission.close()
        if not self._submitted:
            return
        if self._unfinished:
            self.cancel()
            if not self._failed:
                self._metrics.cancelled([self.sequences[index] for index in self._unfinished])
        self._metrics.finished(
            self.model.ref,
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens,
            reasons=self.finish_reasons,
        )
        # As in `finish`.
        for sequence in self.sequences.values():
            sequence.emit = _ignore

    def require_active(self) -> None:
        """Raise as `events` if `cancel` was called or the deadline has passed, also while no sequence runs."""
        if self._cancelled:
            raise self._cancellation()
        if self._remaining_s() <= 0:
            raise self._deadline_exceeded()

    def _cancellation(self) -> GatewayError:
        """Return a new error: one that was raised holds frames, which hold the request."""
        return ClientGone() if self._cancelled_by is None else copy.copy(self._cancelled_by)

    def _next_event(self) -> Event | None:
        remaining_s = self._remaining_s()
        try:
            if remaining_s > 0:
                return self._events.get(timeout=remaining_s)
        except queue.Empty:
            pass
        raise self._deadline_exceeded()

    def _remaining_s(self) -> float:
        return self._started_at + self._timeout_s - time.monotonic()

    def _deadline_exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the request was not finished within its timeout_s of {self._timeout_s:g} seconds")
