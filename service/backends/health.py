"""Health checks: each backend is asked, again and again, what it serves, and what is new there is probed.

Each backend has a thread, and each model that is probed at it another, so that what hangs or takes long keeps nothing
else from being served. Knows when a backend is looked at. Does not know what a probe is, or where requests go.
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
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)


class HealthChecks:
    """Looks at backends until it is closed."""

    def __init__(
        self,
        replicas: Replicas,
        greeter: Prober,
        complaints: BackendErrors,
        *,
        poll_s: float,
        wanted: Callable[[], Mapping[str, Collection[int] | None]],
        changed: Callable[[], None],
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            replicas: The backends.
            greeter: Asks and probes them.
            complaints: Takes what is wrong with them.
            poll_s: Seconds between two looks at a backend.
            wanted: Returns the models to be asked for, and the versions of each that are to be served, or None.
            changed: Told whenever something was found out.
        """
        self._replicas, self._greeter, self._complaints = replicas, greeter, complaints
        self._poll_s, self._wanted, self._changed = poll_s, wanted, changed
        self._watched: set[Replica] = set()
        self._probing: dict[tuple[Replica, str], threading.Thread] = {}
        self._closed = threading.Event()

    def close(self) -> None:
        """End the threads, each after what it is doing."""
        self._closed.set()

    def watch(self, replica: Replica) -> None:
        """Look at a backend at once, and from then on as long as there is one, on a thread of its own."""
        if replica not in self._watched:
            self._watched.add(replica)
            threading.Thread(target=self._run, args=(replica,), name=f"visits {replica.address}", daemon=True).start()

    def _run(self, replica: Replica) -> None:
        while not self._closed.is_set() and replica in self._replicas.all():
            try:
                self.check(replica)
                self._changed()
            except Exception:
                log.exception("looking at model server %s failed; trying again", replica.address)
            self._closed.wait(self._poll_s if replica.ejected_because is None else replica.pause_s)
        self._watched.discard(replica)

    def check(self, replica: Replica) -> list[threading.Thread]:
        """Find out what a backend serves now, and eject it if it does not say.

        It is taken to serve what it served: requests are better judged by their own calls, which wait for it to come
        back, than turned away here.

        Returns:
            The threads that probe what is new.
        """
        seen, wanted = replica.num_ejections, dict(self._wanted())
        try:
            for name, versions in wanted.items():
                if (replica, name) not in self._probing:
                    self._check_model(replica, name, versions, seen)
            for name in replica.delisted.difference(wanted):
                self._check_delisted(replica, name)
        except ServerBusy as error:
            self._complaints.add(replica.address, str(error))
        except BackendUnavailable as error:
            self._eject(replica, error)
        else:
            self._complaints.settle(replica.address)
            self._replicas.retain(replica, wanted, seen)
            replica.drift.retain(wanted.keys() | replica.delisted)
        return [thread for (probed, _), thread in list(self._probing.items()) if probed is replica]

    def _check_model(self, replica: Replica, name: str, wanted: Collection[int] | None, seen: int) -> None:
        statuses = self._greeter.statuses(replica, name)
        loaded = [ModelVersion(name, status.version) for status in statuses if status.available]
        loading = [ModelVersion(name, status.version) for status in statuses if status.loading]
        self._replicas.report(replica, name, [*loaded, *loading])
        replica.drift.note(name, wanted, [ref.version for ref in loaded], [ref.version for ref in loading])
        look = _Check(replica, name, statuses, seen)
        if all(self._greeter.is_probed(replica, ref) for ref in loaded):
            self._probe(look)
            return
        thread = threading.Thread(
            target=self._probe_and_tell, args=(look,), name=f"probes {name} {replica.address}", daemon=True
        )
        self._probing[replica, name] = thread
        thread.start()

    def _check_delisted(self, replica: Replica, name: str) -> None:
        """Find out whether a backend still serves a model that is no longer listed."""
        try:
            available = [status.version for status in replica.server.versions(name) if status.available]
        except ModelNotFound:
            available = []
        # An empty list of what is wanted would be a model without versions.
        replica.drift.note(name, () if available else None, available)
        if not available:
            replica.delisted -= {name}

    def _probe_and_tell(self, look: "_Check") -> None:
        try:
            self._probe(look)
        except BackendUnavailable as error:
            self._eject(look.replica, error)
        except Exception as error:
            # Unforeseen, and no other model's trouble: what was known of this one holds.
            log.debug("looking at %s failed", look.name, exc_info=True)
            self._complaints.add(f"{look.name} at {look.replica.address}", f"{type(error).__name__}: {error}")
            known = {ref: probe for ref, probe in look.replica.known.items() if ref.name == look.name}
            unchecked = known.keys() & look.replica.unchecked
            self._replicas.learn(look.replica, look.name, known, unchecked=unchecked, seen=look.seen)
        finally:
            del self._probing[look.replica, look.name]
        try:
            self._changed()
        except Exception:
            log.exception("looking at the models failed; trying again")

    def _probe(self, look: "_Check") -> None:
        probes, unchecked = self._greeter.probe_all(look.replica, look.statuses, look.name)
        self._replicas.learn(look.replica, look.name, probes, unchecked=unchecked, seen=look.seen)

    def _eject(self, replica: Replica, error: BackendUnavailable) -> None:
        self._complaints.add(replica.address, str(error))
        self._replicas.eject(replica, str(error))


@dataclass(frozen=True)
class _Check:
    """What a backend said of one model, and what is known of it by then.

    Attributes:
        seen: `Replica.num_ejections` when the look began.
    """

    replica: Replica
    name: str
    statuses: list[VersionStatus]
    seen: int
