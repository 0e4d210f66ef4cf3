"""The command `trainer`: what it runs, and what it passes on."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from contract.audit import VARIABLE
from jobs import cli


@pytest.mark.parametrize("given", ["option", "variable"])
def test_the_audit_file_is_absolute_for_exporters_in_other_directories(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "audit.jsonl" if given == "variable" else "other.jsonl")
    seen = []
    monkeypatch.setattr(cli.Trainer, "run", lambda _: seen.append(os.environ[VARIABLE]))
    options = ["--audit-file", "audit.jsonl"] if given == "option" else []
    done = CliRunner().invoke(cli.trainer, options)
    assert (done.exit_code, seen) == (0, [str(Path("audit.jsonl").resolve())]), done.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--training-dir", "/dev/null/x"], "/dev/null/x: Not a directory"),
        (["--database", "mysql+nothing://x"], "Can't load plugin: sqlalchemy.dialects:mysql.nothing"),
    ],
)
def test_a_database_that_cannot_be_opened_is_an_error_of_one_line(options, reason):
    done = CliRunner().invoke(cli.trainer, options)
    assert (done.exit_code, done.stderr) == (1, f"Error: the job database cannot be opened: {reason}\n")
