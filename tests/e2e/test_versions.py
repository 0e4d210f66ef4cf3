"""Promote, traffic split, rollback and remove under load, without a failed request."""

import itertools
import shutil
import threading
import time
from collections import Counter

import pytest

from export.repository.models_config import add_to_models_config
from tests.built import built
from tests.commands import main
from tests.conftest import publish_versions
from tests.e2e.conftest import AMPLE
from tests.servers import Gateway, server_kinds
from tests.waiting import until

BODY = {"prompt": "It was", "max_tokens": 40}


class Repository:
    """A model repository in which each test has a model of its own, with one model server and one gateway."""

    def __init__(self, path):
        self.path = path
        self.server = self.gateway = None
        self._names = (f"demo{number}" for number in itertools.count(1))
        self._published = built("versions", publish_versions) / "demo"

    def add_model(self, versions=(1, 2, 3)):
        name = next(self._names)
        for version in versions:
            self.add_version(name, version)
        add_to_models_config(self.path, name)
        return name

    def add_version(self, name, version):
        """Add a version by an atomic rename, as the exporter does. The fourth has the weights of the first."""
        draft = self.path / name / f"{version}.draft"
        shutil.copytree(self._published / str(1 + (version - 1) % 3), draft)
        draft.rename(draft.with_name(str(version)))

    def run(self, *arguments):
        assert main([*arguments, "--models-dir", str(self.path)]) == 0


@pytest.fixture(scope="module", params=server_kinds())
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def repository(kind, tmp_path_factory):  # noqa: ARG001 - each kind has its own
    """The model repository of this module, before it is served."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / "models").mkdir()
    return Repository(folder / "models")


@pytest.fixture(scope="module")
def labeled(repository):
    """A model that has a label before the servers start."""
    name = repository.add_model()
    repository.run("promote", f"{name}:1")
    return name


@pytest.fixture(scope="module")
def served(kind, repository, labeled, tmp_path_factory):  # noqa: ARG001 - it is there when they start
    logs = tmp_path_factory.mktemp("logs")
    repository.server = kind(repository.path, logs / "model_server.log")
    repository.gateway = Gateway(repository.path, repository.server.port, logs / "gateway.log", **AMPLE)
    yield repository
    repository.gateway.kill()
    repository.server.end()


@pytest.fixture
def model(served):
    """A served model with three versions, of which the newest two are loaded."""
    name = served.add_model()
    until(lambda: versions(served.gateway, name) == [2, 3])
    return name


def entries(gateway, name):
    """Return the entries of a model's versions; empty if it is not served."""
    status, found = gateway.get(f"/v1/models/{name}")
    return found["versions"] if status == 200 else []


def versions(gateway, name):
    return [entry["version"] for entry in entries(gateway, name)]


class Load:
    """Continuous load from several threads, about 60 requests a second, until it is stopped."""

    def __init__(self, gateway, body, num_threads=3):
        self.answers: list[tuple[float, int, dict]] = []
        self._gateway, self._body, self._ended = gateway, body, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed):
        while not self._ended.wait(0.04):
            seed += 100
            began = time.monotonic()
            status, answer = self._gateway.post({**self._body, "seed": seed})
            self.answers.append((began, status, answer))

    def versions_since(self, moment):
        """Count the versions of the responses to requests that were sent after a moment."""
        return Counter(answer["version"] for when, _, answer in self.answers if when > moment)

    def stop(self):
        """End the threads, and fail unless every request succeeded."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert {status for _, status, _ in self.answers} == {200}


def test_promote_traffic_split_and_rollback_fail_no_request(served, model):
    gateway, body = served.gateway, {**BODY, "model": model}
    of_version = {n: gateway.text(**{**body, "model": f"{model}:{n}", "seed": 7}) for n in (2, 3)}
    assert of_version[2] != of_version[3]
    load = Load(gateway, body)
    long = {**body, "seed": 7, "max_tokens": 4000}
    running = gateway.stream(**long)
    first = next(running)
    assert first["version"] == 3

    served.run("promote", f"{model}:2")
    until(lambda: gateway.post({**body, "seed": 1})[1]["version"] == 2)
    assert gateway.text(**body, seed=7) == of_version[2]
    assert gateway.text(**{**body, "model": f"{model}@stable"}, seed=7) == of_version[2]

    served.run("promote", f"{model}:3", "--label", "canary")
    routing = served.path / "routing.toml"
    routing.write_text(f"[{model}]\nstable = 70\ncanary = 30\n")
    until(lambda: [entry["share"] for entry in entries(gateway, model)] == [0.7, 0.3])
    assert [entry["labels"] for entry in entries(gateway, model)] == [["stable"], ["canary", "previous"]]
    shared = [gateway.post({**body, "seed": seed})[1]["version"] for seed in range(60)]
    assert 5 <= shared.count(3) <= 35
    assert [gateway.post({**body, "seed": seed})[1]["version"] for seed in range(60)] == shared
    status, answer = gateway.post({**body, "model": f"{model}@canary", "seed": 7})
    assert (status, answer["choices"][0]["text"]) == (200, of_version[3])

    routing.unlink()
    # This version is not loaded yet; until it is, the previous one serves.
    served.run("promote", f"{model}:1")
    until(lambda: gateway.post({**body, "seed": 1})[1]["version"] == 1)
    served.run("rollback", model)
    until(lambda: gateway.post({**body, "seed": 1})[1]["version"] == 2)
    moment = time.monotonic()
    # As the exporter publishes, which test_a_new_version_is_served… does; tracing the graph takes seconds.
    served.add_version(model, 4)
    add_to_models_config(served.path, model)
    until(lambda: 4 in versions(gateway, model))
    time.sleep(1)
    # Publishing does not promote: where a model has labels, a new version gets no requests until it has one.
    assert set(load.versions_since(moment)) == {2}
    load.stop()
    texts = [choice["text"] for event in [first, *running] if event for choice in event["choices"]]
    assert "".join(texts) == gateway.text(**{**long, "model": f"{model}:3"})
    by_seed = {}
    for _, _, answer in load.answers:
        known = by_seed.setdefault((answer["seed"], answer["version"]), answer["choices"])
        assert known == answer["choices"]


def test_labels_of_a_repository_apply_when_the_servers_start(served, labeled):
    gateway, body = served.gateway, {**BODY, "model": labeled}
    until(lambda: versions(gateway, labeled) == [1, 2, 3])
    assert gateway.post(body)[1]["version"] == 1
    served.run("rollback", labeled)
    until(lambda: gateway.post(body)[1]["version"] == 3)


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_removing_a_running_version_returns_the_text_so_far(served, model, stream):
    gateway, fields = served.gateway, {**BODY, "model": f"{model}:3", "seed": 7}
    beginning = gateway.text(**{**fields, "max_tokens": 100})
    fields |= {"max_tokens": 5_000_000, "return_state": True}
    outcome = []

    def run():
        outcome.append([e for e in gateway.stream(**fields) if e] if stream else gateway.post(fields, timeout=120))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: gateway.accepted == 1)
    time.sleep(0.5)
    served.run("remove", f"{model}:3", "--yes")
    thread.join(timeout=120)
    (found,) = outcome
    error = found[-1] if stream else found[1]
    assert error["error"]["code"] == "version_gone"
    assert "send the request again" in error["error"]["message"]
    text = "".join(c["text"] for event in (found if stream else [error]) for c in event["choices"])
    assert text.startswith(beginning)
    # No server could resume it.
    assert not any("state" in choice for choice in error["choices"])
    until(lambda: gateway.post({**BODY, "model": model})[0] == 200)


def test_a_new_version_is_served_and_a_damaged_one_is_skipped(served):
    gateway, model = served.gateway, served.add_model(versions=[1])
    until(lambda: versions(gateway, model) == [1])
    ask = {**BODY, "model": model, "seed": 1}
    first, home = gateway.text(**ask), served.path / model
    (home / "2").mkdir()
    (home / "notes.txt").write_text("junk")
    shutil.copytree(home / "1", home / "3.partial")
    damaged = home / ".damaged"
    shutil.copytree(home / "1", damaged)
    (damaged / "saved_model.pb").write_bytes((damaged / "saved_model.pb").read_bytes()[:5_000])
    damaged.rename(home / "4")
    served.gateway.wait_until(lambda: f"{model}:4 at " in served.gateway.output)
    assert gateway.text(**ask) == first
    assert gateway.get(f"/v1/models/{model}")[1]["version"] == 1
    served.add_version(model, 5)
    until(lambda: gateway.get(f"/v1/models/{model}")[1]["version"] == 5)
    assert gateway.text(**ask) != first
