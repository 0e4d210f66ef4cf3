"""Config drift: a backend that does not follow `models.config` for a minute is reported, a roll-out is not."""

import pytest

from service.backends.replicas import TOLERATED_S, ConfigDrift
from service.errors import BackendUnavailable
from tests.registries import LOADING, PolledRegistry, add, label, only


@pytest.fixture
def now(monkeypatch):
    """Replace the monotonic clock by the number in this list."""
    now = [1000.0]
    monkeypatch.setattr("service.backends.replicas.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def model_registry(server, two_versions):
    config = two_versions / "models.config"
    policy = 'base_path: "/models/demo" model_version_policy { latest { num_versions: 2 } }'
    config.write_text(config.read_text().replace('base_path: "/models/demo"', policy))
    model_registry = PolledRegistry(two_versions, only(server))
    model_registry.refresh()
    return model_registry


def reported(model_registry, now):
    """Refresh, and again after more than the tolerated time; return what is missing and what is unexpected."""
    model_registry.refresh()
    now[0] += TOLERATED_S + 1
    model_registry.refresh()
    (replica,) = model_registry._replicas.all()
    report = replica.drift.report()
    return None if report is None else (report["missing"], report["unexpected"])


def test_a_new_version_that_is_not_loaded_is_missing(model_registry, server, tmp_path, now):
    add(tmp_path, "demo", 3)
    assert reported(model_registry, now) == (["demo:3"], ["demo:1"])
    server.models["demo"] = {2: "", 3: ""}
    model_registry.refresh()
    (replica,) = model_registry._replicas.all()
    assert (replica.drift.report(), replica.drift.seconds()) == (None, 0)


@pytest.mark.parametrize(("error", "expected"), [("cannot be loaded", (["demo:2"], [])), (LOADING, None)])
def test_a_version_that_failed_is_missing_and_a_loading_one_is_not(model_registry, server, now, error, expected):
    """A large model takes more than a minute to load."""
    server.models["demo"] = {1: "", 2: error}
    assert reported(model_registry, now) == expected


def test_a_configured_model_that_the_backend_does_not_know_is_missing(model_registry, tmp_path, now):
    add(tmp_path, "other", 1)
    assert reported(model_registry, now) == (["other:1"], [])
    (tmp_path / "other").rename(tmp_path / "elsewhere")
    assert reported(model_registry, now) == (["other"], [])


def test_a_model_removed_from_the_config_is_unexpected_while_it_is_served(model_registry, server, tmp_path, now):
    """The health check polls it until the backend has unloaded it."""
    (tmp_path / "models.config").write_text("model_config_list {}")
    model_registry.refresh()
    assert reported(model_registry, now) == ([], ["demo:1", "demo:2"])
    server.models["demo"] = {1: "unloaded", 2: "unloaded"}
    assert reported(model_registry, now) is None
    (replica,) = model_registry._replicas.all()
    assert replica.delisted == frozenset()


def test_expected_versions_are_those_of_the_version_policy(model_registry, server, tmp_path, now):
    config = tmp_path / "models.config"
    config.write_text(config.read_text().replace("latest { num_versions: 2 }", "specific { versions: 1 versions: 9 }"))
    label(tmp_path, stable=1)
    assert reported(model_registry, now) == ([], ["demo:2"])
    server.models["demo"] = {1: ""}
    assert reported(model_registry, now) is None


def test_a_model_outside_the_repository_has_no_drift(model_registry, tmp_path, now):
    """The gateway does not see its directory."""
    config = tmp_path / "models.config"
    config.write_text(config.read_text().replace("/models/demo", "/mnt/other/demo"))
    add(tmp_path, "demo", 3)
    assert reported(model_registry, now) is None


def test_a_backend_that_does_not_answer_has_no_drift(model_registry, server, tmp_path, now):
    add(tmp_path, "demo", 3)
    assert reported(model_registry, now) is not None
    server.down = True
    model_registry.refresh()
    (replica,) = model_registry._replicas.all()
    assert (replica.drift.report(), replica.drift.seconds()) == (None, 0)
    with pytest.raises(BackendUnavailable):
        server.versions("demo")
    server.down = False
    model_registry.refresh()
    assert replica.drift.report() is None


def test_the_drift_of_a_model_that_a_key_may_not_use_is_not_reported_to_it(now):
    drift = ConfigDrift()
    for name in ("demo", "secret"):
        drift.note(name, [1], [2])
    now[0] += TOLERATED_S + 1
    own = {"seconds": TOLERATED_S + 1, "missing": ["demo:1"], "unexpected": ["demo:2"]}
    assert drift.report(lambda name: name == "demo") == own
    assert drift.report(lambda _: False) is None


def test_consecutive_roll_outs_are_no_drift(now):
    """Each difference has a minute of its own."""
    drift = ConfigDrift()
    for version in range(2, 12):
        drift.note("demo", [version - 1, version], [version - 2, version - 1])
        now[0] += TOLERATED_S / 2
        drift.note("demo", [version - 1, version], [version - 1, version])
    assert drift.report() is None
    drift.note("demo", [3], [3, 4])
    now[0] += TOLERATED_S + 1
    drift.note("demo", [3, 5], [3, 4])
    assert drift.report() == {"seconds": TOLERATED_S + 1, "missing": [], "unexpected": ["demo:4"]}
    assert drift.seconds() == TOLERATED_S + 1
