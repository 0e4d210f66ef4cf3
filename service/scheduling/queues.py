"""Queues of sequences: those of all models that wait for a slot, and those of each model that wait for a call.

At most `num_slots` sequences run at once. A free slot goes to the request that holds the fewest slots, in a tie to the
oldest. If no slot is free, a request that holds at least two slots more than a waiting one is preempted. So a request
of 128 choices neither starves the others nor waits for 128 free slots, and a request of one choice waits only if every
request holds a single slot. Preemption is free: a state is a few kilobytes and stays in the gateway, so nothing is
recomputed.

The model server computes several calls at once, each on one core. Two calls of batch size 32 on two cores generate 1.5
times the tokens of one call of batch size 64 on both (measured). So sequences are spread over as many calls as may be
in flight, each padded to a batch size that the determinism probe has verified to be bit-exact.

A new sequence has a short first decode call right after its prefill, so that its first token does not wait for the
steps of running sequences. If other prompts are expected within milliseconds, its prefill waits to share their call:
anticipatory scheduling. A client in a loop sends its next request when a response is complete, and the sequences of a
call often end together. If the first prompt of the next wave started at once, its prefill call would take as long as a
call of eight prompts, and the others would wait for its end. Anticipatory disk schedulers wait for a process's next
read for the same reason (Iyer and Druschel, SOSP 2001).

Sequences that fit into the smallest batch are kept in step. Two groups of them take twice the CPU time of one, as a
slot with padding costs as much as one with a sequence, and groups that end at different times stay apart for good. So
running sequences wait for a prefill that completes the prompts of the others, and fill up their first decode call. With
8 streams this took 0.84 of the CPU time per token (measured). A batch size of 4 is too small for that while more than
eight sequences run: on a CPU with AVX2 alone, four calls of it take 1.7 times the CPU time of one with 16. Where 8 is
allowed, too, one call of 8 is better than two of 4: 1.16 times the tokens/s at 8 streams (both measured).

A call runs one signature. Sequences with different signatures (with or without penalties, with or without prompt
logprobs) take turns: the signature of the longest-waiting sequence is next. Those with interventions have calls of
their own, of one step each.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, compress

from contract import signatures
from service.scheduling.call import Call
from service.scheduling.sampling_inputs import fit_into_table
from service.scheduling.sequence import DecodeKind, ModelVersion, Sequence

Condition = Callable[[Sequence], bool]


@dataclass(frozen=True)
class BatchLimits:
    """Allowed sizes of a model version's calls, batch sizes ascending, and their precision; see the generator card."""

    batch_sizes: tuple[int, ...]
    max_steps: int
    max_length: int
    precision: signatures.PrecisionName = signatures.FLOAT32


# Maximum batch size × decode steps of one call: some 30 ms for 512 units, so that new sequences wait briefly. Small
# batches have fast steps, and amortize a call's overhead over more of them. With 1280, throughput at 64 streams was a
# fifth lower (measured).
MAX_DECODE_TOKENS_PER_CALL = 2048
MAX_PREFILL_TOKENS_PER_CALL = 4096
# Maximum floats of the activations that one `inspect` call returns: 16 MiB.
MAX_ACTIVATIONS_PER_CALL = 2**22
# Maximum decode steps of a sequence's first decode call.
FIRST_DECODE_STEPS = 8
# Maximum decode steps of a partly filled call while other sequences run: they can join the batch after it.
JOINING_DECODE_STEPS = 32
# Decode calls of running sequences between two prefill calls of a long prompt. With 1, 64 streams beside one had four
# fifths of the throughput, and the prompt was hardly faster (measured).
DECODES_BETWEEN_LONG_PREFILLS = 4
# Up to this many running sequences share a batch, if an allowed size up to this holds them. More are grouped in batches
# of at least this size; a call that has fewer is padded to a smaller one, if that is allowed.
MIN_SHARED_BATCH_SIZE = 8
# Minimum batch size of a step of a search that looks ahead.
SEARCH_BATCH_SIZE = 16
# How long a prompt waits for expected ones. The gateway takes 1 to 2 ms of CPU time per request, so eight prompts
# arrive within about this time. Of 3 to 30 ms it gave the highest throughput at 4 to 16 streams (measured).
MAX_WAIT_S = 0.015


def fit(sizes: tuple[int, ...], count: int) -> int:
    """Return the smallest of the ascending sizes that is at least `count`, or the largest."""
    return next((size for size in sizes if size >= count), sizes[-1])


def fit_below(sizes: Iterable[int], count: int) -> int:
    """Return the largest of the ascending sizes that is at most `count`, or `count` if there is none."""
    return max((size for size in sizes if size <= count), default=count)


def steps_for(nums_left: list[int], limit: int) -> int:
    """Return the decode steps of a call from the tokens that each sequence has left.

    It is `limit`, unless all sequences finish earlier, or the last one to finish within `limit` does so in its second
    half: then the call ends there, as a finished slot costs as much as a running one.
    """
    last_finish = max((num_left for num_left in nums_left if num_left <= limit), default=0)
    return last_finish if last_finish * 2 >= limit or last_finish == max(nums_left) else limit


def take(queue: deque[Sequence], selected: Condition) -> list[Sequence]:
    """Remove and return the selected sequences of a queue."""
    taken = [sequence for sequence in queue if selected(sequence)]
    if taken:
        remaining = [sequence for sequence in queue if not selected(sequence)]
        queue.clear()
        queue.extend(remaining)
    return taken


class Slots:
    """The slots of all models, and the sequences that wait for a slot."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        # By request; there are no empty queues and no counts of 0.
        self._waiting: dict[int, deque[Sequence]] = {}
        self._held: Counter[int] = Counter()
        self._running: set[Sequence] = set()

    @property
    def num_free(self) -> int:
        return self._num_slots - len(self._running)

    def any_waiting(self, may_run: Condition) -> bool:
        return any(may_run(queue[0]) for queue in self._waiting.values())

    def enqueue(self, sequence: Sequence, *, at_front: bool = False) -> None:
        """Enqueue a sequence after the others of its request, or before them."""
        queue = self._waiting.setdefault(sequence.request_number, deque())
        queue.appendleft(sequence) if at_front else queue.append(sequence)

    def assign(self, may_run: Condition) -> Sequence:
        """Assign a free slot to the next waiting sequence that may run, and return it; there must be one."""
        candidates = (request for request, queue in self._waiting.items() if may_run(queue[0]))
        request = min(candidates, key=lambda request: (self._held[request], request))
        queue = self._waiting[request]
        sequence = queue.popleft()
        if not queue:
            del self._waiting[request]
        self._held[request] += 1
        self._running.add(sequence)
        return sequence

    def release(self, sequence: Sequence) -> None:
        """Free the slot of a finished or preempted sequence; do nothing if it holds none."""
        if sequence not in self._running:
            return
        self._running.remove(sequence)
        self._held[sequence.request_number] -= 1
        if not self._held[sequence.request_number]:
            del self._held[sequence.request_number]

    def over_share(self, may_run: Condition) -> Iterator[int]:
        """Yield the requests that hold at least two slots more than a waiting one that may run, the most first."""
        fewest = min(self._held[request] for request, queue in self._waiting.items() if may_run(queue[0]))
        for request, count in self._held.most_common():
            if count < fewest + 2:
                return
            yield request

    def remove(self, unwanted: Condition) -> list[Sequence]:
        """Remove and return the unwanted sequences among those that wait."""
        removed: list[Sequence] = []
        for request, queue in list(self._waiting.items()):
            removed += take(queue, unwanted)
            if not queue:
                del self._waiting[request]
        return removed


@dataclass
class ModelQueue:
    """The sequences of one model version."""

    version: ModelVersion
    limits: BatchLimits
    # All unfinished ones: waiting for a slot, waiting for the prefill of a shared prompt, in one of the queues below,
    # or in a call.
    sequences: set[Sequence] = field(default_factory=set)
    prefilling: deque[Sequence] = field(default_factory=deque)  # sequences in prefill
    new: deque[Sequence] = field(default_factory=deque)  # sequences ready for their first decode call
    ready: deque[Sequence] = field(default_factory=deque)  # sequences ready for another one
    calls: dict[Call, float] = field(default_factory=dict)  # in flight: monotonic seconds at which each was chosen
    num_decodes: int = 0  # decode calls of `ready` sequences since the last prefill call
    first_decode_is_due: bool = True  # whether `ready` sequences had a decode call since the last first decode call
    # When each expected prompt is no longer expected, in monotonic seconds: one for each sequence that ended in the
    # last `MAX_WAIT_S`.
    expected: deque[float] = field(default_factory=deque)
    # An outage, in monotonic seconds: when the first failed call was sent, None while calls succeed; and when to retry,
    # None while an attempt is in flight.
    failing_since: float | None = None
    retry_at: float | None = None

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        in_queues = len(self.prefilling) + len(self.new) + len(self.ready)
        return in_queues + sum(len(call.sequences) for call in self.calls)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a slot, or for the prefill of a shared prompt."""
        return len(self.sequences) - self.num_running

    @property
    def _shared_batch_size(self) -> int:
        """The smallest batch size whose calls are worth waiting for others."""
        sizes, count = self.limits.batch_sizes, self.num_running
        if count > MIN_SHARED_BATCH_SIZE:
            return fit(sizes, MIN_SHARED_BATCH_SIZE)
        return fit(tuple(size for size in sizes if size <= MIN_SHARED_BATCH_SIZE) or sizes, count)

    @property
    def is_empty(self) -> bool:
        return not self.sequences and not self.calls

    def expect_prompt(self, now: float) -> None:
        """Expect one more prompt, as a sequence has ended."""
        self.expected.append(now + MAX_WAIT_S)

    def sequences_arrived(self, count: int, now: float) -> None:
        """Expect `count` fewer prompts."""
        while self.expected and (count > 0 or self.expected[0] <= now):
            count -= self.expected.popleft() > now

    def enqueue(self, sequence: Sequence, *, at_front: bool = False) -> None:
        """Enqueue a running sequence for prefill or decode."""
        queue = self.ready if sequence.num_generated else self.new
        if sequence.num_remaining_prompt_tokens:
            queue = self.prefilling
        queue.appendleft(sequence) if at_front else queue.append(sequence)

    def remove(self, unwanted: Condition) -> list[Sequence]:
        """Remove and return the unwanted sequences that hold a slot and are not in a call."""
        removed: list[Sequence] = []
        for queue in (self.prefilling, self.new, self.ready):
            removed += take(queue, unwanted)
        return removed

    def preempt(self, request: int | None = None) -> Sequence | None:
        """Remove and return the last sequence in the queues, of one request if given; None if all are in calls."""
        for queue in (self.ready, self.new, self.prefilling):
            for sequence in reversed(queue):
                if request in (None, sequence.request_number):
                    queue.remove(sequence)
                    return sequence
        return None

    @property
    def waits_until(self) -> float:
        """Until when prompts wait for expected ones, in monotonic s; without sequences, until when any is expected."""
        expected_until = self.expected[-1] if self.expected else 0.0
        if not self.prefilling:
            return 0.0 if self.sequences else expected_until
        is_full = len(self.prefilling) >= self._shared_batch_size
        if is_full or any(sequence.is_search_step for sequence in self.prefilling):
            return 0.0
        # The first in the queue is not always the oldest: a long prompt is enqueued again after each call.
        return min(expected_until, MAX_WAIT_S + min(sequence.accepted_at for sequence in self.prefilling))

    def next_call(self, num_free_calls: int, max_calls: int, now: float = math.inf) -> Call | None:
        """Choose the next call, and dequeue its sequences.

        A first decode call goes before a prefill call, and that before the next call of running sequences. Between two
        calls of the same kind, running sequences always get one, however many new ones arrive.

        Args:
            num_free_calls: Calls that may be sent now.
            max_calls: Calls that may be in flight.
            now: Monotonic seconds; at infinity no prompt waits for others.
        """
        kind = self._next_decode_kind()
        if self.new and (self.first_decode_is_due or kind is None):
            self.first_decode_is_due = False
            return self._next_first_decode(num_free_calls)
        if self.prefilling and now >= self.waits_until and (self._prefill_is_due() or kind is None):
            self.num_decodes = 0
            return self._next_prefill(num_free_calls)
        if kind is None:
            return None
        self.first_decode_is_due = True
        self.num_decodes += 1
        return self._next_decode(kind, max_calls)

    def _prefill_is_due(self) -> bool:
        """Return whether running sequences had enough decode calls since the last prefill call."""
        only_long = len(self.prefilling) < self._shared_batch_size and all(
            sequence.num_prefilled > sequence.num_cached_tokens for sequence in self.prefilling
        )
        return self.num_decodes >= (DECODES_BETWEEN_LONG_PREFILLS if only_long else 1)

    def _next_decode_kind(self) -> DecodeKind | None:
        """Return the kind of the next decode call of running sequences, or None if none is worthwhile.

        A call costs at least as much as one of the smallest batch size, so sequences that fit into one wait for each
        other, including those whose prefill a call in flight completes.
        """
        for kind in dict.fromkeys(sequence.decode_kind for sequence in self.ready):
            running = [count for call in self.calls if (count := _num_ready_after(call, kind))]
            num_ready = sum(sequence.decode_kind == kind for sequence in self.ready)
            if len(running) * self._shared_batch_size < sum(running) + num_ready:
                return kind
        return None

    def _next_prefill(self, num_free_calls: int) -> Call:
        first = self.prefilling[0]
        (signature, num_tokens), activations = first.next_prefill, first.requested_activations
        if signature == signatures.NEXT_LOGPROBS:
            self.prefilling.popleft()
            # Its steps ahead expand a prefix in each slot.
            count = max(num_tokens, SEARCH_BATCH_SIZE if first.search.num_ahead else 0)
            return self._call(signature, (first,), fit(self.limits.batch_sizes, count), 1)
        kind = signature, activations
        compatible = [each for each in self.prefilling if (each.next_prefill[0], each.requested_activations) == kind]
        # While sequences run, only as many prompts as fill a batch without padding.
        shared_batch_size = self._shared_batch_size
        sizes = (size for size in self.limits.batch_sizes if size >= shared_batch_size)
        count = fit_below(sizes, len(compatible)) if self.ready else len(compatible)
        sequences = self._dequeue(self.prefilling, compatible, count, num_free_calls)
        batch_size = fit(self.limits.batch_sizes, len(sequences))
        limit = min(self.limits.max_length, MAX_PREFILL_TOKENS_PER_CALL // batch_size)
        if activation_width := sum(units for _, units in activations):
            limit = max(1, min(limit, MAX_ACTIVATIONS_PER_CALL // (batch_size * activation_width)))
        longest = max(sequence.next_prefill[1] for sequence in sequences)
        return self._call(signature, sequences, batch_size, min(longest, limit))

    def _next_first_decode(self, num_free_calls: int) -> Call:
        shared_batch_size = self._shared_batch_size
        compatible = _compatible(self.new, self.new[0].decode_kind)
        sequences = self._dequeue(self.new, compatible, len(compatible), num_free_calls)
        in_step = _compatible([*sequences, *self.ready], sequences[0].decode_kind)
        if len(in_step) <= shared_batch_size:
            sequences += tuple(take(self.ready, set(in_step).__contains__))
        return self._decode_call(sequences, FIRST_DECODE_STEPS)

    def _next_decode(self, kind: DecodeKind, max_calls: int) -> Call:
        shared_batch_size = self._shared_batch_size
        compatible = _compatible(self.ready, kind)
        # The running sequences of the kind, including those in prefill and their forks.
        in_calls = (sequence for call in self.calls for sequence in call.sequences)
        num_sequences = _num_decoding(chain(self.prefilling, self.new, self.ready, in_calls), kind)
        sequences = self._dequeue(self.ready, compatible, num_sequences, max_calls)
        others_may_join = self.num_running > 0 and len(sequences) < shared_batch_size
        return self._decode_call(sequences, JOINING_DECODE_STEPS if others_may_join else self.limits.max_steps)

    def _decode_call(self, sequences: tuple[Sequence, ...], max_steps: int) -> Call:
        signature, has_one_step = sequences[0].decode_kind
        batch_size = fit(self.limits.batch_sizes, len(sequences))
        limit = min(
            1 if has_one_step else max_steps, self.limits.max_steps, max(1, MAX_DECODE_TOKENS_PER_CALL // batch_size)
        )
        steps = steps_for([sequence.num_left for sequence in sequences], limit)
        return self._call(signature, sequences, batch_size, steps)

    def _dequeue(
        self, queue: deque[Sequence], compatible: list[Sequence], num_sequences: int, num_calls: int
    ) -> tuple[Sequence, ...]:
        """Dequeue one call's share of `num_sequences`, rounded up to a batch size that is worth a call."""
        share = max(-(-num_sequences // num_calls), self._shared_batch_size)
        batch = compatible[: fit(self.limits.batch_sizes, share)]
        return tuple(take(queue, set(batch).__contains__))

    def _call(self, signature: str, sequences: tuple[Sequence, ...], batch_size: int, size: int) -> Call:
        call = Call(self.version, signature, sequences, batch_size, size, self.limits.precision)
        self.calls[call] = time.monotonic()
        return call


def _num_decoding(sequences: Iterable[Sequence], kind: DecodeKind) -> int:
    """Count the sequences whose decode calls are of a kind, now or after their prefill, with their forks."""
    selected = (each for each in sequences if each.max_tokens and each.decode_kind == kind)
    return sum(1 + len(sequence.forks) for sequence in selected)


def _num_ready_after(call: Call, kind: DecodeKind) -> int:
    """Count the sequences whose prompt a call completes, and that then decode with a kind of calls."""
    prefilled = (each for each in call.sequences if each.num_remaining_prompt_tokens <= call.size)
    return _num_decoding(prefilled, kind)


def _compatible(queue: Iterable[Sequence], kind: DecodeKind) -> list[Sequence]:
    """Return the sequences that a decode call of a kind may have: their automata fit into its table."""
    sequences = [sequence for sequence in queue if sequence.decode_kind == kind]
    return list(compress(sequences, fit_into_table(sequence.match for sequence in sequences)))
