"""The directory of a training run: its last checkpoint, and the best weights so far."""

import json
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from pydantic import ValidationError

from contract.card import CorpusDescription, Lineage
from contract.errors import ContractError, first_problem
from contract.files import sync_tree, write_atomically
from contract.tokenizers import Tokenizer, load_tokenizer
from export.command import locked_directory
from export.config import TrainConfig
from export.errors import RunError
from export.repository.history import Progress
from export.training.model import scaled_logits

_CONFIG, _CORPUS, _TOKENIZER, _PROGRESS = "config.json", "corpus.json", "tokenizer.json", "progress.json"
_LINEAGE, _INITIAL = "lineage.json", "initial.npz"
_CHECKPOINTS, _BEST, _EVENTS = "checkpoint", "best", "tensorboard"
PICTURE = "history.png"
_Document = TypeVar("_Document", Lineage, Progress)
_OWN = {_CONFIG, _CORPUS, _TOKENIZER, _PROGRESS, _LINEAGE, _INITIAL, _CHECKPOINTS, _BEST, _EVENTS, PICTURE}


class RunFolder:
    """Run directory `runs/<name>`: configuration, tokenizer, progress, checkpoint and best weights.

    Until the first epoch is complete it also has the initial weights, unless they are random, so that a run resumes
    without the version or the file that they are from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def locked(self) -> AbstractContextManager[None]:
        """Lock the directory against other training runs; raise RunError if one uses it."""
        return locked_directory(self.path, "training run")

    def create(
        self,
        config: TrainConfig,
        tokenizer: Tokenizer,
        corpus: CorpusDescription,
        lineage: Lineage | None = None,
        weights: Sequence[np.ndarray] | None = None,
    ) -> Path | None:
        """Create the directory of a new run, with the lineage and the initial weights of a fine-tuning.

        Returns:
            The path that the previous run was moved to, `runs/<name>~`; None if no run had a complete epoch.

        Raises:
            RunError: the directory contains a file that no training run wrote, or the run before the previous one is
                being resumed.
            OSError: writing failed; a previous run is still in its place.
        """
        names = sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []
        # A killed run may leave temporary files, named after its files.
        temporary = tuple(f".{name}" for name in _OWN)
        unexpected = [name for name in names if name not in _OWN and not name.startswith(temporary)]
        if unexpected:
            raise RunError(
                f"{self.path}: {unexpected[0]} was not written by a training run; choose another --name or --runs-dir"
            )
        # Write a draft first: a full disk must not destroy the previous run.
        draft = self.path.with_name(f".{self.path.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            for name, text in (
                (_CONFIG, config.model_dump_json(indent=1)),
                (_CORPUS, corpus.model_dump_json(indent=1)),
                (_TOKENIZER, tokenizer.to_json()),
            ):
                write_atomically(draft / name, text.rstrip("\n") + "\n")
            if lineage is not None:
                write_atomically(draft / _LINEAGE, lineage.model_dump_json(indent=1) + "\n")
            if weights is not None:
                np.savez(draft / _INITIAL, *weights)
            aside = None
            if (self.path / _PROGRESS).exists():
                # No model name ends in ~, so this is not the directory of another run.
                aside = self.path.with_name(f"{self.path.name}~")
                with locked_directory(aside, "training run"):
                    shutil.rmtree(aside, ignore_errors=True)
                    self.path.rename(aside)
            shutil.rmtree(self.path, ignore_errors=True)
            draft.rename(self.path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return aside

    def load(self) -> tuple[TrainConfig, Tokenizer, CorpusDescription]:
        """Read what `create` wrote.

        Raises:
            RunError: this is not a run directory.
        """
        try:
            config = TrainConfig.model_validate_json((self.path / _CONFIG).read_bytes())
            corpus = CorpusDescription.model_validate_json((self.path / _CORPUS).read_bytes())
            return config, load_tokenizer(self.path / _TOKENIZER), corpus
        except (OSError, ContractError, ValueError) as error:
            raise RunError(f"{self.path}: not a run directory ({_in_one_line(error)})") from error

    def lineage(self) -> Lineage | None:
        """Read the lineage of a fine-tuning; None for a run from scratch.

        Raises:
            RunError: the file is damaged.
        """
        return self._read(_LINEAGE, Lineage)

    def initial_weights(self) -> list[np.ndarray] | None:
        """Read the initial weights; None if they are random, or an epoch is complete.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path / _INITIAL
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return list(arrays.values())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
            raise RunError(f"{path}: damaged ({_in_one_line(error)})") from error

    def progress(self) -> Progress:
        """Read the progress of the run; it is empty before the first complete epoch.

        Raises:
            RunError: the file is damaged.
        """
        return self._read(_PROGRESS, Progress) or Progress()

    def _read(self, name: str, kind: type[_Document]) -> _Document | None:
        path = self.path / name
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged ({_in_one_line(error)})") from error

    @property
    def events(self) -> Path:
        """Directory of the run's TensorBoard event files."""
        return self.path / _EVENTS

    def save(self, checkpoint: tf.train.Checkpoint, model: keras.Model, progress: Progress) -> None:
        """Save the checkpoint of an epoch, and its model if it is the best.

        The weights are written first, then the progress that refers to them; last, superseded files are deleted. If the
        process is killed at any time, the directory still has one complete epoch and the best one.

        Raises:
            OSError: writing failed.
        """
        try:
            checkpoint.write(str(self.path / _CHECKPOINTS / str(progress.epochs)))
            shutil.copyfile(self.path / _CONFIG, self.path / _CHECKPOINTS / _CONFIG)
            if progress.best_epoch == progress.epochs:
                self._best(progress).parent.mkdir(exist_ok=True)
                with scaled_logits(model, progress.last.logit_scale):
                    model.save(self._best(progress))
            # Sync them before writing the progress that refers to them.
            sync_tree(self.path / _CHECKPOINTS)
            sync_tree(self.path / _BEST)
            write_atomically(self.path / _PROGRESS, progress.model_dump_json(indent=1) + "\n")
            self._remove_superseded(progress)
        except (OSError, tf.errors.OpError) as error:
            raise OSError(
                f"{self.path}: the checkpoint of epoch {progress.epochs} cannot be saved ({_in_one_line(error)})"
            ) from error

    def _best(self, progress: Progress) -> Path:
        return self.path / _BEST / f"{progress.best_epoch}.keras"

    def _remove_superseded(self, progress: Progress) -> None:
        for path in (self.path / _CHECKPOINTS).iterdir():
            if path.is_dir():
                # TensorFlow writes a checkpoint into a temporary directory, which a killed run leaves behind.
                shutil.rmtree(path)
            elif not path.name.startswith((f"{progress.epochs}.", _CONFIG)):
                path.unlink()
        for path in (self.path / _BEST).iterdir():
            if path != self._best(progress):
                path.unlink()
        if (self.path / _INITIAL).exists():
            (self.path / _INITIAL).unlink()

    def restore(self, checkpoint: tf.train.Checkpoint) -> Progress:
        """Load the last complete epoch into `checkpoint`; a run without one starts from the beginning.

        Raises:
            RunError: a file is damaged or missing, or the settings differ from those of the checkpoint.
        """
        progress = self.progress()
        if progress.epochs:
            self._require_same_settings()
            path = self.path / _CHECKPOINTS / str(progress.epochs)
            try:
                checkpoint.read(str(path)).assert_consumed()
            except (OSError, ValueError, LookupError, AssertionError, tf.errors.OpError) as error:
                raise RunError(f"{path}: damaged or missing ({_in_one_line(error)})") from error
        return progress

    def _require_same_settings(self) -> None:
        path = self.path / _CHECKPOINTS / _CONFIG
        try:
            then, now = (json.loads(config.read_bytes()) for config in (path, self.path / _CONFIG))
            changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(f"{path}: damaged or missing ({_in_one_line(error)})") from error
        if changed:
            differences = ", ".join(f"{name} = {then.get(name)!r}, now {now.get(name)!r}" for name in changed)
            raise RunError(
                f"{self.path / _CONFIG}: a run resumes with the settings that it started with; they were {differences}"
            )

    def load_best(self, progress: Progress) -> keras.Model:
        """Load the best model so far.

        Raises:
            RunError: the file is damaged or missing.
        """
        try:
            return keras.models.load_model(self._best(progress))
        except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
            raise RunError(f"{self._best(progress)}: damaged or missing ({_in_one_line(error)})") from error


def _in_one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_problem(error)
    return f"{type(error).__name__}: {error}".partition("\n")[0]
