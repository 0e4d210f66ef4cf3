"""Runs a command of the exporter in this process."""

from export.cli import program


def main(arguments):
    """Return the exit code of a command; raise `click.UsageError` where it exits with 2."""
    return program.main(arguments, standalone_mode=False)
