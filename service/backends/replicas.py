"""The model servers: which of them a call goes to, who is left out, and who is taken back.

A call has no effect but its answer, so one that fails, or does not come back, is simply sent to another server. Knows
calls, addresses and the outcome of probes. Does not know models' files, or when a call is made.
"""

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from types import MappingProxyType

from service.backends.determinism_probe import Probe
from service.backends.replica import FIRST_PAUSE_S, LAST_PAUSE_S, Replica, Server
from service.errors import (
    BackendUnavailable,
    GatewayError,
    InternalError,
    InvalidResponse,
    ServerBusy,
    VersionGone,
    version_gone,
)
from service.scheduling.call import NOT_FINITE, Call
from service.scheduling.padding import Arrays, finite_sequences
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)

# What a call is answered with, and the hash of the probe of the server that answered it; None with an error.
Done = Callable[[Arrays | GatewayError, str | None], None]

# A call that takes so many times as long as others of its kind has met a server that hangs, or is much too slow.
HANG_FACTOR = 10.0
# But hiccups of a busy machine are no reason.
MIN_HANG_S = 1.0
WATCH_S = 0.1
SOON_S = 60.0


class Replicas:
    """All model servers; thread-safe."""

    def __init__(
        self,
        connect: Callable[[str, str], Server],
        addresses: Many[str],
        *,
        resolve: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        """Prepare; nothing is asked.

        Args:
            connect: Makes what talks to an address, given that and the host that stood for it.
            addresses: `host:port` each; a host may stand for several.
            resolve: From an address to those that it stands for; by default the system's resolver.
        """
        self._connect, self._addresses, self._resolve = connect, addresses, resolve or resolved
        self._lock = threading.Lock()
        self._replicas: dict[str, Replica] = {}
        # Of each version, the hash of the probe that answers are to fit.
        self._hashes: dict[ModelVersion, str] = {}
        # What each address stood for when it was last known.
        self._stand_for: dict[str, list[str]] = {}
        self._unresolved: set[str] = set()
        # Seconds per step that calls take, by what they compute.
        self._usual_s: dict[tuple[ModelVersion, str], float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replicas", daemon=True)

    def start(self) -> None:
        """Watch for calls that do not come back, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and all connections."""
        self._closed.set()
        for replica in self.all():
            replica.server.close()

    def all(self) -> list[Replica]:
        """Return every replica, left out or not, in the order of their addresses."""
        with self._lock:
            return list(self._replicas.values())

    def look_up(self) -> list[Replica]:
        """Find out what the addresses stand for now; return all replicas. Those that are gone are closed.

        A name that cannot be resolved stands for what it stood for.
        """
        for address in self._addresses:
            try:
                self._stand_for[address] = list(self._resolve(address))
                self._unresolved.discard(address)
            except OSError as error:
                if address not in self._unresolved:
                    self._unresolved.add(address)
                    log.warning("model server %s: its name cannot be resolved: %s", address, error)
        found: dict[str, str] = {}
        for address in self._addresses:
            for each in self._stand_for.get(address, []):
                found.setdefault(each, _host(address))
        with self._lock:
            before = self._replicas
            self._replicas = {
                address: before.get(address) or Replica(address, self._connect(address, host))
                for address, host in found.items()
            }
            gone = [replica for address, replica in before.items() if address not in self._replicas]
        for replica in gone:
            log.info("model server %s is gone", replica.address)
            replica.server.close()
        return self.all()

    def expect(self, hashes: Mapping[ModelVersion, str]) -> None:
        """Say which hash of a probe each version's answers are to fit."""
        with self._lock:
            self._hashes = dict(hashes)
            self._usual_s = {key: usual for key, usual in self._usual_s.items() if key[0] in hashes}

    def num_servers(self, model: ModelVersion) -> int:
        """Return how many servers share a version's calls, at least one."""
        with self._lock:
            return max(1, len(self._candidates(model, ())))

    def num_free_calls(self, model: ModelVersion, max_calls: int) -> int:
        """Return how many more calls of a version its servers take, if each takes so many at once.

        Where there is none it is one: a call that fails at once, and tells the caller that it is to wait.
        """
        with self._lock:
            candidates = self._candidates(model, ())
            return sum(max(0, max_calls - len(replica.in_flight)) for replica in candidates) if candidates else 1

    def eject(self, replica: Replica, reason: str) -> None:
        """Send a server no more calls, and what it has to others, until it was looked at."""
        now = time.monotonic()
        with self._lock:
            was_in, replica.ejected_because = replica.ejected_because is None, reason
            # It may come back as another build.
            replica.unchecked = frozenset(replica.known)
            replica.num_ejections += 1
            if was_in:
                soon = now - replica.ejected_at < SOON_S
                replica.pause_s = min(2 * replica.pause_s, LAST_PAUSE_S) if soon else FIRST_PAUSE_S
                replica.ejected_at = now
        if was_in:
            log.warning("model server %s is left out: %s", replica.address, reason)
            replica.drift.clear()
            replica.server.reset()

    def report(self, replica: Replica, name: str, versions: Iterable[ModelVersion]) -> None:
        """Note which versions of a model a server serves or is loading, by its own account."""
        with self._lock:
            replica.reported = frozenset({ref for ref in replica.reported if ref.name != name}.union(versions))

    def learn(
        self,
        replica: Replica,
        name: str,
        probes: Mapping[ModelVersion, Probe],
        *,
        unchecked: Collection[ModelVersion] = (),
        seen: int | None = None,
    ) -> None:
        """Note what a server serves of one model; from now on it gets calls.

        Args:
            replica: The server.
            name: Of the model.
            probes: The versions that it serves, and what their probes found.
            unchecked: Of those, versions whose probes could not be repeated: they get no calls yet.
            seen: `num_ejections` when the look at it began: if it was found to be ill since, it stays out, and what the
                probes found is to be checked.
        """
        with self._lock:
            others = {ref: probe for ref, probe in replica.known.items() if ref.name != name}
            replica.known = MappingProxyType({**others, **probes})
            ill = seen is not None and seen != replica.num_ejections
            replica.unchecked = frozenset(others.keys() & replica.unchecked).union(probes if ill else unchecked)
            if ill:
                return
            replica.settled |= {name}
            was_out = replica.ejected_because is not None
            takes_calls = not replica.known or bool(replica.known.keys() - replica.unchecked)
            if takes_calls:
                replica.ejected_because = None
        if was_out and takes_calls:
            log.info("model server %s takes calls", replica.address)

    def retain(self, replica: Replica, names: Collection[str], seen: int) -> None:
        """Forget what a server serves of other models than these; if there are none at all, it answers, and is well."""
        with self._lock:
            replica.known = MappingProxyType({ref: probe for ref, probe in replica.known.items() if ref.name in names})
            replica.unchecked = frozenset(replica.known.keys() & replica.unchecked)
            replica.reported = frozenset(ref for ref in replica.reported if ref.name in names)
            replica.delisted = (replica.delisted | replica.settled).difference(names)
            replica.settled &= frozenset(names)
            if not names and seen == replica.num_ejections:
                replica.ejected_because = None

    def call(self, call: Call, done: Done) -> None:
        """Send a call to the server that has least to do; `done` is given the outcome, once, on any thread."""
        self._send(_Attempt(call, done))

    def _send(self, attempt: "_Attempt") -> None:
        with self._lock:
            candidates = self._candidates(attempt.call.model, attempt.tried)
            replica = min(candidates, key=lambda replica: len(replica.in_flight), default=None)
            if replica is not None:
                replica.in_flight[attempt.call] = time.monotonic()
                attempt.tried.append(replica)
        if replica is None:
            attempt.done(attempt.failure or self._missing(attempt.call.model), None)
        else:
            replica.server.call(attempt.call, lambda outcome: self._answered(replica, attempt, outcome))

    def _missing(self, model: ModelVersion) -> GatewayError:
        """Say why nobody can take a version's call: who had it may come back, or those that answer have it no more."""
        with self._lock:
            replicas = list(self._replicas.values())
        answers = any(replica.ejected_because is None for replica in replicas)
        may_come_back = any(model in replica.known and not replica.takes(model) for replica in replicas)
        if answers and not may_come_back:
            return version_gone()
        return BackendUnavailable("no model server answers")

    def _candidates(self, model: ModelVersion, tried: Collection[Replica]) -> list[Replica]:
        """Return the servers that can take a version's call; those that compute otherwise only where no other can."""
        able = [replica for replica in self._replicas.values() if replica not in tried and replica.takes(model)]
        alike = [replica for replica in able if replica.known[model].sha256 == self._hashes.get(model)]
        return alike or able

    def _answered(self, replica: Replica, attempt: "_Attempt", outcome: Arrays | GatewayError) -> None:
        """Hand an answer on, or try another server."""
        call = attempt.call
        with self._lock:
            seconds = time.monotonic() - replica.in_flight.pop(call)
            probe = replica.known.get(call.model)
            others = self._candidates(call.model, attempt.tried)
        if not isinstance(outcome, GatewayError):
            finite = bool(finite_sequences(outcome).all())
            if finite or not others:
                self._note(call, seconds)
                for other, failure in attempt.to_blame:
                    # Where all of them compute NaN it is the sequence's own.
                    if finite or isinstance(failure, InvalidResponse):
                        self.eject(other, f"another server answered a call that it failed: {failure}")
                attempt.done(outcome, probe.sha256 if probe else None)
                return
            outcome = InternalError(NOT_FINITE)
        attempt.failure = outcome
        if isinstance(outcome, VersionGone):
            with self._lock:
                replica.known = MappingProxyType({ref: it for ref, it in replica.known.items() if ref != call.model})
        elif isinstance(outcome, InvalidResponse) or not isinstance(outcome, BackendUnavailable):
            # It may be the call's own fault; whether it was is known when another server has been asked. Where there
            # is no other, the caller waits out an invalid response like an outage.
            attempt.to_blame.append((replica, outcome))
        elif not isinstance(outcome, ServerBusy):
            self.eject(replica, str(outcome))
        self._send(attempt)

    def _note(self, call: Call, seconds: float) -> None:
        """Remember how long calls take, by an average that follows the last ten or so."""
        key, per_step = (call.model, call.signature), seconds / call.size
        with self._lock:
            self._usual_s[key] = 0.9 * self._usual_s.get(key, per_step) + 0.1 * per_step

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_S):
            try:
                self.eject_hanging()
            except Exception:
                log.exception("looking for calls that hang failed; trying again")

    def eject_hanging(self) -> None:
        """Leave out each server that is late with a call which another could make."""
        now = time.monotonic()
        for replica in self.all():
            with self._lock:
                late = [
                    now - sent_at
                    for call, sent_at in replica.in_flight.items()
                    if now - sent_at > self._patience_s(call) and self._candidates(call.model, (replica,))
                ]
            if late and replica.ejected_because is None:
                self.eject(replica, f"a call has not come back for {max(late):.1f} seconds")
            elif late:
                # Sent in the moment in which it was left out.
                replica.server.reset()

    def _patience_s(self, call: Call) -> float:
        """Return how long a call may take while there is another server; one of a kind never seen, any time."""
        usual = self._usual_s.get((call.model, call.signature))
        return float("inf") if usual is None else max(MIN_HANG_S, HANG_FACTOR * usual * call.size)


@dataclass(eq=False)
class _Attempt:
    """A call on its way from server to server.

    Attributes:
        tried: The servers that have been asked, in order.
        to_blame: Of those, who failed it, and how, where it is not certain whose fault that is.
        failure: Of the last one.
    """

    call: Call
    done: Done
    tried: list[Replica] = field(default_factory=list)
    to_blame: list[tuple[Replica, GatewayError]] = field(default_factory=list)
    failure: GatewayError | None = None


def resolved(address: str) -> list[str]:
    """Return the addresses, `host:port` each, that one stands for, sorted.

    Raises:
        OSError: its name cannot be resolved.
    """
    name, port = _host(address), address.rpartition(":")[2]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        found = {entry[4][0] for entry in socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)}
        return sorted(f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}" for ip in found)
    return [address]


def _host(address: str) -> str:
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")
