"""Requests a model server's status, and runs determinism probes of its versions.

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
from service.backends.determinism_probe import Predict, Probe, run_probe, still_holds
from service.backends.precision import DEFAULT, Wanted, choose_precision
from service.backends.replica import Replica
from service.errors import BackendUnavailable, GatewayError, InvalidResponse, ModelNotFound, ServerBusy
from service.params import ModelVersion
from service.scheduling.padding import Arrays, finite_sequences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assets:
    """A version's files.

    Attributes:
        stamp: Modification time of the card in nanoseconds; it changes if the version is replaced.
    """

    card: GeneratorCard
    tokenizer: Tokenizer
    stamp: int


class BackendErrors:
    """A log of errors that repeat at every poll: each is logged once."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def add(self, subject: str, message: str) -> None:
        """Log an error, unless it is the last one logged for its subject."""
        if self._logged.get(subject) != message:
            self._logged[subject] = message
            log.warning("%s: %s", subject, message)

    def clear(self, subject: str) -> None:
        """Mark a subject as recovered: its next error is logged again."""
        self._logged.pop(subject, None)


class Prober:
    """Status requests and determinism probes; several threads may probe several servers."""

    def __init__(self, models_dir: Path, errors: BackendErrors, precisions: Mapping[str, Wanted] = DEFAULT) -> None:
        self._models_dir, self._errors = models_dir, errors
        self._precisions = precisions
        self._assets: dict[ModelVersion, Assets] = {}

    def assets(self, ref: ModelVersion) -> Assets:
        """Return a version's files; reload them if they were replaced, keep the last ones while they are damaged.

        Raises:
            ContractError: they cannot be read, and never could.
        """
        path = self._models_dir / ref.name / str(ref.version) / signatures.ASSETS / signatures.CARD_FILE
        cached, stamp = self._assets.get(ref), path.stat().st_mtime_ns if path.exists() else 0
        if cached is not None and stamp in (0, cached.stamp):
            return cached
        what = f"files of {ref.name}:{ref.version}"
        try:
            loaded = self._assets[ref] = Assets(*load_assets(self._models_dir / ref.name / str(ref.version)), stamp)
        except ContractError as error:
            if cached is None:
                raise
            self._errors.add(what, f"the last content stays in effect: {error}")
            return cached
        self._errors.clear(what)
        return loaded

    def known_assets(self, ref: ModelVersion) -> Assets | None:
        """Return a version's files as last loaded, or None; read nothing."""
        return self._assets.get(ref)

    def keep(self, versions: Collection[ModelVersion]) -> None:
        """Forget the files of all other versions."""
        for ref in [ref for ref in list(self._assets) if ref not in versions]:
            self._assets.pop(ref, None)

    def statuses(self, replica: Replica, name: str) -> list[VersionStatus]:
        """Request a server's versions of a model; an empty list if it has none.

        Raises:
            ServerBusy: it has no free thread to respond.
            BackendUnavailable: it does not respond.
        """
        what = f"{name} at {replica.address}"
        try:
            statuses = replica.server.versions(name)
        except ModelNotFound as error:
            self._errors.add(what, str(error))
            return []
        self._errors.clear(what)
        return statuses

    def is_probed(self, replica: Replica, ref: ModelVersion) -> bool:
        """Return whether a version has a valid probe at a server."""
        probe = replica.probes.get(ref)
        try:
            return probe is not None and ref not in replica.needs_reprobe and probe.stamp == self.assets(ref).stamp
        except ContractError:
            return False

    def probe_all(
        self, replica: Replica, statuses: Iterable[VersionStatus], name: str
    ) -> tuple[dict[ModelVersion, Probe], set[ModelVersion], bool]:
        """Probe the new versions of a model at a server, and those that need to be probed again.

        Returns:
            The probes of the versions that the server serves.
            Those of the versions that still need to be probed again.
            Whether all new versions were probed: a busy server rejects calls.

        Raises:
            BackendUnavailable: it does not respond.
        """
        probes: dict[ModelVersion, Probe] = {}
        needs_reprobe: set[ModelVersion] = set()
        is_complete = True
        for status in statuses:
            ref, what = ModelVersion(name, status.version), f"{name}:{status.version} at {replica.address}"
            before = replica.probes.get(ref)
            if not status.available:
                if status.error:
                    self._errors.add(what, status.error)
                continue
            try:
                probes[ref] = self._probe_backend(replica, ref)
                self._errors.clear(what)
            except (ServerBusy, InvalidResponse) as error:
                self._errors.add(what, str(error))
                if before is None:
                    is_complete = is_complete and not isinstance(error, ServerBusy)
                    continue
                probes[ref] = before
                if ref in replica.needs_reprobe or isinstance(error, InvalidResponse):
                    needs_reprobe.add(ref)
            except (ContractError, GatewayError) as error:
                # A new version that cannot be called is the fault of that version, not of the server.
                if isinstance(error, BackendUnavailable) and before is not None:
                    raise
                self._errors.add(what, str(error))
        return probes, needs_reprobe, is_complete

    def _probe_backend(self, replica: Replica, ref: ModelVersion) -> Probe:
        """Probe a version; if the server was ejected since its last probe, verify only that this still holds."""
        assets, before = self.assets(ref), replica.probes.get(ref)
        num_tokens = len(assets.tokenizer.tokens)

        def predict_in(precision: signatures.PrecisionName) -> Predict:
            def predict(signature: str, inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
                name = signatures.in_precision(signature, precision)
                with replica.probe_calls:
                    outputs = replica.server.predict(ref, name, inputs, shapes, assets.card.vocab_size)
                # Otherwise NaN would be in the probe hash for as long as the server serves the version.
                if not finite_sequences(outputs).all():
                    raise InvalidResponse(f"the backend computed NaN or infinity ({name})")
                return outputs

            return predict

        if (
            before
            and before.stamp == assets.stamp
            and (
                ref not in replica.needs_reprobe
                or still_holds(before, assets.card, num_tokens, predict_in(before.precision))
            )
        ):
            return before
        precision = choose_precision(ref, assets.card, self._precisions)
        probe = replace(
            run_probe(assets.card, num_tokens, predict_in(precision)), stamp=assets.stamp, precision=precision
        )
        log.info(
            "model %s version %d at %s: %s, batch sizes %s",
            ref.name,
            ref.version,
            replica.address,
            precision,
            probe.batch_sizes,
        )
        return probe
