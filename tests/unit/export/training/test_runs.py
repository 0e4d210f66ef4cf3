"""The folder of a run survives interruptions, and is neither shared nor overwritten by mistake."""

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
from tests.unit.export.trainings import FACTS, Watcher, prepare, start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run; tests that change it change a copy."""
    trainer, folder = start(tmp_path_factory.mktemp("runs") / "m")
    trainer.run(folder, Watcher())
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it."""
    return RunFolder(shutil.copytree(finished.path, tmp_path / "m"))


def files(folder):
    """Return the paths of all files in a run's folder."""
    return sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())


def epoch(loss, **figures):
    """Return an epoch with a validation loss."""
    return Epoch(**{"train_loss": 9.0, "validation_loss": loss, "tokens": 10, "seconds": 1.0, **figures})


def test_what_was_created_is_loaded(tmp_path):
    """Settings, vocabulary and the facts about the corpus come back as they were."""
    trainer, tokenizer = prepare()
    folder = RunFolder(tmp_path / "a" / "m")
    assert folder.create(trainer.config, tokenizer, FACTS) is None
    assert folder.load() == (trainer.config, tokenizer, FACTS)
    assert folder.progress() == Progress()


def test_the_best_epoch_is_the_first_of_the_least_loss():
    """Before there is one it is 0."""
    progress = Progress()
    assert (progress.epochs, progress.best_epoch, progress.last.tokens) == (0, 0, 0)
    for loss in (3.0, 1.0, 2.0, 1.0):
        progress = progress.after(epoch(loss))
    assert (progress.epochs, progress.best_epoch, progress.best.loss) == (4, 2, 1.0)


def test_one_checkpoint_and_one_best_model_are_kept(finished):
    """A long run does not fill the disk."""
    best = finished.progress().best_epoch
    kept = ["checkpoint/3.data-00000-of-00001", "checkpoint/3.index", "checkpoint/config.json"]
    expected = [*kept, f"best/{best}.keras"]
    assert files(finished) == sorted([*expected, "config.json", "corpus.json", "progress.json", "tokenizer.json"])


@pytest.mark.parametrize("step", ["checkpoint", "best model", "progress", "removal"])
def test_a_kill_at_any_step_of_keeping_an_epoch_leaves_a_whole_one(copy, monkeypatch, step):
    """The progress, the checkpoint and the best model that lie there belong together."""
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


def test_a_full_disk_is_told_with_the_folder(copy, monkeypatch):
    """The message says what could not be kept, and why."""
    trainer = prepare()[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(OSError, match=r"m: epoch 4 cannot be kept .*No space left on device"):
        copy.save(trainer.checkpoint, trainer.averaged_model, copy.progress().after(epoch(0.0)))


def test_a_full_disk_costs_no_training_that_lies_in_the_place(copy, monkeypatch):
    """A new one that cannot be begun leaves the old one where it was, and nothing beside it."""
    trainer, tokenizer = prepare()
    before, progress = files(copy), copy.progress()
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(OSError, match=r"No space left on device: '.*config\.json'"):
            copy.create(trainer.config, tokenizer, FACTS)
    assert (files(copy), copy.progress()) == (before, progress)
    assert [path.name for path in copy.path.parent.iterdir()] == ["m"]
    assert copy.create(trainer.config, tokenizer, FACTS) == copy.path.with_name("m~")


def test_what_an_epoch_consists_of_is_on_the_disk_before_the_progress_names_it(copy, monkeypatch):
    """Otherwise a power failure leaves a progress whose checkpoint is empty."""
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


def test_the_temporary_file_of_a_training_that_was_killed_is_its_own(copy):
    """It does not keep the next one out."""
    trainer, tokenizer = prepare()
    (copy.path / ".progress.json.0123456789abcdef").touch()
    assert copy.create(trainer.config, tokenizer, FACTS)


DAMAGES = {
    "config.json": ("{", r"m: not the folder of a training run \(Invalid JSON"),
    "corpus.json": ("{}", r"m: not the folder of a training run \(corpus: Field required"),
    "tokenizer.json": ("[]", r"m: not the folder of a training run \(TokenizerError"),
    "progress.json": ('{"history": [{"train_loss": "x"}]}', r"progress\.json: damaged \(history\.0\.train_loss"),
    "checkpoint/3.index": ("", r"checkpoint/3: damaged or missing"),
    "checkpoint/3.data-00000-of-00001": ("x", r"checkpoint/3: damaged or missing"),
}


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(copy, name, gone):
    """No traceback, and never a silent start from the beginning."""
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
def test_a_best_model_that_cannot_be_read_is_named(copy, content):
    """The message gives its path."""
    progress = copy.progress()
    path = copy.path / "best" / f"{progress.best_epoch}.keras"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=rf"best/{progress.best_epoch}\.keras: damaged or missing") as error:
        copy.load_best(progress)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"units": 7}, {"layers": 2}])
def test_settings_that_do_not_fit_the_checkpoint_are_told(copy, settings):
    """Whoever changes config.json by hand does not train on with weights that are partly random."""
    with pytest.raises(RunError, match="checkpoint/3: damaged or missing"):
        copy.restore(prepare(**settings)[0].checkpoint)


def test_a_new_start_sets_the_earlier_training_aside(copy):
    """Hours of work are not lost to a command that was repeated; there is one such place, so the disk stays free."""
    trainer, tokenizer = prepare()
    before = copy.progress()
    aside = copy.create(trainer.config, tokenizer, FACTS)
    assert aside.name == "m~"
    assert RunFolder(aside).progress() == before
    assert copy.progress() == Progress()
    trainer.run(copy, Watcher())
    assert copy.create(trainer.config, tokenizer, FACTS) == aside
    assert RunFolder(aside).progress() != before


def test_a_training_without_a_whole_epoch_is_not_worth_setting_aside(tmp_path):
    """What it left is removed."""
    trainer, folder = start(tmp_path / "m")
    assert folder.create(trainer.config, prepare()[1], FACTS) is None
    assert not (tmp_path / "m~").exists()


def test_a_folder_that_no_training_wrote_is_left_alone(tmp_path):
    """`--runs-dir . --name src` does not cost the sources."""
    trainer, tokenizer = prepare()
    path = tmp_path / "src"
    path.mkdir()
    (path / "main.py").write_text("precious")
    with pytest.raises(RunError, match=r"src: main\.py was not written by a training; choose another --name"):
        RunFolder(path).create(trainer.config, tokenizer, FACTS)
    assert (path / "main.py").read_text() == "precious"


def test_two_trainings_do_not_share_a_folder(tmp_path, monkeypatch):
    """The second is refused while the first is at work, by whatever path, and may begin when it has ended."""
    path = tmp_path / "m"
    path.mkdir()
    monkeypatch.chdir(path)
    folder, other = RunFolder(path), RunFolder(Path())
    with folder.locked(), pytest.raises(RunError, match="another training uses this directory"), other.locked():
        pass
    with other.locked():
        pass


def test_a_progress_file_is_json_that_people_can_read(finished):
    """Losses, tokens and seconds of each epoch lie open."""
    history = json.loads((finished.path / "progress.json").read_text())["history"]
    assert [set(entry) for entry in history] == [{"train_loss", "validation_loss", "accuracy", "tokens", "seconds"}] * 3


def test_settings_that_were_changed_are_told_with_what_they_were(copy):
    """A run goes on as it began, or not at all: it would end as neither of the two."""
    path = copy.path / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.004', '"learning_rate": 0.04'))
    with pytest.raises(RunError, match=r"config\.json: a run resumes .*; they were learning_rate = 0\.004, now 0\.04$"):
        copy.restore(prepare()[0].checkpoint)


def test_a_run_of_an_earlier_release_has_no_settings_to_compare(copy):
    """It can be gone on with; a setting that came later is no change."""
    path = copy.path / "checkpoint" / "config.json"
    settings = json.loads(path.read_text())
    del settings["ema"]
    path.write_text(json.dumps(settings))
    assert copy.restore(prepare()[0].checkpoint).epochs == 3
    path.unlink()
    assert copy.restore(prepare()[0].checkpoint).epochs == 3
