"""Commands that other distributions add by entry points of the group `sostenuto.commands`, as the server's does."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from sostenuto._cli.errors import Failure

GROUP = "sostenuto.commands"
INSTALL = "install the distribution sostenuto-server in the same environment"

# Of the server's distribution, by section of the help.
SERVER_COMMANDS = {
    "Train": ("train", "import", "resume", "vocabulary", "demo"),
    "Manage models": ("publish", "list", "show", "compare", "verify", "promote", "rollback", "remove"),
    "Serve": ("serve", "keys", "doctor"),
}
_NAMES = {name for names in SERVER_COMMANDS.values() for name in names}


def installed() -> dict[str, EntryPoint]:
    """Return the entry points by the names of their commands; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> click.Command | None:
    """Import a command, or return None if there is none of this name.

    Raises:
        Failure: it is the server's, which is not installed, or it cannot be imported.
    """
    point = installed().get(name)
    if point is None:
        if name in _NAMES:
            raise Failure(f"`sostenuto {name}` is a command of the server; {INSTALL}")
        return None
    try:
        command = point.load()
    except Exception as error:  # of a module that is not ours
        raise Failure(f"`sostenuto {name}` cannot be loaded: {point.value}: {error}") from error
    if not isinstance(command, click.Command):
        raise Failure(f"`sostenuto {name}` cannot be loaded: {point.value} is no click command, got {command!r}")
    return command
