"""Unnamed temporary files hold data that is too large for memory, and leave nothing behind."""

import gc
import os

import numpy as np
import pytest

from export.corpora.spool import BLOCK_BYTES, Spool, blocks, spool_directory
from export.errors import CorpusError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_spool_file_is_unnamed_and_closed_with_its_owner(folder):
    spool = Spool()
    spool.write(b"abc")
    number = spool.file.fileno()
    assert os.fstat(number).st_dev == folder.stat().st_dev
    assert list(folder.iterdir()) == []
    del spool
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_written_bytes_can_be_read_and_memory_mapped(folder):  # noqa: ARG001 - the file is written there
    spool = Spool()
    for content in (b"ab", b"", b"cdef"):
        spool.write(content)
    assert (spool.read(1, 3), spool.read(4, 99), spool.size) == (b"bc", b"ef", 6)
    array = spool.map(np.dtype(np.uint16))
    del spool
    gc.collect()
    assert array.tobytes() == b"abcdef"
    assert Spool().map(np.dtype(np.uint8)).tolist() == []


def test_a_full_disk_error_names_the_directory_and_tmpdir(folder, monkeypatch):
    """The disk is at fault, not the text, so the message says how to use another directory."""
    full = open("/dev/full", "r+b", BLOCK_BYTES)  # noqa: SIM115 - the spool closes it
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full)
    spool = Spool()
    spool.write(b"abc")
    told = rf"^{folder}: No space left on device, after 3 bytes of temporary files; set TMPDIR to"
    with pytest.raises(CorpusError, match=told):
        spool.read(0, 3)
    with pytest.raises(CorpusError, match=told):
        spool.write(bytes(2 * BLOCK_BYTES))
    # Closing it is no further error.
    del spool
    gc.collect()


def test_a_missing_directory_is_named_in_the_error(folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(folder / "none"))
    with pytest.raises(CorpusError, match="none: No such file or directory, after 0 bytes"):
        Spool()


def test_spool_files_are_in_var_tmp_unless_tmpdir_is_set(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.delenv("TMPDIR", raising=False)
    assert spool_directory() == "/var/tmp"
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert spool_directory() == "/tmp"


def test_blocks_are_views_that_cover_the_whole_array():
    array = np.arange(10)
    assert [block.tolist() for block in blocks(array, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(np.shares_memory(block, array) for block in blocks(array, 4))
