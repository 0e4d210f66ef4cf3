"""Shared parts of commands: errors, exit codes, option groups, common options, locks, the import of TensorFlow."""

import atexit
import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from contract.errors import ContractError
from contract.files import try_lock
from contract.processes import suppress_stderr
from export.config import MODELS
from export.errors import ExportError, RunError
from export.interrupts import exit_at_once, exit_code, raise_interrupt, signal_handlers

# The command itself reports unreadable files.
PATH = click.Path(path_type=Path, readable=False)


class Command(click.Command):
    """A command that returns its exit code.

    An error is one line on standard error, with exit code 1. Ctrl-C exits with 130, SIGTERM with 143.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and exit with its code."""
        for name in ("stdout", "stderr"):
            # A stream that is closed, as by >&-, is None; its descriptor would be given to the next file.
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
        for stream in (sys.stdout, sys.stderr):
            # A sample may have any character of the corpus. A terminal that cannot encode it must not end the training.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            with signal_handlers(raise_interrupt):
                code = super().invoke(ctx)
                sys.stdout.flush()
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe; the program exits silently.
            raise
        except (ExportError, ContractError, OSError) as error:
            click.echo(f"error: {error}", err=True)
            code = 1
        except KeyboardInterrupt as error:
            code = exit_code(error)
        ctx.exit(code)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that belong to no group, then each group."""
        groups: dict[str, list[tuple[str, str]]] = {"options": []}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                groups.setdefault(getattr(param, "group", "options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title.capitalize()):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option in a group of the help, with a default that only the help shows."""

    def __init__(
        self, *declarations: Any, group: str = "options", shown_default: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(*declarations, **attributes)
        self.group, self.shown_default = group, shown_default

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        return extra if self.shown_default is None else {**extra, "default": self.shown_default}


option = functools.partial(click.option, cls=GroupedOption)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


def models_dir_option(group: str = "options") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the option of the model repository, in a group of the help."""
    return option("--models-dir", type=PATH, default=MODELS, metavar="DIR", help="Model repository.", group=group)


@contextlib.contextmanager
def locked_directory(directory: Path, activity: str) -> Iterator[None]:
    """Lock a directory of runs. The lock file is next to it; the lock ends with the process.

    Raises:
        RunError: another run or search uses the directory.
    """
    path = directory.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(path.with_name(f".{path.name}.lock")) as is_free:
        if not is_free:
            raise RunError(f"{directory}: another {activity} uses this directory; give one of them another --name")
        yield


def import_tensorflow_quietly(*, start: bool = True) -> None:
    """Import TensorFlow and start its runtime, which warns about a missing GPU, and suppress their output.

    A training run starts the runtime itself, for its devices. If the import fails, the output is printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_stderr(), signal_handlers(exit_at_once):
        import tensorflow as tf  # noqa: PLC0415 - it takes seconds

        if start:
            tf.zeros([1])
    # TensorFlow leaves a thread pool to interpreter shutdown. It cannot be closed there and would print an error.
    atexit.register(setattr, sys, "unraisablehook", lambda _: None)
