"""Slots: who runs and who waits, with a fair share for every request.

At most `num_slots` sequences run at once. Shares are max-min fair by request: a free slot goes to the request that
holds the fewest, and of equals to the oldest; where none is free, a request that holds at least two more than one that
waits gives one up. So a request of 128 choices neither stops the others nor waits until as many slots are free, and one
of a single choice waits only where every request holds a single slot. Preemption is free: a state is a few kilobytes
and stays in the gateway, so nothing is computed again.

Pure and single-threaded. Knows sequences by their request's number. Does not know models, calls or tokens.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator

from service.scheduling.sequence import Sequence


class Slots:
    """The slots of all models, and the sequences that wait for one."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        # By request; none has an empty queue or holds 0.
        self._waiting: dict[int, deque[Sequence]] = {}
        self._held: Counter[int] = Counter()
        self._running: set[Sequence] = set()

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return self._num_slots - len(self._running)

    @property
    def any_waiting(self) -> bool:
        """Whether a sequence waits."""
        return bool(self._waiting)

    def enqueue(self, sequence: Sequence, *, first: bool = False) -> None:
        """Let a sequence wait, behind those of its request, or before them."""
        queue = self._waiting.setdefault(sequence.request, deque())
        queue.appendleft(sequence) if first else queue.append(sequence)

    def admit(self) -> Sequence:
        """Give a free slot to the sequence that is next, and return it; at least one must wait."""
        request = min(self._waiting, key=lambda request: (self._held[request], request))
        queue = self._waiting[request]
        sequence = queue.popleft()
        if not queue:
            del self._waiting[request]
        self._held[request] += 1
        self._running.add(sequence)
        return sequence

    def release(self, sequence: Sequence) -> None:
        """Free the slot of a sequence that has ended or is preempted; nothing if it holds none."""
        if sequence not in self._running:
            return
        self._running.remove(sequence)
        self._held[sequence.request] -= 1
        if not self._held[sequence.request]:
            del self._held[sequence.request]

    def over_share(self) -> Iterator[int]:
        """Yield the requests that hold at least two slots more than one that waits, those with the most first."""
        fewest = min(self._held[request] for request in self._waiting)
        for request, count in self._held.most_common():
            if count < fewest + 2:
                return
            yield request

    def remove(self, unwanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove and return the unwanted sequences that wait."""
        removed: list[Sequence] = []
        for request, queue in list(self._waiting.items()):
            leaving = [sequence for sequence in queue if unwanted(sequence)]
            if leaving:
                staying = deque(sequence for sequence in queue if not unwanted(sequence))
                self._waiting[request] = staying
                if not staying:
                    del self._waiting[request]
                removed += leaving
        return removed
