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
