"""The program `sostenuto`: its commands, those of other distributions, and the handling of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from io import TextIOWrapper
from pathlib import PurePath
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class

from sostenuto import SostenutoError, __version__
from sostenuto._cli import INTERRUPTED, WRONG_USAGE
from sostenuto._cli.batch import batch
from sostenuto._cli.errors import BROKEN_PIPE, EXIT_CODES, Failure, error_line, exit_code
from sostenuto._cli.generate import generate
from sostenuto._cli.jobs import jobs
from sostenuto._cli.models import models, tokenizer
from sostenuto._cli.options import ENVIRONMENT, server_options
from sostenuto._cli.report import report
from sostenuto._cli.score import score
from sostenuto._cli.terminal import say, write_text
from sostenuto._cli.texts import activations, inspect, next_word, tokens
from sostenuto._cli.train import train
from sostenuto._cli.write import write

EPILOG = f"""\
\b
Examples:
  sostenuto generate "Once upon a time" --max-tokens 200 --temperature 0.7
  sostenuto write --file story.json
  sostenuto score app.log --csv

{ENVIRONMENT}

{EXIT_CODES}

For completion by the Tab key see `sostenuto completion --help`."""

SECTIONS = {
    "Text": ("generate", "write", "next", "score", "inspect", "activations"),
    "Server": ("models", "tokens", "tokenizer", "batch", "report"),
    "Train": ("train", "tune", "jobs", "import", "resume", "vocabulary", "demo"),
    "Manage models": ("publish", "list", "show", "compare", "verify", "promote", "rollback", "remove"),
    "Serve": ("serve", "model-server", "trainer", "keys", "state-key", "doctor"),
}
# Of the server's distribution, which adds them by entry points of GROUP. It replaces `train` with one that also trains
# without a server.
SERVER_COMMANDS = ("tune", "import", "resume", "vocabulary", "demo", *SECTIONS["Manage models"], *SECTIONS["Serve"])
REPLACED = {"train": train}
GROUP = "sostenuto.commands"
INSTALL = "install the distribution sostenuto-server in the same environment"
SHORT_HELP = 60  # characters of a command's help in the list

NAME, COMPLETION_VARIABLE = "sostenuto", "_SOSTENUTO_COMPLETE"
# Path of the completion script for each shell.
COMPLETION_PATHS = {
    "bash": "~/.local/share/bash-completion/completions/sostenuto",
    "zsh": "~/.zfunc/_sostenuto, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc",
    "fish": "~/.config/fish/completions/sostenuto.fish",
}


class Program(click.Group):
    """A command group that reports every failure as one line on standard error and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit with its exit code."""
        _open_missing_streams()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal may have another encoding than UTF-8
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            say(error_line(error))
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        except SostenutoError as error:
            say(error_line(error))
            code = exit_code(error)
        except OSError as error:  # such as a full disk behind standard output
            say(error_line(click.ClickException(f"cannot write: {error.strerror or error}")))
            code = WRONG_USAGE
            _discard_output()
        sys.exit(code or 0)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *REPLACED, *installed()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command; those of other distributions are imported here."""
        return super().get_command(context, name) or load(name) or REPLACED.get(name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the installed commands by section, and which the server would add."""
        names, sections = self.list_commands(context), dict(SECTIONS)
        known = {name for section in sections.values() for name in section}
        sections["Further commands"] = tuple(name for name in names if name not in known)
        for title, section in sections.items():
            rows = [(name, self._short_help(context, name)) for name in section if name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if not any(name in names for name in SERVER_COMMANDS):
            formatter.write_paragraph()
            formatter.write_text(f"Without the server there are no {', '.join(SERVER_COMMANDS)}; {INSTALL}")

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
        with _silent_on_broken_pipe():
            super().invoke(context)


def installed() -> dict[str, EntryPoint]:
    """Return the entry points by the names of their commands; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> click.Command | None:
    """Import a command, or return None if there is none of this name; raise Failure if it cannot be imported."""
    point = installed().get(name)
    if point is None:
        if name in SERVER_COMMANDS:
            raise Failure(f"`sostenuto {name}` is a command of the server; {INSTALL}")
        return None
    try:
        command = point.load()
    except Exception as error:  # of a module that is not ours
        raise Failure(f"`sostenuto {name}` cannot be loaded: {point.value}: {error}") from error
    if not isinstance(command, click.Command):
        raise Failure(f"`sostenuto {name}` cannot be loaded: {point.value} is not a click command, got {command!r}")
    return command


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


COMPLETION_EPILOG = """\
\b
Example:
  sostenuto completion bash > ~/.local/share/bash-completion/completions/sostenuto"""


@click.command(epilog=COMPLETION_EPILOG, short_help="Print the shell completion script.")
@click.argument("shell", type=click.Choice(sorted(COMPLETION_PATHS)), required=False, metavar="SHELL")
def completion(shell: str | None) -> None:
    """Print the completion script of a shell; its first lines say where to save it.

    SHELL is bash, zsh or fish, by default that of the environment variable SHELL.
    """
    shell = shell or PurePath(os.environ.get("SHELL", "")).name
    kind = get_completion_class(shell) if shell in COMPLETION_PATHS else None
    if kind is None:
        raise click.UsageError(f"unknown shell: pass one of {', '.join(sorted(COMPLETION_PATHS))}")
    # Its source() would start the shell to get its version.
    script = kind(click.get_current_context().find_root().command, {}, NAME, COMPLETION_VARIABLE)
    first = "#compdef sostenuto\n" if shell == "zsh" else ""
    body = (script.source_template % script.source_vars()).strip().replace("#compdef sostenuto\n", "")
    write_text(f"{first}# Save as {COMPLETION_PATHS[shell]}\n{body.strip()}\n")


for command in (
    generate, write, next_word, score, models, tokens, tokenizer, inspect, activations, jobs, batch, report, completion
):  # fmt: skip
    program.add_command(command)
