"""The manager with its thread, and a loader that needs no TensorFlow."""

import logging
import shutil
import threading

import pytest
from grpc import StatusCode

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig
from model_server.errors import ModelServerError
from model_server.manager import Manager
from tests.serving.client import states_of
from tests.waiting import until

LATEST = VersionPolicy(latest=1)


class Loaded:
    """A servable, as the loader returns it."""

    def __init__(self, name, version):
        self.name, self.version = name, version


class Loader:
    """A loader that records every attempt, fails for `broken` versions and blocks for `slow` ones."""

    def __init__(self):
        self.attempts, self.broken, self.slow = [], set(), set()
        self.release = threading.Event()

    def __call__(self, name, version, path):
        assert path.name == str(version)
        self.attempts.append((name, version))
        if version in self.slow:
            self.release.wait(20.0)
        if version in self.broken:
            raise ModelServerError(StatusCode.DATA_LOSS, f"version {version} is broken")
        return Loaded(name, version)


class Setup:
    """A manager and model directories."""

    def __init__(self, root):
        self.root = root
        self.loader = Loader()
        self.manager = None

    def start(self, *names, policy=LATEST, **options):
        options = {"poll_s": 0.02, "max_retries": 0, "retry_s": 0.01, **options}
        self.manager = Manager(self.loader, **options)
        self.manager.configure(self.config(*names or ("a",), policy=policy))
        self.manager.start()

    def serve(self, **options):
        """Publish version 1 of `a`, start, and wait until it is served."""
        self.put(1)
        self.start(**options)
        until(lambda: self.states() == {1: "AVAILABLE"})

    def config(self, *names, policy=LATEST, **labels):
        return {name: ModelConfig(name, self.root / name, policy, labels) for name in names}

    def put(self, *versions, name="a"):
        for version in versions:
            (self.root / name / f".{version}").mkdir(parents=True)
            (self.root / name / f".{version}" / "saved_model.pb").touch()
            (self.root / name / f".{version}").rename(self.root / name / str(version))

    def count_scans(self):
        """Record the models whose directories are scanned from now on, in a list that grows."""
        scans, scan = [], self.manager._scan
        self.manager._scan = lambda config: (scans.append(config.name), scan(config))[1]
        return scans

    def states(self, name="a"):
        """Return the states of a model's versions; empty if it has none."""
        try:
            return states_of(self.manager.statuses(name))
        except ModelServerError:
            return {}


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path)
    yield made
    made.loader.release.set()
    if made.manager:
        made.manager.stop(5.0)


@pytest.fixture
def labeled(setup):
    """Versions 2 and 10 of `a`; the label `stable` is of 2, and `gone` of a version that is gone. `empty` has none."""
    setup.put(2, 10)
    (setup.root / "empty").mkdir()
    setup.start("a", "empty", policy=VersionPolicy(), allow_unavailable_labels=True)
    until(lambda: setup.states() == {2: "AVAILABLE", 10: "AVAILABLE"})
    setup.manager.configure(setup.config("a", "empty", policy=VersionPolicy(), stable=2, gone=7))
    return setup


def test_what_is_not_served_has_tensorflow_servings_status_and_message(labeled):
    """Clients match on them. An unknown label is INVALID_ARGUMENT, unlike an unknown version."""
    for asked, code, text in (
        ({"name": "b"}, StatusCode.NOT_FOUND, "Servable not found for request: Latest(b)"),
        ({"name": "empty"}, StatusCode.NOT_FOUND, "Servable not found for request: Latest(empty)"),
        ({"name": "a", "version": 3}, StatusCode.NOT_FOUND, "Servable not found for request: Specific(a, 3)"),
        ({"name": "a", "label": "gone"}, StatusCode.NOT_FOUND, "Servable not found for request: Specific(a, 7)"),
        ({"name": "a", "label": "x"}, StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        ({"name": "b", "label": "x"}, StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        ({"name": ""}, StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    ):
        with pytest.raises(ModelServerError) as caught:
            labeled.manager.find(**asked)
        assert (caught.value.code, str(caught.value)) == (code, text)
    for asked, text in ((("b",), "any versions of model b"), (("a", 3), "version 3 of model a")):
        with pytest.raises(ModelServerError, match=f"^Could not find {text}$") as caught:
            labeled.manager.statuses(*asked)
        assert caught.value.code is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("label", "version", "allow", "is_allowed"),
    [
        ("stable", 10, False, True),
        ("new", 10, False, True),
        ("new", 3, False, False),
        ("new", 3, True, True),
        ("stable", 3, True, False),
        ("gone", 7, True, True),
        ("gone", 7, False, False),
    ],
)
def test_a_label_may_point_at_an_unavailable_version_only_when_allowed_and_new(
    labeled, label, version, allow, is_allowed
):
    """A label in use never moves to an unavailable version; the current config stays."""
    manager, before = labeled.manager, labeled.manager.config
    manager._allow_unavailable_labels = allow
    config = labeled.config("a", policy=VersionPolicy(), **{label: version})
    if is_allowed:
        manager.configure(config)
        assert manager.config is config
    else:
        with pytest.raises(ModelServerError, match=f"to version {version} of model a, which is not") as caught:
            manager.configure(config)
        assert (caught.value.code, manager.config) == (StatusCode.FAILED_PRECONDITION, before)


def test_a_missing_base_path_blocks_every_model_until_it_is_back(setup, caplog):
    for name in ("a", "b", "c"):
        setup.put(1, name=name)
    setup.start("a", "b", "c")
    until(lambda: all(setup.states(name) == {1: "AVAILABLE"} for name in ("a", "b", "c")))
    (setup.root / "b").rename(setup.root / "away")
    until(lambda: f"Could not find base path {setup.root / 'b'} for servable b" in caplog.text)
    setup.put(2)
    setup.put(2, name="c")
    scans = setup.count_scans()
    until(lambda: scans.count("b") > 2)
    assert [setup.states(name) for name in ("a", "b", "c")] == [{1: "AVAILABLE"}] * 3
    assert "c" not in scans
    (setup.root / "b").mkdir()
    until(lambda: [setup.states(name)[1] for name in ("a", "b", "c")] == ["END"] * 3)
    assert setup.states() == setup.states("c") == {2: "AVAILABLE", 1: "END"}


def test_the_old_version_is_served_while_the_new_one_loads_and_after_its_removal(setup):
    setup.serve()
    setup.loader.slow.add(2)
    setup.put(2)
    until(lambda: setup.states() == {2: "LOADING", 1: "AVAILABLE"})
    assert setup.manager.find("a").version == 1
    setup.loader.release.set()
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert setup.manager.find("a").version == 2
    shutil.rmtree(setup.root / "a" / "2")
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})


def test_a_version_that_fails_to_load_never_replaces_the_old_one(setup, caplog):
    setup.serve(max_retries=2)
    setup.loader.broken.add(2)
    setup.put(2)
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})
    assert setup.manager.find("a").version == 1
    (status,) = setup.manager.statuses("a", 2)
    assert status.status.error_code == StatusCode.DATA_LOSS.value[0]
    assert status.status.error_message == "version 2 is broken"
    assert setup.loader.attempts.count(("a", 2)) == 3
    assert caplog.messages[-1] == "a version 2 cannot be loaded, giving up: DATA_LOSS: version 2 is broken"


def test_an_unexpected_load_error_ends_only_that_version(setup):
    setup.serve()
    setup.loader.slow.add(2)
    setup.loader.release = None  # makes the loader raise AttributeError
    setup.put(2)
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})
    assert setup.manager.statuses("a", 2)[0].status.error_code == StatusCode.UNKNOWN.value[0]
    setup.loader.release = threading.Event()
    setup.put(3)
    until(lambda: setup.states().get(3) == "AVAILABLE")


def test_other_models_load_while_one_waits_for_its_retry(setup):
    setup.loader.broken.add(7)
    setup.put(7)
    setup.put(1, name="b")
    setup.start("a", "b", max_retries=5, retry_s=3600.0)
    until(lambda: (setup.states(), setup.states("b")) == ({7: "LOADING"}, {1: "AVAILABLE"}))
    # LOADING before its first attempt has failed, too.
    until(lambda: setup.manager.statuses("a")[0].status.error_message == "version 7 is broken")
    shutil.rmtree(setup.root / "a" / "7")
    until(lambda: setup.states() == {7: "END"})


def test_a_version_in_use_is_unloaded_when_its_last_reference_is_released(setup):
    setup.serve()
    held = setup.manager.find("a")
    setup.put(2)
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "UNLOADING"})
    with pytest.raises(ModelServerError, match="Servable not found"):
        setup.manager.find("a", 1)
    setup.put(3)
    until(lambda: setup.states() == {3: "AVAILABLE", 2: "END", 1: "UNLOADING"})
    assert held.version == 1
    del held
    until(lambda: setup.states() == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_each_problem_is_logged_once_and_again_when_it_recurs(setup, caplog):
    junk = setup.root / "a" / "notes.txt"
    setup.put(1)
    junk.touch()
    setup.start(policy=VersionPolicy(specific=frozenset({1, 9, 12})))
    scans = setup.count_scans()

    def warnings():
        return sorted(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)

    def pass_twice():
        seen = len(scans)
        until(lambda: len(scans) > seen + 2)

    pass_twice()
    once = [
        f"{junk}: not a version, its name is not a number",
        *(f"version {number} of a does not exist" for number in (9, 12)),
    ]
    assert warnings() == sorted(once)
    junk.unlink()
    pass_twice()
    junk.touch()
    pass_twice()
    assert warnings() == sorted([*once, once[0]])


def test_without_polling_directories_are_scanned_once_per_config(setup):
    """A version published later is loaded at the next change of the config."""
    setup.serve(poll_s=0)
    scans = setup.count_scans()
    setup.put(2)
    held = setup.manager.find("a")
    setup.put(5, name="b")
    setup.manager.configure(setup.config("b"))
    until(lambda: setup.states("b") == {5: "AVAILABLE"})
    assert setup.states() == {1: "UNLOADING"}
    del held
    until(lambda: setup.states() == {1: "END"})
    setup.manager.configure(setup.config("a", "b"))
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert scans == ["b", "a", "b"]


def test_a_reload_names_the_added_model_that_failed(setup):
    setup.loader.broken.add(7)
    setup.put(1)
    setup.put(7, name="b")
    setup.start()
    with pytest.raises(ModelServerError, match=r"^1 model\(s\) did not become available: .*b: version 7 is broken"):
        setup.manager.reload(setup.config("a", "b"), give_up=lambda: False)
    assert sorted(setup.manager.config) == ["a", "b"]


@pytest.mark.parametrize("directory", [True, False], ids=["empty", "missing"])
def test_a_reload_waits_for_a_model_without_versions_and_blocks_the_next(setup, directory):
    setup.put(1)
    setup.start()
    if directory:
        (setup.root / "b").mkdir()
    ended = []

    def reload(*names):
        setup.manager.reload(setup.config(*names), give_up=lambda: False)
        ended.append(names)

    first = threading.Thread(target=reload, args=("a", "b"), daemon=True)
    first.start()
    until(lambda: "b" in setup.manager.config)
    second = threading.Thread(target=reload, args=("a",), daemon=True)
    second.start()
    given_up = iter([False, False, True])
    setup.manager.reload(setup.config("a", "c"), give_up=lambda: next(given_up))
    assert (sorted(setup.manager.config), ended) == (["a", "b"], [])
    setup.put(3, name="b")
    until(lambda: len(ended) == 2)
    assert ended == [("a", "b"), ("a",)]


def test_a_reload_ends_when_its_client_cancels(setup):
    setup.put(1)
    setup.loader.slow.add(7)
    setup.put(7, name="b")
    setup.start()
    setup.manager.reload(setup.config("a", "b"), give_up=lambda: ("b", 7) in setup.loader.attempts)
    until(lambda: setup.states("b") == {7: "LOADING"})


def test_versions_are_listed_and_loaded_newest_first(setup, caplog):
    setup.put(1, 2, 10)
    setup.start(policy=VersionPolicy(latest=4))
    until(lambda: setup.states() == {1: "AVAILABLE", 2: "AVAILABLE", 10: "AVAILABLE"})
    assert [status.version for status in setup.manager.statuses("a")] == [10, 2, 1]
    assert setup.loader.attempts == [("a", 10), ("a", 2), ("a", 1)]
    assert "does not exist" not in caplog.text


def test_an_unexpected_error_of_a_scan_does_not_end_the_manager(setup, caplog):
    setup.serve()
    scan_all = setup.manager._scan_all

    def fail_once():
        setup.manager._scan_all = scan_all
        raise RuntimeError("a fault")

    setup.manager._scan_all = fail_once
    until(lambda: "unexpected error in the model manager" in caplog.messages)
    setup.put(2)
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
