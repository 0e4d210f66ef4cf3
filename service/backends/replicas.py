"""Replicas of the model server: load balancing, retries, ejection and readmission, and configuration drift.

Calls have no side effects, so one that fails or hangs is retried on another server. Envoy calls ejection outlier
detection.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.api.responses import ConfigDriftObject
from service.backends.client import ModelServerClient
from service.backends.determinism_probe import Probe
from service.errors import (
    BackendUnavailable,
    BatchingConflict,
    GatewayError,
    InternalError,
    InvalidResponse,
    ServerBusy,
    VersionGone,
)
from service.http_server.addresses import is_address
from service.scheduling.call import NOT_FINITE, Arrays, Call, OnCompleted, finite_sequences
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)

# Between two checks for hanging calls.
WATCH_S = 0.1
# Concurrent probe calls per server, over all models, which take turns: as many as most servers have cores.
MAX_PROBE_CALLS = 2
# Seconds until an ejected backend is checked again; doubled each time that it is ejected again soon.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 2.0
SOON_S = 60.0
NOT_PROBED = "not probed yet"
# A backend whose call takes this many times its usual duration hangs or is much too slow.
HANG_FACTOR = 10.0
# Shorter delays may be hiccups of a busy machine.
MIN_HANG_S = 1.0
# A roll-out is complete by then: a server polls its files every few seconds.
TOLERATED_S = 60.0


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

        The repository may list none for it, or be unknown (None). Versions being loaded are not drift.
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

    def _ages(self, may_use: Callable[[str], bool] = lambda _: True) -> dict[tuple[bool, str], float]:
        now = time.monotonic()
        with self._lock:
            usable = [differences for name, differences in self._since.items() if may_use(name)]
        return {key: now - start for differences in usable for key, start in differences.items()}

    def seconds(self) -> float:
        """Return the age of the oldest difference; 0 if there is none."""
        return max(self._ages().values(), default=0.0)

    def report(self, may_use: Callable[[str], bool] = lambda _: True) -> ConfigDriftObject | None:
        """Return the drift of models that a request may use, if it has lasted for longer than `TOLERATED_S`."""
        ages = {key: age for key, age in self._ages(may_use).items() if age > TOLERATED_S}
        if not ages:
            return None
        missing = sorted(version for is_missing, version in ages if is_missing)
        unexpected = sorted(version for is_missing, version in ages if not is_missing)
        return {"seconds": round(max(ages.values()), 1), "missing": missing, "unexpected": unexpected}


@dataclass(eq=False)
class Replica:
    """The last known state of one model server, which `Replicas` changes under its lock.

    Its probes and sets of names are replaced as a whole.
    """

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
        """Readmit the backend; return whether it was ejected."""
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
        """Return whether it gets calls of a version now, or may get some later; False: it has none, by its status."""
        return version.name not in self.probed_models or version in self.reported or version in self.probes


class Replicas:
    """All model servers; implements the `Backends` of `service.scheduling.scheduler`; thread-safe."""

    def __init__(
        self,
        connect: Callable[[str, str], ModelServerClient],
        addresses: Sequence[str],
        *,
        resolve: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        """Prepare; no server is called.

        `connect` creates a client from an address and the host name that it was resolved from. `addresses` are
        `host:port` each; a host name may resolve to several. `resolve` is the system's resolver by default.
        """
        self._connect, self._addresses, self._resolve = connect, addresses, resolve or resolved
        self._lock = threading.Lock()
        self._replicas: dict[str, Replica] = {}
        # Expected probe hash of each version that is served, or may be again.
        self._hashes: dict[ModelVersion, str | None] = {}
        # Last successful resolution of each address.
        self._resolved: dict[str, list[str]] = {}
        self._unresolved: set[str] = set()
        # Average seconds per step of calls, by version and signature.
        self._step_s: dict[tuple[ModelVersion, str], float] = {}
        self._num_rejected = Counter({ServerBusy.reason: 0, BatchingConflict.reason: 0})
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replicas", daemon=True)

    def start(self) -> None:
        """Watch for hanging calls, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and all connections."""
        self._closed.set()
        for replica in self.all():
            replica.client.close()

    def all(self) -> list[Replica]:
        """Return all replicas, ejected ones included, in the order of their addresses."""
        with self._lock:
            return list(self._replicas.values())

    def discover(self) -> list[Replica]:
        """Resolve the addresses again, connect new replicas and close removed ones; return all.

        A name that cannot be resolved keeps its last resolution.
        """
        for address in self._addresses:
            try:
                self._resolved[address] = list(self._resolve(address))
                self._unresolved.discard(address)
            except OSError as error:
                if address not in self._unresolved:
                    self._unresolved.add(address)
                    log.warning("backend %s: cannot resolve its name: %s", address, error)
        hosts: dict[str, str] = {}
        for address in self._addresses:
            for resolved_address in self._resolved.get(address, []):
                hosts.setdefault(resolved_address, _host(address))
        with self._lock:
            before = self._replicas
            self._replicas = {
                address: before.get(address) or Replica(address, self._connect(address, host))
                for address, host in hosts.items()
            }
            removed = [replica for address, replica in before.items() if address not in self._replicas]
        for replica in removed:
            log.info("backend %s was removed", replica.address)
            replica.client.close()
        return self.all()

    def expect(self, hashes: Mapping[ModelVersion, str | None]) -> None:
        """Set the versions that are served, or may be again, and the probe hash that each should have.

        A call that no server takes fails with `VersionGone` if its version is not among them.
        """
        with self._lock:
            self._hashes = dict(hashes)
            self._step_s = {key: seconds for key, seconds in self._step_s.items() if key[0] in hashes}

    @property
    def num_rejected(self) -> Mapping[str, int]:
        """Number of calls that backends rejected without computing them, by reason: `busy` and `batching`."""
        with self._lock:
            return dict(self._num_rejected)

    def capacity(self, version: ModelVersion, max_calls: int) -> tuple[int, int]:
        """Return how many calls of a version its servers take, at `max_calls` each, and how many more now.

        Without a server the latter is one: a call that fails at once tells the caller of the outage.
        """
        with self._lock:
            candidates = self._candidates(version, ())
            num_free = sum(max(0, max_calls - len(replica.in_flight)) for replica in candidates) if candidates else 1
            return max_calls * max(1, len(candidates)), num_free

    def eject(self, replica: Replica, reason: str) -> bool:
        """Eject a server until a health check readmits it; its calls in flight are retried on others.

        Do nothing and return False if the server was removed: closing its connection failed its calls.
        """
        with self._lock:
            if self._replicas.get(replica.address) is not replica:
                return False
            was_in_service = replica.eject(reason, time.monotonic())
        if was_in_service:
            log.warning("backend %s was ejected: %s", replica.address, reason)
            # Its versions are unknown now.
            replica.drift.retain(())
            replica.client.reset()
        return True

    def report(self, replica: Replica, name: str, versions: Iterable[ModelVersion]) -> None:
        """Record which versions of a model a server serves or is loading, by its own status."""
        with self._lock:
            replica.reported = frozenset({ref for ref in replica.reported if ref.name != name}.union(versions))

    def record_probes(
        self,
        replica: Replica,
        name: str,
        probes: Mapping[ModelVersion, Probe],
        *,
        is_complete: bool = True,
        num_failures_before: int | None = None,
    ) -> None:
        """Record the versions of one model that a server serves, and readmit the server.

        A probe that could not be repeated is stale. Until all new versions are probed (`is_complete`), more of the
        model may appear. `num_failures_before` is `num_failures` when the health check began: if the server was ejected
        since, it stays ejected, and all versions need to be probed again.
        """
        with self._lock:
            others = {ref: probe for ref, probe in replica.probes.items() if ref.name != name}
            if num_failures_before is not None and num_failures_before != replica.num_failures:
                replica.probes = others | {ref: replace(probe, is_stale=True) for ref, probe in probes.items()}
                return
            replica.probes = {**others, **probes}
            if is_complete:
                replica.probed_models |= {name}
            takes_calls = not replica.probes or not all(probe.is_stale for probe in replica.probes.values())
            is_readmitted = takes_calls and replica.readmit()
        if is_readmitted:
            log.info("backend %s is in service", replica.address)

    def retain(self, replica: Replica, names: Collection[str], num_failures_before: int) -> None:
        """Forget a server's other models; readmit it if `names` is empty, as there is nothing to probe."""
        with self._lock:
            replica.probes = {ref: probe for ref, probe in replica.probes.items() if ref.name in names}
            replica.reported = frozenset(ref for ref in replica.reported if ref.name in names)
            replica.delisted = (replica.delisted | replica.probed_models).difference(names)
            replica.probed_models &= frozenset(names)
            if not names and num_failures_before == replica.num_failures:
                replica.readmit()

    def call(self, call: Call, done: OnCompleted) -> None:
        """Send a call to the least loaded server; `done` is called once, on any thread."""
        self._send(_Attempt(call, done))

    def _send(self, attempt: "_Attempt") -> None:
        with self._lock:
            candidates = self._candidates(attempt.call.version, attempt.tried)
            replica = min(candidates, key=lambda replica: len(replica.in_flight), default=None)
            if replica is not None:
                replica.in_flight[attempt.call] = time.monotonic()
                attempt.tried.append(replica)
        if replica is None:
            # A server that recovers may serve a version that another one has unloaded.
            failure = None if isinstance(attempt.failure, VersionGone) else attempt.failure
            attempt.done(failure or self._no_server_error(attempt.call.version), None)
        else:
            replica.client.send(attempt.call, lambda outcome: self._handle_outcome(replica, attempt, outcome))

    def _no_server_error(self, version: ModelVersion) -> GatewayError:
        with self._lock:
            if version not in self._hashes:
                return VersionGone()
        return BackendUnavailable(f"no model server serves {version.name}:{version.number} now")

    def _candidates(self, version: ModelVersion, tried: Collection[Replica]) -> list[Replica]:
        """Return the servers for a version's call: those with the expected probe hash, or else all others."""
        available = [replica for replica in self._replicas.values() if replica not in tried and replica.takes(version)]
        expected = [replica for replica in available if replica.probes[version].sha256 == self._hashes.get(version)]
        return expected or available

    def _handle_outcome(self, replica: Replica, attempt: "_Attempt", outcome: Arrays | GatewayError) -> None:
        call = attempt.call
        with self._lock:
            seconds = time.monotonic() - replica.in_flight.pop(call)
            probe = replica.probes.get(call.version)
            others = self._candidates(call.version, attempt.tried)
        if not isinstance(outcome, GatewayError):
            finite = bool(finite_sequences(outcome).all())
            if finite or not others:
                with self._lock:
                    self._record_duration(call, seconds)
                for other, failure in attempt.suspects:
                    # If all servers compute NaN, the sequence itself causes it.
                    if finite or isinstance(failure, InvalidResponse):
                        self.eject(other, f"another backend completed a call that failed here: {failure}")
                attempt.done(outcome, probe.sha256 if probe else None)
                return
            outcome = InternalError(NOT_FINITE)
        attempt.failure = outcome
        if isinstance(outcome, VersionGone):
            with self._lock:
                replica.probes = {ref: probe for ref, probe in replica.probes.items() if ref != call.version}
        elif isinstance(outcome, InvalidResponse) or not isinstance(outcome, BackendUnavailable):
            # The call itself may be at fault; a retry on another server decides. Without another, the caller treats an
            # invalid response like an outage.
            attempt.suspects.append((replica, outcome))
        elif isinstance(outcome, ServerBusy):
            with self._lock:
                self._num_rejected[outcome.reason] += 1
        else:
            self.eject(replica, str(outcome))
        self._send(attempt)

    def _record_duration(self, call: Call, seconds: float) -> None:
        """Update the exponential moving average of seconds per step, over some ten calls."""
        key, per_step = (call.version, call.signature), seconds / call.size
        self._step_s[key] = 0.9 * self._step_s.get(key, per_step) + 0.1 * per_step

    def _hang_timeout_s(self, call: Call) -> float:
        """Return after how many seconds a call counts as hanging; infinity if there is no measurement for it yet."""
        per_step = self._step_s.get((call.version, call.signature))
        return float("inf") if per_step is None else max(MIN_HANG_S, HANG_FACTOR * per_step * call.size)

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_S):
            try:
                self.eject_hanging()
            except Exception:
                log.exception("the check for hanging calls failed; retrying")

    def eject_hanging(self) -> None:
        """Eject each server with a hanging call that another server could take."""
        now = time.monotonic()
        for replica in self.all():
            with self._lock:
                overdue_s = [
                    now - sent_at
                    for call, sent_at in replica.in_flight.items()
                    if now - sent_at > self._hang_timeout_s(call) and self._candidates(call.version, (replica,))
                ]
            if overdue_s and replica.ejected_because is None:
                self.eject(replica, f"a call has had no response for {max(overdue_s):.1f} seconds")
            elif overdue_s:
                # Sent while the server was being ejected.
                replica.client.reset()


@dataclass(eq=False)
class _Attempt:
    """A call and its retries."""

    call: Call
    done: OnCompleted
    tried: list[Replica] = field(default_factory=list)  # in order
    suspects: list[tuple[Replica, GatewayError]] = field(default_factory=list)  # failed, perhaps by the call's fault
    failure: GatewayError | None = None  # the last one


def resolved(address: str) -> list[str]:
    """Return the sorted `ip:port` addresses of `host:port`; raise OSError if its name cannot be resolved."""
    name, port = _host(address), address.rpartition(":")[2]
    if is_address(name):
        return [address]
    ips = {entry[4][0] for entry in socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)}
    return sorted(f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}" for ip in ips)


def _host(address: str) -> str:
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")
