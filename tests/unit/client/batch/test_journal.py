"""OUT: append of whole lines, recovery after any end of a run, and one run at a time."""

import fcntl
import os
import subprocess
import sys

import pytest

from sostenuto._batch import journal as module
from sostenuto._batch.errors import LineError, OutputLost, Stopped, UsageError
from sostenuto._batch.journal import Journal
from sostenuto._batch.output_record import error_line, response_line
from sostenuto._batch.requests_file import Line

GOOD = [response_line(name, 200, "r", b"{}").content for name in "abc"]
BAD = error_line(Line(1, b""), LineError("timeout", "m", "d")).content


@pytest.fixture
def out(tmp_path):
    """The path of OUT."""
    return tmp_path / "out.jsonl"


def recovered(path):
    """Recover OUT and return the custom_ids of its lines."""
    names = []
    with Journal(path) as journal:
        journal.recover(lambda written: names.append(written.custom_id))
    return names


@pytest.mark.parametrize("length", range(0, len(GOOD[1]) + 1, 3))
def test_an_incomplete_last_line_is_truncated_at_any_length(out, length):
    """Complete lines stay, and the next one is appended after them."""
    out.write_bytes(GOOD[0] + GOOD[1][: min(length, len(GOOD[1]) - 1)])
    assert recovered(out) == ["a"]
    with Journal(out) as journal:
        journal.append(GOOD[2])
    assert out.read_bytes() == GOOD[0] + GOOD[2]


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"my notes\n", b'{"id": 1}\n', GOOD[0] + b"notes"],
    ids=["torn", "a line", "JSON", "behind an answer"],
)
def test_a_file_that_is_not_a_batch_output_is_refused_and_unchanged(out, content):
    """Only an incomplete line that a batch has written is truncated."""
    out.write_bytes(content)
    with pytest.raises(UsageError, match="is not the output of a batch"):
        recovered(out)
    assert out.read_bytes() == content


def test_a_second_run_on_the_same_out_is_refused(out):
    """OUT is locked until the first run ends."""
    with Journal(out), pytest.raises(UsageError, match="another run is writing"):
        Journal(out)
    Journal(out).close()


def test_the_lock_holds_after_errors_are_dropped(out):
    """`drop_errors` replaces OUT, and the new file is locked as well."""
    out.write_bytes(BAD)
    with Journal(out) as journal:
        journal.drop_errors()
        with pytest.raises(UsageError, match="another run"):
            Journal(out)


def test_a_file_replaced_before_it_is_locked_is_opened_again(out, monkeypatch):
    """Lines go to the file that has the path when the lock is taken."""
    flock, replaced = fcntl.flock, []

    def replace_and_lock(file, how):
        if not replaced:
            replaced.append(True)
            other = out.with_name("other")
            other.write_bytes(GOOD[0])
            other.replace(out)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with Journal(out) as journal:
        journal.append(GOOD[1])
    assert out.read_bytes() == GOOD[0] + GOOD[1]


def replace_by_another(path):
    path.with_name("other").write_bytes(b"")
    path.with_name("other").replace(path)


LOSSES = {
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("moved")),
    "replaced": replace_by_another,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_out_that_is_not_at_its_path_any_more_is_an_error(out, monkeypatch, loss):
    """At the end, and at the next flush: further lines would be lost."""
    monkeypatch.setattr(module, "SYNC_EVERY_S", 0.0)
    with Journal(out) as journal:
        journal.append(GOOD[0])
        journal.check()
        LOSSES[loss](out)
        for act in (journal.check, lambda: journal.append(GOOD[1])):
            with pytest.raises(OutputLost, match=f"{out} was removed, renamed or replaced"):
                act()


def test_a_link_in_place_of_out_may_point_to_the_file_that_is_written(out, tmp_path):
    """But has to exist."""
    out.symlink_to(tmp_path / "real")
    with Journal(out) as journal:
        journal.check()
        out.unlink()
        with pytest.raises(OutputLost):
            journal.check()


def test_dropping_errors_keeps_successes_mode_and_symlink(out, tmp_path):
    """Appended lines go to the new file, and the temporary file of a killed run is removed."""
    real = tmp_path / "real.jsonl"
    real.write_bytes(GOOD[0] + BAD + GOOD[1])
    real.chmod(0o640)
    out.symlink_to(real)
    (tmp_path / "real.jsonl.rewriting").write_bytes(b"left by a killed run")
    with Journal(out) as journal:
        journal.drop_errors()
        journal.append(GOOD[2])
    assert out.is_symlink()
    assert real.read_bytes() == b"".join(GOOD)
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "real.jsonl"]


def test_a_new_name_is_flushed_to_disk(out, monkeypatch):
    """A power failure loses neither a new OUT nor one without errors: their directory is flushed, too."""
    flushed, fsync = [], os.fsync

    def record(file):
        flushed.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", record)
    directory = out.parent.stat().st_ino
    with Journal(out) as journal:
        assert flushed == [directory]
        journal.drop_errors()
        assert flushed == [directory, out.stat().st_ino, directory]


def test_an_appended_line_survives_sigkill(out):
    """No line stays in a buffer of the process."""
    script = (
        "import os, signal, sys; from pathlib import Path; from sostenuto._batch.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.append(sys.argv[2].encode())\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(out), GOOD[0].decode()], timeout=240, check=False)
    assert done.returncode == -9
    assert out.read_bytes() == GOOD[0]
    assert recovered(out) == ["a"]


def test_a_line_torn_by_a_full_disk_stops_the_run_and_is_recoverable(out, monkeypatch):
    """The disk takes a part of the line; the next run truncates it."""
    write, room = os.write, [10]

    def write_some(file, content):
        if not room[0]:
            raise OSError(28, "No space left on device")
        count, room[0] = write(file, content[: room[0]]), 0
        return count

    with Journal(out) as journal:
        monkeypatch.setattr(os, "write", write_some)
        with pytest.raises(Stopped, match="No space left"):
            journal.append(GOOD[0])
        monkeypatch.undo()
    assert out.read_bytes() == GOOD[0][:10]
    assert recovered(out) == []
    assert out.read_bytes() == b""


@pytest.mark.parametrize(
    ("path", "message"), [("/dev/null", "must be a regular file"), ("nowhere/out", "No such file")]
)
def test_out_must_be_a_regular_file(tmp_path, path, message):
    """A run that is resumed reads OUT."""
    with pytest.raises(UsageError, match=message):
        Journal(tmp_path / path)
