"""Which models there are, which of their versions are served, and what each of them is.

Names, cards and tokenizers come from the model repository, the living versions from the model servers. Threads look at
all of them every second; requests read the outcome without waiting.
"""

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract import signatures
from contract.card import GeneratorCard
from contract.labels import LABELS_FILE
from contract.tokenizer import Tokenizer
from service.backends.determinism_probe import Probe
from service.backends.health import HealthChecks
from service.backends.prober import Assets, BackendErrors, Prober
from service.backends.replica import Replica
from service.backends.replicas import Replicas
from service.backends.repository_config import RepositoryConfig
from service.backends.routing import Reference, Route, make_route
from service.errors import InvalidRequest, ModelLoading, ModelNotFound
from service.scheduling.policy import BatchLimits
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A version that answers.

    Attributes:
        batch_limits: Sizes that may be sent to it.
        fingerprint: Changes whenever the same request might get other bytes.
        is_steady: Whether the same request gets the same bytes, whatever others ask for meanwhile.
        expected_probe_hash: Hash of the probe that the fingerprint stands for; None: there was none.
    """

    ref: ModelVersion
    card: GeneratorCard
    tokenizer: Tokenizer
    batch_limits: BatchLimits
    fingerprint: str
    is_steady: bool = True
    expected_probe_hash: str | None = None

    def fingerprint_if(self, as_promised: bool) -> str:
        """Return the fingerprint, or one that promises nothing if a server that computes otherwise had to stand in."""
        return self.fingerprint if as_promised else f"{self.fingerprint}_mixed"

    @property
    def backward(self) -> bool:
        """Whether it reads texts from their end, and writes what leads up to them."""
        return self.card.direction == "backward"


@dataclass(frozen=True)
class _Snapshot:
    """What can be asked for at one moment; replaced as a whole, so requests read it without a lock.

    Attributes:
        routes: Of each model that has a living version.
        listed: Names in `models.config`; None: it could not be read yet.
        has_labels: Whether labels are known; while they are not, who names no version has none.
    """

    live: Mapping[ModelVersion, ServedModel]
    routes: Mapping[str, Route]
    listed: Collection[str] | None = None
    has_labels: bool = False


class ModelRegistry:
    """The models that can be asked for now."""

    def __init__(
        self,
        models_dir: Path,
        replicas: Replicas,
        *,
        poll_s: float = 1.0,
        max_chunk: int = 128,
        default_model: str | None = None,
        changed: Callable[[Iterable[ModelVersion]], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is asked before `start` or `refresh`.

        Args:
            models_dir: The model repository.
            replicas: The model servers.
            poll_s: Seconds between two looks.
            max_chunk: Most tokens of one `decode` call, if the model's card does not say less.
            default_model: What is found where no name is given; None: the only model, if there is just one.
            changed: Told at every look which versions live.
        """
        self._models_dir, self._replicas = models_dir, replicas
        self._poll_s, self._max_chunk, self._default_model = poll_s, max_chunk, default_model
        self._changed = changed
        self._now = _Snapshot({}, {})
        self._complaints = BackendErrors()
        self._config = RepositoryConfig(models_dir, self._complaints)
        self._greeter = Prober(models_dir, self._complaints)
        self._checks = HealthChecks(
            replicas,
            self._greeter,
            self._complaints,
            poll_s=poll_s,
            wanted=lambda: self._config.wanted,
            changed=self._merge,
        )
        # Of each version, what its servers' probes are to agree in.
        self._hashes: dict[ModelVersion, str] = {}
        self._was_ready = False
        self._merging = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Look at once and then every `poll_s` seconds, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._checks.close()
        self._thread.join(timeout=5)

    def models(self) -> list[tuple[ServedModel, Route]]:
        """Return each model by the version that most of its requests get, and where they go; by name.

        Raises:
            ModelLoading: it is not known yet whether there are any, or which versions answer.
        """
        now = self._now
        self._require_known(now)
        if not now.routes and now.listed:
            raise ModelLoading(f"models are being loaded: {', '.join(now.listed)}")
        return [
            (now.live[ModelVersion(name, route.primary)], route)
            for name, route in sorted(now.routes.items())
            if self._awaited(route, Reference(name)) is None
        ]

    def ready_models(self) -> list[str]:
        """Return the names of the models that answer.

        Raises:
            ModelLoading: there is none; or, at the start alone, a backend that answers is being asked for another: a
                model that is added later must not make every gateway unready.
        """
        names, listed = [model.ref.name for model, _ in self.models()], self._names()
        answering = [replica for replica in self._replicas.all() if replica.is_answering]
        pending = [
            name for name in listed if name not in names and any(name not in replica.settled for replica in answering)
        ]
        if not names or (pending and not self._was_ready):
            raise ModelLoading(f"models are being loaded: {', '.join(pending)}" if pending else "no model answers yet")
        self._was_ready = True
        return names

    def versions(self) -> list[ServedModel]:
        """Return every version that answers, by name and number."""
        return sorted(self._now.live.values(), key=lambda live: (live.ref.name, live.ref.version))

    def find(self, name: str | None, seed: int | None = None) -> ServedModel:
        """Return the version that answers a request; see `look_up`."""
        return self.look_up(name, seed)[0]

    def look_up(self, name: str | None, seed: int | None = None) -> tuple[ServedModel, Route]:
        """Return the version that answers a request, and where the model's requests go.

        Args:
            name: NAME, NAME:VERSION or NAME@LABEL; None is the default model.
            seed: Of the request, if it has one; see `Route.choose`.

        Raises:
            ModelNotFound: there is none; the message lists those that there are.
            ModelLoading: it is not served yet, or it is not known yet whether it is.
            InvalidRequest: no name, and no default.
        """
        now = self._now
        reference = Reference.parse(self._default(now) if name is None else name)
        self._require_known(now, with_labels=reference.version is None)
        if reference.name not in now.routes:
            if reference.name in (now.listed or ()):
                raise ModelLoading(f"model {reference.name!r} is listed in models.config and not loaded yet")
            what = f"model {reference.name[:64]!r} is not served" if reference.name else "no model is served"
            raise ModelNotFound(f"{what}; models are: {', '.join(now.routes) or 'none yet'}", param="model")
        route = now.routes[reference.name]
        awaited = self._awaited(route, reference)
        if awaited is not None:
            raise ModelLoading(f"version {awaited} of model {route.name!r} is not loaded yet")
        return now.live[ModelVersion(reference.name, route.choose(reference, seed))], route

    def find_version(self, ref: ModelVersion) -> ServedModel | None:
        """Return a version, if it lives.

        Raises:
            ModelLoading: it is not known yet whether it does.
        """
        live = self._now.live.get(ref)
        if live is None and self._may_appear(ref):
            raise ModelLoading(f"version {ref.version} of model {ref.name!r} is not loaded yet")
        return live

    def _default(self, now: _Snapshot) -> str:
        """Return the model of a request that names none."""
        if self._default_model:
            return self._default_model
        served = sorted(now.routes)
        if len(served) > 1:
            raise InvalidRequest(
                f"model is required where there are several and OSTINATO_DEFAULT_MODEL names none; models are: "
                f"{', '.join(served)}",
                param="model",
            )
        # Which model a request gets must not depend on what is loaded first.
        pending = sorted(name for name in now.listed or () if name not in served and not self._is_settled(name))
        if len(served) + len(pending) > 1 or (now.listed and not served):
            raise ModelLoading(f"models are being loaded: {', '.join(pending or now.listed or ())}")
        return served[0] if served else ""

    def _require_known(self, now: _Snapshot, *, with_labels: bool = True) -> None:
        """Refuse a request before the files of the repository have been read.

        Raises:
            ModelLoading: they have not.
        """
        if now.listed is None:
            raise ModelLoading(f"it is not known yet which models are served: {signatures.MODELS_CONFIG} is not read")
        if with_labels and not now.has_labels:
            raise ModelLoading(
                f"it is not known yet which version answers: {LABELS_FILE} cannot be read; name a version: NAME:VERSION"
            )

    def _is_settled(self, name: str) -> bool:
        """Return whether every backend has said what it serves of a model."""
        replicas = self._replicas.all()
        return bool(replicas) and all(name in replica.settled for replica in replicas)

    def _awaited(self, route: Route, reference: Reference) -> int | None:
        """Return the version that a request means, if it is not served and may yet be."""
        version = route.awaited(reference)
        return version if version is not None and self._may_appear(ModelVersion(route.name, version)) else None

    def _may_appear(self, ref: ModelVersion) -> bool:
        """Return whether a version that is not served may be, once all backends have been asked and probed."""
        if self._now.listed is None:
            return True
        # `listed` keeps names of other places out of the path.
        if ref.name not in self._now.listed or not (self._models_dir / ref.name / str(ref.version)).is_dir():
            return False
        replicas = self._replicas.all()
        return not replicas or any(replica.may_take(ref) for replica in replicas)

    def _names(self) -> Collection[str]:
        return self._config.labels

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._config.read()
                self._merge()
                for replica in self._replicas.look_up():
                    self._checks.watch(replica)
            except Exception:
                log.exception("looking at the models failed; trying again")
            self._closed.wait(self._poll_s)

    def refresh(self) -> None:
        """Look at the repository and at every server once, and wait for all probes."""
        self._config.read()
        for replica in self._replicas.look_up():
            for thread in self._checks.check(replica):
                thread.join()
        self._merge()

    def _merge(self) -> None:
        """Bring together what the servers serve."""
        with self._merging:
            before = self._now
            served: dict[ModelVersion, list[tuple[Replica, Probe]]] = {}
            for replica in self._replicas.all():
                for ref, probe in replica.known.items():
                    if ref.name in self._config.labels:
                        served.setdefault(ref, []).append((replica, probe))
            live: dict[ModelVersion, ServedModel] = {}
            able: set[ModelVersion] = set()
            for ref, probes in served.items():
                # Not read here: no other version is to wait for a large tokenizer.
                assets = self._greeter.known_assets(ref)
                if assets is None:
                    continue
                live[ref] = self._describe(ref, assets, probes, before.live.get(ref))
                if any(replica.takes(ref) for replica, _ in probes):
                    able.add(ref)
            for ref in before.live.keys() - live.keys():
                log.info("model %s version %d is gone", ref.name, ref.version)
            self._hashes = {ref: sha256 for ref, sha256 in self._hashes.items() if ref in live}
            routes = self._make_routes(live, able, before)
            listed = tuple(self._config.labels) if self._config.is_read else None
            self._now = _Snapshot(live, routes, listed, self._config.has_labels)
            self._replicas.expect(self._hashes)
            # What is being probed is needed in a moment.
            self._greeter.keep(live.keys() | {ref for replica in self._replicas.all() for ref in replica.reported})
        self._changed(live)

    def _describe(
        self, ref: ModelVersion, assets: Assets, probes: list[tuple[Replica, Probe]], before: ServedModel | None
    ) -> ServedModel:
        """Say what is promised of a version: what most of its servers agree in; of equals, what was promised before."""
        able = [pair for pair in probes if pair[0].takes(ref)] or probes
        hashes = Counter(probe.sha256 for _, probe in able)
        known = self._hashes.get(ref)
        chosen = max(hashes, key=lambda sha256: (hashes[sha256], sha256 == known))
        if len(hashes) > 1:
            others = sorted(replica.address for replica, probe in able if probe.sha256 != chosen)
            self._complaints.add(f"{ref.name}:{ref.version}", f"computed otherwise, used in need alone: {others}")
        self._hashes[ref] = chosen
        agreeing = [probe for _, probe in able if probe.sha256 == chosen]
        shared = set(agreeing[0].batch_sizes).intersection(*(probe.batch_sizes for probe in agreeing))
        batch_sizes = tuple(sorted(shared)) or agreeing[0].batch_sizes
        card = assets.card
        batch_limits = BatchLimits(batch_sizes, min(card.max_decode_steps, self._max_chunk), card.max_prefill_length)
        probe = agreeing[0]
        model = ServedModel(
            ref, card, assets.tokenizer, batch_limits, fingerprint(card, probe), probe.is_steady, probe.sha256
        )
        return before if before == model else model

    def _make_routes(
        self, live: Iterable[ModelVersion], able: Collection[ModelVersion], before: _Snapshot
    ) -> dict[str, Route]:
        """Bring what lives together with labels and shares; `able` are those whose servers take calls."""
        versions: dict[str, list[int]] = {}
        for ref in live:
            versions.setdefault(ref.name, []).append(ref.version)
        routes: dict[str, Route] = {}
        for name, numbers in versions.items():
            # What was chosen without labels was chosen for nobody.
            then = before.routes.get(name) if before.has_labels else None
            labels, shares = self._config.labels.get(name, {}), self._config.shares.get(name, {})
            stable, was_guess = (then.stable, then.is_guess) if then else (None, False)
            answering = [number for number in numbers if ModelVersion(name, number) in able]
            route, problems = make_route(name, numbers, labels, shares, stable, answering, was_guess=was_guess)
            if then and then != route:
                log.info("model %s: stable is version %d, shares %s", name, route.stable, dict(route.shares) or "none")
            what = f"{signatures.ROUTING_FILE}: {name}"
            if problems:
                self._complaints.add(what, "; ".join(problems))
            else:
                self._complaints.settle(what)
            routes[name] = route
        return routes


def fingerprint(card: GeneratorCard, probe: Probe) -> str:
    """Name what a text depends on beyond the request: weights, the code of the graph, the model server's arithmetic."""
    return "fp_" + hashlib.sha256(f"{card.weights_sha256} {card.code_sha256} {probe.sha256}".encode()).hexdigest()[:16]
