"""The model registry: models and versions come and go, and damaged files affect only their own version."""

import errno
import logging
import os
import shutil
import threading
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from service.backends.determinism_probe import Probe
from service.backends.replicas import Replicas
from service.errors import BackendUnavailable, InvalidRequest, InvalidResponse, ModelLoading, ModelNotFound
from service.scheduling.sequence import ModelVersion
from tests.registries import FakeServer, PolledRegistry, add, label, only


@pytest.fixture
def model_registry(server, tmp_path):
    (tmp_path / "models.config").write_text("model_config_list {}")
    return PolledRegistry(tmp_path, only(server))


@pytest.fixture
def poll(model_registry, server):
    def poll(**state):
        vars(server).update(state)
        model_registry.refresh()

    return poll


def test_the_error_for_an_unknown_model_lists_the_served_models(model_registry, poll, tmp_path):
    model_registry.refresh()
    with pytest.raises(ModelNotFound, match="'nope' is not served; models are: none yet"):
        model_registry.find("nope")
    add(tmp_path, "demo", 1)
    poll(models={"demo": {1: ""}})
    with pytest.raises(ModelNotFound, match="models are: demo"):
        model_registry.find("nope")


def test_a_model_that_a_request_may_not_use_does_not_exist_for_it(model_registry, poll, tmp_path):
    for name in ("demo", "secret"):
        add(tmp_path, name, 1)
    poll(models={"demo": {1: ""}, "secret": {1: ""}})

    def may_use(name):
        return name == "demo"

    assert [model.ref.name for model, _ in model_registry.models(may_use)] == ["demo"]
    assert model_registry.find(None, may_use=may_use).ref.name == "demo"
    errors = []
    for name in ("secret", "secret:1", "secret:2", "secret@stable", "nope"):
        with pytest.raises(ModelNotFound) as error:
            model_registry.find(name, may_use=may_use)
        errors.append(str(error.value).replace(name.partition(":")[0].partition("@")[0], "X"))
    assert set(errors) == {"model 'X' is not served; models are: demo"}
    assert model_registry.find_version(ModelVersion("secret", 1), may_use=may_use) is None
    assert model_registry.find("secret").ref == ModelVersion("secret", 1)


def test_a_default_model_that_a_request_may_not_use_does_not_exist_for_it(server, tmp_path):
    for name in ("demo", "other", "secret"):
        add(tmp_path, name, 1)
    model_registry = PolledRegistry(tmp_path, only(server), default_model="secret@stable")
    vars(server).update(models={"demo": {1: ""}, "other": {1: ""}, "secret": {1: ""}})
    model_registry.refresh()
    assert model_registry.find(None, may_use=lambda name: name == "demo").ref.name == "demo"
    with pytest.raises(InvalidRequest, match=r"model is required.* models are: demo, other$"):
        model_registry.find(None, may_use=lambda name: name != "secret")
    assert model_registry.find(None).ref.name == "secret"


@pytest.mark.parametrize("damage", ["generator", "tokenizer", "half a card", "no folder"])
def test_a_damaged_version_is_skipped_and_logged_once(model_registry, server, tmp_path, caplog, damage):
    add(tmp_path, "demo", 1)
    if damage != "no folder":
        add(tmp_path, "demo", 2)
    assets = tmp_path / "demo" / "2" / "assets.extra"
    if damage == "half a card":
        (assets / "generator.json").write_text('{"name": "de')
    elif damage in ("generator", "tokenizer"):
        (assets / f"{damage}.json").unlink()
    server.models = {"demo": {1: "", 2: ""}}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1
    assert len([record for record in caplog.records if "demo:2" in record.getMessage()]) == 1


def test_the_fingerprint_depends_on_weights_and_code_but_not_on_the_name(model_registry, poll, tmp_path):
    """The code is that of the graph, which decides the bits as the weights do."""
    for name, fields in zip("abcd", ({}, {}, {"weights_sha256": "1" * 64}, {"code_sha256": "1" * 64}), strict=True):
        add(tmp_path, name, 1, **fields)
    poll(models={name: {1: ""} for name in "abcd"})
    prints = [model_registry.find(name).fingerprint for name in "abcd"]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_decode_steps_are_limited_by_max_chunk_and_by_the_card(server, tmp_path):
    add(tmp_path, "demo", 1, max_decode_steps=16)
    server.models = {"demo": {1: ""}}
    for bound, expected in ((1, 1), (8, 8), (100, 16)):
        model_registry = PolledRegistry(tmp_path, only(server), max_chunk=bound)
        model_registry.refresh()
        assert model_registry.find("demo").batch_limits.max_steps == expected


def test_an_unforeseen_probe_failure_affects_only_its_own_model(model_registry, server, poll, tmp_path):
    add(tmp_path, "aaa", 1)
    add(tmp_path, "zzz", 1)
    server.models = {"aaa": {1: ""}, "zzz": {1: ""}}
    honest = server.predict
    poll(predict=lambda model, *rest: {} if model.name == "aaa" else honest(model, *rest))
    assert [model.ref.name for model, _ in model_registry.models()] == ["zzz"]


def test_a_model_whose_probes_got_no_thread_is_probed_by_the_next_check(model_registry, poll, tmp_path, monkeypatch):
    add(tmp_path, "demo", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="thread"):
            poll(models={"demo": {1: ""}})
    poll()
    assert [model.ref.name for model, _ in model_registry.models()] == ["demo"]


def test_a_backend_that_returns_is_probed_again(model_registry, server, poll, tmp_path):
    add(tmp_path, "demo", 1)
    poll(models={"demo": {1: ""}})
    first = model_registry.find("demo")
    poll(down=True)
    server.down, calls = False, server.num_calls
    model_registry.refresh()
    assert model_registry.find("demo") is first
    again = server.num_calls - calls
    assert 0 < again < calls / 4
    poll(down=True)
    poll(down=False, bits=0.5)
    assert model_registry.find("demo").fingerprint != first.fingerprint


def test_a_replaced_version_is_read_again(model_registry, poll, tmp_path):
    add(tmp_path, "demo", 1)
    poll(models={"demo": {1: ""}})
    first = model_registry.find("demo").fingerprint
    shutil.rmtree(tmp_path / "demo" / "1")
    add(tmp_path, "demo", 1, weights_sha256="1" * 64)
    model_registry.refresh()
    assert model_registry.find("demo").fingerprint != first


def test_a_backend_that_fails_during_a_probe_keeps_its_versions(model_registry, poll, tmp_path):
    """A known version is served as before until a later probe succeeds."""
    add(tmp_path, "demo", 1)
    poll(models={"demo": {1: ""}})
    known = model_registry.find("demo")
    poll(down=True)
    poll(down=False, down_for_calls=True)
    assert model_registry.find("demo") is known
    poll(down_for_calls=False, bits=0.5)
    assert model_registry.find("demo") is not known


def test_without_a_name_the_only_or_the_default_model_is_found(model_registry, server, poll, tmp_path):
    model_registry.refresh()
    with pytest.raises(ModelNotFound, match="no model is served"):
        model_registry.find(None)
    add(tmp_path, "one", 1)
    poll(models={"one": {1: ""}, "two": {1: ""}})
    assert model_registry.find(None).ref.name == "one"
    for name in ("", ":1", "@stable"):
        with pytest.raises(InvalidRequest, match=f"model must not be empty, got '{name}'; models are: one"):
            model_registry.find(name)
    add(tmp_path, "two", 1)
    model_registry.refresh()
    with pytest.raises(InvalidRequest, match="models are: one, two") as caught:
        model_registry.find(None)
    assert caught.value.param == "model"
    for default in ("two", "two:1", "two@stable"):
        chooses = PolledRegistry(tmp_path, only(server), default_model=default)
        chooses.refresh()
        assert chooses.find(None).ref.name == "two"
        assert [model.ref.name for model, _ in chooses.models()] == ["two", "one"]
    model_registry.refresh()
    assert [model.ref.name for model, _ in model_registry.models()] == ["one", "two"]


def test_labels_and_traffic_split_take_effect_at_the_next_refresh(model_registry, server, tmp_path):
    for version in (1, 2, 3):
        add(tmp_path, "demo", version)
    server.models = {"demo": {1: "", 2: "", 3: ""}}
    label(tmp_path, stable=1, canary=3)
    model_registry.refresh()
    assert [model_registry.find(name).ref.number for name in ("demo", "demo@canary", "demo:2")] == [1, 3, 2]
    (tmp_path / "routing.toml").write_text("[demo]\nstable = 1\ncanary = 1\n[gone]\nstable = 1\n")
    model_registry.refresh()
    assert {model_registry.find("demo", seed).ref.number for seed in range(40)} == {1, 3}
    (tmp_path / "routing.toml").unlink()
    label(tmp_path, stable=2)
    model_registry.refresh()
    assert {model_registry.find("demo", seed).ref.number for seed in range(40)} == {2}
    with pytest.raises(ModelNotFound, match="labels are: stable"):
        model_registry.find("demo@canary")


def test_what_is_stored_includes_versions_that_are_not_served(model_registry, server, poll, tmp_path):
    for version in (1, 2, 3):
        add(tmp_path, "demo", version)
    label(tmp_path, stable=2, next=3)
    (tmp_path / "routing.toml").write_text("[demo]\nstable = 3\nnext = 1\n")
    server.models = {"demo": {2: ""}}
    with pytest.raises(ModelLoading):
        model_registry.stored("demo")
    model_registry.refresh()
    stored = model_registry.stored("demo")
    assert (stored.existing, stored.served, stored.unloaded) == ((1, 2, 3), (2,), [1, 3])
    assert (stored.labels, stored.shares) == ({"stable": 2, "next": 3}, {"stable": 3, "next": 1})
    poll(models={"demo": {}})
    assert model_registry.stored("demo").served == ()
    for name, may_use in (("nope", lambda _: True), ("demo", lambda _: False)):
        with pytest.raises(ModelNotFound, match=f"model '{name}' does not exist"):
            model_registry.stored(name, may_use=may_use)


def test_the_old_version_is_served_until_the_promoted_one_is_available(model_registry, server, poll, tmp_path):
    for version in (1, 2, 3):
        add(tmp_path, "demo", version)
    server.models = {"demo": {1: "", 2: ""}}
    label(tmp_path, stable=1)
    model_registry.refresh()
    label(tmp_path, stable=3)
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1
    poll(models={"demo": {1: "", 2: "", 3: ""}})
    assert model_registry.find("demo").ref.number == 3
    poll(models={"demo": {1: "", 2: "", 3: "unloaded"}})
    assert model_registry.find("demo").ref.number == 2
    assert [model.ref.number for model in model_registry.versions()] == [1, 2]
    (model, route), *others = model_registry.models()
    assert (model.ref.number, route.labels, others) == (2, {"stable": 3}, [])


def test_merging_during_a_first_probe_causes_no_second_probe(model_registry, server, poll, tmp_path):
    add(tmp_path, "demo", 1)
    add(tmp_path, "demo", 2)
    server.models = {"demo": {1: "", 2: ""}}
    honest = server.predict

    def merge_meanwhile(*call):
        model_registry._merge()
        return honest(*call)

    poll(predict=merge_meanwhile)
    calls = server.num_calls
    model_registry.refresh()
    assert (server.num_calls, calls > 0) == (calls, True)


class Fleet:
    """Several model servers by their addresses, and a model registry over them."""

    def __init__(self, folder, *names):
        self.servers = {name: FakeServer() for name in names}
        for server in self.servers.values():
            server.models = {"demo": {1: ""}}
        self.replicas = Replicas(lambda address, _: self.servers[address], names, resolve=lambda address: [address])
        add(folder, "demo", 1)
        self.model_registry = PolledRegistry(folder, self.replicas)

    def model(self):
        self.model_registry.refresh()
        return self.model_registry.find("demo")


def test_the_expected_probe_hash_is_that_of_most_backends(tmp_path, caplog):
    fleet = Fleet(tmp_path, "a:1", "b:1", "c:1")
    fleet.servers["a:1"].bits = 0.5
    fleet.servers["b:1"].down = fleet.servers["c:1"].down = True
    alone = fleet.model()
    fleet.servers["b:1"].down = False
    assert fleet.model().fingerprint == alone.fingerprint
    fleet.servers["c:1"].down = False
    most = fleet.model()
    assert most.fingerprint != alone.fingerprint
    assert "not bit-exact with most backends, so used only as a fallback: a:1" in caplog.text
    assert fleet.replicas.capacity(most.ref, 1)[0] == 2
    fleet.servers["b:1"].down = True
    assert fleet.model() is most
    assert fleet.replicas.capacity(most.ref, 1)[0] == 1
    fleet.servers["c:1"].down = True
    assert fleet.model() == alone
    assert (most.expected_probe_hash == alone.expected_probe_hash, len(most.expected_probe_hash)) == (False, 64)


def test_each_divergence_of_a_backend_is_logged_once(tmp_path, caplog):
    fleet, logged = Fleet(tmp_path, "a:1", "b:1", "c:1"), []
    for bits in (0.5, 0.0, 0.5):
        # It is probed again after a restart.
        fleet.servers["a:1"].down = True
        fleet.model()
        fleet.servers["a:1"].down, fleet.servers["a:1"].bits = False, bits
        for _ in range(2):
            fleet.model()
        logged.append(caplog.text.count("not bit-exact with most backends"))
    assert logged == [1, 1, 2]


def test_a_failed_probe_of_a_new_version_does_not_eject_its_backend(tmp_path, caplog):
    fleet = Fleet(tmp_path, "a:1")
    first = fleet.model()
    add(tmp_path, "demo", 2)
    server = fleet.servers["a:1"]
    server.models = {"demo": {1: "", 2: ""}}
    honest = server.predict

    def fail(version, *call):
        if version.number == 2:
            raise BackendUnavailable("too slow")
        return honest(version, *call)

    server.predict = fail
    assert fleet.model() is first
    assert fleet.replicas.all()[0].ejected_because is None
    assert "demo:2 at a:1: too slow" in caplog.text
    server.predict = honest
    assert fleet.model().ref.number == 2


def test_a_version_of_an_unavailable_backend_is_not_the_default(tmp_path):
    """An older, available version is better than waiting. Requests that name the version wait for it."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    add(tmp_path, "demo", 2)
    fleet.servers["a:1"].models = {"demo": {1: "", 2: ""}}
    assert fleet.model().ref.number == 2
    fleet.servers["a:1"].down = True
    assert fleet.model().ref.number == 1
    assert fleet.model_registry.find("demo:2").ref.number == 2
    fleet.servers["b:1"].down = True
    assert fleet.model().ref.number == 1


def test_assets_of_unloaded_versions_are_dropped_from_memory(tmp_path):
    """A gateway that runs for months meets many versions."""
    fleet = Fleet(tmp_path, "a:1")
    for version in (2, 3, 4):
        add(tmp_path, "demo", version)
        fleet.servers["a:1"].models = {"demo": {version: ""}}
        fleet.model()
    assert [ref.number for ref in fleet.model_registry._files._assets] == [4]


def test_a_probe_with_nan_is_repeated_until_it_is_finite(tmp_path):
    """NaN is a fault and no other arithmetic: until then the backend is not readmitted."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    well = fleet.model()
    ill, (replica, _) = fleet.servers["a:1"], fleet.replicas.all()
    ill.bits = np.nan
    fleet.replicas.eject(replica, "it failed a call")
    for _ in range(2):
        assert fleet.model() is well
        assert fleet.replicas.capacity(well.ref, 1)[0] == 1
        assert replica.ejected_because == "it failed a call"
    ill.bits = 0.0
    assert fleet.model() is well
    assert fleet.replicas.capacity(well.ref, 1)[0] == 2
    assert replica.ejected_because is None


def test_a_new_version_is_served_once_its_probe_is_finite(model_registry, server, poll, tmp_path):
    add(tmp_path, "demo", 1)
    server.models, server.bits = {"demo": {1: ""}}, np.inf
    model_registry.refresh()
    with pytest.raises(ModelLoading):
        model_registry.find("demo")
    honest = server.predict

    def invalid(*_):
        raise InvalidResponse("ids out of range")

    poll(predict=invalid, bits=0.0)
    with pytest.raises(ModelLoading):
        model_registry.find("demo")
    poll(predict=honest)
    assert model_registry.find("demo").ref.number == 1


def test_a_version_whose_only_backend_computes_nan_stays_served(model_registry, poll, tmp_path):
    add(tmp_path, "demo", 1)
    poll(models={"demo": {1: ""}})
    (replica,) = model_registry._replicas.all()
    model_registry._replicas.eject(replica, "it failed a call")
    poll(bits=np.nan)
    assert model_registry.find("demo").ref.number == 1
    assert not replica.takes(ModelVersion("demo", 1))
    poll(bits=0.0)
    assert replica.takes(ModelVersion("demo", 1))


def test_batch_sizes_are_those_that_every_backend_has_verified(tmp_path, monkeypatch):
    """Each probe may keep other sizes, and a call may go to any backend."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    found = iter([Probe((8, 16, 32), "same"), Probe((16, 32, 64), "same")])
    monkeypatch.setattr("service.backends.health_checks.run_probe", lambda *_: next(found))
    assert fleet.model().batch_limits.batch_sizes == (16, 32)


def test_a_version_is_served_while_one_backend_has_it(tmp_path):
    fleet = Fleet(tmp_path, "a:1", "b:1")
    add(tmp_path, "demo", 2)
    fleet.servers["b:1"].models = {"demo": {1: "", 2: ""}}
    assert fleet.model().ref.number == 2
    assert fleet.replicas.capacity(ModelVersion("demo", 1), 1)[0] == 2
    assert fleet.replicas.capacity(ModelVersion("demo", 2), 1)[0] == 1
    fleet.servers["a:1"].models = fleet.servers["b:1"].models = {"demo": {2: ""}}
    fleet.model_registry.refresh()
    assert fleet.model_registry.find_version(ModelVersion("demo", 1)) is None


def test_a_version_whose_files_may_not_be_read_affects_only_itself(model_registry, poll, tmp_path, monkeypatch):
    """As one that another user has published with a umask of 077."""
    for number in (1, 2):
        add(tmp_path, "demo", number)
    stat, refused = Path.stat, tmp_path / "demo" / "2"

    def stat_as_another_user(path, **options):
        if refused in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_as_another_user)
    poll(models={"demo": {1: "", 2: ""}})
    assert model_registry.find("demo:1").ref.number == 1
