"""Runs a command of the exporter in this process, and reads its error."""

from export.cli import program


def main(arguments):
    """Return the exit code of a command; raise `click.UsageError` where it exits with 2."""
    return program.main(arguments, standalone_mode=False)


def one_line(capsys):
    """Return the standard error output of a command that failed, which must be one line."""
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err
