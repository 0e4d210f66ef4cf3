"""The state of one backend: its versions and calls in flight, whether it is ejected, and its configuration drift.

`service.backends.replicas` changes the state of a `Replica` under its lock. Envoy calls ejection outlier detection.
"""

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from service.api.responses import ConfigDriftObject
from service.backends.client import ModelServerClient
from service.backends.determinism_probe import Probe
from service.scheduling.call import Call
from service.scheduling.sequence import ModelVersion

# Concurrent probe calls per server, over all models, which take turns: as many as most servers have cores.
MAX_PROBE_CALLS = 2
# Seconds until an ejected backend is checked again; doubled each time that it is ejected again soon.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 2.0
SOON_S = 60.0
NOT_PROBED = "not probed yet"
# A call that takes this many times its usual duration is at a backend that hangs or is much too slow.
HANG_FACTOR = 10.0
# Shorter delays may be hiccups of a busy machine.
MIN_HANG_S = 1.0
# A roll-out is complete by then: a server polls its files every few seconds.
TOLERATED_S = 60.0


class HangDetector:
    """Estimates how long calls take, and the time-out after which one counts as hanging."""

    def __init__(self) -> None:
        # Average seconds per step, by version and signature.
        self._step_s: dict[tuple[ModelVersion, str], float] = {}

    def record(self, call: Call, seconds: float) -> None:
        """Update the exponential moving average of seconds per step, over some ten calls."""
        key, per_step = (call.version, call.signature), seconds / call.size
        self._step_s[key] = 0.9 * self._step_s.get(key, per_step) + 0.1 * per_step

    def timeout_s(self, call: Call) -> float:
        """Return after how many seconds a call counts as hanging; infinity if there is no measurement for it yet."""
        per_step = self._step_s.get((call.version, call.signature))
        return float("inf") if per_step is None else max(MIN_HANG_S, HANG_FACTOR * per_step * call.size)

    def keep(self, models: Collection[ModelVersion]) -> None:
        """Forget all other versions."""
        self._step_s = {key: seconds for key, seconds in self._step_s.items() if key[0] in models}


class ConfigDrift:
    """Differences between the versions that one backend serves and those that the repository lists; thread-safe.

    During a roll-out drift lasts for seconds. A backend whose poll of `models.config` hangs drifts for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By model: (is missing, NAME:VERSION) to the monotonic seconds at which the difference appeared.
        self._since: dict[str, dict[tuple[bool, str], float]] = {}

    def note(
        self, name: str, listed: Collection[int] | None, available: Collection[int], loading: Collection[int] = ()
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

    def _ages(self) -> dict[tuple[bool, str], float]:
        now = time.monotonic()
        with self._lock:
            since = {key: start for differences in self._since.values() for key, start in differences.items()}
        return {key: now - start for key, start in since.items()}

    def seconds(self) -> float:
        """Return the age of the oldest difference; 0 if there is none."""
        return max(self._ages().values(), default=0.0)

    def report(self) -> ConfigDriftObject | None:
        """Return the drift that has lasted for longer than `TOLERATED_S`, or None."""
        ages = {key: age for key, age in self._ages().items() if age > TOLERATED_S}
        if not ages:
            return None
        missing = sorted(version for is_missing, version in ages if is_missing)
        unexpected = sorted(version for is_missing, version in ages if not is_missing)
        return {"seconds": round(max(ages.values()), 1), "missing": missing, "unexpected": unexpected}


@dataclass(eq=False)
class Replica:
    """The last known state of one model server; its probes and sets of names are replaced as a whole."""

    address: str
    client: ModelServerClient
    probes: Mapping[ModelVersion, Probe] = field(default_factory=dict)  # of the versions that it serves
    reported: frozenset[ModelVersion] = frozenset()  # versions that it serves or is loading, by its own status
    probed_models: frozenset[str] = frozenset()  # models whose versions have been checked and probed
    delisted: frozenset[str] = frozenset()  # models that it served and that are no longer listed
    in_flight: dict[Call, float] = field(default_factory=dict)  # monotonic seconds at which each was sent
    probe_calls: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_PROBE_CALLS))
    drift: ConfigDrift = field(default_factory=ConfigDrift)
    ejected_because: str | None = NOT_PROBED  # None: it is in service
    num_failures: int = 0  # including those while it was already ejected
    ejected_at: float = float("-inf")  # monotonic seconds
    pause_s: float = FIRST_PAUSE_S  # until its next health check while it is ejected

    def eject(self, reason: str, now: float) -> bool:
        """Eject the backend at `now`, in monotonic seconds; return whether it was in service until then."""
        was_in_service, self.ejected_because = self.ejected_because is None, reason
        self.num_failures += 1
        # It may restart with another build.
        self.probes = {ref: replace(probe, is_stale=True) for ref, probe in self.probes.items()}
        if was_in_service:
            self.pause_s = min(2 * self.pause_s, LAST_PAUSE_S) if now - self.ejected_at < SOON_S else FIRST_PAUSE_S
            self.ejected_at = now
        return was_in_service

    def readmit(self) -> bool:
        """Put the backend back into service; return whether it was ejected."""
        was_ejected, self.ejected_because = self.ejected_because is not None, None
        return was_ejected

    @property
    def is_available(self) -> bool:
        """Whether it is in service, or will be after its first probe."""
        return self.ejected_because is None or (self.ejected_because == NOT_PROBED and bool(self.reported))

    def takes(self, version: ModelVersion) -> bool:
        probe = self.probes.get(version)
        return self.ejected_because is None and probe is not None and not probe.is_stale

    def may_take(self, version: ModelVersion) -> bool:
        """Return whether it gets no calls of a version now but may get some later."""
        if version.name not in self.probed_models or version in self.reported.difference(self.probes):
            return True
        return version in self.probes and not self.takes(version)
