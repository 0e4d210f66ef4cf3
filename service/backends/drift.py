"""Where a backend and the model repository disagree about what is served, and for how long they have.

During a roll-out they do for seconds. A backend whose poll of `models.config` hangs never follows again.
Knows versions and time. Does not know files, or how a backend is asked.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

# Roll-outs are over by then: a server polls its files every few seconds.
TOLERATED_S = 60.0


@dataclass(frozen=True)
class DriftReport:
    """What has not been agreed on for longer than `TOLERATED_S`.

    Attributes:
        seconds: For how long the oldest of it has not.
        missing: NAME:VERSION, or just NAME, that the repository lists and the backend does not serve.
        unexpected: NAME:VERSION that the backend serves and the repository does not list, or no longer.
    """

    seconds: float
    missing: list[str]
    unexpected: list[str]


class ConfigDrift:
    """The disagreements of one backend; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By model: whether it is missing, and what; and since when, in monotonic seconds.
        self._since: dict[str, dict[tuple[bool, str], float]] = {}

    def note(
        self,
        name: str,
        wanted: Collection[int] | None,
        available: Collection[int],
        loading: Collection[int] = (),
    ) -> None:
        """Compare what is listed of a model with what a backend says.

        Args:
            name: Of the model.
            wanted: The versions that the repository lists; none: the model has no version there. None: not known.
            available: The versions that the backend serves.
            loading: The versions that it is loading: these are no disagreement.
        """
        now, found = time.monotonic(), set()
        if wanted is not None:
            found = {(True, f"{name}:{number}") for number in {*wanted} - {*available, *loading}}
            found |= {(False, f"{name}:{number}") for number in {*available} - {*wanted}}
            if not wanted and not available and not loading:
                found.add((True, name))
        with self._lock:
            before = self._since.get(name, {})
            self._since[name] = {item: before.get(item, now) for item in found}

    def retain(self, names: Collection[str]) -> None:
        """Forget all other models."""
        with self._lock:
            self._since = {name: items for name, items in self._since.items() if name in names}

    def clear(self) -> None:
        """Forget everything: the backend does not answer, so nothing is known."""
        self.retain(())

    def seconds(self) -> float:
        """Return for how long the oldest disagreement has lasted; 0 if there is none."""
        now = time.monotonic()
        with self._lock:
            return max((now - since for items in self._since.values() for since in items.values()), default=0.0)

    def report(self) -> DriftReport | None:
        """Return what has lasted for longer than `TOLERATED_S`, or None."""
        now = time.monotonic()
        with self._lock:
            old = {
                item: now - since
                for items in self._since.values()
                for item, since in items.items()
                if now - since > TOLERATED_S
            }
        if not old:
            return None
        missing, unexpected = (sorted(what for is_missing, what in old if is_missing is kind) for kind in (True, False))
        return DriftReport(round(max(old.values()), 1), missing, unexpected)
