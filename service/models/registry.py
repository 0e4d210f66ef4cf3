"""Model registry: the models, their served versions, and each version's card, tokenizer and fingerprint.

Names, cards and tokenizers come from the model repository, the served versions from the backends. Threads poll all of
them every second; requests read the current snapshot without waiting.
"""

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from contract import signatures
from contract.card import GeneratorCard
from contract.models_config import LABELS_FILE, Shares
from contract.tokenizers import Tokenizer
from service.backends.determinism_probe import Probe
from service.backends.health_checks import Assets, HealthChecks, RepeatedErrors
from service.backends.replicas import Replica, Replicas
from service.errors import InvalidRequest, ModelLoading, ModelNotFound
from service.models.repository import ListedModel, RepositoryConfig, VersionFiles
from service.models.routing import Reference, Route, make_route
from service.scheduling.queues import BatchLimits
from service.scheduling.sequence import ModelVersion
from service.settings import Settings

log = logging.getLogger(__name__)

# Returns whether a request may use the model of a name.
MayUse = Callable[[str], bool]


def _everybody(_name: str) -> bool:
    return True


@dataclass(frozen=True)
class ServedModel:
    """A version that is served."""

    ref: ModelVersion
    card: GeneratorCard
    tokenizer: Tokenizer
    batch_limits: BatchLimits  # allowed sizes and the precision of its calls
    fingerprint: str  # changes whenever the output of the same request might
    is_deterministic: bool = True  # output is reproducible, whatever other requests run
    expected_probe_hash: str | None = None  # the probe hash that the fingerprint stands for
    size_bytes: int = 0  # of its files
    weights_bytes: int = 0  # of its weights

    @property
    def backward(self) -> bool:
        """Whether it generates right to left, the text before `suffix`."""
        return self.card.direction == "backward"


@dataclass(frozen=True)
class StoredModel(ListedModel):
    """A model in the repository, served or not.

    Attributes:
        shares: Its traffic split as configured, by label or version.
        route: How requests are routed; None while no version is served.
    """

    shares: Shares
    route: Route | None

    @property
    def served(self) -> tuple[int, ...]:
        return self.route.versions if self.route else ()

    @property
    def unloaded(self) -> list[int]:
        return [number for number in self.existing if number not in self.served]


@dataclass(frozen=True)
class _Snapshot:
    """The state of the registry; replaced as a whole, so that requests read it without a lock."""

    served: Mapping[ModelVersion, ServedModel]
    routes: Mapping[str, Route]  # of each model that has a served version
    listed: Collection[str] | None = None  # names in `models.config`; None: not read yet
    has_labels: bool = False  # until labels are known, requests must name a version

    def for_user(self, may_use: MayUse) -> "_Snapshot":
        """Return the snapshot without the models that a request may not use."""
        if may_use is _everybody or all(map(may_use, {*self.routes, *(self.listed or ())})):
            return self
        routes = {name: route for name, route in self.routes.items() if may_use(name)}
        listed = None if self.listed is None else tuple(filter(may_use, self.listed))
        return replace(self, routes=routes, listed=listed)


class ModelRegistry:
    """The models that are served now."""

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        changed: Callable[[Iterable[ModelVersion]], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is polled before `start`.

        `changed` is called after every poll with the served versions.
        """
        self._settings, self._replicas, self._changed = settings, replicas, changed
        self._snapshot = _Snapshot({}, {})
        self._errors = RepeatedErrors()
        self._config = RepositoryConfig(settings.models_dir, self._errors)
        self._files = VersionFiles(settings.models_dir, self._errors, settings.precisions)
        self._checks = HealthChecks(
            replicas,
            self._errors,
            poll_s=settings.poll_s,
            assets=self._files.load,
            listed=lambda: {name: model.wanted for name, model in self._config.models.items()},
            changed=self._merge,
        )
        self._was_ready = False
        self._reading, self._merging = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Poll now and then every `poll_s` seconds, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and those of the health checks, each after its current step."""
        self._closed.set()
        self._checks.close()

    def models(self, may_use: MayUse = _everybody) -> list[tuple[ServedModel, Route]]:
        """Return each model's primary version and its route, the default model first, the others by name.

        Raises:
            ModelLoading: they are not known yet.
        """
        snapshot = self._snapshot.for_user(may_use)
        default = Reference.parse(self._settings.default_model or "").name
        self._require_known(snapshot)
        if not snapshot.routes and snapshot.listed:
            raise ModelLoading(f"models are being loaded: {', '.join(snapshot.listed)}")
        return [
            (snapshot.served[ModelVersion(name, route.primary)], route)
            for name, route in sorted(snapshot.routes.items(), key=lambda item: (item[0] != default, item[0]))
            if self._pending_version(route, Reference(name)) is None
        ]

    def ready_models(self) -> list[str]:
        """Return the names of the models that are ready.

        Raises:
            ModelLoading: there is none; or, until the first success, a healthy backend has not yet been checked for
                another listed model: a model added later must not make every gateway unready.
        """
        names, listed = [model.ref.name for model, _ in self.models()], self._config.models
        healthy = [replica for replica in self._replicas.all() if replica.is_available]
        pending = [
            name
            for name in listed
            if name not in names and any(name not in replica.probed_models for replica in healthy)
        ]
        if not names or (pending and not self._was_ready):
            raise ModelLoading(
                f"models are being loaded: {', '.join(pending)}" if pending else "no model is served yet"
            )
        self._was_ready = True
        return names

    def versions(self) -> list[ServedModel]:
        return sorted(self._snapshot.served.values(), key=lambda model: (model.ref.name, model.ref.number))

    def find(self, name: str | None, seed: int | None = None, *, may_use: MayUse = _everybody) -> ServedModel:
        """Return the version for a request.

        `name` is NAME, NAME:VERSION or NAME@LABEL, or None for the default model. For `seed` see `Route.choose`. Models
        that the request may not use do not exist for it.

        Raises:
            ModelNotFound: it is not served; the message lists those that are.
            ModelLoading: it is not served yet, or not known yet.
            InvalidRequest: an empty name; or no name, and no default.
        """
        snapshot = self._snapshot.for_user(may_use)
        reference = Reference.parse(self._default(snapshot, may_use) if name is None else name)
        self._require_known(snapshot, with_labels=reference.version is None)
        if reference.name not in snapshot.routes:
            if reference.name in (snapshot.listed or ()):
                raise ModelLoading(f"model {reference.name!r} is listed in models.config but not loaded yet")
            models = f"models are: {', '.join(snapshot.routes) or 'none yet'}"
            if name is not None and not reference.name:
                raise InvalidRequest(f"model must not be empty, got {name[:64]!r}; {models}", param="model")
            what = f"model {reference.name[:64]!r} is not served" if reference.name else "no model is served"
            raise ModelNotFound(f"{what}; {models}", param="model")
        route = snapshot.routes[reference.name]
        pending = self._pending_version(route, reference)
        if pending is not None:
            raise ModelLoading(f"version {pending} of model {route.name!r} is not loaded yet")
        return snapshot.served[ModelVersion(reference.name, route.choose(reference, seed))]

    def find_version(self, ref: ModelVersion, *, may_use: MayUse = _everybody) -> ServedModel | None:
        """Return a version, or None if it is not served; raise ModelLoading if it may still be loaded."""
        if not may_use(ref.name):
            return None
        model = self._snapshot.served.get(ref)
        if model is None and self._may_appear(ref):
            raise ModelLoading(f"version {ref.number} of model {ref.name!r} is not loaded yet")
        return model

    def stored(self, name: str, *, may_use: MayUse = _everybody) -> StoredModel:
        """Return a model in the repository, as last read.

        Raises:
            ModelNotFound: it is not listed, or the request may not use it.
            ModelLoading: `models.config` or `labels.json` has not been read.
        """
        snapshot, listed = self._snapshot, self._config.models.get(name)
        self._require_known(snapshot)
        if listed is None or not may_use(name):
            raise ModelNotFound(f"model {name[:64]!r} does not exist", param="name")
        return StoredModel(**vars(listed), shares=self._config.shares.get(name, {}), route=snapshot.routes.get(name))

    def refresh(self) -> None:
        """Read the repository's configuration now, and route by it."""
        with self._reading:
            self._config.read()
        self._merge()

    def _default(self, snapshot: _Snapshot, may_use: MayUse) -> str:
        """Return the name of the default model, or of the only one that a request may use; "" if none is known."""
        default = self._settings.default_model
        if default and may_use(Reference.parse(default).name):
            return default
        served = sorted(snapshot.routes)
        if len(served) > 1:
            raise InvalidRequest(
                "model is required, as several are served and SOSTENUTO_DEFAULT_MODEL names none of them; "
                f"models are: {', '.join(served)}",
                param="model",
            )
        # The default model must not depend on which model is loaded first.
        pending = sorted(name for name in snapshot.listed or () if name not in served and not self._is_settled(name))
        if len(served) + len(pending) > 1 or (snapshot.listed and not served):
            raise ModelLoading(f"models are being loaded: {', '.join(pending or snapshot.listed or ())}")
        return served[0] if served else ""

    def _require_known(self, snapshot: _Snapshot, *, with_labels: bool = True) -> None:
        if snapshot.listed is None:
            raise ModelLoading(f"the served models are not known yet: {signatures.MODELS_CONFIG} has not been read")
        if with_labels and not snapshot.has_labels:
            raise ModelLoading(
                f"the stable version is not known yet: {LABELS_FILE} cannot be read; name a version: NAME:VERSION"
            )

    def _is_settled(self, name: str) -> bool:
        """Return whether every backend has been checked and probed for a model."""
        replicas = self._replicas.all()
        return bool(replicas) and all(name in replica.probed_models for replica in replicas)

    def _pending_version(self, route: Route, reference: Reference) -> int | None:
        """Return the version that a reference resolves to, if it is not served yet but may still be loaded."""
        version = route.unserved_version(reference)
        return version if version is not None and self._may_appear(ModelVersion(route.name, version)) else None

    def _may_appear(self, ref: ModelVersion) -> bool:
        """Return whether an unserved version may be served once all backends have been checked and probed."""
        if self._snapshot.listed is None:
            return True
        # Only names in `listed` may get into the path: no path traversal.
        if ref.name not in self._snapshot.listed:
            return False
        if not (self._settings.models_dir / ref.name / str(ref.number)).is_dir():
            return False
        replicas = self._replicas.all()
        return not replicas or any(replica.may_take(ref) for replica in replicas)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.refresh()
                for replica in self._replicas.discover():
                    self._checks.watch(replica)
            except Exception:
                log.exception("polling the models failed; retrying")
            self._closed.wait(self._settings.poll_s)

    def _merge(self) -> None:
        """Build a new snapshot from all backends and the configuration."""
        with self._merging:
            # In this order: `listed` depends on the other two.
            is_read, has_labels = self._config.is_read, self._config.has_labels
            before, listed = self._snapshot, self._config.models
            probes_by_version: dict[ModelVersion, list[tuple[Replica, Probe]]] = {}
            for replica in self._replicas.all():
                for ref, probe in replica.probes.items():
                    if ref.name in listed:
                        probes_by_version.setdefault(ref, []).append((replica, probe))
            served: dict[ModelVersion, ServedModel] = {}
            available: set[ModelVersion] = set()
            for ref, probes in probes_by_version.items():
                # Not loaded here: other versions must not wait for a large tokenizer.
                assets = self._files.get(ref)
                if assets is None:
                    continue
                served[ref] = self._served_model(ref, assets, probes, before.served.get(ref))
                if any(replica.takes(ref) for replica, _ in probes):
                    available.add(ref)
            # A server that was replaced by one at another address has lost its probes, not its versions.
            known = before.served.keys() - probes_by_version.keys()
            served |= {ref: before.served[ref] for ref in known if ref.name in listed and self._may_appear(ref)}
            for ref in before.served.keys() - served.keys():
                log.info("model %s version %d is no longer served", ref.name, ref.number)
            routes = self._make_routes(served, available, listed, before)
            names = tuple(listed) if is_read else None
            self._snapshot = _Snapshot(served, routes, names, has_labels)
            self._replicas.expect({ref: model.expected_probe_hash for ref, model in served.items()})
            # Versions being probed are needed soon.
            self._files.keep(served.keys() | {ref for replica in self._replicas.all() for ref in replica.reported})
        self._changed(served)

    def _served_model(
        self, ref: ModelVersion, assets: Assets, probes: list[tuple[Replica, Probe]], before: ServedModel | None
    ) -> ServedModel:
        """Describe a version; the expected probe hash is the one of most backends, in a tie the previous one."""
        available = [pair for pair in probes if pair[0].takes(ref)] or probes
        hashes = Counter(probe.sha256 for _, probe in available)
        previous = before.expected_probe_hash if before else None
        expected = max(hashes, key=lambda sha256: (hashes[sha256], sha256 == previous))
        if len(hashes) > 1:
            fallbacks = sorted(replica.address for replica, probe in available if probe.sha256 != expected)
            self._errors.add(
                f"{ref.name}:{ref.number}",
                f"not bit-exact with most backends, so used only as a fallback: {', '.join(fallbacks)}",
            )
        else:
            self._errors.clear(f"{ref.name}:{ref.number}")
        probe, *others = [probe for _, probe in available if probe.sha256 == expected]
        shared = set(probe.batch_sizes).intersection(*(other.batch_sizes for other in others))
        batch_sizes, card = tuple(sorted(shared)) or probe.batch_sizes, assets.card
        steps = min(card.max_decode_steps, self._settings.max_chunk)
        batch_limits = BatchLimits(batch_sizes, steps, card.max_prefill_length, assets.precision)
        model = ServedModel(
            ref,
            card,
            assets.tokenizer,
            batch_limits,
            fingerprint(card, probe),
            probe.is_deterministic,
            probe.sha256,
            assets.size_bytes,
            assets.weights_bytes,
        )
        return before if before == model else model

    def _make_routes(
        self,
        served: Iterable[ModelVersion],
        available: Collection[ModelVersion],
        listed: Mapping[str, ListedModel],
        before: _Snapshot,
    ) -> dict[str, Route]:
        """Make routes from served versions, labels and the traffic split; `available` ones have backends in service."""
        versions: dict[str, list[int]] = {}
        for ref in served:
            versions.setdefault(ref.name, []).append(ref.number)
        routes: dict[str, Route] = {}
        for name, numbers in versions.items():
            # A stable version chosen before labels were known has served no request.
            old_route = before.routes.get(name) if before.has_labels else None
            labels, shares = listed[name].labels, self._config.shares.get(name, {})
            stable, was_guess = (old_route.stable, old_route.is_guess) if old_route else (None, False)
            available_numbers = [number for number in numbers if ModelVersion(name, number) in available]
            route, problems = make_route(name, numbers, labels, shares, stable, available_numbers, was_guess=was_guess)
            if old_route and old_route != route:
                log.info(
                    "model %s: stable is version %d, traffic split %s", name, route.stable, dict(route.shares) or "none"
                )
            what = f"{signatures.ROUTING_FILE}: {name}"
            if problems:
                self._errors.add(what, "; ".join(problems))
            else:
                self._errors.clear(what)
            routes[name] = route
        return routes


def fingerprint(card: GeneratorCard, probe: Probe) -> str:
    """Hash what output depends on besides the request: weights, graph code, arithmetic of the model server."""
    return "fp_" + hashlib.sha256(f"{card.weights_sha256} {card.code_sha256} {probe.sha256}".encode()).hexdigest()[:16]
