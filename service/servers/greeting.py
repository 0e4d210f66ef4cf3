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
from service.errors import BackendUnavailable, GatewayError, ModelNotFound, ServerBusy
from service.scheduling.rows import Arrays
from service.scheduling.sequence import ModelVersion
from service.servers.probe import Probe, run_probe, still_holds
from service.servers.replicas import Replica

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


class Complaints:
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


class Greeter:
    """Finds out about model servers; several threads may look at several servers."""

    def __init__(self, models_dir: Path, complaints: Complaints) -> None:
        """Prepare.

        Args:
            models_dir: The model repository.
            complaints: Takes what is wrong with servers and files.
        """
        self._models_dir, self._complaints = models_dir, complaints
        self._assets: dict[ModelVersion, Assets] = {}

    def assets(self, ref: ModelVersion) -> Assets:
        """Return a version's files, read again if they were replaced.

        Raises:
            ContractError: they cannot be read.
        """
        path = self._models_dir / ref.name / str(ref.version) / signatures.ASSETS / signatures.CARD_FILE
        known, stamp = self._assets.get(ref), path.stat().st_mtime_ns if path.exists() else 0
        if known is None or (stamp and stamp != known.stamp):
            known = self._assets[ref] = Assets(*load_assets(self._models_dir / ref.name / str(ref.version)), stamp)
        return known

    def keep(self, versions: Collection[ModelVersion]) -> None:
        """Forget the files of all other versions."""
        for ref in [ref for ref in list(self._assets) if ref not in versions]:
            self._assets.pop(ref, None)

    def look_at(self, replica: Replica, names: Iterable[str]) -> dict[ModelVersion, Probe]:
        """Ask a server for its versions of some models, and probe those that are new; trouble with one is no other's.

        Raises:
            BackendUnavailable: it does not answer.
        """
        found: dict[ModelVersion, Probe] = {}
        for name in names:
            try:
                found |= self._look_at_one(replica, name)
            except BackendUnavailable:
                raise
            except Exception as error:
                log.debug("looking at %s failed", name, exc_info=True)
                self._complaints.add(f"{name} at {replica.address}", f"{type(error).__name__}: {error}")
                found |= {ref: probe for ref, probe in replica.known.items() if ref.name == name}
        return found

    def _look_at_one(self, replica: Replica, name: str) -> dict[ModelVersion, Probe]:
        try:
            statuses = replica.server.versions(name)
        except ModelNotFound as error:
            self._complaints.add(f"{name} at {replica.address}", str(error))
            return {}
        self._complaints.settle(f"{name} at {replica.address}")
        found: dict[ModelVersion, Probe] = {}
        for status in statuses:
            ref, what = ModelVersion(name, status.version), f"{name}:{status.version} at {replica.address}"
            if status.available:
                try:
                    found[ref] = self._greet(replica, ref)
                    self._complaints.settle(what)
                except ServerBusy as error:
                    self._complaints.add(what, str(error))
                    found |= {ref: replica.known[ref]} if ref in replica.known else {}
                except (ContractError, GatewayError) as error:
                    # A new version that cannot be called is trouble with that version, not with the server.
                    if isinstance(error, BackendUnavailable) and ref in replica.known:
                        raise
                    self._complaints.add(what, str(error))
            elif status.error:
                self._complaints.add(what, status.error)
        return found

    def _greet(self, replica: Replica, ref: ModelVersion) -> Probe:
        """Return what a probe finds; one that is known is repeated only in part, if the server was away."""
        assets, before = self.assets(ref), replica.known.get(ref)

        def predict(signature: str, inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
            return replica.server.predict(ref, signature, inputs, shapes)

        if (
            before
            and before.stamp == assets.stamp
            and (not replica.is_new or still_holds(before, assets.card, predict))
        ):
            return before
        probe = replace(run_probe(assets.card, predict), stamp=assets.stamp)
        log.info("model %s version %d at %s: row counts %s", ref.name, ref.version, replica.address, probe.row_counts)
        return probe
