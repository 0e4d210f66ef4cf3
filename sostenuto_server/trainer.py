"""The command `sostenuto trainer`, apart from the other commands, which need no database."""

from jobs.cli import trainer  # noqa: F401 - entry point
