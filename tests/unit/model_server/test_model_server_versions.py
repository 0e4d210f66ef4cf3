"""Version directories and steps."""

from collections.abc import Set
from itertools import chain, combinations
from pathlib import Path

import pytest

from model_server.versions import Step, next_step, scan


def put(base: Path, name: str, file: str = "saved_model.pb") -> None:
    """Create a version directory with one file."""
    (base / name).mkdir()
    (base / name / file).touch()


def test_a_version_is_a_directory_with_a_number_and_a_saved_model(tmp_path: Path):
    """The SavedModel may be binary or text; the number may be 0 or have leading zeros."""
    put(tmp_path, "0")
    put(tmp_path, "00000123")
    put(tmp_path, "7", "saved_model.pbtxt")
    found = scan(tmp_path)
    assert found.versions == {0: tmp_path / "0", 123: tmp_path / "00000123", 7: tmp_path / "7"}
    assert found.problems == ()


@pytest.mark.parametrize("name", ["2.tmp", "v2", "-2", "2 ", "+2", "²", "1e3", str(2**63)])
def test_a_directory_whose_name_is_not_a_number_is_skipped(tmp_path: Path, name: str):
    """It is reported by name."""
    put(tmp_path, name)
    found = scan(tmp_path)
    assert found.versions == {}
    assert [name in problem for problem in found.problems] == [True]


@pytest.mark.parametrize("name", [".2.tmp", ".draft-0123", ".last-removed"])
def test_a_hidden_entry_is_skipped_without_a_report(tmp_path: Path, name: str):
    """The exporter has files there, such as the draft of the next version."""
    put(tmp_path, name)
    assert scan(tmp_path).problems == ()


def test_an_unreadable_version_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It may belong to another user."""
    put(tmp_path, "1")
    put(tmp_path, "2")
    is_file = Path.is_file

    def guarded(path: Path) -> bool:
        if path.parent.name == "2":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", guarded)
    found = scan(tmp_path)
    assert found.versions == {1: tmp_path / "1"}
    assert found.problems == (f"{tmp_path / '2'}: Permission denied",)


def test_a_file_or_a_directory_without_a_saved_model_is_skipped(tmp_path: Path):
    """Such a directory may be one that is still being copied."""
    (tmp_path / "3").mkdir()
    (tmp_path / "4").touch()
    (tmp_path / "notes.txt").touch()
    found = scan(tmp_path)
    assert found.versions == {}
    assert len(found.problems) == 3


def test_of_two_directories_with_one_number_the_last_by_name_is_used(tmp_path: Path):
    """The other is reported."""
    put(tmp_path, "01")
    put(tmp_path, "1")
    found = scan(tmp_path)
    assert found.versions == {1: tmp_path / "1"}
    assert found.problems == (f"{tmp_path / '01'}: skipped, 1 is the same version",)


def test_a_missing_base_path_is_an_error_and_not_empty(tmp_path: Path):
    """A volume that is briefly gone must not unload any version."""
    with pytest.raises(OSError, match="No such file"):
        scan(tmp_path / "absent")


def test_a_base_path_that_disappears_during_a_scan_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its versions look incomplete then."""
    base, is_file = tmp_path / "b", Path.is_file
    base.mkdir()
    put(base, "1")

    def rename(path: Path) -> bool:
        if base.exists():
            base.rename(tmp_path / "away")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", rename)
    with pytest.raises(OSError, match="No such file"):
        scan(base)


@pytest.mark.parametrize(
    ("wanted", "available", "loadable", "step"),
    [
        ({2}, {1}, {2}, Step("load", 2)),
        ({2}, {1, 2}, set(), Step("unload", 1)),
        ({2}, {1}, set(), None),
        ({3}, {1, 2}, {3}, Step("unload", 1)),
        ({2, 3}, {1, 2}, {3}, Step("unload", 1)),
        ({1, 2}, set(), {1, 2}, Step("load", 2)),
        (set(), {1}, set(), Step("unload", 1)),
        ({1}, {1}, set(), None),
    ],
    ids=[
        "new before old goes",
        "old goes when new is there",
        "old stays when new failed",
        "one old is enough",
        "old goes while another wanted one serves",
        "newest first",
        "everything goes when nothing is wanted",
        "at rest",
    ],
)
def test_the_next_step_preserves_availability(
    wanted: set[int], available: set[int], loadable: set[int], step: Step | None
):
    """A new version is loaded before the last old one is unloaded, and at most one old one is kept."""
    assert next_step(wanted, available, loadable) == step


def _subsets(items: Set[int]) -> list[frozenset[int]]:
    return [frozenset(chosen) for chosen in chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))]


def test_some_version_is_served_throughout_every_transition():
    """Whichever loads fail: in the end the aspired versions that load are served, else the newest of the old ones."""
    for wanted in _subsets({1, 2, 3}):
        for before in _subsets({1, 2, 3}):
            for broken in _subsets(wanted - before):
                available, loadable = set(before), set(wanted - before)
                while step := next_step(wanted, available, loadable):
                    if step.action == "unload":
                        available.remove(step.version)
                    else:
                        loadable.remove(step.version)
                        available |= {step.version} - broken
                    assert available or not before or not wanted
                good = wanted - broken
                assert available == (good or (({max(before)} if before else set()) if wanted else set()))
