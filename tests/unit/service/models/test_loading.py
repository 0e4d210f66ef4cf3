"""Until the gateway knows what is served, a request gets `503` with `Retry-After`, never `404`."""

import contextlib
import threading

import pytest

from service.backends.replicas import Replicas
from service.errors import ModelLoading, ModelNotFound, ServerBusy
from service.models.registry import ModelRegistry
from service.scheduling.sequence import ModelVersion
from service.settings import Settings
from tests.registries import LOADING, FakeServer, PolledRegistry, add, label, only
from tests.waiting import until


@contextlib.contextmanager
def held_probe(model_registry, server, name, version=1):
    """Poll in the background; probes of a version are held until the event is set, or to the end of the block."""
    reached, opened, honest = threading.Event(), threading.Event(), server.predict

    def predict(model, *call):
        if model == ModelVersion(name, version):
            reached.set()
            assert opened.wait(20)
        return honest(model, *call)

    server.predict = predict
    model_registry.start()
    try:
        assert reached.wait(20)
        yield opened
    finally:
        opened.set()
        model_registry.close()


@pytest.fixture
def repository(tmp_path):
    """A repository of two models, one of them with three versions."""
    for version in (1, 2, 3):
        add(tmp_path, "demo", version)
    add(tmp_path, "large", 1)
    return tmp_path


def serving(*versions, **others):
    server = FakeServer()
    server.models = {"demo": dict.fromkeys(versions, ""), "large": {1: ""}, **others}
    return server


def refused(model_registry, name):
    """Return the class of the error that a request for a model gets."""
    with pytest.raises((ModelLoading, ModelNotFound)) as caught:
        model_registry.find(name)
    return type(caught.value)


NAMES = ["demo", "demo:1", "demo@stable", "demo@canary", "nope", None]


def test_before_the_first_refresh_every_model_is_loading(repository):
    """Clients retry a `503` with a time to wait. The list of models and readiness respond likewise."""
    model_registry = PolledRegistry(repository, only(serving(1)))
    assert {refused(model_registry, name) for name in NAMES} == {ModelLoading}
    for ask in (model_registry.models, model_registry.ready_models):
        with pytest.raises(ModelLoading) as caught:
            ask()
    assert (caught.value.status, caught.value.headers()["Retry-After"]) == (503, "2")
    assert caught.value.body()["error"]["code"] == "model_loading"
    with pytest.raises(ModelLoading):
        model_registry.find_version(ModelVersion("demo", 1))


def test_while_no_backend_answers_configured_models_are_loading(repository):
    server = serving(1)
    server.down = True
    model_registry = PolledRegistry(repository, only(server))
    for _ in range(2):
        model_registry.refresh()
        assert {refused(model_registry, name) for name in NAMES if name != "nope"} == {ModelLoading}
        assert refused(model_registry, "nope") is ModelNotFound
        with pytest.raises(ModelLoading, match="demo, large"):
            model_registry.models()
        # Others do not exist for a request.
        with pytest.raises(ModelLoading, match=r"loaded: large$"):
            model_registry.models(lambda name: name == "large")
        assert model_registry.models(lambda _: False) == []
    assert model_registry.find_version(ModelVersion("demo", 9)) is None
    server.down = False
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1
    assert model_registry.ready_models() == ["demo", "large"]


def test_a_configured_model_that_no_backend_has_yet_is_loading(repository):
    server = serving(1)
    del server.models["large"]
    model_registry = PolledRegistry(repository, only(server))
    model_registry.refresh()
    assert refused(model_registry, "large") is ModelLoading
    assert model_registry.ready_models() == ["demo"]
    assert [model.ref.name for model, _ in model_registry.models()] == ["demo"]
    assert model_registry.find(None).ref.name == "demo"


def test_a_version_is_loading_while_it_is_loaded_or_probed(repository):
    label(repository, stable=1, canary=2)
    server = serving(1)
    server.models["demo"] = {1: "", 2: LOADING}
    model_registry = PolledRegistry(repository, only(server))
    model_registry.refresh()
    assert [refused(model_registry, name) for name in ("demo:2", "demo@canary")] == [ModelLoading] * 2
    assert [refused(model_registry, name) for name in ("demo:3", "demo:9", "demo@beta")] == [ModelNotFound] * 3
    assert model_registry.find("demo").ref.number == 1
    server.models["demo"] = {1: "", 2: ""}
    with held_probe(model_registry, server, "demo", 2):
        assert [refused(model_registry, name) for name in ("demo:2", "demo@canary")] == [ModelLoading] * 2
        with pytest.raises(ModelLoading):
            model_registry.find_version(ModelVersion("demo", 2))
        assert model_registry.find("demo").ref.number == 1
    model_registry.refresh()
    assert model_registry.find("demo@canary").ref.number == 2
    server.models["demo"] = {1: "", 2: "unloaded"}
    model_registry.refresh()
    assert refused(model_registry, "demo:2") is ModelNotFound


def test_a_slow_probe_does_not_delay_other_models(repository):
    server = serving(1)
    model_registry = ModelRegistry(Settings(models_dir=repository, poll_s=0.01), only(server))
    with held_probe(model_registry, server, "demo") as opened:
        until(lambda: served(model_registry) == ["large"])
        assert model_registry.find("large").ref.number == 1
        assert refused(model_registry, "demo") is ModelLoading
        # Which model a request gets does not depend on what is loaded first.
        assert refused(model_registry, None) is ModelLoading
        with pytest.raises(ModelLoading, match="demo"):
            model_registry.ready_models()
        add(repository, "late", 1)
        server.models["late"] = {1: ""}
        until(lambda: served(model_registry) == ["large", "late"])
        opened.set()
        until(lambda: served(model_registry) == ["demo", "large", "late"])
        assert model_registry.ready_models() == ["demo", "large", "late"]


def test_the_gateway_is_not_ready_until_a_busy_backend_has_taken_the_first_probes(repository):
    """The probes of another model may keep it busy."""
    server = serving(1)
    honest = server.predict

    def busy(model, *call):
        if model.name == "demo":
            raise ServerBusy("RESOURCE_EXHAUSTED")
        return honest(model, *call)

    server.predict = busy
    model_registry = PolledRegistry(repository, only(server))
    model_registry.refresh()
    assert refused(model_registry, "demo") is ModelLoading
    with pytest.raises(ModelLoading, match="models are being loaded: demo"):
        model_registry.ready_models()
    server.predict = honest
    model_registry.refresh()
    assert model_registry.ready_models() == ["demo", "large"]


def test_a_model_that_is_added_later_leaves_the_gateway_ready(repository):
    """Every gateway probes it at the same time: else none of them would be left for requests."""
    server = serving(1)
    model_registry = PolledRegistry(repository, only(server), poll_s=0.01)
    model_registry.refresh()
    assert model_registry.ready_models() == ["demo", "large"]
    add(repository, "late", 1)
    server.models["late"] = {1: ""}
    with held_probe(model_registry, server, "late"):
        assert model_registry.ready_models() == ["demo", "large"]


def test_a_backend_takes_calls_of_probed_models_during_a_slow_probe(repository):
    server = serving(1)
    replicas = only(server)
    model_registry = PolledRegistry(repository, replicas, poll_s=0.01)
    model_registry.refresh()
    (replica,) = replicas.all()
    replicas.eject(replica, "for the test")
    with held_probe(model_registry, server, "demo"):
        until(lambda: replica.takes(ModelVersion("large", 1)))
        assert not replica.takes(ModelVersion("demo", 1))


def test_no_other_version_replaces_a_stable_one_that_may_be_loading(repository):
    label(repository, stable=1, canary=2)
    servers = {"a:1": serving(2), "b:1": serving(1)}
    servers["b:1"].down = True

    def start():
        replicas = Replicas(lambda address, _: servers[address], list(servers), resolve=lambda address: [address])
        model_registry = PolledRegistry(repository, replicas)
        model_registry.refresh()
        return model_registry

    model_registry = start()
    assert [refused(model_registry, name) for name in ("demo", "demo@stable", "demo:1")] == [ModelLoading] * 3
    assert model_registry.find("demo@canary").ref.number == model_registry.find("demo:2").ref.number == 2
    servers["b:1"].down = False
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1
    servers["b:1"].down = True
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 2
    # A gateway that starts when no backend has the stable version any more serves another one.
    servers["b:1"].down, servers["b:1"].models = False, {}
    assert start().find("demo").ref.number == 2


def served(model_registry):
    return sorted({model.ref.name for model in model_registry.versions()})
