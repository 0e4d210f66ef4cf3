"""Bounded reads of regular files; atomic writes: a file is written completely or not at all."""

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contract.files import MAX_CONFIG_BYTES, atomic_write, create_atomically, read_file, sync_tree, write_atomically
from tests.faults import fill_disk


def test_a_file_within_the_limit_is_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="must have at most 4 bytes, got 5"):
        read_file(tmp_path / "file", 4)


def test_a_file_that_is_no_regular_one_is_refused_at_once(tmp_path):
    """A pipe has no writer to wait for, a device has no end; a symbolic link to a file is one."""
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="is not a regular file") as caught:
            read_file(special)
        assert caught.value.filename == str(special)
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"1"


def test_a_file_without_a_size_is_read_up_to_the_limit():
    with pytest.raises(OSError, match="must have at most 10 bytes, got 11"):
        read_file(Path("/proc/self/status"), 10)
    assert read_file(Path("/proc/self/comm"), MAX_CONFIG_BYTES)


@pytest.fixture(params=["write", "fsync"])
def full_disk(request, monkeypatch):
    """A disk that accepts names but no content: the error comes with the write, or with its `fsync`."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if request.param == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        fill_disk(monkeypatch)


def write(path):
    return write_atomically(path, "new")


def create(path):
    return create_atomically(path, "new", mode=0o600)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("act", [write, create])
def test_a_full_disk_leaves_no_new_file_and_an_old_one_unchanged(act, tmp_path, full_disk):  # noqa: ARG001 - a fixture
    path = tmp_path / "file"
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        act(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_the_file_is_synced_before_its_rename_and_the_directory_after_it(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
    monkeypatch.setattr(os, "fsync", lambda d: (fsync(d), done.append(kinds[stat.S_IFMT(os.fstat(d).st_mode)])))
    monkeypatch.setattr(os, "replace", lambda *paths: (replace(*paths), done.append("rename")))
    write(tmp_path / "file")
    assert done == ["file", "rename", "directory"]


def test_permissions_are_the_requested_mode_without_the_umask(tmp_path):
    """A model server reads `models.config` as another user; a key is for its owner alone."""
    code = (
        "import os, pathlib; os.umask(0o022); from contract.files import *; import contract.files as f\n"
        "f.write_atomically(pathlib.Path('a'), 'x'); f.create_atomically(pathlib.Path('b'), 'x', mode=0o600)"
    )
    root = os.getcwd()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": root})
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o644, 0o600]


def test_create_keeps_an_existing_file(tmp_path):
    path = tmp_path / "file"
    assert create(path)
    assert not create(path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_creation_succeeds_once(tmp_path, monkeypatch):
    """The other process finds a complete file, even if it appears between check and link."""
    path, link = tmp_path / "file", os.link

    def be_late(*paths):
        path.write_text("the other one's")
        link(*paths)

    monkeypatch.setattr(os, "link", be_late)
    assert not create(path)
    assert path.read_text() == "the other one's"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writer_removes_the_temporary_file(tmp_path):
    def fail():
        with atomic_write(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_in_place_and_a_symbolic_link_followed(tmp_path):
    """`--save /dev/stdout` must not replace the device."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    reader, writer = os.pipe()
    write_atomically(tmp_path / f"../../../../../../../../dev/fd/{writer}", "new")
    os.close(writer)
    with open(reader) as file:
        assert file.read() == "new"


def test_a_tree_is_synced_with_its_directories(tmp_path, monkeypatch):
    """Directories hold the files' names."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    inodes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: inodes.append(os.fstat(descriptor).st_ino))
    sync_tree(tmp_path)
    wanted = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"]
    assert sorted(inodes) == sorted(path.stat().st_ino for path in wanted)
