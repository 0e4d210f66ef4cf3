"""Ejection of a backend that fails or hangs, until a health check readmits it; Envoy calls it outlier detection.

State and timing only: `service.backends.replicas` ejects and readmits, upon failed calls and health checks. Knows one
backend's failures and how long calls usually take. Does not know backends' addresses, locks or threads.
"""

from collections.abc import Collection
from dataclasses import dataclass

from service.params import ModelVersion
from service.scheduling.call import Call

# Seconds until an ejected backend is checked again; doubled each time that it is ejected again soon.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 2.0
SOON_S = 60.0
NOT_PROBED = "not probed yet"
# A call that takes this many times its usual duration is at a backend that hangs or is much too slow.
HANG_FACTOR = 10.0
# Shorter delays may be hiccups of a busy machine.
MIN_HANG_S = 1.0


@dataclass
class Ejection:
    """Whether a backend is ejected, and why.

    Attributes:
        reason: None: it is in service.
        count: Number of failures, including those while it was already ejected.
        pause_s: Seconds until its next health check while it is ejected.
        at: Monotonic seconds of the last ejection from service.
    """

    reason: str | None = NOT_PROBED
    count: int = 0
    pause_s: float = FIRST_PAUSE_S
    at: float = float("-inf")

    def eject(self, reason: str, now: float) -> bool:
        """Eject the backend at `now`, in monotonic seconds; return whether it was in service until then."""
        was_in_service, self.reason = self.reason is None, reason
        self.count += 1
        if was_in_service:
            self.pause_s = min(2 * self.pause_s, LAST_PAUSE_S) if now - self.at < SOON_S else FIRST_PAUSE_S
            self.at = now
        return was_in_service

    def readmit(self) -> bool:
        """Put the backend back into service; return whether it was ejected."""
        was_ejected, self.reason = self.reason is not None, None
        return was_ejected


class HangDetector:
    """Estimates how long calls take, and the time-out after which one counts as hanging."""

    def __init__(self) -> None:
        # Average seconds per step, by version and signature.
        self._step_s: dict[tuple[ModelVersion, str], float] = {}

    def record(self, call: Call, seconds: float) -> None:
        """Update the exponential moving average of seconds per step, over some ten calls."""
        key, per_step = (call.model, call.signature), seconds / call.size
        self._step_s[key] = 0.9 * self._step_s.get(key, per_step) + 0.1 * per_step

    def timeout_s(self, call: Call) -> float:
        """Return after how many seconds a call counts as hanging; infinity if there is no measurement for it yet."""
        per_step = self._step_s.get((call.model, call.signature))
        return float("inf") if per_step is None else max(MIN_HANG_S, HANG_FACTOR * per_step * call.size)

    def keep(self, models: Collection[ModelVersion]) -> None:
        """Forget all other versions."""
        self._step_s = {key: seconds for key, seconds in self._step_s.items() if key[0] in models}
