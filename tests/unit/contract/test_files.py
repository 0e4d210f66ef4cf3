"""Files are written whole or not at all."""

import errno
import os
import re
import stat
import subprocess
import sys

import pytest

from contract.files import atomic_write, create_atomically, sync_tree, write_atomically
from tests.faults import fill_disk


@pytest.fixture(params=["write", "fsync"])
def full_disk(request, monkeypatch):
    """A disk that takes names but no content: the error comes with the content, or with its `fsync`."""

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
def test_a_full_disk_leaves_nothing_and_is_told_with_the_path(act, tmp_path, full_disk):  # noqa: ARG001 - a fixture
    """No empty file, no temporary one; the message has the file's path and the reason."""
    path = tmp_path / "file"
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        act(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_a_full_disk_leaves_the_file_that_is_there(tmp_path, full_disk):  # noqa: ARG001 - a fixture
    """The old content stays, whole."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_it_is_done(tmp_path, monkeypatch):
    """Otherwise a power failure leaves an empty file under the name, or the old one after success was reported."""
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda d: (fsync(d), done.append("directory" if stat.S_ISDIR(os.fstat(d).st_mode) else "file"))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (replace(*paths), done.append("rename")))
    write(tmp_path / "file")
    assert done == ["file", "rename", "directory"]


def test_permissions_are_those_that_were_asked_for_less_the_umask(tmp_path):
    """A model server reads `models.config` under another user; a key is for its owner."""
    code = (
        "import os, pathlib; os.umask(0o022); from contract.files import *; import contract.files as f\n"
        "f.write_atomically(pathlib.Path('a'), 'x'); f.create_atomically(pathlib.Path('b'), 'x', mode=0o600)"
    )
    root = os.getcwd()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": root})
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o644, 0o600]


def test_a_file_that_is_there_is_not_created_again(tmp_path):
    """Also where it appears between the look and the link."""
    path = tmp_path / "file"
    assert create(path)
    assert not create(path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_that_create_a_file_at_once_one_succeeds(tmp_path, monkeypatch):
    """The other one finds a whole file."""
    path, link = tmp_path / "file", os.link

    def be_late(*paths):
        path.write_text("the other one's")
        link(*paths)

    monkeypatch.setattr(os, "link", be_late)
    assert not create(path)
    assert path.read_text() == "the other one's"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writer_removes_the_temporary_file(tmp_path):
    """Whatever it is; it is not turned into another one."""

    def fail():
        with atomic_write(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_and_a_link_followed(tmp_path):
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
    """Files alone are not enough: their names lie in the directories."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    inodes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: inodes.append(os.fstat(descriptor).st_ino))
    sync_tree(tmp_path)
    wanted = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"]
    assert sorted(inodes) == sorted(path.stat().st_ino for path in wanted)
