"""Health checks: poll each backend for the versions that it serves, and probe new ones.

Each backend has a thread, and each model being probed at it has another, so that a slow or hanging backend or probe
does not block the others. Knows when a backend is checked. Does not know what a probe is, or where requests go.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from service.backends.client import VersionStatus
from service.backends.prober import BackendErrors, Prober
from service.backends.replica import Replica
from service.backends.replicas import Replicas
from service.errors import BackendUnavailable, ModelNotFound, ServerBusy
from service.params import ModelVersion

log = logging.getLogger(__name__)


class HealthChecks:
    """Periodic health checks of all backends, until closed.

    `listed` returns the models that the repository lists, and the versions to be served of each, or None. `changed` is
    called after each check and each probe.
    """

    def __init__(
        self,
        replicas: Replicas,
        prober: Prober,
        errors: BackendErrors,
        *,
        poll_s: float,
        listed: Callable[[], Mapping[str, Collection[int] | None]],
        changed: Callable[[], None],
    ) -> None:
        self._replicas, self._prober, self._errors = replicas, prober, errors
        self._poll_s, self._listed, self._changed = poll_s, listed, changed
        self._watched: set[Replica] = set()
        self._probing: dict[tuple[Replica, str], threading.Thread] = {}
        self._closed = threading.Event()

    def close(self) -> None:
        """End the threads, each after its current check."""
        self._closed.set()

    def watch(self, replica: Replica) -> None:
        """Check a backend now and periodically, on its own thread, until it is removed."""
        if replica not in self._watched:
            self._watched.add(replica)
            name = f"health check {replica.address}"
            threading.Thread(target=self._run, args=(replica,), name=name, daemon=True).start()

    def _run(self, replica: Replica) -> None:
        while not self._closed.is_set() and replica in self._replicas.all():
            try:
                self.check(replica)
                self._changed()
            except Exception:
                log.exception("the health check of %s failed; retrying", replica.address)
            self._closed.wait(self._poll_s if replica.ejected_because is None else replica.ejection.pause_s)
        self._watched.discard(replica)

    def check(self, replica: Replica) -> list[threading.Thread]:
        """Update which versions a backend serves, or eject it. Return the threads that probe new versions.

        A backend that does not respond is ejected and keeps its known versions: requests are not rejected here, their
        calls wait for its recovery.
        """
        num_ejections, listed = replica.ejection.count, dict(self._listed())
        try:
            for name, versions in listed.items():
                if (replica, name) not in self._probing:
                    self._check_model(replica, name, versions, num_ejections)
            for name in replica.delisted.difference(listed):
                self._check_delisted(replica, name)
        except ServerBusy as error:
            self._errors.add(replica.address, str(error))
        except BackendUnavailable as error:
            self._eject(replica, error)
        else:
            self._errors.clear(replica.address)
            self._replicas.retain(replica, listed, num_ejections)
            replica.drift.retain(listed.keys() | replica.delisted)
        return [thread for (probed, _), thread in list(self._probing.items()) if probed is replica]

    def _check_model(self, replica: Replica, name: str, listed: Collection[int] | None, num_ejections: int) -> None:
        statuses = self._prober.statuses(replica, name)
        loaded = [ModelVersion(name, status.version) for status in statuses if status.available]
        loading = [ModelVersion(name, status.version) for status in statuses if status.loading]
        self._replicas.report(replica, name, [*loaded, *loading])
        replica.drift.note(name, listed, [ref.version for ref in loaded], [ref.version for ref in loading])
        check = _Check(replica, name, statuses, num_ejections)
        if all(self._prober.is_probed(replica, ref) for ref in loaded):
            self._probe(check)
            return
        thread = threading.Thread(
            target=self._probe_and_notify, args=(check,), name=f"probes {name} {replica.address}", daemon=True
        )
        self._probing[replica, name] = thread
        thread.start()

    def _check_delisted(self, replica: Replica, name: str) -> None:
        """Check whether a backend still serves a delisted model."""
        try:
            available = [status.version for status in replica.server.versions(name) if status.available]
        except ModelNotFound:
            available = []
        # An empty list would report the model as missing.
        replica.drift.note(name, () if available else None, available)
        if not available:
            replica.delisted -= {name}

    def _probe_and_notify(self, check: "_Check") -> None:
        try:
            self._probe(check)
        except BackendUnavailable as error:
            self._eject(check.replica, error)
        except Exception as error:
            # Unexpected, and it must not affect other models: keep this model's known probes.
            log.debug("probing %s failed", check.name, exc_info=True)
            self._errors.add(_probing(check), f"{type(error).__name__}: {error}")
            probes = {ref: probe for ref, probe in check.replica.probes.items() if ref.name == check.name}
            needs_reprobe = probes.keys() & check.replica.needs_reprobe
            self._replicas.record_probes(
                check.replica, check.name, probes, needs_reprobe=needs_reprobe, num_ejections_before=check.num_ejections
            )
        finally:
            del self._probing[check.replica, check.name]
        try:
            self._changed()
        except Exception:
            log.exception("updating the model registry failed; retrying")

    def _probe(self, check: "_Check") -> None:
        probes, needs_reprobe, is_complete = self._prober.probe_all(check.replica, check.statuses, check.name)
        self._replicas.record_probes(
            check.replica,
            check.name,
            probes,
            needs_reprobe=needs_reprobe,
            is_complete=is_complete,
            num_ejections_before=check.num_ejections,
        )
        self._errors.clear(_probing(check))

    def _eject(self, replica: Replica, error: BackendUnavailable) -> None:
        if self._replicas.eject(replica, str(error)):
            self._errors.add(replica.address, str(error))


@dataclass(frozen=True)
class _Check:
    """A backend's status of one model.

    Attributes:
        num_ejections: `Ejection.count` when the check began.
    """

    replica: Replica
    name: str
    statuses: list[VersionStatus]
    num_ejections: int


def _probing(check: _Check) -> str:
    """Return the subject of errors of a model's probes; that of its status is cleared at each check."""
    return f"probing {check.name} at {check.replica.address}"
