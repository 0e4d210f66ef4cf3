"""What a model server serves, and how it computes: asked when it is met, and looked after from then on.

Knows one server at a time, and the files of versions. Does not know requests, or which server a call goes to.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contract import signatures
from contract.card import GeneratorCard, load_assets
from contract.errors import ContractError
from contract.tokenizer import Tokenizer
from service.backends.client import VersionStatus
from service.backends.determinism_probe import Probe, run_probe, still_holds
from service.backends.replica import Replica
from service.errors import BackendUnavailable, GatewayError, InvalidResponse, ModelNotFound, ServerBusy
from service.scheduling.padding import Arrays, finite_sequences
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assets:
    """A version's files.

    Attributes:
        stamp: When the card was written, in nanoseconds; it changes if another version is put in its place.
    """

    card: GeneratorCard
    tokenizer: Tokenizer
    stamp: int


class BackendErrors:
    """Problems, logged once and not at every look."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def add(self, what: str, why: str) -> None:
        """Log a problem, unless it was the last one of this kind."""
        if self._known.get(what) != why:
            self._known[what] = why
            log.warning("%s: %s", what, why)

    def settle(self, what: str) -> None:
        """Forget a problem: the next one of this kind is logged again."""
        self._known.pop(what, None)


class Prober:
    """Finds out about model servers; several threads may look at several servers."""

    def __init__(self, models_dir: Path, complaints: BackendErrors) -> None:
        """Prepare.

        Args:
            models_dir: The model repository.
            complaints: Takes what is wrong with servers and files.
        """
        self._models_dir, self._complaints = models_dir, complaints
        self._assets: dict[ModelVersion, Assets] = {}

    def assets(self, ref: ModelVersion) -> Assets:
        """Return a version's files, read again if they were replaced; what was read last, while they are damaged.

        Raises:
            ContractError: they cannot be read, and never could.
        """
        path = self._models_dir / ref.name / str(ref.version) / signatures.ASSETS / signatures.CARD_FILE
        known, stamp = self._assets.get(ref), path.stat().st_mtime_ns if path.exists() else 0
        if known is not None and stamp in (0, known.stamp):
            return known
        what = f"files of {ref.name}:{ref.version}"
        try:
            read = self._assets[ref] = Assets(*load_assets(self._models_dir / ref.name / str(ref.version)), stamp)
        except ContractError as error:
            if known is None:
                raise
            self._complaints.add(what, f"what was read last holds: {error}")
            return known
        self._complaints.settle(what)
        return read

    def known_assets(self, ref: ModelVersion) -> Assets | None:
        """Return a version's files as they were read last, or None."""
        return self._assets.get(ref)

    def keep(self, versions: Collection[ModelVersion]) -> None:
        """Forget the files of all other versions."""
        for ref in [ref for ref in list(self._assets) if ref not in versions]:
            self._assets.pop(ref, None)

    def statuses(self, replica: Replica, name: str) -> list[VersionStatus]:
        """Ask a server for its versions of a model; none is an empty list.

        Raises:
            BackendUnavailable: it does not answer.
        """
        what = f"{name} at {replica.address}"
        try:
            statuses = replica.server.versions(name)
        except ModelNotFound as error:
            self._complaints.add(what, str(error))
            return []
        self._complaints.settle(what)
        return statuses

    def is_probed(self, replica: Replica, ref: ModelVersion) -> bool:
        """Return whether a version needs no probe at a server, or none but one that fails at once."""
        probe = replica.known.get(ref)
        try:
            return probe is not None and ref not in replica.unchecked and probe.stamp == self.assets(ref).stamp
        except ContractError:
            return False

    def probe_all(
        self, replica: Replica, statuses: Iterable[VersionStatus], name: str
    ) -> tuple[dict[ModelVersion, Probe], set[ModelVersion]]:
        """Probe what is new of a model at a server, and what is unchecked.

        Returns:
            The versions that the server serves, and what their probes found; and those of them that are unchecked.

        Raises:
            BackendUnavailable: it does not answer.
        """
        probes: dict[ModelVersion, Probe] = {}
        unchecked: set[ModelVersion] = set()
        for status in statuses:
            ref, what = ModelVersion(name, status.version), f"{name}:{status.version} at {replica.address}"
            before = replica.known.get(ref)
            if not status.available:
                if status.error:
                    self._complaints.add(what, status.error)
                continue
            try:
                probes[ref] = self._probe_backend(replica, ref)
                self._complaints.settle(what)
            except (ServerBusy, InvalidResponse) as error:
                self._complaints.add(what, str(error))
                if before is not None:
                    probes[ref] = before
                    unchecked |= {ref} if ref in replica.unchecked or isinstance(error, InvalidResponse) else set()
            except (ContractError, GatewayError) as error:
                # A new version that cannot be called is trouble with that version, not with the server.
                if isinstance(error, BackendUnavailable) and before is not None:
                    raise
                self._complaints.add(what, str(error))
        return probes, unchecked

    def _probe_backend(self, replica: Replica, ref: ModelVersion) -> Probe:
        """Return what a probe finds; one that is known is repeated only in part, if the server was away."""
        assets, before = self.assets(ref), replica.known.get(ref)

        def predict(signature: str, inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
            with replica.probe_calls:
                outputs = replica.server.predict(ref, signature, inputs, shapes, assets.card.vocab_size)
            # Else it would be kept as the server's arithmetic, for as long as it serves the version.
            if not finite_sequences(outputs).all():
                raise InvalidResponse(f"the model server computed NaN or infinity ({signature})")
            return outputs

        if (
            before
            and before.stamp == assets.stamp
            and (ref not in replica.unchecked or still_holds(before, assets.card, predict))
        ):
            return before
        probe = replace(run_probe(assets.card, predict), stamp=assets.stamp)
        log.info("model %s version %d at %s: batch sizes %s", ref.name, ref.version, replica.address, probe.batch_sizes)
        return probe
