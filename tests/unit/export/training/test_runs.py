"""The directory of a run survives interruptions, and is neither shared nor overwritten by mistake."""

import json
import os
import shutil
from pathlib import Path

import keras
import pytest

from export.errors import RunError
from export.repository.history import Epoch, Progress
from export.training.runs import RunFolder
from tests.faults import fill_disk
from tests.unit.export.trainings import DESCRIPTION, fake_computation, prepare, start, start_loop


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run; tests that change it use `copy`."""
    trainer, folder = start_loop(tmp_path_factory.mktemp("runs") / "m", losses=[3.0, 1.0, 2.0])
    trainer.run(folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return RunFolder(shutil.copytree(finished.path, tmp_path / "m"))


def files(folder):
    return sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())


def epoch(loss, **figures):
    return Epoch(
        **{"train_loss": 9.0, "validation_loss": loss, "accuracy": None, "tokens": 10, "seconds": 1.0, **figures}
    )


def test_a_created_run_can_be_loaded(tmp_path):
    trainer, tokenizer = prepare()
    folder = RunFolder(tmp_path / "a" / "m")
    assert folder.create(trainer.config, tokenizer, DESCRIPTION) is None
    config, loaded, description = folder.load()
    assert (config, loaded.to_json(), description) == (trainer.config, tokenizer.to_json(), DESCRIPTION)
    assert type(loaded) is type(tokenizer)
    begun = folder.progress()
    assert (begun, begun.epochs, begun.best_epoch, begun.last.tokens) == (Progress(), 0, 0, 0)


def test_one_checkpoint_and_one_best_model_are_kept(finished):
    best = finished.progress().best_epoch
    kept = ["checkpoint/3.data-00000-of-00001", "checkpoint/3.index", "checkpoint/config.json"]
    expected = [*kept, f"best/{best}.keras"]
    assert files(finished) == sorted([*expected, "config.json", "corpus.json", "progress.json", "tokenizer.json"])


@pytest.mark.parametrize("step", ["checkpoint", "best model", "progress", "removal"])
def test_a_kill_while_an_epoch_is_saved_leaves_a_consistent_run(copy, monkeypatch, step):
    before = copy.progress()
    after = before.after(epoch(0.0))
    trainer = prepare()[0]
    copy.restore(trainer.checkpoint)

    def killed(*_):
        raise KeyboardInterrupt

    if step == "checkpoint":
        monkeypatch.setattr(trainer.checkpoint, "write", killed)
    elif step == "best model":
        monkeypatch.setattr(keras.Model, "save", killed)
    else:
        monkeypatch.setattr("os.replace" if step == "progress" else "pathlib.Path.unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        copy.save(trainer.checkpoint, trainer.averaged_model, after)
    monkeypatch.undo()
    again = RunFolder(copy.path)
    progress = again.restore(prepare()[0].checkpoint)
    assert progress == (after if step == "removal" else before)
    assert again.load_best(progress).count_params() == trainer.averaged_model.count_params()
    again.save(trainer.checkpoint, trainer.averaged_model, after)
    assert [name for name in files(again) if name.startswith("best")] == ["best/4.keras"]
    assert not [name for name in files(again) if name.startswith("checkpoint/3")]


def test_a_full_disk_error_names_the_run_and_the_epoch(copy, monkeypatch):
    trainer = prepare()[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(OSError, match=r"m: the checkpoint of epoch 4 cannot be saved .*No space left on device"):
        copy.save(trainer.checkpoint, trainer.averaged_model, copy.progress().after(epoch(0.0)))


def test_a_full_disk_does_not_cost_an_existing_run(copy, monkeypatch):
    """A new run that cannot be created leaves the old one as it was, and no other files."""
    trainer, tokenizer = prepare()
    before, progress = files(copy), copy.progress()
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(OSError, match=r"No space left on device: '.*config\.json'"):
            copy.create(trainer.config, tokenizer, DESCRIPTION)
    assert (files(copy), copy.progress()) == (before, progress)
    assert [path.name for path in copy.path.parent.iterdir()] == ["m"]
    assert copy.create(trainer.config, tokenizer, DESCRIPTION) == copy.path.with_name("m~")


def test_the_files_of_an_epoch_are_synced_before_progress_names_them(copy, monkeypatch):
    trainer = prepare()[0]
    copy.restore(trainer.checkpoint)
    synced, fsync, replace = set(), os.fsync, os.replace
    missing = []

    def rename(source, target):
        if Path(target).name == "progress.json":
            paths = [path for folder in ("checkpoint", "best") for path in (copy.path / folder).rglob("*")]
            missing.extend(path.name for path in paths if path.stat().st_ino not in synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), synced.add(os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(os, "replace", rename)
    copy.save(trainer.checkpoint, trainer.averaged_model, copy.progress().after(epoch(0.0)))
    assert synced
    assert missing == []


def test_a_temporary_file_of_a_killed_run_does_not_block_a_new_one(copy):
    trainer, tokenizer = prepare()
    (copy.path / ".progress.json.0123456789abcdef").touch()
    assert copy.create(trainer.config, tokenizer, DESCRIPTION)


DAMAGES = {
    "config.json": ("{", r"m: not a run directory \(Invalid JSON"),
    "corpus.json": ("{}", r"m: not a run directory \(corpus: Field required"),
    "tokenizer.json": ("[]", r"m: not a run directory \(TokenizerError"),
    "progress.json": ('{"history": [{"train_loss": "x"}]}', r"progress\.json: damaged \(history\.0\.train_loss"),
    "checkpoint/config.json": ("", r"checkpoint/config\.json: damaged or missing"),
    "checkpoint/3.index": ("", r"checkpoint/3: damaged or missing"),
    "checkpoint/3.data-00000-of-00001": ("x", r"checkpoint/3: damaged or missing"),
}


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_missing_file_is_named_in_one_line(copy, name, gone):
    """No traceback, and no silent restart: a run starts over only if it has no progress.json."""
    content, message = DAMAGES[name]
    if gone:
        (copy.path / name).unlink()
        message = message.partition(r"\(")[0]
    else:
        (copy.path / name).write_text(content)

    def use():
        copy.load()
        return copy.restore(prepare()[0].checkpoint)

    if gone and name == "progress.json":
        assert use() == Progress()
        return
    with pytest.raises(RunError, match=message) as error:
        use()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 half a zip file"], ids=["gone", "empty", "half"])
def test_an_unreadable_best_model_is_named(copy, content):
    progress = copy.progress()
    path = copy.path / "best" / f"{progress.best_epoch}.keras"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=rf"best/{progress.best_epoch}\.keras: damaged or missing") as error:
        copy.load_best(progress)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"units": 7}, {"layers": 2}])
def test_settings_that_do_not_fit_the_checkpoint_are_rejected(copy, settings):
    with pytest.raises(RunError, match="checkpoint/3: damaged or missing"):
        copy.restore(prepare(**settings)[0].checkpoint)


def test_a_new_run_moves_the_previous_one_aside(copy):
    """A repeated command does not cost hours of work; only the latest is kept, so that the disk does not fill."""
    trainer, tokenizer = prepare()
    before = copy.progress()
    aside = copy.create(trainer.config, tokenizer, DESCRIPTION)
    assert aside.name == "m~"
    assert RunFolder(aside).progress() == before
    assert copy.progress() == Progress()
    fake_computation(trainer).run(copy)
    assert copy.create(trainer.config, tokenizer, DESCRIPTION) == aside
    assert RunFolder(aside).progress() != before


def test_a_run_that_is_being_resumed_is_not_removed(copy):
    """Not even one that was moved aside."""
    trainer, tokenizer = prepare()
    aside = RunFolder(copy.create(trainer.config, tokenizer, DESCRIPTION))
    fake_computation(trainer).run(copy)
    with aside.locked(), pytest.raises(RunError, match="m~: another training run uses this directory"):
        copy.create(trainer.config, tokenizer, DESCRIPTION)
    assert aside.progress().epochs
    assert copy.progress().epochs


def test_a_run_without_a_complete_epoch_is_removed_not_moved_aside(tmp_path):
    trainer, folder = start(tmp_path / "m")
    assert folder.create(trainer.config, prepare()[1], DESCRIPTION) is None
    assert not (tmp_path / "m~").exists()


def test_a_directory_with_other_files_is_not_overwritten(tmp_path):
    """`--runs-dir . --name src` does not cost the sources."""
    trainer, tokenizer = prepare()
    path = tmp_path / "src"
    path.mkdir()
    (path / "main.py").write_text("precious")
    with pytest.raises(RunError, match=r"src: main\.py was not written by a training run; choose another --name"):
        RunFolder(path).create(trainer.config, tokenizer, DESCRIPTION)
    assert (path / "main.py").read_text() == "precious"


def test_two_runs_cannot_share_a_directory(tmp_path, monkeypatch):
    """The second is rejected while the first holds the lock, by whatever path, and may start after it."""
    path = tmp_path / "m"
    path.mkdir()
    monkeypatch.chdir(path)
    folder, other = RunFolder(path), RunFolder(Path())
    with folder.locked(), pytest.raises(RunError, match="another training run uses this directory"), other.locked():
        pass
    with other.locked():
        pass


def test_the_progress_file_is_readable_json(finished):
    history = json.loads((finished.path / "progress.json").read_text())["history"]
    names = "train_loss", "validation_loss", "accuracy", "tokens", "seconds", "logit_scale", "next_logit_scale"
    assert [set(entry) for entry in history] == [set(names)] * 3


def test_changed_settings_are_rejected_with_their_old_values(copy):
    path = copy.path / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.004', '"learning_rate": 0.04'))
    with pytest.raises(RunError, match=r"config\.json: a run resumes .*; they were learning_rate = 0\.004, now 0\.04$"):
        copy.restore(prepare()[0].checkpoint)


def test_a_run_that_was_killed_while_it_wrote_a_checkpoint_continues(copy):
    """TensorFlow writes it into a temporary directory first, which stays."""
    partial = copy.path / "checkpoint" / "4_temp"
    partial.mkdir()
    (partial / "part-00000-of-00001.index.tempstate123").write_text("incomplete")
    trainer = prepare()[0]
    copy.restore(trainer.checkpoint)
    copy.save(trainer.checkpoint, trainer.averaged_model, copy.progress().after(epoch(0.0)))
    assert copy.progress().epochs == 4
    assert not partial.exists()
