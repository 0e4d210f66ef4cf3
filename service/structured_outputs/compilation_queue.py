"""The queue of compilations: senders take turns by the time that their patterns have taken.

Start-time fair queueing (Goyal, Vin and Cheng 1996): the next compilation is one of the sender that has used the least
time, and a sender that was idle starts from the time that the last one had used. So a pattern that takes two seconds
delays its sender's next ones, and other senders' once at most.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.errors import Overloaded
from service.structured_outputs.automata import TokenTexts
from service.structured_outputs.patterns import Constraint

# Senders whose used time is kept; beyond it those with the least are forgotten.
MAX_SENDERS = 4096

Key = tuple[Constraint, Hashable]


@dataclass(eq=False)
class Compilation:
    """A constraint that waits to be compiled, or is being compiled."""

    key: Key
    texts: Callable[[], TokenTexts]  # returns what the model's tokens add to a text
    # The requests that wait for it, with the sender of each.
    waiting: dict[Future[Any], str] = field(default_factory=dict)
    is_slow: bool = False  # whether it has exceeded a limit of the fast lane
    is_running: bool = False  # whether a process compiles it


class CompilationQueue:
    """The compilations that wait or run, in two lanes; not thread-safe.

    Each waiting request holds a thread, so at most `max_waiting` may wait, two thirds of them from one sender.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting, self._max_of_sender = max_waiting, max(1, max_waiting * 2 // 3)
        self._pending: dict[Key, Compilation] = {}
        self._used_s: dict[str, float] = {}
        # Used time of the sender of the latest compilation.
        self._clock_s = 0.0

    def join(self, key: Key, texts: Callable[[], TokenTexts], request: Future[Any], sender: str) -> Compilation:
        """Let a request wait for a compilation, which others may wait for, too; raise Overloaded if too many wait."""
        waiting = Counter(sender for each in self._pending.values() for sender in each.waiting.values())
        total, of_sender = waiting.total(), waiting[sender]
        if total >= self._max_waiting or of_sender >= self._max_of_sender:
            raise Overloaded(
                f"the queue of patterns to compile is full: {total} of {self._max_waiting} requests are waiting, "
                f"{of_sender} of {self._max_of_sender} from this sender; try again later",
                retry_after_s=1,
            )
        self._used_s.setdefault(sender, self._clock_s)
        compilation = self._pending.setdefault(key, Compilation(key, texts))
        compilation.waiting[request] = sender
        return compilation

    def leave(self, compilation: Compilation, request: Future[Any]) -> None:
        """End a request's wait; drop the compilation if it has not begun and nobody else waits."""
        del compilation.waiting[request]
        if not compilation.waiting and not compilation.is_running:
            self.remove(compilation)

    def take(self, *, is_slow: bool) -> tuple[str, Compilation] | None:
        """Start the next compilation of a lane, and return it with its sender; None if there is none."""
        ready = [
            (sender, each)
            for each in self._pending.values()
            if each.is_slow == is_slow and not each.is_running
            for sender in each.waiting.values()
        ]
        if not ready:
            return None
        sender, compilation = min(ready, key=lambda pair: self._used_s[pair[0]])
        self._clock_s = max(self._clock_s, self._used_s[sender])
        compilation.is_running = True
        return sender, compilation

    def end(self, compilation: Compilation, sender: str, seconds: float) -> None:
        """End a run, which counts towards its sender's time."""
        compilation.is_running = False
        # A sender that was idle has saved up no time.
        self._used_s[sender] = max(self._used_s.get(sender, 0.0), self._clock_s) + seconds
        if len(self._used_s) > MAX_SENDERS:
            waiting = {sender for each in self._pending.values() for sender in each.waiting.values()}
            for forgotten in sorted(self._used_s.keys() - waiting, key=self._used_s.__getitem__)[: MAX_SENDERS // 2]:
                del self._used_s[forgotten]

    def remove(self, compilation: Compilation) -> None:
        """Remove a compilation, which is finished or for which nobody waits."""
        # By now it may have a successor.
        if self._pending.get(compilation.key) is compilation:
            del self._pending[compilation.key]

    def clear(self) -> list[Future[Any]]:
        """Remove all compilations, and return the requests that wait for them."""
        requests = [request for each in self._pending.values() for request in each.waiting]
        self._pending.clear()
        return requests
