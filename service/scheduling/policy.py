"""Which call comes next: queues of sequences, and the rules by which they share the model server.

Pure and single-threaded: no clock, no network, no text. One `ModelQueue` per model version.

The model server computes several calls at once, each on one core; two calls of 32 rows on two cores make 1.5 times the
tokens of one call of 64 rows on both (measured). So the rows are spread over as many calls as may be in flight, each
padded to a batch size that the probe found to give equal bits.

A call runs one signature. Texts that differ in it, with penalties or without, with scores of the prompt or without,
take turns: whose turn it is says the one that has waited longest.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from service.scheduling.call import Call
from service.scheduling.sequence import ModelVersion, Sequence


@dataclass(frozen=True)
class BatchLimits:
    """Sizes that may be sent for a model version, batch sizes ascending; see `contract.card.GeneratorCard`."""

    batch_sizes: tuple[int, ...]
    max_steps: int
    max_length: int


# Rows × steps of one call at most: some 30 ms for 512 units, so that nobody who joins waits for long, while few rows,
# whose steps are quick, make up for the cost of a call by more of them. Reading is not waited for by running texts.
DECODE_BUDGET = 2048
PREFILL_BUDGET = 4096
# Floats that a call may tell of what goes on in a model: 16 MiB of them.
INSPECT_BUDGET = 2**22
# Steps of a call in which every text is at its beginning: the first of it is to be seen early.
FIRST_DECODE_STEPS = 16
# Steps of a call that others will want to join.
JOINING_DECODE_STEPS = 32
# While texts run, prompts wait until they fill the smallest call, but not for longer than this many calls that draw:
# a call costs what its rows cost, filler or not.
MAX_DECODES_BEFORE_PREFILL = 4


def fit(sizes: Iterable[int], wanted: int) -> int:
    """Return the smallest of the ascending sizes that is at least `wanted`, or the largest."""
    size = 0
    for size in sizes:
        if size >= wanted:
            break
    return size


def fit_below(sizes: Iterable[int], wanted: int) -> int:
    """Return the largest of the ascending sizes that is at most `wanted`, or `wanted` if there is none."""
    return max((size for size in sizes if size <= wanted), default=wanted)


def steps_for(lefts: list[int], limit: int) -> int:
    """Return how many steps a call should make for texts with so many tokens left each.

    As many as allowed, but if texts end in the last half of those, just until the last of them: a row that has ended
    costs what the others cost.
    """
    ending = max((left for left in lefts if left <= limit), default=0)
    return ending if ending * 2 >= limit or ending == max(lefts) else limit


@dataclass
class ModelQueue:
    """The sequences of one model version.

    Attributes:
        sequences: Every accepted one that has not ended, wherever it is: it waits for a slot, for the prompt that it
            shares, in one of the queues below, or it is in a call.
        reading: Prompts to be read further.
        ready: The next tokens can be drawn.
        calls: In flight.
        num_decodes: Calls that draw since the last one that reads.
    """

    model: ModelVersion
    limits: BatchLimits
    sequences: set[Sequence] = field(default_factory=set)
    reading: deque[Sequence] = field(default_factory=deque)
    ready: deque[Sequence] = field(default_factory=deque)
    calls: set[Call] = field(default_factory=set)
    num_decodes: int = 0

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self.reading) + len(self.ready) + sum(len(call.sequences) for call in self.calls)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a slot, or for the prompt that they share."""
        return len(self.sequences) - self.num_running

    @property
    def empty(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not self.sequences and not self.calls

    def enqueue(self, sequence: Sequence, *, first: bool = False) -> None:
        """Put a running sequence where it belongs by what it still has to read."""
        queue = self.reading if sequence.num_remaining_prompt_tokens else self.ready
        queue.appendleft(sequence) if first else queue.append(sequence)

    def remove(self, unwanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove and return the unwanted sequences that hold a slot and are in no call."""
        removed: list[Sequence] = []
        for queue in (self.reading, self.ready):
            leaving = [sequence for sequence in queue if unwanted(sequence)]
            if leaving:
                staying = [sequence for sequence in queue if not unwanted(sequence)]
                queue.clear()
                queue.extend(staying)
            removed += leaving
        return removed

    def preempt(self, request: int) -> Sequence | None:
        """Remove and return the sequence of a request that would be in a call last; None if all of them are in one."""
        for queue in (self.ready, self.reading):
            for sequence in reversed(queue):
                if sequence.request == request:
                    queue.remove(sequence)
                    return sequence
        return None

    def next_call(self, num_free_calls: int, max_calls: int) -> Call | None:
        """Choose the next call, and take its sequences out of the queues.

        With nothing to draw, or nothing that is worth a call yet, every free call reads prompts. Otherwise one call at
        a time does, and between two of those it is the running texts' turn.
        """
        drawing = self._signature_worth_decoding()
        reads = any(not call.is_decode for call in self.calls)
        due = not reads and (self._prefill_is_full() or self.num_decodes >= MAX_DECODES_BEFORE_PREFILL)
        if self.reading and (due or drawing is None):
            return self._next_prefill(num_free_calls)
        return None if drawing is None else self._next_decode(drawing, max_calls)

    def _signature_worth_decoding(self) -> str | None:
        """Return the signature of the next call that draws, or None if none is worth its rows.

        A call costs what its smallest batch size costs, so texts that fit into one call wait for each other.
        """
        for signature in dict.fromkeys(sequence.decode_signature for sequence in self.ready):
            running = [len(call.sequences) for call in self.calls if call.signature == signature]
            num_ready = sum(sequence.decode_signature == signature for sequence in self.ready)
            if len(running) * self.limits.batch_sizes[0] < sum(running) + num_ready:
                return signature
        return None

    def _prefill_is_full(self) -> bool:
        """Whether the prompts that are next fill a call, and it is not the running texts' turn."""
        return self.num_decodes > 0 and len(self._compatible_prefills()) >= self.limits.batch_sizes[0]

    def _compatible_prefills(self) -> list[Sequence]:
        """Return the sequences to be read by the signature whose turn it is, for the same outputs."""

        def kind(sequence: Sequence) -> Hashable:
            return sequence.prefill_signature, sequence.tells

        return [sequence for sequence in self.reading if kind(sequence) == kind(self.reading[0])]

    def _next_prefill(self, num_free_calls: int) -> Call:
        alike = self._compatible_prefills()
        # Full calls only, if there are running texts that a fuller one will be no later for.
        count = fit_below(self.limits.batch_sizes, len(alike)) if self.ready else len(alike)
        sequences = self._take(self.reading, alike, count, num_free_calls)
        self.num_decodes = 0
        batch_size = fit(self.limits.batch_sizes, len(sequences))
        limit = min(self.limits.max_length, PREFILL_BUDGET // batch_size)
        if num_told := sum(units for _, units in sequences[0].tells):
            limit = max(1, min(limit, INSPECT_BUDGET // (batch_size * num_told)))
        wanted = max(sequence.num_remaining_prompt_tokens for sequence in sequences)
        return self._call(sequences[0].prefill_signature, sequences, batch_size, min(wanted, limit))

    def _next_decode(self, signature: str, max_calls: int) -> Call:
        alike = [sequence for sequence in self.ready if sequence.decode_signature == signature]
        sequences = self._take(self.ready, alike, self._num_decoding_by(signature), max_calls)
        self.num_decodes += 1
        batch_size = fit(self.limits.batch_sizes, len(sequences))
        limit = min(self.limits.max_steps, max(1, DECODE_BUDGET // batch_size))
        if all(sequence.num_generated == 0 for sequence in sequences):
            limit = min(limit, FIRST_DECODE_STEPS)
        elif self.num_running and len(sequences) < self.limits.batch_sizes[0]:
            limit = min(limit, JOINING_DECODE_STEPS)
        steps = steps_for([sequence.num_left for sequence in sequences], limit)
        return self._call(signature, sequences, batch_size, steps)

    def _num_decoding_by(self, signature: str) -> int:
        """Count the running texts that draw by a signature, those whose prompts are still being read among them."""
        busy = (sequence for call in self.calls for sequence in call.sequences)
        return sum(
            1 + len(sequence.forks)
            for sequence in chain(self.reading, self.ready, busy)
            if sequence.max_tokens and sequence.decode_signature == signature
        )

    def _take(
        self, queue: deque[Sequence], alike: list[Sequence], num_sharing: int, num_calls: int
    ) -> tuple[Sequence, ...]:
        """Take an even share of the sequences that are alike, at least a full call of the smallest batch size."""
        taken = alike[: fit(self.limits.batch_sizes, -(-num_sharing // num_calls))]
        if len(taken) == len(queue):
            queue.clear()
        else:
            rest = set(map(id, taken))
            kept = [sequence for sequence in queue if id(sequence) not in rest]
            queue.clear()
            queue.extend(kept)
        return tuple(taken)

    def _call(self, signature: str, sequences: tuple[Sequence, ...], batch_size: int, size: int) -> Call:
        call = Call(self.model, signature, sequences, batch_size, size)
        self.calls.add(call)
        return call
