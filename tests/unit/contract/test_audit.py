"""The audit log: one line for each change, from any number of processes."""

import json
import os
import stat
import subprocess
import sys

import pytest

from contract.audit import current_user, record, record_command
from tests.paths import ROOT


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_when_who_and_what(path):
    record(path, "train", "key:82qz9i5j", tenant="älice", job="ftjob-1")
    record(path, "cancel", "key:82qz9i5j")
    first, second = lines(path)
    assert first.pop("time").endswith("Z")
    assert first == {"action": "train", "actor": "key:82qz9i5j", "tenant": "älice", "job": "ftjob-1"}
    assert second["action"] == "cancel"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_in_a_directory_that_a_group_shares_its_other_users_write_too(path):
    path.parent.chmod(0o2770)
    record(path, "train", "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_link_to_a_file_that_does_not_exist_yet_is_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere.jsonl")
    record(path, "train", "x")
    assert len(lines(tmp_path / "elsewhere.jsonl")) == 1


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("SOSTENUTO_AUDIT_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    record(None, "train", "x")
    record_command("publish")
    assert list(tmp_path.iterdir()) == []


def test_a_command_is_recorded_with_its_user(path, monkeypatch):
    monkeypatch.setenv("SOSTENUTO_AUDIT_FILE", str(path))
    record_command("promote", model="book:2", label="stable")
    (line,) = lines(path)
    assert (line["actor"], line["model"], line["label"]) == (current_user(), "book:2", "stable")


def test_lines_of_several_processes_do_not_mix(path):
    code = f"""
from pathlib import Path
from contract.audit import record
for number in range(50):
    record(Path({str(path)!r}), "x" * 3000, str(number))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(lines(path)) == 150


def test_a_line_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="directory"):
        record(tmp_path / "no/such/directory/audit", "x", "y")
    assert os.listdir(tmp_path) == []


def test_a_line_that_is_written_in_part_is_an_error_and_removed(path):
    """A full disk takes the bytes that it has room for; a limit of the file's size does the same."""
    code = f"""
import resource
from pathlib import Path
from contract.audit import record
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
record(Path({str(path)!r}), "x" * 200, "y")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "No space left on device" in done.stderr) == (1, True)
    record(path, "train", "key:82qz9i5j")
    assert [line["action"] for line in lines(path)] == ["train"]
