"""The thread that follows the folders, with a loader that needs no TensorFlow."""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from model_server.config import ModelConfig
from model_server.errors import ModelsUnavailable, ServableNotFound, TensorFlowFailed
from model_server.lifecycle import State
from model_server.repository import Repository
from model_server.versions import Latest, Policy, Specific
from model_server.watcher import Watcher

Until = Callable[[Callable[[], object]], None]
LATEST = Latest()


class Loaded:
    """What the loader returns."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version


class Loader:
    """Records every attempt; fails or blocks where it is told to."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, int]] = []
        self.broken: set[int] = set()
        self.slow: set[int] = set()
        self.release = threading.Event()

    def __call__(self, name: str, version: int, path: Path) -> Loaded:
        """Load a version, or not."""
        assert path.name == str(version)
        self.attempts.append((name, version))
        if version in self.slow:
            self.release.wait(20.0)
        if version in self.broken:
            raise TensorFlowFailed(grpc.StatusCode.DATA_LOSS, f"version {version} is broken")
        return Loaded(name, version)


class Setup:
    """A repository, its watcher and its folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loader = Loader()
        self.repository: Repository[Loaded] = Repository()
        self.watcher: Watcher[Loaded] | None = None

    def watch(self, *names: str, poll_s: float = 0.02, policy: Policy = LATEST, **retries: float) -> None:
        """Configure the models and start."""
        options = {"max_retries": 0, "retry_s": 0.01} | retries
        self.watcher = Watcher(self.repository, self.loader, poll_s=poll_s, **options)
        self.configure(*names or ("a",), policy=policy)
        self.watcher.start()

    def config(self, *names: str, policy: Policy = LATEST) -> dict[str, ModelConfig]:
        """Return a config of these models."""
        return {name: ModelConfig(name, self.root / name, policy, {}) for name in names}

    def configure(self, *names: str, policy: Policy = LATEST) -> None:
        """Put a config in force."""
        self.repository.configure(self.config(*names, policy=policy))

    def put(self, *versions: int, name: str = "a") -> None:
        """Publish versions."""
        for version in versions:
            (self.root / name / f".{version}").mkdir(parents=True)
            (self.root / name / f".{version}" / "saved_model.pb").touch()
            (self.root / name / f".{version}").rename(self.root / name / str(version))

    def count_looks(self) -> list[str]:
        """Return the models whose folders have been looked at, a list that grows."""
        looks: list[str] = []
        update = self.repository.update_versions
        self.repository.update_versions = lambda config, paths: (update(config, paths), looks.append(config.name))
        return looks

    def states(self, name: str = "a") -> dict[int, str]:
        """Return the state of each version, nothing for a model that has none."""
        try:
            return {status.number: status.state.name for status in self.repository.statuses(name)}
        except ServableNotFound:
            return {}


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Stop what the test has started."""
    made = Setup(tmp_path)
    yield made
    made.loader.release.set()
    if made.watcher:
        made.watcher.stop(5.0)


def test_a_new_version_takes_the_place_of_the_old_one(setup: Setup, until: Until):
    """The old one ends, and its number stays in the history."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.put(2)
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert setup.repository.find("a").version == 2


def test_a_version_that_vanishes_is_unloaded_and_the_one_before_comes_back(setup: Setup, until: Until):
    """Deleting the folder is a rollback."""
    setup.put(1, 2)
    setup.watch()
    until(lambda: setup.states() == {2: "AVAILABLE"})
    shutil.rmtree(setup.root / "a" / "2")
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})


def test_a_base_path_that_vanishes_holds_up_every_model_until_it_is_back(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """Nothing is unloaded and nothing loaded, wherever in the config it stands; an empty directory is enough."""
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


def test_lookups_go_on_while_a_version_loads(setup: Setup, until: Until):
    """The old version answers until the new one is ready."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.loader.slow.add(2)
    setup.put(2)
    until(lambda: setup.states() == {2: "LOADING", 1: "AVAILABLE"})
    assert setup.repository.find("a").version == 1
    setup.loader.release.set()
    until(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})


def test_a_broken_version_ends_with_its_error_and_never_takes_over(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """The old one is served, the status tells why, and it was tried as often as allowed."""
    setup.put(1)
    setup.watch(max_retries=2)
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.loader.broken.add(2)
    setup.put(2)
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})
    assert setup.repository.find("a").version == 1
    assert setup.repository.statuses("a", 2)[0][2:] == (grpc.StatusCode.DATA_LOSS, "version 2 is broken")
    assert setup.loader.attempts.count(("a", 2)) == 3
    assert caplog.messages[-1] == "a version 2 cannot be loaded, given up: DATA_LOSS: version 2 is broken"


def test_an_error_that_nobody_foresaw_is_the_versions_own(setup: Setup, until: Until):
    """The thread goes on, and the version's status is UNKNOWN."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.put(2)
    setup.loader.slow.add(2)
    setup.loader.release = None  # makes the loader raise AttributeError
    until(lambda: setup.states() == {2: "END", 1: "AVAILABLE"})
    assert setup.repository.statuses("a", 2)[0].code is grpc.StatusCode.UNKNOWN
    setup.loader.release = threading.Event()
    setup.put(3)
    until(lambda: setup.states().get(3) == "AVAILABLE")


def test_other_models_load_while_one_waits_for_its_next_attempt(setup: Setup, until: Until):
    """A broken model holds up nobody but those who wait for it."""
    setup.loader.broken.add(7)
    setup.put(7)
    setup.put(1, name="b")
    setup.watch("a", "b", max_retries=5, retry_s=3600.0)
    until(lambda: (setup.states(), setup.states("b")) == ({7: "LOADING"}, {1: "AVAILABLE"}))
    assert setup.repository.statuses("a")[0].message == "version 7 is broken"
    shutil.rmtree(setup.root / "a" / "7")
    until(lambda: setup.states() == {7: "END"})


def test_a_version_that_is_in_use_unloads_when_its_last_user_lets_go(setup: Setup, until: Until):
    """It is not found any more, but whoever holds it may finish."""
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


def test_each_problem_is_logged_once_and_again_when_it_comes_back(
    setup: Setup, until: Until, caplog: pytest.LogCaptureFixture
):
    """Not once for each look at the folder."""
    looks = setup.count_looks()
    junk = setup.root / "a" / "notes.txt"
    setup.put(1)
    junk.touch()
    setup.watch(policy=Specific(frozenset({1, 9})))

    def warnings() -> list[str]:
        return sorted(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)

    def pass_twice() -> None:
        seen = len(looks)
        until(lambda: len(looks) >= seen + 2)

    pass_twice()
    once = [f"{junk}: not a version, its name is not a number", "version 9 of a does not exist"]
    assert warnings() == sorted(once)
    junk.unlink()
    pass_twice()
    junk.touch()
    pass_twice()
    assert warnings() == sorted([*once, once[0]])


def test_without_polling_the_folders_are_looked_at_once_for_each_config(setup: Setup, until: Until):
    """A version that comes later is seen at the next change of the config."""
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


def test_a_reload_waits_for_the_models_that_it_adds(setup: Setup, until: Until):
    """When it returns they are served; those that it leaves out go."""
    setup.put(1)
    setup.put(3, name="b")
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    setup.repository.reload(setup.config("b"), give_up=lambda: False)
    assert setup.states("b") == {3: "AVAILABLE"}
    until(lambda: setup.states() == {1: "END"})


def test_a_reload_tells_which_new_model_did_not_come(setup: Setup):
    """The config is in force all the same."""
    setup.loader.broken.add(7)
    setup.put(1)
    setup.put(7, name="b")
    setup.watch()
    with pytest.raises(ModelsUnavailable, match=r"^1 model\(s\) did not become available: .*b: version 7 is broken"):
        setup.repository.reload(setup.config("a", "b"), give_up=lambda: False)
    assert sorted(setup.repository.config) == ["a", "b"]


@pytest.mark.parametrize("directory", [True, False], ids=["empty", "missing"])
def test_a_reload_waits_for_a_new_model_without_versions_and_holds_up_the_next(
    setup: Setup, until: Until, directory: bool
):
    """As ServerCore does; a version ends it, and then the next one takes its turn."""
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


def test_a_reload_that_nobody_waits_for_any_more_ends(setup: Setup, until: Until):
    """A client that hangs up frees its thread, whatever is still loading."""
    setup.put(1)
    setup.loader.slow.add(7)
    setup.put(7, name="b")
    setup.watch()
    setup.repository.reload(setup.config("a", "b"), give_up=lambda: ("b", 7) in setup.loader.attempts)
    until(lambda: setup.states("b") == {7: "LOADING"})


def test_the_status_of_what_was_never_seen_is_not_found(setup: Setup, until: Until):
    """The texts are TensorFlow Serving's."""
    setup.put(1)
    setup.watch()
    until(lambda: setup.states() == {1: "AVAILABLE"})
    with pytest.raises(ServableNotFound, match=r"^Could not find any versions of model b$"):
        setup.repository.statuses("b")
    with pytest.raises(ServableNotFound, match=r"^Could not find version 2 of model a$"):
        setup.repository.statuses("a", 2)
    assert [status.state for status in setup.repository.statuses("a", 1)] == [State.AVAILABLE]


def test_versions_are_told_from_the_newest_to_the_oldest(setup: Setup, until: Until):
    """As TensorFlow Serving does."""
    setup.put(1, 2, 10)
    setup.watch(policy=Latest(3))
    until(lambda: setup.states() == {1: "AVAILABLE", 2: "AVAILABLE", 10: "AVAILABLE"})
    assert [status.number for status in setup.repository.statuses("a")] == [10, 2, 1]
    assert setup.loader.attempts == [("a", 10), ("a", 2), ("a", 1)]


def test_a_watcher_that_was_never_started_can_be_stopped(setup: Setup):
    """So a server whose start failed can be stopped like any other."""
    Watcher(setup.repository, setup.loader, poll_s=1, max_retries=0, retry_s=1).stop(1.0)
