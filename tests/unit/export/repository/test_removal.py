"""`remove` takes a version out so that a model server never sees half of one, and nothing that was not meant."""

import io
import os
import shutil
import time
from pathlib import Path

import pytest

from export.cli import main
from export.repository import removal
from export.repository.models_config import add_to_models_config, read_entries
from tests.unit.export.repository.stored import store


@pytest.fixture(autouse=True)
def models_dir(tmp_path, monkeypatch):
    """An empty repository, at the default place."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    return Path("models")


def answer(monkeypatch, text):
    """Be a person at a terminal who writes this."""
    stdin = io.StringIO(text)
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)


def remove(*arguments):
    """Remove what nobody serves: there is nothing to wait for."""
    return main(["remove", *arguments, "--wait", "0"])


def versions(models_dir, name="m"):
    """Return what lies in a model's folder."""
    return sorted(path.name for path in (models_dir / name).iterdir())


def listed(models_dir):
    """Return the models of `models.config`."""
    return [entry.name for entry in read_entries(models_dir)]


def test_one_of_several_versions_goes_and_the_entry_stays(models_dir, capsys):
    """What is served now and then is told before."""
    for version in (1, 2, 3):
        store(models_dir, version=version)
    assert remove("m:3", "--yes") == 0
    out = capsys.readouterr().out
    assert "served of m now: versions 2, 3; then versions 1, 2\n" in out
    assert out.endswith("removed m:3\n")
    assert versions(models_dir) == ["1", "2"]
    assert listed(models_dir) == ["m"]


@pytest.mark.parametrize(("reference", "numbers"), [("m", (1, 2)), ("m:7", (7,))])
def test_with_the_last_version_goes_the_entry(models_dir, capsys, reference, numbers):
    """Of a model or of its only version; other models keep theirs."""
    for number in numbers:
        store(models_dir, version=number)
    store(models_dir, "n")
    assert remove(reference, "--yes") == 0
    assert "; then it is no longer in models.config\n" in capsys.readouterr().out
    assert listed(models_dir) == ["n"]
    assert versions(models_dir) == []


def test_an_entry_of_another_name_goes_with_the_folder_that_it_serves(models_dir, capsys):
    """What counts is where the versions lie, and how the policy chooses."""
    store(models_dir, listed=False)
    entry = 'config { name: "%s" base_path: "%s" model_platform: "tensorflow" %s }'
    policy = "model_version_policy { specific { versions: 9 } }"
    entries = entry % ("prod", "/models/m", policy), entry % ("m", "/elsewhere/m", "")
    (models_dir / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    assert remove("m", "--yes") == 0
    assert "served of m now as prod: no version; then it is no longer" in capsys.readouterr().out
    assert listed(models_dir) == ["m"]


def test_the_entry_goes_first_and_each_version_is_hidden_before_a_file_of_it_is_deleted(models_dir, monkeypatch):
    """Whoever looks meanwhile sees whole versions or none."""
    for version in (1, 2):
        store(models_dir, version=version)
    seen = []
    wait = removal.wait_until_unloaded
    monkeypatch.setattr(
        removal, "wait_until_unloaded", lambda *a: (seen.append(("wait", listed(models_dir))), wait(*a))
    )
    rename, rmtree = Path.rename, shutil.rmtree
    monkeypatch.setattr(Path, "rename", lambda *a: (seen.append((a[0].name, listed(models_dir))), rename(*a))[1])

    def watched(path, **options):
        seen.append((path.name[:10], versions(models_dir)))
        rmtree(path, **options)

    monkeypatch.setattr(removal.shutil, "rmtree", watched)
    assert remove("m", "--yes") == 0
    assert seen[:3] == [("wait", []), ("1", []), ("2", [])]
    assert [name for name, _ in seen[3:]] == [".removed-1", ".removed-2"]
    assert all(name.startswith(".removed-") for _, left in seen[3:] for name in left)


def test_litter_of_a_killed_removal_goes_with_the_next(models_dir, monkeypatch):
    """Of any model."""
    store(models_dir)
    store(models_dir, "n")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", killed)
        assert remove("m", "--yes") == 130
    assert versions(models_dir)[0].startswith(".removed-1-")
    assert listed(models_dir) == ["n"]
    assert remove("n", "--yes") == 0
    assert versions(models_dir) == []


def test_a_version_that_is_published_meanwhile_stays_and_so_does_the_entry(models_dir, monkeypatch):
    """Nobody was asked about it."""
    store(models_dir)
    monkeypatch.setattr(removal, "_is_confirmed", lambda: bool(store(models_dir, version=2)))
    assert remove("m") == 0
    assert versions(models_dir) == ["2"]
    assert listed(models_dir) == ["m"]


def test_what_is_no_version_stays(models_dir):
    """A draft that another exporter writes, and what a person put there."""
    store(models_dir)
    (models_dir / "m" / ".draft-host-1").mkdir()
    (models_dir / "m" / "notes.txt").write_text("mine")
    assert remove("m", "--yes") == 0
    assert versions(models_dir) == [".draft-host-1", "notes.txt"]


@pytest.mark.parametrize(
    ("text", "code", "left"), [("y\n", 0, []), ("n\n", 1, ["1"]), ("\n", 1, ["1"]), ("", 1, ["1"])]
)
def test_a_person_is_asked(models_dir, monkeypatch, text, code, left):
    """Only a yes is one."""
    store(models_dir)
    store(models_dir, "n")
    (models_dir / "m" / "keep").touch()
    answer(monkeypatch, text)
    assert remove("m") == code
    assert versions(models_dir) == [*left, "keep"]


def test_without_a_terminal_yes_must_be_an_option(models_dir, capsys, monkeypatch):
    """A script that forgot it deletes nothing."""
    store(models_dir)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert remove("m") == 1
    assert "there is no terminal to ask on; --yes confirms it" in capsys.readouterr().err
    assert versions(models_dir) == ["1"]


@pytest.mark.parametrize(
    "reference", ["../outside", "..", ".", "models/m/1", "/tmp", "m/../m", "m:1/..", "m:-1", "m:", "m\n"]
)
def test_paths_and_strange_names_are_refused(models_dir, capsys, reference):
    """Nothing is removed by a path: it might lead out of the repository."""
    store(models_dir)
    store(Path(), "outside", listed=False)
    assert remove(reference, "--yes") == 1
    assert f"got {reference!r}" in capsys.readouterr().err
    assert versions(models_dir) == ["1"]
    assert Path("outside/1").exists()


def test_nothing_behind_a_link_is_touched(models_dir, capsys):
    """A linked model is refused, of a linked version only the link goes."""
    store(Path(), "outside", listed=False)
    (models_dir / "linked").symlink_to(Path("outside").absolute())
    assert remove("linked", "--yes") == 1
    assert "models/linked: a link to " in capsys.readouterr().err
    store(models_dir)
    (models_dir / "m" / "2").symlink_to(Path("outside/1").absolute())
    assert remove("m:2", "--yes") == 0
    assert versions(models_dir) == ["1"]
    assert Path("outside/1/saved_model.pb").exists()


def test_a_config_that_cannot_be_parsed_keeps_everything(models_dir, capsys):
    """What is served is not known then."""
    store(models_dir)
    (models_dir / "models.config").write_text("junk {")
    assert remove("m", "--yes") == 1
    assert "models/models.config: 1:" in capsys.readouterr().err
    assert versions(models_dir) == ["1"]


def test_files_that_cannot_be_deleted_are_named(models_dir, capsys, monkeypatch):
    """The version is out of the repository all the same, and the next removal tries again."""
    store(models_dir)
    monkeypatch.setattr(removal.shutil, "rmtree", lambda path, **_: None)
    assert remove("m", "--yes") == 1
    assert "models/m/.removed-1-" in capsys.readouterr().err
    assert [name[:9] for name in versions(models_dir)] == [".removed-"]


def test_the_wait_does_not_hold_the_lock_and_ctrl_c_leaves_what_a_second_removal_finishes(
    models_dir, capsys, monkeypatch
):
    """The model is no longer listed, its versions are whole, and another model can be published meanwhile."""
    store(models_dir)

    def interrupted(*_):
        store(models_dir, "n")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("export.repository.unloading.time.sleep", interrupted)
        assert main(["remove", "m", "--yes", "--wait", "60"]) == 130
    assert (
        "m is no longer served, its files are still there: run the command again to finish" in capsys.readouterr().out
    )
    assert (listed(models_dir), versions(models_dir)) == (["n"], ["1"])
    assert remove("m", "--yes") == 0
    assert (listed(models_dir), versions(models_dir)) == (["n"], [])


def test_the_last_entry_leaves_an_empty_list_and_not_an_empty_file(models_dir):
    """TensorFlow Serving refuses a file without a list of models, and would go on serving the removed one."""
    store(models_dir)
    assert remove("m", "--yes") == 0
    assert (models_dir / "models.config").read_text().split() == ["model_config_list", "{", "}"]


def test_what_is_published_during_the_wait_stays(models_dir, monkeypatch):
    """Its entry too; of the removed version nothing is left."""
    store(models_dir)
    monkeypatch.setattr(removal, "wait_until_unloaded", lambda *_: store(models_dir, version=2))
    assert remove("m", "--yes") == 0
    assert (listed(models_dir), versions(models_dir)) == (["m"], ["2"])


def test_a_model_that_is_listed_again_during_the_wait_keeps_its_versions(models_dir, capsys, monkeypatch):
    """Servers may look at its base path again."""
    store(models_dir)
    monkeypatch.setattr(removal, "wait_until_unloaded", lambda *_: add_to_models_config(models_dir, "m"))
    assert remove("m", "--yes") == 1
    assert "m was put into models.config again meanwhile: run the command again" in capsys.readouterr().err
    assert versions(models_dir) == ["1"]


def test_one_version_of_several_is_removed_without_a_wait(models_dir, monkeypatch):
    """The base path stays, with a version in it."""
    for version in (1, 2):
        store(models_dir, version=version)
    monkeypatch.setattr(removal, "wait_until_unloaded", None)
    assert remove("m:2", "--yes") == 0
    assert versions(models_dir) == ["1"]


def test_the_last_version_that_is_served_is_not_removed_while_others_stay(models_dir, capsys):
    """A model server whose entry chooses no version does not open its port."""
    store(models_dir, listed=False)
    store(models_dir, version=2, listed=False)
    policy = "model_version_policy { specific { versions: 2 } }"
    entry = f'config {{ name: "m" base_path: "/models/m" model_platform: "tensorflow" {policy} }}'
    (models_dir / "models.config").write_text(f"model_config_list {{ {entry} }}")
    assert remove("m:2", "--yes") == 1
    told = "models.config would serve no version of m, and a model server does not start then"
    assert f"{told}: its model_version_policy must choose one of 1 first" in capsys.readouterr().err
    assert versions(models_dir) == ["1", "2"]


def test_empty_directories_are_deleted_an_hour_later_unless_they_are_listed(models_dir):
    """A server that was slow to read models.config may still look at them before."""
    for name in ("old", "fresh", "listed"):
        (models_dir / name).mkdir()
    for name in ("old", "listed"):
        os.utime(models_dir / name, (0, time.time() - 3700))
    add_to_models_config(models_dir, "listed")
    store(models_dir)
    assert remove("m", "--yes") == 0
    assert sorted(path.name for path in models_dir.iterdir() if path.is_dir()) == ["fresh", "listed", "m"]


def test_a_removed_name_can_be_published_again(models_dir):
    """Into the directory that was left."""
    store(models_dir)
    assert remove("m", "--yes") == 0
    store(models_dir)
    assert (listed(models_dir), versions(models_dir)) == (["m"], ["1"])


@pytest.mark.parametrize("option", ["--wait=-1", "--wait=inf", "--server=host", "--server=:8500", "--server=host:0"])
def test_options_that_cannot_be_are_refused(models_dir, option):
    """Before anything is removed."""
    store(models_dir)
    with pytest.raises(SystemExit) as ended:
        remove("m", "--yes", option)
    assert ended.value.code == 2
    assert versions(models_dir) == ["1"]
