"""The queue of compilations: senders take turns by the time that their patterns have taken.

Start-time fair queueing (Goyal, Vin and Cheng 1996): the next compilation is one of the sender that has used the least
time, and a sender that was idle starts from the time that the last one had used. So a pattern that takes two seconds
delays its sender's next ones, and other senders' once at most.
"""

from collections import deque
from typing import Generic, Protocol, TypeVar

# Senders whose used time is kept; beyond it those with the least are forgotten.
MAX_SENDERS = 4096


class Compilation(Protocol):
    """A compilation that waits.

    Attributes:
        is_slow: Whether it has exceeded a limit of the fast lane.
    """

    is_slow: bool


C = TypeVar("C", bound=Compilation)


class CompilationQueue(Generic[C]):
    """The waiting compilations by sender, in two lanes; not thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[bool, str], deque[C]] = {}
        self._used_s: dict[str, float] = {}
        # Used time of the sender of the latest compilation.
        self._clock_s = 0.0

    def put(self, sender: str, compilation: C) -> None:
        """Enqueue a compilation after the others of its sender and lane."""
        if not any((is_slow, sender) in self._waiting for is_slow in (False, True)):
            self._used_s[sender] = max(self._used_s.get(sender, 0.0), self._clock_s)
        self._waiting.setdefault((compilation.is_slow, sender), deque()).append(compilation)

    def take(self, *, is_slow: bool) -> tuple[str, C] | None:
        """Remove and return the next compilation of a lane with its sender; None if there is none."""
        senders = [sender for lane, sender in self._waiting if lane == is_slow]
        if not senders:
            return None
        sender = min(senders, key=self._used_s.__getitem__)
        self._clock_s = max(self._clock_s, self._used_s[sender])
        queue = self._waiting[is_slow, sender]
        compilation = queue.popleft()
        if not queue:
            del self._waiting[is_slow, sender]
        return sender, compilation

    def remove(self, compilation: C) -> None:
        """Remove a compilation from the queues of all senders."""
        for key, queue in list(self._waiting.items()):
            if compilation in queue:
                queue.remove(compilation)
                if not queue:
                    del self._waiting[key]

    def charge(self, sender: str, seconds: float) -> None:
        """Add to the time that a sender has used."""
        self._used_s[sender] = max(self._used_s.get(sender, 0.0), self._clock_s) + seconds
        if len(self._used_s) > MAX_SENDERS:
            waiting = {sender for _, sender in self._waiting}
            idle = [sender for sender in self._used_s if sender not in waiting]
            for forgotten in sorted(idle, key=self._used_s.__getitem__)[: MAX_SENDERS // 2]:
                del self._used_s[forgotten]
