"""Which models there are, which of their versions are served, and what each of them is.

Names, cards and tokenizers come from the model repository, the living versions from the model server. A thread looks
at both every second; requests read the outcome without waiting.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from google.protobuf import text_format

from contract import signatures
from contract.card import GeneratorCard, load_assets
from contract.errors import ContractError
from contract.tokenizer import Tokenizer
from service.backend import VersionStatus
from service.errors import BackendUnavailable, GatewayError, InvalidRequest, ModelNotFound
from service.policy import Shapes
from service.probe import Probe, run_probe
from service.protos import model_server_config_pb2
from service.routing import Reference, Route, RoutingError, Shares, make_route, read_shares
from service.rows import Arrays
from service.sequence import ModelVersion

log = logging.getLogger(__name__)


class Server(Protocol):
    """What the catalog asks of a model server."""

    def versions(self, name: str) -> list[VersionStatus]:
        """Return every version that the server knows of a model."""

    def predict(
        self, model: ModelVersion, signature: str, inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]
    ) -> Arrays:
        """Make a call and wait for the outputs named in `shapes`."""


@dataclass(frozen=True)
class LiveModel:
    """A version that answers.

    Attributes:
        shapes: Sizes that may be sent to it.
        fingerprint: Changes whenever the same request might get other bytes.
        is_steady: Whether the same request gets the same bytes, whatever others ask for meanwhile.
    """

    ref: ModelVersion
    card: GeneratorCard
    tokenizer: Tokenizer
    shapes: Shapes
    fingerprint: str
    is_steady: bool = True

    @property
    def backward(self) -> bool:
        """Whether it reads texts from their end, and writes what leads up to them."""
        return self.card.direction == "backward"


@dataclass(frozen=True)
class _Snapshot:
    """What can be asked for at one moment; replaced as a whole, so requests read it without a lock.

    Attributes:
        routes: Of each model that has a living version.
    """

    live: Mapping[ModelVersion, LiveModel]
    routes: Mapping[str, Route]


class Catalog:
    """The models that can be asked for now."""

    def __init__(
        self,
        models_dir: Path,
        server: Server,
        *,
        poll_s: float = 1.0,
        max_chunk: int = 128,
        default_model: str | None = None,
        changed: Callable[[Iterable[ModelVersion]], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is asked before `start` or `refresh`.

        Args:
            models_dir: The model repository.
            server: Whom to ask.
            poll_s: Seconds between two looks.
            max_chunk: Most tokens of one `decode` call, if the model's card does not say less.
            default_model: What is found where no name is given; None: the only model, if there is just one.
            changed: Told at every look which versions live.
        """
        self._models_dir, self._server = models_dir, server
        self._poll_s, self._max_chunk, self._default_model = poll_s, max_chunk, default_model
        self._changed = changed
        self._now = _Snapshot({}, {})
        # Of each model in `models.config`, what its labels point at.
        self._labels: dict[str, dict[str, int]] = {}
        self._shares: dict[str, Shares] = {}
        # What each version's card was when it was read, by its time of change in nanoseconds.
        self._stamps: dict[ModelVersion, int] = {}
        # Models whose server was away: it may have come back as another one.
        self._to_greet: set[str] = set()
        self._complaints: dict[str, str] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)

    def start(self) -> None:
        """Look at once and then every `poll_s` seconds, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join(timeout=5)

    def models(self) -> list[tuple[LiveModel, Route]]:
        """Return each model by its stable version, and where its requests go; by name."""
        now = self._now
        return [(now.live[ModelVersion(name, route.stable)], route) for name, route in sorted(now.routes.items())]

    def versions(self) -> list[LiveModel]:
        """Return every version that answers, by name and number."""
        return sorted(self._now.live.values(), key=lambda live: (live.ref.name, live.ref.version))

    def find(self, name: str | None, seed: int | None = None) -> LiveModel:
        """Return the version that answers a request; see `look_up`."""
        return self.look_up(name, seed)[0]

    def look_up(self, name: str | None, seed: int | None = None) -> tuple[LiveModel, Route]:
        """Return the version that answers a request, and where the model's requests go.

        Args:
            name: NAME, NAME:VERSION or NAME@LABEL; None is the default model.
            seed: Of the request, if it has one; see `Route.choose`.

        Raises:
            ModelNotFound: there is none; the message lists those that there are.
            InvalidRequest: no name, and no default.
        """
        now = self._now
        models = now.routes
        if name is None:
            name = self._default_model or next(iter(models), "")
            if len(models) > 1 and not self._default_model:
                raise InvalidRequest(
                    f"model is required where there are several and OSTINATO_DEFAULT_MODEL names none; models are: "
                    f"{', '.join(models)}",
                    param="model",
                )
        reference = Reference.parse(name)
        if reference.name not in models:
            what = f"model {reference.name[:64]!r} is not served" if name else "no model is served"
            raise ModelNotFound(f"{what}; models are: {', '.join(models) or 'none yet'}", param="model")
        route = models[reference.name]
        return now.live[ModelVersion(reference.name, route.choose(reference, seed))], route

    def find_version(self, ref: ModelVersion) -> LiveModel | None:
        """Return a version, if it lives."""
        return self._now.live.get(ref)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.refresh()
            except Exception:
                log.exception("looking at the models failed; trying again")
            self._closed.wait(self._poll_s)

    def refresh(self) -> None:
        """Look at the repository and the server once; trouble with one model is no other's."""
        live: dict[ModelVersion, LiveModel] = {}
        before = self._now
        self._read_config()
        for name in self._labels:
            known = {ref: model for ref, model in before.live.items() if ref.name == name}
            try:
                live |= self._look_at(name, known)
            except Exception as error:
                log.debug("looking at %s failed", name, exc_info=True)
                self._complain(name, f"{type(error).__name__}: {error}")
                live |= known
        for ref in before.live.keys() - live.keys():
            log.info("model %s version %d is gone", ref.name, ref.version)
        self._now = _Snapshot(live, self._make_routes(live, before.routes))
        self._changed(live)

    def _make_routes(self, live: Iterable[ModelVersion], before: Mapping[str, Route]) -> dict[str, Route]:
        """Bring what lives together with labels and shares."""
        path = self._models_dir / signatures.ROUTING_FILE
        try:
            self._shares = read_shares(path)
            self._complaints.pop(str(path), None)
        except RoutingError as error:
            # Those that were read last stay.
            self._complain(str(path), str(error))
        versions: dict[str, list[int]] = {}
        for ref in live:
            versions.setdefault(ref.name, []).append(ref.version)
        routes: dict[str, Route] = {}
        for name, numbers in versions.items():
            then, shares = before.get(name), self._shares.get(name, {})
            stable = then.stable if then else None
            route, problems = make_route(name, numbers, self._labels.get(name, {}), shares, stable)
            if then and then != route:
                log.info("model %s: stable is version %d, shares %s", name, route.stable, dict(route.shares) or "none")
            for what in problems:
                self._complain(f"{path} {name}", what)
            routes[name] = route
        return routes

    def _look_at(self, name: str, known: Mapping[ModelVersion, LiveModel]) -> Mapping[ModelVersion, LiveModel]:
        """Return the versions of a model that answer now.

        A server that does not answer is taken to serve what it served: requests are better judged by their own calls,
        which wait for it to come back, than turned away here.
        """
        try:
            statuses = self._server.versions(name)
        except ModelNotFound as error:
            self._complain(name, str(error))
            return {}
        except GatewayError as error:
            self._complain(name, str(error))
            self._to_greet.add(name)
            return known
        self._complaints.pop(name, None)
        afresh = name in self._to_greet
        live: dict[ModelVersion, LiveModel] = {}
        for status in statuses:
            ref = ModelVersion(name, status.version)
            if status.available:
                model = None if afresh or self._stamp(ref) != self._stamps.get(ref) else known.get(ref)
                try:
                    model = model or self._greet(ref)
                except BackendUnavailable as error:
                    # It went away in the middle: as above.
                    self._complain(f"{name}:{status.version}", str(error))
                    return {**known, **live}
                live |= {ref: model} if model else {}
            elif status.error:
                self._complain(f"{name}:{status.version}", status.error)
        self._to_greet.discard(name)
        return live

    def _stamp(self, ref: ModelVersion) -> int | None:
        """Return when a version's card was written; it changes if the version is replaced by another of its number."""
        path = self._models_dir / ref.name / str(ref.version) / signatures.ASSETS / signatures.CARD_FILE
        return path.stat().st_mtime_ns if path.exists() else None

    def _read_config(self) -> None:
        """Read names and labels in `models.config`, or keep to those known while it cannot be read."""
        path = self._models_dir / signatures.MODELS_CONFIG
        try:
            config = text_format.Parse(path.read_text("utf-8"), model_server_config_pb2.ModelServerConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            self._complain(str(path), str(error))
            return
        self._labels = {entry.name: dict(entry.version_labels) for entry in config.model_config_list.config}

    def _greet(self, ref: ModelVersion) -> LiveModel | None:
        """Read a new version's files and probe it; None, and a line in the log, if that fails.

        Raises:
            BackendUnavailable: the server does not answer now.
        """
        stamp = self._stamp(ref)
        try:
            card, tokenizer = load_assets(self._models_dir / ref.name / str(ref.version))
            probe = run_probe(card, lambda *call: self._server.predict(ref, *call))
        except BackendUnavailable:
            raise
        except (ContractError, GatewayError) as error:
            self._complain(f"{ref.name}:{ref.version}", str(error))
            return None
        self._stamps[ref] = stamp or 0
        self._complaints.pop(f"{ref.name}:{ref.version}", None)
        log.info("model %s version %d: row counts %s", ref.name, ref.version, probe.row_counts)
        shapes = Shapes(probe.row_counts, min(card.max_decode_steps, self._max_chunk), card.max_prefill_length)
        return LiveModel(ref, card, tokenizer, shapes, fingerprint(card, probe), probe.is_steady)

    def _complain(self, what: str, why: str) -> None:
        """Log a problem once, not at every look."""
        if self._complaints.get(what) != why:
            self._complaints[what] = why
            log.warning("%s: %s", what, why)


def fingerprint(card: GeneratorCard, probe: Probe) -> str:
    """Name what a text depends on beyond the request: weights, the code of the graph, the model server's arithmetic."""
    return "fp_" + hashlib.sha256(f"{card.weights_sha256} {card.code_sha256} {probe.sha256}".encode()).hexdigest()[:16]
