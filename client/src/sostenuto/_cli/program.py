"""The program `sostenuto`: commands, error handling and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from sostenuto import SostenutoError, __version__
from sostenuto._cli import INTERRUPTED, WRONG_USAGE, extensions
from sostenuto._cli.commands.batch import batch
from sostenuto._cli.commands.completion import completion
from sostenuto._cli.commands.generate import generate
from sostenuto._cli.commands.inspect import inspect
from sostenuto._cli.commands.models import models
from sostenuto._cli.commands.score import score
from sostenuto._cli.commands.tokenizer import tokenizer
from sostenuto._cli.commands.tokens import tokens
from sostenuto._cli.commands.write import write
from sostenuto._cli.connection import ENVIRONMENT, server_options
from sostenuto._cli.errors import BROKEN_PIPE, EXIT_CODES, Failure, exit_code, line
from sostenuto._cli.screen import say

EPILOG = f"""\
\b
Examples:
  sostenuto generate "Once upon a time" --max-tokens 200 --temperature 0.7
  sostenuto write --file story.json
  cat page.txt | sostenuto score

{ENVIRONMENT}

{EXIT_CODES}

For completion by the Tab key see `sostenuto completion --help`."""

SECTIONS = {
    "Text": ("generate", "write", "score", "inspect"),
    "Server": ("models", "tokens", "tokenizer", "batch"),
}
SHORT_HELP = 60  # characters of a command's help in the list


class Program(click.Group):
    """A command group that reports every failure as one line on standard error and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit with its exit code."""
        _open_missing_streams()
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            say(line(error))
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        except SostenutoError as error:
            say(line(error))
            code = exit_code(error)
        except OSError as error:  # such as a full disk behind standard output
            say(line(click.ClickException(f"cannot write: {error.strerror or error}")))
            code = WRONG_USAGE
            _discard_output()
        sys.exit(code or 0)

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all installed commands."""
        return sorted({*super().list_commands(context), *extensions.installed()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command; those of other distributions are imported here."""
        return super().get_command(context, name) or extensions.load(name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the installed commands by section, and which the server would add."""
        names, sections = self.list_commands(context), {**SECTIONS, **extensions.SERVER_COMMANDS}
        known = {name for section in sections.values() for name in section}
        sections["Further commands"] = tuple(name for name in names if name not in known)
        for title, section in sections.items():
            rows = [(name, self._short_help(context, name)) for name in section if name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if not any(name in names for section in extensions.SERVER_COMMANDS.values() for name in section):
            missing = ", ".join(name for section in extensions.SERVER_COMMANDS.values() for name in section)
            formatter.write_paragraph()
            formatter.write_text(f"Without the server there are no {missing}; {extensions.INSTALL}")

    def _short_help(self, context: click.Context, name: str) -> str:
        try:
            command = self.get_command(context, name)
        except Failure as error:
            return error.message
        return "" if command is None else command.get_short_help_str(SHORT_HELP)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; without a command, print the help and exit."""
        if not args and not context.resilient_parsing:  # shell completion parses resiliently
            click.echo(context.get_help(), err=True)
            context.exit(WRONG_USAGE)
        return super().parse_args(context, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; `--help` and `--version` write their output here."""
        with _silent_on_broken_pipe():
            return super().make_context(*args, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        """Run the command of a context."""
        with _silent_on_broken_pipe():
            super().invoke(context)


@contextmanager
def _silent_on_broken_pipe() -> Iterator[None]:
    """Exit silently when the reader of standard output is gone."""
    try:
        yield
    except BrokenPipeError:
        _discard_output()
        raise click.exceptions.Exit(BROKEN_PIPE) from None


def _discard_output() -> None:
    """Redirect standard output to the null device, so that the interpreter's flush at exit does not fail."""
    with suppress(OSError, ValueError):  # a test's substitute has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_missing_streams() -> None:
    """Open the null device for standard streams that are closed, as a daemon's are."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


@click.group(
    cls=Program,
    no_args_is_help=False,  # click 8.2 and later raise a separate error for it
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="sostenuto", message="%(prog)s %(version)s")
@server_options
def program() -> None:
    """Train and serve text generators; generate, score and inspect text with a server.

    The options below may also follow a command that connects to a server.
    """


for command in (generate, write, score, models, tokens, tokenizer, inspect, batch, completion):
    program.add_command(command)
