"""`remove` deletes exactly the versions that were confirmed, and model servers never see a partial version."""

import io
import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.cli import program
from export.repository import removal
from export.repository import versions as versions_module
from export.repository.models_config import add_to_models_config, read_entries
from export.repository.versions import LAST_REMOVED_FILE, next_version
from tests.commands import main
from tests.unit.export.repository.stored import store


def remove(*arguments):
    """Remove a version that no server serves, without a wait."""
    return main(["remove", "--wait", "0", *arguments])


def versions(repository, name="m"):
    """Return the names in a model's directory, without that of the last removed version."""
    return sorted(path.name for path in (repository / name).iterdir() if path.name != LAST_REMOVED_FILE)


def listed(repository):
    return [entry.name for entry in read_entries(repository)]


def test_removing_one_of_several_versions_keeps_the_entry(repository, capsys, monkeypatch):
    monkeypatch.setattr(removal, "wait_until_unloaded", None)
    for version in (1, 2, 3):
        store(repository, version=version)
    assert remove("m:3", "--yes") == 0
    out = capsys.readouterr().out
    assert "served of m: versions 2, 3 now; versions 1, 2 afterwards\n" in out
    assert out.endswith("removed m:3\n")
    assert versions(repository) == ["1", "2"]
    assert listed(repository) == ["m"]


@pytest.mark.parametrize(("reference", "numbers"), [("m", (1, 2)), ("m:7", (7,))])
def test_removing_the_last_version_removes_the_entry(repository, capsys, reference, numbers):
    for number in numbers:
        store(repository, version=number)
    store(repository, "n")
    assert remove(reference, "--yes") == 0
    assert "; afterwards it is no longer in models.config\n" in capsys.readouterr().out
    assert listed(repository) == ["n"]
    assert versions(repository) == []


def test_an_entry_is_matched_by_its_base_path_not_its_name(repository, capsys):
    store(repository, listed=False)
    entry = 'config { name: "%s" base_path: "%s" model_platform: "tensorflow" %s }'
    policy = "model_version_policy { specific { versions: 9 } }"
    entries = entry % ("prod", "/models/m", policy), entry % ("m", "/elsewhere/m", "")
    (repository / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    assert remove("m", "--yes") == 0
    assert "served of m as prod: no version now; afterwards it is no longer" in capsys.readouterr().out
    assert listed(repository) == ["m"]


def test_the_entry_is_removed_and_versions_renamed_before_files_are_deleted(repository, monkeypatch):
    """A concurrent reader sees complete versions or none."""
    for version in (1, 2):
        store(repository, version=version)
    seen = []
    wait = removal.wait_until_unloaded
    monkeypatch.setattr(removal, wait.__name__, lambda *a: (seen.append(("wait", listed(repository))), wait(*a)))
    rename, rmtree = Path.rename, shutil.rmtree
    monkeypatch.setattr(Path, "rename", lambda *a: (seen.append((a[0].name, listed(repository))), rename(*a))[1])

    def watched(path, **options):
        seen.append((path.name[:10], versions(repository)))
        rmtree(path, **options)

    monkeypatch.setattr(removal.shutil, "rmtree", watched)
    assert remove("m", "--yes") == 0
    assert seen[:3] == [("wait", []), ("1", []), ("2", [])]
    assert [name for name, _ in seen[3:]] == [".removed-1", ".removed-2"]
    assert all(name.startswith(".removed-") for _, left in seen[3:] for name in left)


def test_a_removal_deletes_what_a_killed_removal_left_and_the_last_one_leaves_an_empty_list(repository, monkeypatch):
    for name in ("m", "n"):
        store(repository, name)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", killed)
        assert remove("m", "--yes") == 130
    assert versions(repository)[0].startswith(".removed-1-")
    assert listed(repository) == ["n"]
    assert remove("n", "--yes") == 0
    assert versions(repository) == []
    # TensorFlow Serving refuses an empty file, and would keep serving the removed models.
    assert (repository / "models.config").read_text().split() == ["model_config_list", "{", "}"]


@pytest.mark.parametrize("moment", ["_is_confirmed", "wait_until_unloaded"])
def test_a_version_published_meanwhile_stays_with_its_entry(repository, monkeypatch, moment):
    store(repository)
    monkeypatch.setattr(removal, "_is_confirmed", lambda: True)
    monkeypatch.setattr(removal, moment, lambda *_: bool(store(repository, version=2)))
    assert remove("m") == 0
    assert (listed(repository), versions(repository)) == (["m"], ["2"])


@pytest.mark.parametrize("text", ["y\n", "n\n", "\n", ""])
def test_only_a_yes_confirms_a_removal(repository, monkeypatch, text):
    store(repository)
    (repository / "m" / ".draft-host-1").mkdir()
    (repository / "m" / "keep").touch()
    stdin = io.StringIO(text)
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)
    is_removed = text == "y\n"
    assert remove("m") == (0 if is_removed else 1)
    # What is no version stays.
    assert versions(repository) == [".draft-host-1", *([] if is_removed else ["1"]), "keep"]


def test_without_a_terminal_the_option_yes_is_required(repository, capsys, monkeypatch):
    store(repository)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert remove("m") == 1
    assert "there is no terminal to confirm on; pass --yes" in capsys.readouterr().err
    assert versions(repository) == ["1"]


@pytest.mark.parametrize("reference", ["../outside", "..", ".", "m/1", "/tmp", "m/../m", "m:1/..", "m:-1", "m:", "m\n"])
def test_paths_and_invalid_names_are_refused(repository, capsys, reference):
    """A path might lead out of the repository."""
    store(repository)
    store(Path(), "outside", listed=False)
    assert remove(reference, "--yes") == 1
    assert f"got {reference!r}" in capsys.readouterr().err
    assert versions(repository) == ["1"]
    assert Path("outside/1").exists()


def test_the_targets_of_symbolic_links_are_not_deleted(repository, capsys):
    store(Path(), "outside", listed=False)
    (repository / "linked").symlink_to(Path("outside").absolute())
    assert remove("linked", "--yes") == 1
    assert "models/linked: a link to " in capsys.readouterr().err
    store(repository)
    (repository / "m" / "2").symlink_to(Path("outside/1").absolute())
    assert remove("m:2", "--yes") == 0
    assert versions(repository) == ["1"]
    assert Path("outside/1/saved_model.pb").exists()


def test_nothing_is_removed_if_models_config_is_invalid(repository, capsys):
    """Served versions are unknown then."""
    store(repository)
    (repository / "models.config").write_text("junk {")
    assert remove("m", "--yes") == 1
    assert "models/models.config: 1:" in capsys.readouterr().err
    assert versions(repository) == ["1"]


def test_files_that_cannot_be_deleted_are_named(repository, capsys, monkeypatch):
    """The version is removed from the repository anyway: its directory was renamed."""
    store(repository)
    monkeypatch.setattr(removal.shutil, "rmtree", lambda path, **_: None)
    assert remove("m", "--yes") == 1
    assert "models/m/.removed-1-" in capsys.readouterr().err
    assert [name[:9] for name in versions(repository)] == [".removed-"]


def test_a_removal_interrupted_in_its_wait_can_be_repeated(repository, capsys, monkeypatch):
    """The entry is removed and the versions are complete. The wait holds no lock: another model can be published."""
    store(repository)

    def interrupted(*_):
        store(repository, "n")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removal.time, "sleep", interrupted)
        assert main(["remove", "m", "--yes", "--wait", "60"]) == 130
    told = "m is no longer served, but its files still exist: run the command again to finish"
    assert told in capsys.readouterr().out
    assert (listed(repository), versions(repository)) == (["n"], ["1"])
    assert remove("m", "--yes") == 0
    assert (listed(repository), versions(repository)) == (["n"], [])


def test_a_model_that_is_listed_again_during_the_wait_keeps_its_versions(repository, capsys, monkeypatch):
    """Model servers may read its base path again."""
    store(repository)
    monkeypatch.setattr(removal, "wait_until_unloaded", lambda *_: add_to_models_config(repository, "m"))
    assert remove("m", "--yes") == 1
    assert "m was added to models.config again meanwhile: run the command again" in capsys.readouterr().err
    assert versions(repository) == ["1"]


def test_the_only_served_version_is_not_removed_while_others_stay(repository, capsys):
    """A model server whose entry selects no version does not open its port."""
    store(repository, listed=False)
    store(repository, version=2, listed=False)
    policy = "model_version_policy { specific { versions: 2 } }"
    entry = f'config {{ name: "m" base_path: "/models/m" model_platform: "tensorflow" {policy} }}'
    (repository / "models.config").write_text(f"model_config_list {{ {entry} }}")
    assert remove("m:2", "--yes") == 1
    told = "models.config would serve no version of m, and a model server does not start then"
    assert f"{told}: its model_version_policy must choose one of 1 first" in capsys.readouterr().err
    assert versions(repository) == ["1", "2"]


def test_empty_directories_are_deleted_after_an_hour_unless_listed(repository):
    """A server that is slow to read models.config may still poll them before."""
    for name in ("old", "fresh", "listed"):
        (repository / name).mkdir()
    for name in ("old", "listed"):
        os.utime(repository / name, (0, time.time() - 3700))
    add_to_models_config(repository, "listed")
    store(repository)
    assert remove("m", "--yes") == 0
    assert sorted(path.name for path in repository.iterdir() if path.is_dir()) == ["fresh", "listed", "m"]


INVALID = [("--wait", "-1"), ("--wait", "inf"), ("--wait", "nan"), ("--wait", "x")]
INVALID += [("--server", "host"), ("--server", ":8500"), ("--server", "host:0")]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_options_are_usage_errors(repository, name, value):
    store(repository)
    outcome = CliRunner().invoke(program, ["remove", "m", "--yes", f"{name}={value}"])
    assert outcome.exit_code == 2
    assert f"Invalid value for '{name}': " in outcome.stderr
    assert value in outcome.stderr
    assert versions(repository) == ["1"]


def test_the_number_of_a_removed_version_is_not_given_again(repository):
    """A model server that saw the old version 3 would take the new one for it. Without any version, numbers restart."""
    home = repository / "m"
    for version in (1, 2, 3):
        store(repository, version=version)
    assert remove("m:3", "--yes") == 0
    assert next_version(home) == 4
    assert remove("m:1", "--yes") == 0
    assert next_version(home) == 4
    store(repository, version=4)
    assert next_version(home) == 5
    (home / LAST_REMOVED_FILE).write_text("damaged")
    assert next_version(home) == 5
    assert remove("m", "--yes") == 0
    assert list(home.iterdir()) == []
    assert next_version(home) == 1


def test_leftovers_of_a_version_keep_none_of_its_number_from_being_removed(repository, monkeypatch):
    """In a container each process has the same number. Leftovers may be files of another user."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(removal, "delete_renamed", lambda _: [])
    for _ in range(2):
        store(repository)
        assert remove("m:1", "--yes") == 0


def test_no_number_is_given_again_during_a_removal(repository, monkeypatch):
    """A training publishes without the lock that removals hold."""
    for number in (1, 2, 3):
        store(repository, version=number)
    list_versions = versions_module.version_numbers

    def removed_before_listing(home):
        assert remove("m:3", "--yes") == 0
        monkeypatch.setattr(versions_module, "version_numbers", list_versions)
        return list_versions(home)

    monkeypatch.setattr(versions_module, "version_numbers", removed_before_listing)
    assert next_version(repository / "m") == 4


def test_a_lock_that_another_user_created_can_be_taken(repository, monkeypatch):
    """A lock on a local disk needs no permission to write."""
    store(repository)
    opened, modes = Path.open, []

    def guarded(path, mode="r", *arguments, **options):
        if path.name.endswith(".lock"):
            modes.append(mode)
            if "w" in mode:
                raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", guarded)
    assert remove("m", "--yes") == 0
    assert modes[:2] == ["w", "r"]
