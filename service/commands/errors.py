"""Errors of a command: one line on standard error, and an exit code."""

from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from service.settings import Settings

FAILED, WRONG_USAGE = 1, 2


def fail(message: str, exit_code: int = FAILED) -> NoReturn:
    """Print an error and end the command."""
    click.echo(f"error: {message}", err=True)
    raise click.exceptions.Exit(exit_code)


def valid_settings() -> "Settings":
    """Read the settings; an invalid one is wrong usage."""
    from service.settings import SettingsError, load_settings  # noqa: PLC0415 - slow to import

    try:
        return load_settings()
    except SettingsError as error:
        fail(str(error), WRONG_USAGE)
