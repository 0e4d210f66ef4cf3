"""`sostenuto completion`: print the shell completion script."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

from sostenuto._cli.screen import write_text

PROGRAM, VARIABLE = "sostenuto", "_SOSTENUTO_COMPLETE"

# Path of the completion script for each shell.
PATHS = {
    "bash": "~/.local/share/bash-completion/completions/sostenuto",
    "zsh": "~/.zfunc/_sostenuto, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc",
    "fish": "~/.config/fish/completions/sostenuto.fish",
}

EPILOG = """\
\b
Example:
  sostenuto completion bash > ~/.local/share/bash-completion/completions/sostenuto"""


@click.command(epilog=EPILOG, short_help="Print the shell completion script.")
@click.argument("shell", type=click.Choice(sorted(PATHS)), required=False, metavar="SHELL")
def completion(shell: str | None) -> None:
    """Print the completion script of a shell; its first lines say where to save it.

    SHELL is bash, zsh or fish, by default that of the environment variable SHELL.
    """
    shell = shell or PurePath(os.environ.get("SHELL", "")).name
    kind = get_completion_class(shell) if shell in PATHS else None
    if kind is None:
        raise click.UsageError(f"unknown shell: pass one of {', '.join(sorted(PATHS))}")
    # Its source() would start the shell to get its version.
    script = kind(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE)
    first = "#compdef sostenuto\n" if shell == "zsh" else ""
    body = (script.source_template % script.source_vars()).strip().replace("#compdef sostenuto\n", "")
    write_text(f"{first}# Save as {PATHS[shell]}\n{body.strip()}\n")
