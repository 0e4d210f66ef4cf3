"""Files without a name take what memory does not, and leave nothing behind."""

import errno
import gc
import os

import numpy as np
import pytest

from export.corpora.spool import Spool, blocks, spool_directory
from export.errors import CorpusError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for such files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_file_has_no_name_and_goes_with_its_owner(folder):
    """Not even a process that is killed leaves one."""
    spool = Spool()
    spool.write(b"abc")
    number = spool.file.fileno()
    assert os.fstat(number).st_dev == folder.stat().st_dev
    assert list(folder.iterdir()) == []
    del spool
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_was_written_is_read_and_mapped_wherever_it_lies(folder):  # noqa: ARG001 - it is written there
    """An array outlives the file's owner; what is longer than the file is read to its end."""
    spool = Spool()
    for content in (b"ab", b"", b"cdef"):
        spool.write(content)
    assert (spool.read(1, 3), spool.read(4, 99), spool.size) == (b"bc", b"ef", 6)
    array = spool.map(np.dtype(np.uint16))
    del spool
    gc.collect()
    assert array.tobytes() == b"abcdef"
    assert Spool().map(np.dtype(np.uint8)).tolist() == []


def test_a_full_disk_is_told_with_the_folder_and_the_way_out(folder, monkeypatch):
    """It is no error of the text."""
    spool = Spool()
    spool.write(b"abc")

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "file", Full())
    with pytest.raises(
        CorpusError, match=rf"^{folder}: No space left on device, after 3 bytes; .*TMPDIR names another"
    ):
        spool.write(b"d")


def test_without_a_folder_that_is_told_too(folder, monkeypatch):
    """In the same line."""
    monkeypatch.setattr("tempfile.tempdir", str(folder / "none"))
    with pytest.raises(CorpusError, match="none: No such file or directory, after 0 bytes"):
        Spool()


def test_files_lie_where_there_is_room_unless_somebody_says_otherwise(monkeypatch):
    """On many systems /tmp is memory."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.delenv("TMPDIR", raising=False)
    assert spool_directory() == "/var/tmp"
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert spool_directory() == "/tmp"


def test_blocks_are_views_of_all_of_an_array():
    """Nothing is copied."""
    array = np.arange(10)
    assert [block.tolist() for block in blocks(array, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(np.shares_memory(block, array) for block in blocks(array, 4))
