"""A training job on the terminal: a progress bar, and a line with a sample after each epoch."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

import click
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from sostenuto import Job, JobEvent
from sostenuto._cli import INTERRUPTED
from sostenuto._cli.options import given_options
from sostenuto._cli.terminal import console, read_until_ctrl_c, say, write_text
from sostenuto._concurrency import clock, visible

INDENT = "    "  # of a sample
MAX_WIDTH = 100  # of a sample's lines
REDRAWS_PER_S = 2


def follow(job: Job) -> None:
    """Show the events of a job until it has ended, then the next command; raise JobFailed if it has no model.

    Ctrl-C leaves the job, and says how to follow or cancel it.
    """
    try:
        with JobDisplay(job) as display, job.events() as events:
            read_until_ctrl_c(events, display.show, events.close)
    except KeyboardInterrupt:
        say(f"the job continues; follow it:\n  {command('jobs', 'events', job.id)}")
        say(f"or cancel it:\n  {command('jobs', 'cancel', job.id)}")
        click.get_current_context().exit(INTERRUPTED)
    job.refresh().raise_for_status()
    write_text(f"try it:\n  {command('generate', '--model', str(job.fine_tuned_model), *display.example)}\n")


def command(*words: str) -> str:
    """Return a command line of this program for the same server and with the same API key."""
    options = given_options()
    given = [name for name in ("base_url", "api_key_file") if name in options]
    server = [word for name in given for word in (f"--{name.replace('_', '-')}", str(options[name]))]
    return shlex.join(["sostenuto", *words, *server])


class JobDisplay(AbstractContextManager["JobDisplay"]):
    """Shows the events of a job: lines on standard output, and a progress bar on standard error if it is a terminal.

    Attributes:
        example: list of str. Of the latest sample: the prompt or suffix, and the labels, as arguments of
            `sostenuto generate`.
    """

    def __init__(self, job: Job) -> None:
        self.example: list[str] = [""]
        self._is_backward = job.settings.get("direction") == "backward"
        self._num_epochs = job.settings.get("epochs")
        self._validation_loss: float | None = None
        message, losses = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[losses]"))
        columns = (message, BarColumn(24), _TimeLeft(), losses)
        self._bar = Progress(
            *columns,
            console=console(stderr=True),
            transient=True,
            refresh_per_second=REDRAWS_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(visible(job.status), total=None, losses="", ends_at=None)
        self._bar.start()

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, event: JobEvent) -> None:
        if event.type == "message":
            # Without a total the bar pulses: how long a job is queued, paused or loaded is unknown.
            self._bar.update(self._task, description=visible(event.message), total=None, losses="", ends_at=None)
            self._print(event.message)
        elif event.is_best is not None:
            self._validation_loss = event.validation_loss
            self.example = self._example(event.samples)
            self._print("\n".join([event.message, *(_indented(self._text(sample)) for sample in event.samples)]))
        elif event.fraction is not None:
            self._advance(event, event.fraction)

    def _advance(self, event: JobEvent, fraction: float) -> None:
        epoch = visible(f"epoch {event.epoch}" + (f" of {self._num_epochs}" if self._num_epochs else ""))
        losses = f"loss {event.train_loss:.3f}" if event.train_loss is not None else ""
        if self._validation_loss is not None:
            losses += f", validation {self._validation_loss:.3f}"
        ends_at = None if event.seconds_left is None else monotonic() + event.seconds_left
        fields: dict[str, Any] = {"description": epoch, "losses": losses, "ends_at": ends_at}
        self._bar.update(self._task, total=1.0, completed=fraction, **fields)

    def _text(self, sample: dict[str, Any]) -> str:
        """Return a sample in reading order, with its labels and its prompt or suffix in brackets."""
        labels = "".join(f"[{name}={label}]" for name, label in sample["labels"].items())
        parts = [f"[{sample['given']}]" if sample["given"] else "", sample["text"]]
        return labels + "".join(parts[::-1] if self._is_backward else parts)

    def _example(self, samples: list[dict[str, Any]]) -> list[str]:
        """Return the labels of a sample and the line of its prompt or suffix next to the text.

        Omit what would need quoting in a shell, or would be taken for an option.
        """
        for sample in samples:
            lines = sample["given"].splitlines() or [""]
            given = ["--suffix", lines[0]] if self._is_backward else [lines[-1]]
            labels = [option for pair in sample["labels"].items() for option in ("--label", "=".join(pair))]
            if all(map(str.isprintable, [*given, *labels])) and not given[-1].startswith("-"):
                return [*given, *labels]
        return [""]

    def _print(self, text: str) -> None:
        if self._bar.disable or not sys.stdout.isatty():
            write_text(f"{text}\n")
        else:
            self._bar.console.print(visible(text))  # above the bar


class _TimeLeft(ProgressColumn):
    """The time left, which counts down between events."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields["ends_at"]
        if ends_at is None:
            return Text("")
        left_s = ends_at - monotonic()
        return Text(f"{clock(left_s)} left" if left_s > 0 else "finishing")


def _indented(sample: str) -> str:
    width = max(1, min(MAX_WIDTH, shutil.get_terminal_size().columns - len(INDENT) - 1))
    lines = [line for each in sample.splitlines() for line in textwrap.wrap(each, width) or [""]]
    return textwrap.indent("\n".join(lines), INDENT)
