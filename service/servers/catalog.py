"""Which models there are, which of their versions are served, and what each of them is.

Names, cards and tokenizers come from the model repository, the living versions from the model servers. Threads look at
all of them every second; requests read the outcome without waiting.
"""

import contextlib
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from contract import signatures
from contract.card import GeneratorCard
from contract.errors import ContractError, LabelsError
from contract.labels import LABELS_FILE, read_labels
from contract.tokenizer import Tokenizer
from service.errors import BackendUnavailable, InvalidRequest, ModelNotFound
from service.scheduling.policy import Shapes
from service.scheduling.sequence import ModelVersion
from service.servers.greeting import Complaints, Greeter
from service.servers.probe import Probe
from service.servers.protos import model_server_config_pb2
from service.servers.replicas import Replica, Replicas
from service.servers.routing import Reference, Route, RoutingError, Shares, make_route, read_shares

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveModel:
    """A version that answers.

    Attributes:
        shapes: Sizes that may be sent to it.
        fingerprint: Changes whenever the same request might get other bytes.
        is_steady: Whether the same request gets the same bytes, whatever others ask for meanwhile.
        promise: Hash of the probe that the fingerprint stands for; None: there was none.
    """

    ref: ModelVersion
    card: GeneratorCard
    tokenizer: Tokenizer
    shapes: Shapes
    fingerprint: str
    is_steady: bool = True
    promise: str | None = None

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
    """

    live: Mapping[ModelVersion, LiveModel]
    routes: Mapping[str, Route]


class Catalog:
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
        # Of each model in `models.config`, what its labels point at.
        self._labels: dict[str, dict[str, int]] = {}
        self._shares: dict[str, Shares] = {}
        self._complaints = Complaints()
        self._greeter = Greeter(models_dir, self._complaints)
        # Of each version, what its servers' probes are to agree in.
        self._hashes: dict[ModelVersion, str] = {}
        self._merging = threading.Lock()
        self._visited: set[Replica] = set()
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
        """Return each model by the version that most of its requests get, and where they go; by name."""
        now = self._now
        return [(now.live[ModelVersion(name, route.primary)], route) for name, route in sorted(now.routes.items())]

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
                self._read_config()
                for replica in self._replicas.look_up():
                    if replica not in self._visited:
                        self._visited.add(replica)
                        # Each has its own: one that hangs holds up no other.
                        name = f"visits {replica.address}"
                        threading.Thread(target=self._visit_again, args=(replica,), name=name, daemon=True).start()
                self._merge()
            except Exception:
                log.exception("looking at the models failed; trying again")
            self._closed.wait(self._poll_s)

    def _visit_again(self, replica: Replica) -> None:
        """Look at a server as long as there is one."""
        while not self._closed.is_set() and replica in self._replicas.all():
            try:
                self._visit(replica)
                self._merge()
            except Exception:
                log.exception("looking at model server %s failed; trying again", replica.address)
            self._closed.wait(self._poll_s if replica.out_because is None else replica.pause_s)
        self._visited.discard(replica)

    def refresh(self) -> None:
        """Look at the repository and at every server once."""
        self._read_config()
        for replica in self._replicas.look_up():
            self._visit(replica)
        self._merge()

    def _visit(self, replica: Replica) -> None:
        """Find out what a server serves now, and leave it out if it does not say.

        It is taken to serve what it served: requests are better judged by their own calls, which wait for it to come
        back, than turned away here.
        """
        before = replica.num_times_out
        try:
            found = self._greeter.look_at(replica, list(self._labels))
        except BackendUnavailable as error:
            self._complaints.add(replica.address, str(error))
            self._replicas.leave_out(replica, str(error))
        else:
            self._complaints.settle(replica.address)
            self._replicas.take_back(replica, found, seen=before)

    def _merge(self) -> None:
        """Bring together what the servers serve."""
        with self._merging:
            before = self._now
            served: dict[ModelVersion, list[tuple[Replica, Probe]]] = {}
            for replica in self._replicas.all():
                for ref, probe in replica.known.items():
                    if ref.name in self._labels:
                        served.setdefault(ref, []).append((replica, probe))
            live: dict[ModelVersion, LiveModel] = {}
            able: set[ModelVersion] = set()
            for ref, probes in served.items():
                try:
                    live[ref] = self._describe(ref, probes, before.live.get(ref))
                    if any(replica.out_because is None for replica, _ in probes):
                        able.add(ref)
                except ContractError as error:
                    self._complaints.add(f"{ref.name}:{ref.version}", str(error))
            for ref in before.live.keys() - live.keys():
                log.info("model %s version %d is gone", ref.name, ref.version)
            self._hashes = {ref: sha256 for ref, sha256 in self._hashes.items() if ref in live}
            self._now = _Snapshot(live, self._make_routes(live, able, before.routes))
            self._replicas.expect(self._hashes)
            self._greeter.keep(live)
        self._changed(live)

    def _describe(self, ref: ModelVersion, probes: list[tuple[Replica, Probe]], before: LiveModel | None) -> LiveModel:
        """Say what is promised of a version: what most of its servers agree in; of equals, what was promised before."""
        able = [pair for pair in probes if pair[0].out_because is None] or probes
        hashes = Counter(probe.sha256 for _, probe in able)
        known = self._hashes.get(ref)
        chosen = max(hashes, key=lambda sha256: (hashes[sha256], sha256 == known))
        if len(hashes) > 1:
            others = sorted(replica.address for replica, probe in able if probe.sha256 != chosen)
            self._complaints.add(f"{ref.name}:{ref.version}", f"computed otherwise, used in need alone: {others}")
        self._hashes[ref] = chosen
        agreeing = [probe for _, probe in able if probe.sha256 == chosen]
        shared = set(agreeing[0].row_counts).intersection(*(probe.row_counts for probe in agreeing))
        row_counts = tuple(sorted(shared)) or agreeing[0].row_counts
        try:
            assets = self._greeter.assets(ref)
        except ContractError:
            # Being replaced, or removed: it goes on as it was read until the servers know.
            if before is not None:
                return before
            raise
        card = assets.card
        shapes = Shapes(row_counts, min(card.max_decode_steps, self._max_chunk), card.max_prefill_length)
        probe = agreeing[0]
        model = LiveModel(ref, card, assets.tokenizer, shapes, fingerprint(card, probe), probe.is_steady, probe.sha256)
        return before if before == model else model

    def _make_routes(
        self, live: Iterable[ModelVersion], able: Collection[ModelVersion], before: Mapping[str, Route]
    ) -> dict[str, Route]:
        """Bring what lives together with labels and shares; `able` are those whose servers take calls."""
        versions: dict[str, list[int]] = {}
        for ref in live:
            versions.setdefault(ref.name, []).append(ref.version)
        routes: dict[str, Route] = {}
        for name, numbers in versions.items():
            then, shares = before.get(name), self._shares.get(name, {})
            stable = then.stable if then else None
            answering = [number for number in numbers if ModelVersion(name, number) in able]
            route, problems = make_route(name, numbers, self._labels.get(name, {}), shares, stable, answering)
            if then and then != route:
                log.info("model %s: stable is version %d, shares %s", name, route.stable, dict(route.shares) or "none")
            what = f"{signatures.ROUTING_FILE}: {name}"
            if problems:
                self._complaints.add(what, "; ".join(problems))
            else:
                self._complaints.settle(what)
            routes[name] = route
        return routes

    def _read_config(self) -> None:
        """Read names, labels and shares; while a file of them cannot be read, what was read last stays."""
        path = self._models_dir / signatures.MODELS_CONFIG
        try:
            config = text_format.Parse(path.read_text("utf-8"), model_server_config_pb2.ModelServerConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            self._complaints.add(str(path), str(error))
            return
        entries = {entry.name: dict(entry.version_labels) for entry in config.model_config_list.config}
        labels = self._labels
        with self._complaining_of(LABELS_FILE):
            labels = read_labels(self._models_dir)
        self._labels = {name: {**of_entry, **labels.get(name, {})} for name, of_entry in entries.items()}
        with self._complaining_of(signatures.ROUTING_FILE):
            self._shares = read_shares(self._models_dir / signatures.ROUTING_FILE)

    @contextlib.contextmanager
    def _complaining_of(self, file: str) -> Iterator[None]:
        """Log, once, why a file cannot be read, and go on."""
        try:
            yield
            self._complaints.settle(file)
        except (LabelsError, RoutingError) as error:
            self._complaints.add(file, str(error))


def fingerprint(card: GeneratorCard, probe: Probe) -> str:
    """Name what a text depends on beyond the request: weights, the code of the graph, the model server's arithmetic."""
    return "fp_" + hashlib.sha256(f"{card.weights_sha256} {card.code_sha256} {probe.sha256}".encode()).hexdigest()[:16]
