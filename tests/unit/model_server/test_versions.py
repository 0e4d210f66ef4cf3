"""Version directories, and the way of a model's versions to being served, replaced, failed or removed."""

from itertools import chain, combinations
from pathlib import Path

import pytest
from grpc import StatusCode

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig
from model_server.versions import END, LOADING, START, UNLOADING, Model, scan


def put(base, name):
    (base / name).mkdir()
    (base / name / "saved_model.pb").touch()


@pytest.mark.parametrize(
    ("names", "versions", "ignored"),
    [
        (["0", "00000123"], {0: "0", 123: "00000123"}, []),
        (["01", "1"], {1: "1"}, ["01: skipped, 1 is the same version"]),
        ([".draft-0123"], {}, []),  # of the exporter
        *(
            ([name], {}, [f"{name}: not a version, its name is not a number"])
            for name in ("2.tmp", "v2", "-2", "2 ", "+2", "²", "1e3", str(2**63))
        ),
    ],
    ids=str,
)
def test_a_version_is_a_directory_with_a_number_and_a_saved_model(tmp_path, names, versions, ignored):
    """The number may be 0 or have leading zeros; a hidden entry is skipped without a report."""
    for name in names:
        put(tmp_path, name)
    found = {number: tmp_path / name for number, name in versions.items()}
    assert scan(tmp_path) == (found, [f"{tmp_path}/{problem}" for problem in ignored])


def test_an_unreadable_version_does_not_hide_the_others(tmp_path, monkeypatch):
    put(tmp_path, "1")
    put(tmp_path, "2")
    is_file = Path.is_file

    def guarded(path):
        if path.parent.name == "2":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", guarded)
    assert scan(tmp_path) == ({1: tmp_path / "1"}, [f"{tmp_path / '2'}: Permission denied"])


def test_a_file_or_a_directory_without_a_saved_model_is_skipped(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "4").touch()
    versions, ignored = scan(tmp_path)
    assert (versions, len(ignored)) == ({}, 2)


def test_a_missing_base_path_is_an_error_and_not_empty(tmp_path):
    """A volume that is briefly gone must not unload any version."""
    with pytest.raises(OSError, match="No such file"):
        scan(tmp_path / "absent")


def test_a_base_path_that_disappears_during_a_scan_is_an_error(tmp_path, monkeypatch):
    base, is_file = tmp_path / "b", Path.is_file
    base.mkdir()
    put(base, "1")

    def rename(path):
        if base.exists():
            base.rename(tmp_path / "away")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", rename)
    with pytest.raises(OSError, match="No such file"):
        scan(base)


def model(policy=VersionPolicy(latest=1)):  # noqa: B008 - frozen
    return Model("a", ModelConfig("a", Path("/m"), policy, {}))


def find(a, *numbers):
    a.update_versions({number: Path("/m") / str(number) for number in numbers})


def serve(a, number):
    a.versions[number].serve(f"servable {number}")


def step(a, now=0.0):
    found = a.next_step(now)
    return found and (found[0], found[1].number)


def test_a_failed_load_is_retried_when_it_is_due_and_not_before():
    a = model()
    find(a, 1)
    a.versions[1].state = LOADING
    a.versions[1].fail(StatusCode.DATA_LOSS, "torn", retry_at=100.0)
    assert step(a, now=99.9) is None
    assert a.next_due() == 100.0
    assert step(a, now=100.0) == ("load", 1)
    assert (a.versions[1].state, a.versions[1].message, a.is_settled) == (LOADING, "torn", False)
    serve(a, 1)
    assert (a.versions[1].code, a.versions[1].message, a.next_due()) == (StatusCode.OK, "", float("inf"))


def test_a_version_that_failed_for_good_is_loaded_again_only_after_it_was_gone():
    a = model()
    find(a, 1)
    a.versions[1].fail(StatusCode.DATA_LOSS, "torn", retry_at=None)
    find(a, 1)
    assert step(a, now=1e9) is None
    assert (a.versions[1].state, a.versions[1].code, a.is_settled) == (END, StatusCode.DATA_LOSS, True)
    find(a)
    find(a, 1)
    assert step(a) == ("load", 1)
    assert (a.versions[1].state, a.versions[1].message) == (START, "")


def test_an_unloading_version_is_loaded_again_when_aspired_again():
    """Deleting the newest directory rolls back to the previous version."""
    a = model()
    find(a, 1)
    serve(a, 1)
    find(a, 1, 2)
    serve(a, 2)
    assert step(a) == ("unload", 1)
    a.versions[1].state, a.versions[1].servable = UNLOADING, None
    find(a, 1)
    assert step(a) == ("load", 1)


def test_a_version_aspired_again_before_its_unload_stays_available():
    a = model()
    find(a, 1)
    serve(a, 1)
    find(a, 1, 2)
    find(a, 1)
    assert step(a) is None
    assert a.served() == {1: "servable 1"}


def test_the_retry_of_a_removed_version_is_cancelled():
    """A broken version whose directory is deleted ends as CANCELLED; start and reload wait for it no longer."""
    a = model()
    find(a, 1)
    a.versions[1].fail(StatusCode.DATA_LOSS, "torn", retry_at=100.0)
    find(a)
    assert step(a, now=1e9) is None
    assert (a.versions[1].state, a.versions[1].code, a.is_settled) == (END, StatusCode.CANCELLED, True)


def test_a_model_removed_from_the_config_is_unloaded_and_keeps_its_history():
    """GetModelStatus can still report its versions."""
    a = model(VersionPolicy())
    find(a, 1, 2, 3)
    serve(a, 1)
    serve(a, 2)
    a.configure(None)
    assert step(a) == ("unload", 1)
    a.versions[1].state, a.versions[1].servable = UNLOADING, None
    assert step(a) == ("unload", 2)
    assert sorted(a.versions) == [1, 2, 3]
    assert a.versions[3].state is END


def test_a_model_is_settled_once_it_has_a_version_and_none_left_to_load():
    """Start and reload wait for this. Versions under an earlier config do not count."""
    a = model()
    for _ in range(2):
        find(a)
        assert not a.is_settled
        find(a, 1)
        assert not a.is_settled
        serve(a, 1)
        assert a.is_settled
        a.configure(None)
        a.versions[1].state = END
        a.configure(model().config)


def in_transition(aspired, available):
    """Return a model that serves some versions while others are aspired."""
    a = model(VersionPolicy(specific=frozenset(available)))
    find(a, *available)
    for number in available:
        serve(a, number)
    a.config = model(VersionPolicy(specific=frozenset(aspired))).config
    find(a, 1, 2, 3)
    return a


@pytest.mark.parametrize(
    ("aspired", "available", "failed", "expected"),
    [
        pytest.param({2}, {1}, set(), ("load", 2), id="new before old goes"),
        pytest.param({2}, {1, 2}, set(), ("unload", 1), id="old goes when new is there"),
        pytest.param({2}, {1}, {2}, None, id="old stays when new failed"),
        pytest.param({3}, {1, 2}, set(), ("unload", 1), id="one old is enough"),
        pytest.param({2, 3}, {1, 2}, set(), ("unload", 1), id="old goes while another aspired one serves"),
        pytest.param({1, 2}, set(), set(), ("load", 2), id="newest first"),
        pytest.param(set(), {1}, set(), ("unload", 1), id="everything goes when nothing is aspired"),
        pytest.param({1}, {1}, set(), None, id="at rest"),
    ],
)
def test_the_next_step_preserves_availability(aspired, available, failed, expected):
    a = in_transition(aspired, available)
    for number in failed:
        a.versions[number].fail(StatusCode.DATA_LOSS, "torn", retry_at=None)
    assert step(a) == expected


def subsets(items):
    return [frozenset(chosen) for chosen in chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))]


def test_some_version_is_served_throughout_every_transition():
    """Whichever loads fail: in the end the aspired versions that load are served, else the newest of the old ones."""
    for aspired in subsets({1, 2, 3}):
        for before in subsets({1, 2, 3}):
            for broken in subsets(aspired - before):
                a = in_transition(aspired, before)
                while found := a.next_step(0.0):
                    action, version = found
                    if action == "unload":
                        version.state, version.servable = END, None
                    elif version.number in broken:
                        version.fail(StatusCode.DATA_LOSS, "torn", retry_at=None)
                    else:
                        serve(a, version.number)
                    assert a.served() or not before or not aspired
                good = aspired - broken
                assert a.served().keys() == (good or (({max(before)} if before else set()) if aspired else set()))
