"""Configuration drift: differences between the versions that a backend serves and those that the repository lists.

During a roll-out drift lasts for seconds. A backend whose poll of `models.config` hangs drifts for good.
Knows versions and time. Does not know files, or how a backend's status is requested.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

# A roll-out is complete by then: a server polls its files every few seconds.
TOLERATED_S = 60.0


@dataclass(frozen=True)
class DriftReport:
    """Drift that has lasted for longer than `TOLERATED_S`.

    Attributes:
        seconds: Age of the oldest difference.
        missing: NAME:VERSION, or just NAME, that the repository lists and the backend does not serve.
        unexpected: NAME:VERSION that the backend serves and the repository does not list, or no longer.
    """

    seconds: float
    missing: list[str]
    unexpected: list[str]


class ConfigDrift:
    """The drift of one backend; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By model: (is missing, NAME:VERSION) to the monotonic seconds at which the difference appeared.
        self._since: dict[str, dict[tuple[bool, str], float]] = {}

    def note(
        self,
        name: str,
        listed: Collection[int] | None,
        available: Collection[int],
        loading: Collection[int] = (),
    ) -> None:
        """Compare the listed versions of a model with the status of a backend.

        The repository may list none for it, or be unknown (None). Versions that the backend is loading are no drift.
        """
        now, differences = time.monotonic(), set()
        if listed is not None:
            differences = {(True, f"{name}:{number}") for number in {*listed} - {*available, *loading}}
            differences |= {(False, f"{name}:{number}") for number in {*available} - {*listed}}
            if not listed and not available and not loading:
                differences.add((True, name))
        with self._lock:
            before = self._since.get(name, {})
            self._since[name] = {difference: before.get(difference, now) for difference in differences}

    def retain(self, names: Collection[str]) -> None:
        """Forget all other models."""
        with self._lock:
            self._since = {name: differences for name, differences in self._since.items() if name in names}

    def clear(self) -> None:
        """Forget all models: the backend is unavailable, so its versions are unknown."""
        self.retain(())

    def seconds(self) -> float:
        """Return the age of the oldest difference; 0 if there is none."""
        now = time.monotonic()
        with self._lock:
            starts = [since for differences in self._since.values() for since in differences.values()]
            return max((now - since for since in starts), default=0.0)

    def report(self) -> DriftReport | None:
        """Return the drift that has lasted for longer than `TOLERATED_S`, or None."""
        now = time.monotonic()
        with self._lock:
            ages = {
                difference: now - since
                for differences in self._since.values()
                for difference, since in differences.items()
                if now - since > TOLERATED_S
            }
        if not ages:
            return None
        missing, unexpected = (
            sorted(version for is_missing, version in ages if is_missing is kind) for kind in (True, False)
        )
        return DriftReport(round(max(ages.values()), 1), missing, unexpected)
