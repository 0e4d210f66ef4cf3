"""A trial: a run of the exporter with its own settings, in a separate process."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from contract.processes import terminate_with_parent
from export.child_process import EXPORT, ProgressLines, environment, last_error, train_options
from export.config import TrainConfig

State = Literal["running", "complete", "stopped", "out of time", "failed"]
_POLL_S = 0.2
# On SIGTERM a run ends after its current step; publishing or saving an epoch takes longer.
_STOP_S = 60.0


@dataclass
class Trial:
    """A trial and its results so far."""

    number: int
    settings: Mapping[str, Any]  # its differences from the recipe
    directory: Path  # of its run, its log and its progress file
    minutes: float  # the time limit of its run
    state: State = "running"
    started: float = 0.0  # the time of its first update
    trained_minutes: float = 0.0
    train_loss: float | None = None
    evaluated: float = 0.0  # the fraction of the run that was done at the last evaluation between epochs
    loss: float | None = None  # the lowest validation loss so far, in nats per token
    epochs: int = 0  # complete ones
    epoch_loss: float | None = None  # the lowest loss at the end of an epoch
    error: str | None = None  # the exporter's message, if it has failed

    @property
    def log(self) -> Path:
        """The output of its run."""
        return self.directory / "log.txt"

    @property
    def progress_file(self) -> Path:
        """The file that `ProgressFile` of its run writes."""
        return self.directory / "progress.jsonl"

    def read(self, line: Mapping[str, Any]) -> None:
        """Apply a line of the progress file."""
        if self.train_loss is None:
            self.started = time.monotonic()
        self.trained_minutes = (time.monotonic() - self.started) / 60
        if line["event"] == "update":
            self.train_loss = line["train_loss"]
            return
        loss = line["validation_loss"]
        self.loss = loss if self.loss is None else min(self.loss, loss)
        if line["event"] == "evaluation":
            self.evaluated = line["fraction"]
            return
        self.epochs, self.trained_minutes = line["epoch"], line["seconds"] / 60
        if line["is_best"]:
            self.epoch_loss = loss


def run_command(trial: Trial, config: TrainConfig, models_dir: Path, evaluations: int) -> list[str]:
    """Return the command of a trial's run, which does not publish; a base is in `models_dir`."""
    # Unset ones have the same defaults there; with a base, they come from it.
    unused = {"corpus", "max_minutes"}
    if config.validation_corpus is not None and config.mix is None:
        unused.add("validation")
    own = config.model_dump(by_alias=True, exclude=unused, exclude_unset=True, exclude_none=True)
    options = train_options(own | dict(trial.settings))
    return [
        # No recipe: its settings are among the options.
        *(*EXPORT, "train", config.corpus, "--config", os.devnull, *options, "--max-minutes", f"{trial.minutes:.3f}"),
        *("--runs-dir", str(trial.directory), "--progress-file", str(trial.progress_file)),
        *("--models-dir", str(models_dir), "--evaluations", str(evaluations), "--no-publish"),
    ]


def start(command: Sequence[str], output: BinaryIO | None = None) -> "subprocess.Popen[bytes]":
    """Start an exporter that Ctrl-C does not reach: this process stops it."""
    parent = os.getpid()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env=environment(),
        preexec_fn=lambda: terminate_with_parent(parent),  # noqa: PLW1509 - this process has one thread
        start_new_session=True,
    )


def stop(child: "subprocess.Popen[bytes]") -> None:
    """Stop an exporter after its current step, so that its last epoch stays complete."""
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def run(trial: Trial, command: Sequence[str], deadline: float) -> Iterator[None]:
    """Run a trial; yield after each check of its progress. Closing the iterator stops the run.

    At the deadline, a time of `time.monotonic`, it stops, too.
    """
    trial.directory.mkdir(parents=True)
    progress = ProgressLines(trial.progress_file)
    with trial.log.open("wb") as log:
        child = start(command, log)
        try:
            while child.poll() is None and time.monotonic() < deadline:
                for line in progress.read():
                    trial.read(line)
                yield
                time.sleep(_POLL_S)
            trial.state = "out of time" if child.poll() is None else "complete" if child.poll() == 0 else "failed"
        finally:
            if trial.state == "running":
                trial.state = "stopped"
            stop(child)
            for line in progress.read():
                trial.read(line)
    if trial.state == "failed":
        trial.error = (
            last_error(trial.log.read_text(errors="replace")) or f"the run exited with code {child.returncode}"
        )
