"""The thread that polls version directories, with a loader that needs no TensorFlow."""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig
from model_server.errors import ModelsUnavailable, ServableNotFound, TensorFlowFailed
from model_server.lifecycle import State
from model_server.repository import Repository
from model_server.watcher import Watcher

Until = Callable[[Callable[[], object]], None]
LATEST = VersionPolicy(latest=1)


class Loaded:
    """A servable, as the loader returns it."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version


class Loader:
    """A loader that records every attempt, fails for `broken` versions and blocks for `slow` ones."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, int]] = []
        self.broken: set[int] = set()
        self.slow: set[int] = set()
        self.release = threading.Event()

    def __call__(self, name: str, version: int, path: Path) -> Loaded:
        """Load a version, or fail."""
        assert path.name == str(version)
        self.attempts.append((name, version))
        if version in self.slow:
            self.release.wait(20.0)
        if version in self.broken:
            raise TensorFlowFailed(grpc.StatusCode.DATA_LOSS, f"version {version} is broken")
        return Loaded(name, version)


class Setup:
    """A repository with its watcher and model directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loader = Loader()
        self.repository: Repository[Loaded] = Repository()
        self.watcher: Watcher[Loaded] | None = None

    def watch(self, *names: str, poll_s: float = 0.02, policy: VersionPolicy = LATEST, **retries: float) -> None:
        """Configure the models and start the watcher."""
        options = {"max_retries": 0, "retry_s": 0.01} | retries
        self.watcher = Watcher(self.repository, self.loader, poll_s=poll_s, **options)
        self.configure(*names or ("a",), policy=policy)
        self.watcher.start()

    def config(self, *names: str, policy: VersionPolicy = LATEST) -> dict[str, ModelConfig]:
        """Return a config of these models."""
        return {name: ModelConfig(name, self.root / name, policy, {}) for name in names}

    def configure(self, *names: str, policy: VersionPolicy = LATEST) -> None:
        """Apply a config."""
        self.repository.configure(self.config(*names, policy=policy))

    def put(self, *versions: int, name: str = "a") -> None:
        """Publish versions."""
        for version in versions:
            (self.root / name / f".{version}").mkdir(parents=True)
            (self.root / name / f".{version}" / "saved_model.pb").touch()
            (self.root / name / f".{version}").rename(self.root / name / str(version))

    def count_looks(self) -> list[str]:
        """Record the models whose directories are scanned, in a list that grows."""
        looks: list[str] = []
        update = self.repository.update_versions
        self.repository.update_versions = lambda config, paths: (update(config, paths), looks.append(config.name))
        return looks

    def states(self, name: str = "a") -> dict[int, str]:
        """Return the states of a model's versions; empty if it has none."""
        try:
            return {status.number: status.state.name for status in self.repository.statuses(name)}
        except ServableNotFound:
            return {}


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Provide a `Setup`, and stop its watcher after the test."""
    made = Setup(tmp_path)
    yield made
    made.loader.release.set()
    if made.watcher:
        made.watcher.stop(5.0)


def test_a_new_version_replaces_the_old_one(setup: Setup, until: Until):
    """The old one is END and stays in the history."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.put(2)
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert setup.repository.find("a").version == 2


def test_a_removed_version_is_unloaded_and_the_previous_one_is_loaded(setup: Setup, until: Until):
    """Deleting the directory is a rollback."""
    setup.put(1, 2)
    setup.watch()
    until(lambda: setup.states() == {2: "AVAILABLE"})
    shutil.rmtree(setup.root / "a" / "2")
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})


def test_a_missing_base_path_blocks_every_model_until_it_is_back(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """No version is loaded or unloaded, wherever the model stands in the config. An empty directory ends this."""
    for name in ("a", "b", "c"):
        setup.put(1, name=name)
    setup.watch("a", "b", "c")
    until(lambda: all(setup.states(name) == {1: "AVAILABLE"} for name in ("a", "b", "c")))
    (setup.root / "b").rename(setup.root / "away")
    until(lambda: f"Could not find base path {setup.root / 'b'} for servable b" in caplog.text)
    setup.put(2)
    setup.put(2, name="c")
    looks, scan_config = [], setup.watcher._scan
    setup.watcher._scan = lambda config: (looks.append(config.name), scan_config(config))[1]
    until(lambda: looks.count("b") > 2)
    assert [setup.states(name) for name in ("a", "b", "c")] == [{1: "AVAILABLE"}] * 3
    assert "c" not in looks
    (setup.root / "b").mkdir()
    until(lambda: [setup.states(name)[1] for name in ("a", "b", "c")] == ["END"] * 3)
    assert setup.states() == setup.states("c") == {2: "AVAILABLE", 1: "END"}


def test_the_old_version_is_served_while_the_new_one_loads(setup: Setup, until: Until):
    """Lookups return the old one until the new one is AVAILABLE."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.loader.slow.add(2)
    setup.put(2)
    until(lambda: setup.states() == {2: "LOADING", 1: "AVAILABLE"})
    assert setup.repository.find("a").version == 1
    setup.loader.release.set()
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})


def test_a_version_that_fails_to_load_never_replaces_the_old_one(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """It is retried `max_retries` times and ends with the error in its status."""
    setup.put(1)
    setup.watch(max_retries=2)
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.loader.broken.add(2)
    setup.put(2)
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})
    assert setup.repository.find("a").version == 1
    assert setup.repository.statuses("a", 2)[0][2:] == (grpc.StatusCode.DATA_LOSS, "version 2 is broken")
    assert setup.loader.attempts.count(("a", 2)) == 3
    assert caplog.messages[-1] == "a version 2 cannot be loaded, giving up: DATA_LOSS: version 2 is broken"


def test_an_unexpected_load_error_ends_only_that_version(setup: Setup, until: Until):
    """Its status is UNKNOWN, and the watcher loads the next version."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.loader.slow.add(2)
    setup.loader.release = None  # makes the loader raise AttributeError
    setup.put(2)
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})
    assert setup.repository.statuses("a", 2)[0].code is grpc.StatusCode.UNKNOWN
    setup.loader.release = threading.Event()
    setup.put(3)
    until(lambda: setup.states().get(3) == "AVAILABLE")


def test_other_models_load_while_one_waits_for_its_retry(setup: Setup, until: Until):
    """The broken version stays LOADING until its directory is deleted."""
    setup.loader.broken.add(7)
    setup.put(7)
    setup.put(1, name="b")
    setup.watch("a", "b", max_retries=5, retry_s=3600.0)
    until(lambda: (setup.states(), setup.states("b")) == ({7: "LOADING"}, {1: "AVAILABLE"}))
    # LOADING before its first attempt has failed, too.
    until(lambda: setup.repository.statuses("a")[0].message == "version 7 is broken")
    shutil.rmtree(setup.root / "a" / "7")
    until(lambda: setup.states() == {7: "END"})


def test_a_version_in_use_is_unloaded_when_its_last_reference_is_released(setup: Setup, until: Until):
    """Lookups no longer find it, but a call that holds it may finish."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    held = setup.repository.find("a")
    setup.put(2)
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "UNLOADING"})
    with pytest.raises(ServableNotFound):
        setup.repository.find("a", 1)
    setup.put(3)
    until(lambda: setup.states() == {3: "AVAILABLE", 2: "END", 1: "UNLOADING"})
    assert held.version == 1
    del held
    until(lambda: setup.states() == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_each_problem_is_logged_once_and_again_when_it_recurs(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """Not once per poll."""
    looks = setup.count_looks()
    junk = setup.root / "a" / "notes.txt"
    setup.put(1)
    junk.touch()
    setup.watch(policy=VersionPolicy(specific=frozenset({1, 9, 12})))

    def warnings() -> list[str]:
        return sorted(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)

    def pass_twice() -> None:
        seen = len(looks)
        until(lambda: len(looks) >= seen + 2)

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


def test_without_polling_directories_are_scanned_once_per_config(setup: Setup, until: Until):
    """A version published later is loaded at the next change of the config."""
    looks = setup.count_looks()
    setup.put(1)
    setup.watch(poll_s=0)
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.put(2)
    held = setup.repository.find("a")
    setup.put(5, name="b")
    setup.configure("b")
    until(lambda: setup.states("b") == {5: "AVAILABLE"})
    assert setup.states() == {1: "UNLOADING"}
    del held
    until(lambda: setup.states() == {1: "END"})
    setup.configure("a", "b")
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    until(lambda: len(looks) >= 4)
    assert looks == ["a", "b", "a", "b"]


def test_a_reload_waits_for_the_models_it_adds(setup: Setup, until: Until):
    """They are served when it returns; models that it removes are unloaded afterwards."""
    setup.put(1)
    setup.put(3, name="b")
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.repository.reload(setup.config("b"), give_up=lambda: False)
    assert setup.states("b") == {3: "AVAILABLE"}
    until(lambda: setup.states() == {1: "END"})


def test_a_reload_names_the_added_model_that_failed(setup: Setup):
    """The config is applied all the same."""
    setup.loader.broken.add(7)
    setup.put(1)
    setup.put(7, name="b")
    setup.watch()
    with pytest.raises(ModelsUnavailable, match=r"^1 model\(s\) did not become available: .*b: version 7 is broken"):
        setup.repository.reload(setup.config("a", "b"), give_up=lambda: False)
    assert sorted(setup.repository.config) == ["a", "b"]


@pytest.mark.parametrize("directory", [True, False], ids=["empty", "missing"])
def test_a_reload_waits_for_a_model_without_versions_and_blocks_the_next(setup: Setup, until: Until, directory: bool):
    """As in TensorFlow Serving's ServerCore. Once a version is published, both reloads finish, in order."""
    setup.put(1)
    setup.watch()
    if directory:
        (setup.root / "b").mkdir()
    ended = []

    def reload(*names: str) -> None:
        setup.repository.reload(setup.config(*names), give_up=lambda: False)
        ended.append(names)

    first = threading.Thread(target=reload, args=("a", "b"), daemon=True)
    first.start()
    until(lambda: "b" in setup.repository.config)
    second = threading.Thread(target=reload, args=("a",), daemon=True)
    second.start()
    given_up = iter([False, False, True])
    setup.repository.reload(setup.config("a", "c"), give_up=lambda: next(given_up))
    assert (sorted(setup.repository.config), ended) == (["a", "b"], [])
    setup.put(3, name="b")
    until(lambda: len(ended) == 2)
    assert ended == [("a", "b"), ("a",)]


def test_a_reload_ends_when_its_client_cancels(setup: Setup, until: Until):
    """This frees its thread, although the model is still loading."""
    setup.put(1)
    setup.loader.slow.add(7)
    setup.put(7, name="b")
    setup.watch()
    setup.repository.reload(setup.config("a", "b"), give_up=lambda: ("b", 7) in setup.loader.attempts)
    until(lambda: setup.states("b") == {7: "LOADING"})


def test_the_status_of_an_unknown_model_or_version_is_not_found(setup: Setup, until: Until):
    """The messages are TensorFlow Serving's."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    with pytest.raises(ServableNotFound, match=r"^Could not find any versions of model b$"):
        setup.repository.statuses("b")
    with pytest.raises(ServableNotFound, match=r"^Could not find version 2 of model a$"):
        setup.repository.statuses("a", 2)
    assert [status.state for status in setup.repository.statuses("a", 1)] == [State.AVAILABLE]


def test_versions_are_listed_and_loaded_newest_first(setup: Setup, until: Until, caplog: pytest.LogCaptureFixture):
    """As in TensorFlow Serving. There may be fewer than the policy asks for."""
    setup.put(1, 2, 10)
    setup.watch(policy=VersionPolicy(latest=4))
    until(lambda: setup.states() == {1: "AVAILABLE", 2: "AVAILABLE", 10: "AVAILABLE"})
    assert [status.number for status in setup.repository.statuses("a")] == [10, 2, 1]
    assert setup.loader.attempts == [("a", 10), ("a", 2), ("a", 1)]
    assert "does not exist" not in caplog.text


def test_a_watcher_that_was_never_started_can_be_stopped(setup: Setup):
    """So a server whose start failed can be stopped like any other."""
    Watcher(setup.repository, setup.loader, poll_s=1, max_retries=0, retry_s=1).stop(1.0)


def test_an_unexpected_error_of_a_scan_does_not_end_the_watcher(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """It is logged, and later versions are loaded."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    scan_all = setup.watcher._scan_all

    def fail_once() -> None:
        setup.watcher._scan_all = scan_all
        raise RuntimeError("a fault")

    setup.watcher._scan_all = fail_once
    setup.put(2)
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert "unexpected error in the model watcher" in caplog.messages
