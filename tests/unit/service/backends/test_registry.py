"""Models come and go while the gateway runs; junk in the repository hurts nobody."""

import json
import logging
import shutil

import numpy as np
import pytest

from contract.card import GeneratorCard
from contract.tokenizer import CharacterTokenizer
from service.backends.client import VersionStatus
from service.backends.determinism_probe import Probe
from service.backends.replicas import Replicas
from service.errors import BackendUnavailable, InvalidRequest, InvalidResponse, ModelLoading, ModelNotFound
from service.params import ModelVersion
from tests.registries import PolledRegistry
from tests.unit.contract.test_card import FIELDS, write

# In place of a version's error.
LOADING = "loading"


class FakeServer:
    """A model server that says what it is told to say."""

    def __init__(self):
        self.models = {}
        self.down = False
        self.down_for_calls = False
        self.num_resets = 0
        self.num_calls = 0
        self.bits = 0.0

    def versions(self, name):
        if self.down:
            raise BackendUnavailable("down")
        if name not in self.models:
            raise ModelNotFound(f"no {name}")
        return [
            VersionStatus(version, available=error == "", error=error.replace(LOADING, ""), loading=error == LOADING)
            for version, error in self.models[name].items()
        ]

    def reset(self):
        self.num_resets = self.num_resets + 1

    def close(self):
        self.closed = True

    def predict(self, _model, _signature, inputs, outputs, vocab_size):
        if self.down or self.down_for_calls:
            raise BackendUnavailable("down")
        self.num_calls += 1
        assert vocab_size == FIELDS["vocab_size"], "what a probe computes is checked against the card"
        return {name: np.full(shape, self.bits, np.float32) for name, shape in outputs.items()} | {
            "state": inputs["state"]
        }


def only(server):
    """Return it as the only replica."""
    return Replicas(lambda *_: server, ["server:1"], resolve=lambda address: [address])


@pytest.fixture
def server():
    """A server with nothing on it."""
    return FakeServer()


@pytest.fixture
def model_registry(server, tmp_path):
    """A catalog of an empty repository."""
    (tmp_path / "models.config").write_text("model_config_list {}")
    return PolledRegistry(tmp_path, only(server))


def add(folder, name, version, **fields):
    """Publish a version into a repository."""
    home = folder / name / str(version)
    home.mkdir(parents=True)
    write(home, GeneratorCard(**{**FIELDS, "name": name, **fields}), CharacterTokenizer.train("abc"))
    config = folder / "models.config"
    if f'"{name}"' not in config.read_text():
        entry = f'config {{ name: "{name}" base_path: "/models/{name}" }} }}'
        config.write_text(config.read_text().rstrip()[:-1] + entry)


def test_the_newest_living_version_is_found(model_registry, server, tmp_path):
    """A new version takes over once it lives; when it goes, the old one is back."""
    add(tmp_path, "demo", 1)
    add(tmp_path, "demo", 2)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1
    server.models = {"demo": {1: "", 2: ""}}
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 2
    server.models = {"demo": {1: "", 2: "unloaded"}}
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1


def test_an_unknown_model_is_named_with_those_there_are(model_registry, server, tmp_path):
    """The error lists what can be asked for."""
    model_registry.refresh()
    with pytest.raises(ModelNotFound, match="'nope' is not served; models are: none yet"):
        model_registry.find("nope")
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    with pytest.raises(ModelNotFound, match="models are: demo"):
        model_registry.find("nope")


@pytest.mark.parametrize("damage", ["no card", "half a card", "no tokenizer", "no folder"])
def test_a_damaged_version_is_passed_over_and_named_once(model_registry, server, tmp_path, caplog, damage):
    """The good version is served, and the log says what is wrong with the other, not at every look."""
    add(tmp_path, "demo", 1)
    if damage != "no folder":
        add(tmp_path, "demo", 2)
    assets = tmp_path / "demo" / "2" / "assets.extra"
    if damage == "no card":
        (assets / "generator.json").unlink()
    elif damage == "half a card":
        (assets / "generator.json").write_text('{"name": "de')
    elif damage == "no tokenizer":
        (assets / "tokenizer.json").unlink()
    server.models = {"demo": {1: "", 2: ""}}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1
    assert len([record for record in caplog.records if "demo:2" in record.getMessage()]) == 1


@pytest.mark.parametrize("content", ["", "{{{{", "\x00\xff", "model_config_list { config { nome: 'x' } }"])
def test_a_broken_config_leaves_the_models_as_they_were(model_registry, server, tmp_path, content):
    """While `models.config` is being edited, what was served is served."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    if content:
        (tmp_path / "models.config").write_text(content)
    else:
        (tmp_path / "models.config").unlink()
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1


def test_a_server_that_is_away_is_taken_to_come_back(model_registry, server, tmp_path):
    """Requests are not turned away because of one unanswered look: their own calls wait for the server."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    server.down = True
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1


def test_a_version_is_probed_once(model_registry, server, tmp_path):
    """Looking again does not compute again."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    first = model_registry.find("demo")
    model_registry.refresh()
    assert model_registry.find("demo") is first


def test_the_fingerprint_follows_the_weights_and_the_code(model_registry, server, tmp_path):
    """Other weights or another graph, another fingerprint; the same under another name or version, the same."""
    add(tmp_path, "a", 1)
    add(tmp_path, "b", 1)
    add(tmp_path, "c", 1, weights_sha256="1" * 64)
    add(tmp_path, "d", 1, code_sha256="1" * 64)
    server.models = {"a": {1: ""}, "b": {1: ""}, "c": {1: ""}, "d": {1: ""}}
    model_registry.refresh()
    prints = [model_registry.find(name).fingerprint for name in "abcd"]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_chunks_are_no_larger_than_allowed(server, tmp_path):
    """`max_chunk` bounds the steps of a call, and so does the model's card."""
    (tmp_path / "models.config").write_text("model_config_list {}")
    add(tmp_path, "demo", 1, max_decode_steps=16)
    server.models = {"demo": {1: ""}}
    for bound, expected in ((1, 1), (8, 8), (100, 16)):
        model_registry = PolledRegistry(tmp_path, only(server), max_chunk=bound)
        model_registry.refresh()
        assert model_registry.find("demo").batch_limits.max_steps == expected


def test_a_model_that_answers_nonsense_is_no_other_models_trouble(model_registry, server, tmp_path):
    """A model whose probe fails in an unforeseen way is passed over; the next one is served."""
    add(tmp_path, "aaa", 1)
    add(tmp_path, "zzz", 1)
    server.models = {"aaa": {1: ""}, "zzz": {1: ""}}
    honest = server.predict
    server.predict = lambda model, *rest: {} if model.name == "aaa" else honest(model, *rest)
    model_registry.refresh()
    assert [model.ref.name for model, _ in model_registry.models()] == ["zzz"]


def test_a_server_that_was_away_is_probed_again(model_registry, server, tmp_path):
    """It may have come back as another build: if it has, what is promised of it is found out anew."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    first = model_registry.find("demo")
    server.down = True
    model_registry.refresh()
    server.down, calls = False, server.num_calls
    model_registry.refresh()
    assert model_registry.find("demo") is first
    again = server.num_calls - calls
    assert 0 < again < calls / 4
    server.down = True
    model_registry.refresh()
    server.down, server.bits = False, 0.5
    model_registry.refresh()
    assert model_registry.find("demo").fingerprint != first.fingerprint


def test_a_version_that_was_replaced_is_read_again(model_registry, server, tmp_path):
    """Another model under the same number is not taken for the old one."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    first = model_registry.find("demo").fingerprint
    shutil.rmtree(tmp_path / "demo" / "1")
    add(tmp_path, "demo", 1, weights_sha256="1" * 64)
    model_registry.refresh()
    assert model_registry.find("demo").fingerprint != first


def test_a_server_that_goes_away_during_the_probe_keeps_its_models(model_registry, server, tmp_path):
    """A version that is known is not forgotten because it could not be greeted again just then; later it is."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    known = model_registry.find("demo")
    server.down = True
    model_registry.refresh()
    server.down, server.down_for_calls = False, True
    model_registry.refresh()
    assert model_registry.find("demo") is known
    server.down_for_calls, server.bits = False, 0.5
    model_registry.refresh()
    assert model_registry.find("demo") is not known


def test_without_a_name_the_only_model_is_found_or_the_default_one(model_registry, server, tmp_path):
    """Requests that may leave the model out get the one there is; where there are several, a setting names it."""
    model_registry.refresh()
    with pytest.raises(ModelNotFound, match="no model is served"):
        model_registry.find(None)
    add(tmp_path, "one", 1)
    server.models = {"one": {1: ""}, "two": {1: ""}}
    model_registry.refresh()
    assert model_registry.find(None).ref.name == "one"
    add(tmp_path, "two", 1)
    model_registry.refresh()
    with pytest.raises(InvalidRequest, match="models are: one, two") as caught:
        model_registry.find(None)
    assert caught.value.param == "model"
    chooses = PolledRegistry(tmp_path, only(server), default_model="two")
    chooses.refresh()
    assert chooses.find(None).ref.name == "two"


def label(folder, **labels):
    """Have these labels of the model."""
    (folder / "labels.json").write_text(json.dumps({"demo": labels}))


def test_labels_and_shares_take_effect_at_the_next_look(model_registry, server, tmp_path, caplog):
    """The files of labels and of shares say who answers; a damaged one leaves what was said last, and is told once."""
    for version in (1, 2, 3):
        add(tmp_path, "demo", version)
    server.models = {"demo": {1: "", 2: "", 3: ""}}
    label(tmp_path, stable=1, canary=3)
    model_registry.refresh()
    assert [model_registry.find(name).ref.version for name in ("demo", "demo@canary", "demo:2")] == [1, 3, 2]
    (tmp_path / "routing.toml").write_text("[demo]\nstable = 1\ncanary = 1\n[gone]\nstable = 1\n")
    model_registry.refresh()
    shared = [model_registry.find("demo", seed).ref.version for seed in range(40)]
    assert set(shared) == {1, 3}
    (tmp_path / "routing.toml").write_text("[demo")
    (tmp_path / "labels.json").write_text('{"demo": {"stable": "1"}}')
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model_registry.refresh()
    assert [model_registry.find("demo", seed).ref.version for seed in range(40)] == shared
    for name in ("routing.toml", "labels.json"):
        assert len([record for record in caplog.records if name in record.getMessage()]) == 1
    (tmp_path / "routing.toml").unlink()
    label(tmp_path, stable=2)
    model_registry.refresh()
    assert {model_registry.find("demo", seed).ref.version for seed in range(40)} == {2}
    with pytest.raises(ModelNotFound, match="labels are: stable"):
        model_registry.find("demo@canary")


def test_what_answered_goes_on_until_its_successor_lives(model_registry, server, tmp_path):
    """A promotion to a version that is being loaded leaves no gap, nor does the end of the one that answered."""
    for version in (1, 2, 3):
        add(tmp_path, "demo", version)
    server.models = {"demo": {1: "", 2: ""}}
    label(tmp_path, stable=1)
    model_registry.refresh()
    label(tmp_path, stable=3)
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1
    server.models = {"demo": {1: "", 2: "", 3: ""}}
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 3
    server.models = {"demo": {1: "", 2: "", 3: "unloaded"}}
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 2
    assert [model.ref.version for model in model_registry.versions()] == [1, 2]
    (model, route), *others = model_registry.models()
    assert (model.ref.version, route.labels, others) == (2, {"stable": 3}, [])


def test_a_version_is_probed_once_whoever_looks_meanwhile(model_registry, server, tmp_path):
    """What others bring together while a server is looked at for the first time costs no second probe."""
    add(tmp_path, "demo", 1)
    add(tmp_path, "demo", 2)
    server.models = {"demo": {1: "", 2: ""}}
    honest = server.predict

    def merge_meanwhile(*call):
        model_registry._merge()
        return honest(*call)

    server.predict = merge_meanwhile
    model_registry.refresh()
    calls = server.num_calls
    model_registry.refresh()
    assert (server.num_calls, calls > 0) == (calls, True)


class Fleet:
    """Several model servers by their addresses, and a catalog in front of them."""

    def __init__(self, folder, *names):
        (folder / "models.config").write_text("model_config_list {}")
        self.servers = {name: FakeServer() for name in names}
        for server in self.servers.values():
            server.models = {"demo": {1: ""}}
        self.replicas = Replicas(lambda address, _: self.servers[address], names, resolve=lambda address: [address])
        add(folder, "demo", 1)
        self.model_registry = PolledRegistry(folder, self.replicas)

    def model(self):
        """Look again and return the model."""
        self.model_registry.refresh()
        return self.model_registry.find("demo")


def test_what_is_promised_is_what_most_servers_agree_in(tmp_path, caplog):
    """Whoever is met first; of equals, what was promised before. Who computes otherwise is told and changes nothing."""
    fleet = Fleet(tmp_path, "a:1", "b:1", "c:1")
    fleet.servers["a:1"].bits = 0.5
    fleet.servers["b:1"].down = fleet.servers["c:1"].down = True
    alone = fleet.model()
    fleet.servers["b:1"].down = False
    assert fleet.model().fingerprint == alone.fingerprint
    fleet.servers["c:1"].down = False
    most = fleet.model()
    assert most.fingerprint != alone.fingerprint
    assert "computed otherwise, used in need alone: ['a:1']" in caplog.text
    assert fleet.replicas.num_servers(most.ref) == 2
    fleet.servers["b:1"].down = True
    assert fleet.model() is most
    assert fleet.replicas.num_servers(most.ref) == 1
    fleet.servers["c:1"].down = True
    assert fleet.model() == alone
    assert (most.expected_probe_hash == alone.expected_probe_hash, len(most.expected_probe_hash)) == (False, 64)


def test_a_new_version_that_cannot_be_called_is_no_trouble_of_its_server(tmp_path, caplog):
    """Its probe is too slow, or fails: the other versions go on, and the server takes calls."""
    fleet = Fleet(tmp_path, "a:1")
    first = fleet.model()
    add(tmp_path, "demo", 2)
    server = fleet.servers["a:1"]
    server.models = {"demo": {1: "", 2: ""}}
    honest = server.predict

    def fail(model, *call):
        if model.version == 2:
            raise BackendUnavailable("too slow")
        return honest(model, *call)

    server.predict = fail
    assert fleet.model() is first
    assert fleet.replicas.all()[0].ejected_because is None
    assert "demo:2 at a:1: too slow" in caplog.text
    server.predict = honest
    assert fleet.model().ref.version == 2


def test_a_version_that_only_a_dead_server_had_answers_nobody(tmp_path):
    """Another one that lives is better than waiting; who names it waits for it."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    add(tmp_path, "demo", 2)
    fleet.servers["a:1"].models = {"demo": {1: "", 2: ""}}
    assert fleet.model().ref.version == 2
    fleet.servers["a:1"].down = True
    assert fleet.model().ref.version == 1
    assert fleet.model_registry.find("demo:2").ref.version == 2
    fleet.servers["b:1"].down = True
    assert fleet.model().ref.version == 1


def test_files_of_versions_that_are_gone_are_forgotten(tmp_path):
    """A gateway that runs for months meets many."""
    fleet = Fleet(tmp_path, "a:1")
    for version in (2, 3, 4):
        add(tmp_path, "demo", version)
        fleet.servers["a:1"].models = {"demo": {version: ""}}
        fleet.model()
    assert [ref.version for ref in fleet.model_registry._prober._assets] == [4]


def test_a_probe_that_is_not_finite_is_repeated_until_it_is(tmp_path):
    """NaN of a server that fell ill is not its arithmetic: it gets no calls of the version, and is tried again."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    well = fleet.model()
    ill, (replica, _) = fleet.servers["a:1"], fleet.replicas.all()
    ill.bits = np.nan
    fleet.replicas.eject(replica, "it failed a call")
    for _ in range(2):
        assert fleet.model() is well
        assert fleet.replicas.num_servers(well.ref) == 1
        assert replica.ejected_because == "it failed a call"
    ill.bits = 0.0
    assert fleet.model() is well
    assert fleet.replicas.num_servers(well.ref) == 2
    assert replica.ejected_because is None


def test_a_new_version_whose_probe_is_not_finite_is_served_once_it_is(model_registry, server, tmp_path):
    """Until then it is not served at all; a response that no model gives is no other thing."""
    add(tmp_path, "demo", 1)
    server.models, server.bits = {"demo": {1: ""}}, np.inf
    model_registry.refresh()
    with pytest.raises(ModelLoading):
        model_registry.find("demo")
    honest = server.predict

    def invalid(*_):
        raise InvalidResponse("ids out of range")

    server.predict, server.bits = invalid, 0.0
    model_registry.refresh()
    with pytest.raises(ModelLoading):
        model_registry.find("demo")
    server.predict = honest
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1


def test_an_only_server_whose_probe_is_not_finite_is_waited_for(model_registry, server, tmp_path):
    """The version is not forgotten: its sequences wait, as for a server that does not answer."""
    add(tmp_path, "demo", 1)
    server.models = {"demo": {1: ""}}
    model_registry.refresh()
    (replica,) = model_registry._replicas.all()
    model_registry._replicas.eject(replica, "it failed a call")
    server.bits = np.nan
    model_registry.refresh()
    assert model_registry.find("demo").ref.version == 1
    assert not replica.takes(ModelVersion("demo", 1))
    server.bits = 0.0
    model_registry.refresh()
    assert replica.takes(ModelVersion("demo", 1))


def test_row_counts_are_those_that_suit_every_server(tmp_path, monkeypatch):
    """Each server may find other counts to agree; a call may go to any of them."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    found = iter([Probe((8, 16, 32), "same"), Probe((16, 32, 64), "same")])
    monkeypatch.setattr("service.backends.prober.run_probe", lambda *_: next(found))
    assert fleet.model().batch_limits.batch_sizes == (16, 32)


def test_a_version_lives_while_one_server_has_it(tmp_path):
    """Servers load and unload in their own time."""
    fleet = Fleet(tmp_path, "a:1", "b:1")
    add(tmp_path, "demo", 2)
    fleet.servers["b:1"].models = {"demo": {1: "", 2: ""}}
    assert fleet.model().ref.version == 2
    assert fleet.replicas.num_servers(ModelVersion("demo", 1)) == 2
    assert fleet.replicas.num_servers(ModelVersion("demo", 2)) == 1
    fleet.servers["a:1"].models = fleet.servers["b:1"].models = {"demo": {2: ""}}
    fleet.model_registry.refresh()
    assert fleet.model_registry.find_version(ModelVersion("demo", 1)) is None
