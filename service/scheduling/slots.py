"""Slots: which sequences run and which wait, with max-min fairness between requests.

At most `num_slots` sequences run at once. A free slot goes to the request that holds the fewest slots, in a tie to the
oldest. If no slot is free, a request that holds at least two slots more than a waiting one is preempted. So a request
of 128 choices neither starves the others nor waits for 128 free slots, and a request of one choice waits only if every
request holds a single slot. Preemption is free: a state is a few kilobytes and stays in the gateway, so nothing is
recomputed.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator

from service.scheduling.sequence import Sequence, take

Condition = Callable[[Sequence], bool]


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
