"""Health checks: poll each backend for the versions that it serves, and probe new ones.

Each backend has a thread, and each model being probed there another, so that a slow or hanging backend or probe does
not block the others.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from contract import signatures
from contract.card import GeneratorCard
from contract.errors import ContractError
from contract.tokenizers import Tokenizer
from service.backends.client import VersionStatus
from service.backends.determinism_probe import Probe, run_probe, still_holds
from service.backends.replicas import Replica, Replicas
from service.errors import BackendUnavailable, GatewayError, InvalidResponse, ModelNotFound, ServerBusy
from service.reloading_file import Stamp
from service.scheduling.call import Arrays, OutputShapes, finite_sequences
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assets:
    """A version's files, and the precision of its calls."""

    card: GeneratorCard
    tokenizer: Tokenizer
    precision: signatures.PrecisionName
    stamp: Stamp  # of the card; it changes if the version is replaced
    size_bytes: int = 0  # of all files
    weights_bytes: int = 0  # of the file of its weights


class RepeatedErrors:
    """A log of errors that recur at every poll: each is logged once."""

    def __init__(self) -> None:
        self.current: dict[str, str] = {}  # the last message of each subject that has not recovered

    def add(self, subject: str, message: str) -> None:
        """Log an error, unless it is the last one logged for its subject."""
        if self.current.get(subject) != message:
            self.current[subject] = message
            log.warning("%s: %s", subject, message)

    def clear(self, subject: str) -> None:
        """Mark a subject as recovered: its next error is logged again."""
        self.current.pop(subject, None)


class HealthChecks:
    """Periodic health checks of all backends, until closed.

    `assets` returns a version's files, or raises `ContractError` if they cannot be read. `listed` returns the models
    that the repository lists, and the versions of each to be served, or None if they are unknown. `changed` is called
    after each check and each probe.
    """

    def __init__(
        self,
        replicas: Replicas,
        errors: RepeatedErrors,
        *,
        poll_s: float,
        assets: Callable[[ModelVersion], Assets],
        listed: Callable[[], Mapping[str, Collection[int] | None]],
        changed: Callable[[], None],
    ) -> None:
        self._replicas, self._errors = replicas, errors
        self._poll_s, self._assets, self._listed, self._changed = poll_s, assets, listed, changed
        self._watched: set[Replica] = set()
        self._probing: dict[tuple[Replica, str], threading.Thread] = {}
        self._closed = threading.Event()

    def close(self) -> None:
        """End the threads, each after its current check."""
        self._closed.set()

    def watch(self, replica: Replica) -> None:
        """Check a backend now and periodically, on its own thread, until it is removed."""
        if replica not in self._watched:
            name = f"health check {replica.address}"
            # If there is no thread left for it, the next poll tries again.
            threading.Thread(target=self._run, args=(replica,), name=name, daemon=True).start()
            self._watched.add(replica)

    def _run(self, replica: Replica) -> None:
        while not self._closed.is_set() and replica in self._replicas.all():
            try:
                self.check(replica)
                self._changed()
            except Exception:
                log.exception("the health check of %s failed; retrying", replica.address)
            self._closed.wait(self._poll_s if replica.ejected_because is None else replica.pause_s)
        self._watched.discard(replica)

    def check(self, replica: Replica) -> list[threading.Thread]:
        """Update which versions a backend serves, or eject it. Return the threads that probe new versions.

        A backend that does not respond is ejected and keeps its known versions: requests are not rejected here, their
        calls wait for its recovery.
        """
        num_failures, listed = replica.num_failures, dict(self._listed())
        try:
            for name, versions in listed.items():
                if (replica, name) not in self._probing:
                    self._check_model(replica, name, versions, num_failures)
            for name in replica.delisted.difference(listed):
                self._check_delisted(replica, name)
        except ServerBusy as error:
            self._errors.add(replica.address, str(error))
        except BackendUnavailable as error:
            self._eject(replica, error)
        else:
            self._errors.clear(replica.address)
            self._replicas.retain(replica, listed, num_failures)
            replica.drift.retain(listed.keys() | replica.delisted)
        return [thread for (probed, _), thread in list(self._probing.items()) if probed is replica]

    def _check_model(self, replica: Replica, name: str, listed: Collection[int] | None, num_failures: int) -> None:
        what, statuses = f"{name} at {replica.address}", []
        try:
            statuses = replica.client.versions(name)
            self._errors.clear(what)
        except ModelNotFound as error:
            self._errors.add(what, str(error))
        loaded = [ModelVersion(name, status.version) for status in statuses if status.available]
        loading = [ModelVersion(name, status.version) for status in statuses if status.loading]
        self._replicas.report(replica, name, [*loaded, *loading])
        replica.drift.note(name, listed, [ref.number for ref in loaded], [ref.number for ref in loading])
        check = (replica, name, statuses, num_failures)
        if all(self._is_probed(replica, ref) for ref in loaded):
            self._probe_all(*check)
            return
        thread = threading.Thread(
            target=self._probe_and_notify, args=check, name=f"probes {name} {replica.address}", daemon=True
        )
        self._probing[replica, name] = thread
        try:
            thread.start()
        except RuntimeError:  # at the limit of threads; the next check starts one
            del self._probing[replica, name]
            raise

    def _check_delisted(self, replica: Replica, name: str) -> None:
        try:
            available = [status.version for status in replica.client.versions(name) if status.available]
        except ModelNotFound:
            available = []
        # An empty list would report the model as missing.
        replica.drift.note(name, () if available else None, available)
        if not available:
            replica.delisted -= {name}

    def _is_probed(self, replica: Replica, ref: ModelVersion) -> bool:
        probe = replica.probes.get(ref)
        try:
            return probe is not None and not probe.is_stale and probe.stamp == self._assets(ref).stamp
        except ContractError:
            return False

    def _probe_and_notify(
        self, replica: Replica, name: str, statuses: Collection[VersionStatus], num_failures: int
    ) -> None:
        try:
            self._probe_all(replica, name, statuses, num_failures)
        except BackendUnavailable as error:
            self._eject(replica, error)
        except Exception as error:
            # Unexpected, and it must not affect other models: keep this model's known probes.
            log.debug("probing %s failed", name, exc_info=True)
            self._errors.add(f"probing {name} at {replica.address}", f"{type(error).__name__}: {error}")
            probes = {ref: probe for ref, probe in replica.probes.items() if ref.name == name}
            self._replicas.record_probes(replica, name, probes, num_failures_before=num_failures)
        finally:
            del self._probing[replica, name]
        try:
            self._changed()
        except Exception:
            log.exception("updating the model registry failed; retrying")

    def _probe_all(self, replica: Replica, name: str, statuses: Collection[VersionStatus], num_failures: int) -> None:
        """Probe the new and the stale versions of a model; raise BackendUnavailable if the backend does not respond."""
        probes: dict[ModelVersion, Probe] = {}
        is_complete = True
        for status in statuses:
            ref, what = ModelVersion(name, status.version), f"{name}:{status.version} at {replica.address}"
            before = replica.probes.get(ref)
            if not status.available:
                if status.error:
                    self._errors.add(what, status.error)
                continue
            try:
                probes[ref] = self._probe_version(replica, ref)
                self._errors.clear(what)
            except (ServerBusy, InvalidResponse) as error:
                self._errors.add(what, str(error))
                if before is None:
                    is_complete = is_complete and not isinstance(error, ServerBusy)
                    continue
                probes[ref] = replace(before, is_stale=before.is_stale or isinstance(error, InvalidResponse))
            except (ContractError, GatewayError) as error:
                # A new version that cannot be called is the fault of that version, not of the server.
                if isinstance(error, BackendUnavailable) and before is not None:
                    raise
                self._errors.add(what, str(error))
        self._replicas.record_probes(replica, name, probes, is_complete=is_complete, num_failures_before=num_failures)
        self._errors.clear(f"probing {name} at {replica.address}")

    def _probe_version(self, replica: Replica, ref: ModelVersion) -> Probe:
        """Probe a version; if the backend was ejected since its last probe, only verify that probe."""
        assets, before = self._assets(ref), replica.probes.get(ref)
        num_tokens = len(assets.tokenizer.tokens)

        def predict(signature: str, inputs: Arrays, shapes: OutputShapes) -> Arrays:
            name = signatures.in_precision(signature, assets.precision)
            with replica.probe_calls:
                outputs = replica.client.predict(ref, name, inputs, shapes, assets.card.vocab_size)
            # Otherwise the probe hash would include NaN for as long as the server serves the version.
            if not finite_sequences(outputs).all():
                raise InvalidResponse(f"the backend computed NaN or infinity ({name})")
            return outputs

        if (
            before
            and before.stamp == assets.stamp
            and (not before.is_stale or still_holds(before, assets.card, num_tokens, predict))
        ):
            return replace(before, is_stale=False)
        probe = replace(run_probe(assets.card, num_tokens, predict), stamp=assets.stamp)
        log.info(
            "model %s version %d at %s: %s, batch sizes %s",
            ref.name,
            ref.number,
            replica.address,
            assets.precision,
            probe.batch_sizes,
        )
        return probe

    def _eject(self, replica: Replica, error: BackendUnavailable) -> None:
        if self._replicas.eject(replica, str(error)):
            self._errors.add(replica.address, str(error))
