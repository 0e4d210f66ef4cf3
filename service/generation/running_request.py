"""A running request: submits its sequences as admission control makes room, and yields their results.

Processors (`completion_processor`, `text_scores`, `hidden_states`, …) turn its results into responses.
"""

import contextlib
import copy
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TypeVar

import numpy as np

from service.context import RequestContext
from service.errors import ClientGone, DeadlineExceeded, GatewayError, Overloaded
from service.generation.prompts import EncodedPrompt
from service.generation.resume_tokens import Checkpoint
from service.models.registry import ServedModel
from service.observability.metrics import Metrics
from service.scheduling.admission import Admission
from service.scheduling.scheduler import Scheduler
from service.scheduling.sequence import ChoiceIndex, Result, Sequence

# Seconds between attempts to submit more while none of the request's sequences is unfinished.
_RESUBMIT_S = 0.05
T = TypeVar("T")
# Creates the sequences of a prompt's choices. Not kept by the request: as a method of the processor, which has the
# request, it would form a cycle that keeps the prompts until a garbage collection.
Create = Callable[[list[ChoiceIndex]], list[Sequence]]


class RunningRequest:
    """A request whose model is known; its deadline is `timeout_s` after its creation.

    Prompts continue from the state of `checkpoint`, or from the zero state without one.
    """

    def __init__(
        self,
        model: ServedModel,
        checkpoint: Checkpoint | None,
        context: RequestContext,
        timeout_s: float,
        *,
        scheduler: Scheduler,
        admission: Admission,
        metrics: Metrics,
        max_unfinished: int,
    ) -> None:
        self.model, self.checkpoint, self.context = model, checkpoint, context
        self.prompts: list[EncodedPrompt] = []  # the engine adds them
        # Before the prompts, float32 (S,).
        self.initial_state = checkpoint.state if checkpoint else np.zeros(model.card.state_size, np.float32)
        # Choices that are not admitted yet, in order; those of a prompt are adjacent.
        self.waiting: deque[ChoiceIndex] = deque()
        self.sequences: dict[ChoiceIndex, Sequence] = {}  # submitted, unfinished ones
        self.queue: queue.SimpleQueue[Result | None] = queue.SimpleQueue()  # None wakes the reader after a cancellation
        self.num_completion_tokens = 0  # generated so far; a processor counts them
        self.companion: RunningRequest | None = None  # another one of the same client, cancelled and closed with it
        self._scheduler, self._admission, self._metrics = scheduler, admission, metrics
        self._max_unfinished, self._max_tokens = max_unfinished, 0
        self._started_at, self._timeout_s = time.monotonic(), timeout_s
        # Choices that are not submitted yet, and the function that releases each one's admission.
        self._admitted: list[tuple[ChoiceIndex, Callable[[], object]]] = []
        # Releases the admission that `run` uses.
        self._release_kept: Callable[[], object] = lambda: None
        self._is_open, self._num_submitted = False, 0
        # Its number in the scheduler.
        self._number: int | None = None
        self._last_token_at: dict[ChoiceIndex, float] = {}
        self._finish_reasons: dict[ChoiceIndex, str] = {}
        self._is_reproducible, self._num_cached_tokens = True, 0
        # After a cancellation, returns a new error: a raised error holds frames, which hold the request.
        self._cancellation: Callable[[], GatewayError] | None = None
        # What `wait` waits for.
        self._awaited: Future[Any] | None = None

    def admit(self, choices: Iterable[ChoiceIndex], max_tokens: int = 0, *, field: str = "input") -> None:
        """Admit the first of its choices, which `submit` submits; the others follow as these finish.

        Each may generate `max_tokens` tokens. `field` is the name that errors name.

        Raises:
            InvalidRequest: a sequence alone exceeds a limit.
            Overloaded: there is no room for one.
        """
        self.waiting, self._max_tokens = deque(choices), max_tokens
        lengths = [len(self.prompts[number].input_ids) for number in {number for number, _ in self.waiting}]
        if lengths:
            self._admission.require_possible(max(lengths) + max_tokens, field)
        self._admit()

    def submit(self, create: Create) -> None:
        """Create and submit the sequences of the admitted choices; raise ShuttingDown if the scheduler was stopped."""
        self._is_open = True
        groups = []
        for _, of_prompt in itertools.groupby(self._admitted, key=lambda admitted: admitted[0][0]):
            choices, releases = zip(*of_prompt, strict=True)
            groups.append(create(list(choices)))
            for sequence, release in zip(groups[-1], releases, strict=True):
                sequence.release = release
        self._admitted = []
        if groups:
            self._number = self._scheduler.submit(groups, self.model.batch_limits, self._number)
            self.sequences |= {sequence.index: sequence for group in groups for sequence in group}
        self._num_submitted = len(self.sequences)

    def keep_admission(self) -> None:
        """Keep the admission of the first choice until `close`, for the sequences of `run`; before `submit`.

        A search would otherwise compete with new requests at each of its steps.
        """
        (first, self._release_kept), *others = self._admitted
        self._admitted = [(first, lambda: None), *others]

    def new_sequence(self, index: ChoiceIndex, **fields: Any) -> Sequence:
        """Return the sequence of a choice."""
        model, checkpoint = self.model, self.checkpoint
        origin = checkpoint.origin if checkpoint else b""
        defaults = {
            "index": index,
            "version": model.ref,
            "prompt_ids": self.prompts[index[0]].input_ids,
            "state": self.initial_state,
            "deliver": self.queue.put,
            "max_tokens": self._max_tokens,
            "end_id": model.tokenizer.special.end,
            "vocab_size": model.card.vocab_size,
            "num_top_outputs": model.card.num_top,
            "num_sampled_before": checkpoint.num_sampled if checkpoint else 0,
            "counts_before": checkpoint.token_counts if checkpoint else None,
            "trace": self.context.trace,
            "expected_probe_hash": model.expected_probe_hash,
            "cache_namespace": (self.context.tenant, model.ref, model.fingerprint, origin),
        }
        return Sequence(**{**defaults, **fields})

    def run(self, index: ChoiceIndex, create: Create) -> Result:
        """Submit one more choice, whose sequence has a single result, and return that; raise as `results`.

        No other sequence runs, and `keep_admission` was called.
        """
        self._admitted = [(index, lambda: None)]
        self.submit(create)
        result = next(self.results(create))
        self.finish(result.index)
        return result

    def results(self, create: Create) -> Iterator[Result]:
        """Yield the results of its sequences until all have finished; the consumer calls `finish` on each last one.

        Choices that wait are submitted, by `create`, as others finish.

        Raises:
            DeadlineExceeded: the deadline has passed.
            GatewayError: that of `cancel`; or the backends failed for longer than a sequence may wait, or the gateway
                was stopped.
        """
        while not self.is_finished:
            if not self.sequences:
                # All submitted sequences have finished, and other requests have filled the queue.
                self.require_active()
                time.sleep(_RESUBMIT_S)
                self._submit_more(create)
                continue
            result = self._next_result()
            if result.index not in self.sequences:
                continue
            if result.error is not None:
                self._stop()
                # The same error may end many requests: each raises its own, with its own traceback.
                raise copy.copy(result.error)
            self._is_reproducible &= result.is_reproducible
            yield result
            if self.waiting and len(self.sequences) < self._num_submitted:
                self._submit_more(create)

    def finish(self, index: ChoiceIndex, reason: str | None = None, *, cancel: bool = False) -> None:
        """Mark a sequence as finished and record its choice's finish reason; `cancel` it if it still runs."""
        if reason is not None:
            self._finish_reasons[index] = reason
        sequence = self.sequences.pop(index, None)
        if sequence is not None:
            self._num_cached_tokens += self._cached_tokens_of(sequence)
            if cancel:
                self._scheduler.cancel([sequence])

    def wait(self, future: "Future[T]") -> T:
        """Wait for a result until the deadline or a `cancel`, which also cancel the future; raise as `results`."""
        self._awaited = future
        try:
            # `cancel` may have been called before.
            self.require_active()
            return future.result(timeout=max(0.0, self._remaining_s()))
        except (CancelledError, TimeoutError):
            raise self._interruption() from None
        finally:
            future.cancel()
            self._awaited = None

    @property
    def is_finished(self) -> bool:
        """Whether all sequences have finished, including those that were not submitted at first."""
        return not self.sequences and not self.waiting

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint`, marked as mixed if a backend with another probe hash computed some of it."""
        return self.model.fingerprint + ("" if self._is_reproducible else "_mixed")

    @property
    def num_prompt_tokens(self) -> int:
        return sum(prompt.num_tokens for prompt in self.prompts)

    @property
    def total_prompt_tokens(self) -> int:
        """Tokens of its prompts and of its companion's."""
        return self.num_prompt_tokens + (self.companion.num_prompt_tokens if self.companion else 0)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of all prompts that were prefix cache hits."""
        return self._num_cached_tokens + sum(map(self._cached_tokens_of, self.sequences.values()))

    @property
    def finish_reasons(self) -> list[str]:
        return [self._finish_reasons[index] for index in sorted(self._finish_reasons)]

    def report_tokens(self, index: ChoiceIndex, count: int) -> None:
        """Report the latency of `count` tokens of a choice that have just arrived."""
        now = time.monotonic()
        if not self._last_token_at:
            self._metrics.first_token(self.model.ref, now - self._started_at)
        last_at = self._last_token_at.get(index)
        if last_at is not None and count:
            self._metrics.token_gap(self.model.ref, now - last_at, count)
        self._last_token_at[index] = now

    def cancel(self, error: GatewayError | None = None) -> None:
        """Free all slots and end a wait or an iteration; from any thread, any number of times.

        `wait` and `results` raise the error of the first call; None: ClientGone.
        """
        if self._cancellation is None:
            self._cancellation = ClientGone if error is None else partial(copy.copy, error)
        if (awaited := self._awaited) is not None:
            awaited.cancel()
        self._scheduler.cancel(list(self.sequences.values()))
        self.queue.put(None)
        if self.companion is not None:
            self.companion.cancel(error)

    def close(self) -> None:
        """Cancel what still runs, and report the outcome; any number of times, on the request's thread."""
        if self.companion is not None:
            self.companion.close()
        for _, release in self._admitted:
            release()
        self._admitted = []
        self._release_kept()
        self._release_kept = lambda: None
        if not self._is_open:
            return
        self._is_open = False
        if self.sequences:
            self._metrics.cancelled(list(self.sequences.values()))
            self._stop()
        self._metrics.finished(
            self.model.ref,
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens,
            reasons=self.finish_reasons,
        )

    def require_active(self) -> None:
        """Raise as `results` if `cancel` was called or the deadline has passed, also while no sequence runs."""
        if self._cancellation is not None or self._remaining_s() <= 0:
            raise self._interruption()

    def _stop(self) -> None:
        """Cancel all sequences and submit no more."""
        self.waiting.clear()
        self._scheduler.cancel(list(self.sequences.values()))
        for index in list(self.sequences):
            self.finish(index)

    def _submit_more(self, create: Create) -> None:
        # Until the next one finishes, unless more are submitted now.
        self._num_submitted = len(self.sequences)
        try:
            self._admit()
        except Overloaded:
            return
        if self._admitted:
            self.submit(create)

    def _admit(self) -> None:
        costs, before = [], None
        for number, _ in itertools.islice(self.waiting, self._max_unfinished - len(self.sequences)):
            # One sequence prefills a prompt for all of its choices.
            num_prompt_tokens = len(self.prompts[number].input_ids) if number != before else 0
            costs.append(num_prompt_tokens + self._max_tokens)
            before = number
        if costs:
            self._admitted = [(self.waiting.popleft(), release) for release in self._admission.admit(costs)]

    def _cached_tokens_of(self, sequence: Sequence) -> int:
        # A prompt counts once, even if later choices hit the prefix cache again.
        if sequence.index[1] != 0:
            return 0
        # Labels and a checkpoint's unread tokens, which precede a prompt, are not part of it.
        return max(0, sequence.num_cached_tokens - len(self.prompts[sequence.index[0]].prefix_ids))

    def _next_result(self) -> Result:
        remaining_s, result = self._remaining_s(), None
        if remaining_s > 0:
            with contextlib.suppress(queue.Empty):
                result = self.queue.get(timeout=remaining_s)
        if result is None:
            raise self._interruption()
        return result

    def _remaining_s(self) -> float:
        return self._started_at + self._timeout_s - time.monotonic()

    def _interruption(self) -> GatewayError:
        if self._cancellation is not None:
            return self._cancellation()
        return DeadlineExceeded(f"the request was not finished within its timeout_s of {self._timeout_s:g} seconds")
