"""The program `ostinato`: its commands, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from ostinato import OstinatoError, __version__
from ostinato._cli import WRONG_USAGE
from ostinato._cli.commands.bench import bench
from ostinato._cli.commands.completion import completion
from ostinato._cli.commands.generate import generate
from ostinato._cli.commands.inspect import inspect
from ostinato._cli.commands.models import models
from ostinato._cli.commands.score import score
from ostinato._cli.commands.tokens import tokens
from ostinato._cli.commands.write import write
from ostinato._cli.connection import ENVIRONMENT, server_options
from ostinato._cli.errors import BROKEN_PIPE, EXIT_CODES, INTERRUPTED, exit_code, line
from ostinato._cli.screen import say

EPILOG = f"""\
\b
Examples:
  ostinato generate "Once upon a time" --max-tokens 200 --temperature 0.7
  ostinato write --file story.json
  cat page.txt | ostinato score

{ENVIRONMENT}

{EXIT_CODES}

Tab completes commands and options after what `ostinato completion --help` says."""


class Program(click.Group):
    """Commands whose every failure is one line on standard error and an exit code."""

    def main(self, *args: Any, **how: Any) -> NoReturn:
        """Run a command and leave with its exit code."""
        _open_what_is_closed()
        try:
            code = super().main(*args, **{**how, "standalone_mode": False})
        except click.ClickException as error:
            say(line(error))
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        except OstinatoError as error:
            say(line(error))
            code = exit_code(error)
        except OSError as error:  # such as a full disk behind standard output
            say(line(click.ClickException(f"cannot write: {error.strerror or error}")))
            code = WRONG_USAGE
            _flush_into_nothing()
        sys.exit(code or 0)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse, or show who names no command what there is."""
        if not args and not context.resilient_parsing:  # as a shell that asks what there is
            click.echo(context.get_help(), err=True)
            context.exit(WRONG_USAGE)
        return super().parse_args(context, args)

    def make_context(self, *args: Any, **how: Any) -> click.Context:
        """Parse; `--help` and `--version` write here already."""
        with _quiet_without_reader():
            return super().make_context(*args, **how)

    def invoke(self, context: click.Context) -> Any:
        """Run the command of a context."""
        with _quiet_without_reader():
            super().invoke(context)


@contextmanager
def _quiet_without_reader() -> Iterator[None]:
    """End without a word when nobody reads what is written."""
    try:
        yield
    except BrokenPipeError:
        _flush_into_nothing()
        raise click.exceptions.Exit(BROKEN_PIPE) from None


def _flush_into_nothing() -> None:
    """Have the interpreter, when it ends, write what it still holds nowhere."""
    with suppress(OSError, ValueError):  # a stand-in of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_what_is_closed() -> None:
    """Give a program that was started without one of them, as daemons are, streams that lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as it runs


@click.group(
    cls=Program,
    no_args_is_help=False,  # from click 8.2 on it is an error of its own
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="ostinato", message="%(prog)s %(version)s")
@server_options
def program() -> None:
    """Ask a server of recurrent text generators. Its options may also stand behind a command."""


for command in (generate, write, score, models, tokens, inspect, bench, completion):
    program.add_command(command)
