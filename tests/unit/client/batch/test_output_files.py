"""OUT in each format, and the errors file beside it: append, recovery after any end of a run, one run at a time."""

import fcntl
import itertools
import json
import os
import subprocess
import sys

import pytest

from sostenuto._batch import output_files as module
from sostenuto._batch.errors import LineError, OutputLost, Stopped, UsageError
from sostenuto._batch.formats import CSV, FORMATS, JSONL, OPENAI, error_line, response_line
from sostenuto._batch.output_files import Journal, OutputFiles
from sostenuto._batch.requests_file import Line

GOOD = [response_line(name, 200, "r", b"{}").content for name in "abc"]
FAILED = error_line(Line(4, b""), LineError("timeout", "m", "failed"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_the_lock_holds_after_errors_are_dropped(out):
    """`drop_errors` replaces OUT, and the new file is locked as well."""
    out.write_bytes(FAILED.content)
    with Journal(out) as journal:
        journal.drop_errors()
        with pytest.raises(UsageError, match="another run"):
            Journal(out)


def test_a_system_without_fdatasync_syncs_by_fsync(out, monkeypatch):
    """As macOS."""
    monkeypatch.delattr(os, "fdatasync")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal(out) as journal:
        synced.clear()
        journal.append(GOOD[0])
    assert len(synced) == 1


def replace_by_another(path, content=b""):
    path.with_name("other").write_bytes(content)
    path.with_name("other").replace(path)


def test_a_file_replaced_before_it_is_locked_is_opened_again(out, monkeypatch):
    flock, replaced = fcntl.flock, []

    def replace_and_lock(file, how):
        if not replaced:
            replaced.append(True)
            replace_by_another(out, GOOD[0])
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with Journal(out) as journal:
        journal.append(GOOD[1])
    assert out.read_bytes() == GOOD[0] + GOOD[1]


LOSSES = {
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("moved")),
    "replaced": replace_by_another,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_out_that_is_not_at_its_path_any_more_is_an_error(out, monkeypatch, loss):
    monkeypatch.setattr(module, "SYNC_EVERY_S", 0.0)
    with Journal(out) as journal:
        journal.append(GOOD[0])
        journal.check()
        LOSSES[loss](out)
        for act in (journal.check, lambda: journal.append(GOOD[1])):
            with pytest.raises(OutputLost, match=f"{out} was removed, renamed or replaced"):
                act()


def test_a_link_in_place_of_out_may_point_to_the_file_that_is_written(out, tmp_path):
    out.symlink_to(tmp_path / "real")
    with Journal(out) as journal:
        journal.check()
        out.unlink()
        with pytest.raises(OutputLost):
            journal.check()


def test_dropping_errors_keeps_successes_mode_and_symlink(out, tmp_path):
    real = tmp_path / "real.jsonl"
    real.write_bytes(GOOD[0] + FAILED.content + GOOD[1])
    real.chmod(0o640)
    out.symlink_to(real)
    (tmp_path / "real.jsonl.rewriting").write_bytes(b"left by a killed run")
    with Journal(out) as journal:
        journal.drop_errors()
        journal.append(GOOD[2])
    assert out.is_symlink()
    assert real.read_bytes() == b"".join(GOOD)
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real.jsonl"]


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
    script = (
        "import os, signal, sys; from pathlib import Path; from sostenuto._batch.output_files import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.append(sys.argv[2].encode())\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(out), GOOD[0].decode()], timeout=240, check=False)
    assert done.returncode == -9
    assert out.read_bytes() == GOOD[0]
    assert recover(out, OPENAI) == [("a", None)]


def test_a_line_torn_by_a_full_disk_stops_the_run_and_is_recoverable(out, monkeypatch):
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
    assert recover(out, OPENAI) == []
    assert out.read_bytes() == b""


@pytest.mark.parametrize(
    ("path", "message"), [("/dev/null", "must be a regular file"), ("nowhere/out", "No such file")]
)
def test_out_must_be_a_regular_file(tmp_path, path, message):
    with pytest.raises(UsageError, match=message):
        Journal(tmp_path / path)


RESPONSE = json.dumps({"choices": [{"index": i, "text": 'a "\n', "finish_reason": "stop"} for i in (0, 1)]}).encode()
RECORD_FORMATS = pytest.mark.parametrize("output_format", [JSONL, CSV], ids=["jsonl", "csv"])


def line(output_format, name):
    return output_format.serialize(name, 200, "r", RESPONSE)


def recover(path, output_format, *, drops_errors=False, then=()):
    """Recover OUT, append lines, and return what was there, as (custom_id, code)."""
    found = []
    with OutputFiles(path, output_format) as files:
        files.recover(lambda record: found.append((record.custom_id, record.code)), drops_errors=drops_errors)
        for each in then:
            files.append(each)
    return found


@pytest.mark.parametrize("output_format", FORMATS.values(), ids=FORMATS)
def test_a_killed_run_leaves_whole_responses_at_any_length(out, output_format):
    recover(out, output_format, then=[line(output_format, "a")])
    length = out.stat().st_size
    recover(out, output_format, then=[line(output_format, "b")])
    whole = out.read_bytes()
    assert whole.startswith(output_format.header)
    for end in range(len(whole)):
        out.write_bytes(whole[:end])
        missing = [("a", None), ("b", None)][len(recover(out, output_format)) :]
        assert len(missing) == (1 if end >= length else 2)
        recover(out, output_format, then=[line(output_format, name) for name, _ in missing])
        assert recover(out, output_format) == [("a", None), ("b", None)]
        # Ids of lines are random and have the same length.
        assert out.stat().st_size == len(whole)


@RECORD_FORMATS
def test_errors_go_to_a_file_of_their_own_which_exists_only_with_errors(out, output_format):
    errors = out.with_name("out.errors.jsonl")
    errors.touch()
    recover(out, output_format, then=[line(output_format, "a")])
    assert not errors.exists()
    recover(out, output_format, then=[FAILED])
    assert out.read_bytes() == output_format.header + line(output_format, "a").content
    assert errors.read_bytes() == FAILED.content
    assert recover(out, output_format) == [("a", None), ("failed", "timeout")]
    assert recover(out, output_format, drops_errors=True) == [("a", None)]
    assert not errors.exists()
    assert recover(out, output_format) == [("a", None)]


@pytest.mark.parametrize(("name", "other_name"), list(itertools.permutations(FORMATS, 2)))
def test_out_in_another_format_is_refused_and_unchanged(out, name, other_name):
    output_format, other = FORMATS[name], FORMATS[other_name]
    out.write_bytes(content := other.header + line(other, "a").content)
    message = f"line 1 of .* is not the output of a batch with --format {output_format.name}"
    with pytest.raises(UsageError, match=message):
        recover(out, output_format)
    assert out.read_bytes() == content


@RECORD_FORMATS
def test_a_second_run_is_refused_and_leaves_the_errors_file(out, output_format):
    with OutputFiles(out, output_format) as files:
        files.append(FAILED)
        with pytest.raises(UsageError, match="another run is writing"):
            OutputFiles(out, output_format)
        assert files.errors_path.read_bytes() == FAILED.content


@RECORD_FORMATS
def test_an_errors_file_that_no_batch_wrote_is_refused_and_unchanged(out, output_format):
    errors = out.with_name("out.errors.jsonl")
    errors.write_bytes(b"notes\n")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"line 1 of .*out\.errors\.jsonl is not the output of a batch"):
            recover(out, output_format)
    assert errors.read_bytes() == b"notes\n"
