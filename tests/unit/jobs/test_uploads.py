"""Uploads are laid out as a corpus; nothing in an archive leaves its directory or fills the disk."""

import io
import os
import random
import stat
import struct
import tracemalloc
import zipfile
from contextlib import suppress

import pytest

from jobs import uploads as module
from jobs.database import database_url
from jobs.store import JobStore
from jobs.uploads import InvalidUpload, Uploads, lay_out, safe_name


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "files")


def archive(uploads, method=zipfile.ZIP_DEFLATED, **names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as packed:
        for name, text in names.items():
            packed.writestr(name, text)
    content.seek(0)
    uploads.write("file-1", content)
    return uploads.path("file-1")


def files(directory):
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mode", "modes"), [(0o2770, (0o2770, 0o660, 0o660)), (0o770, (0o755, 0o600, 0o600))])
def test_a_directory_that_a_group_shares_has_files_that_it_shares(tmp_path, mode, modes):
    tmp_path.chmod(mode)
    before = os.umask(0o022)
    try:
        uploads, store = Uploads(tmp_path / "files"), JobStore(database_url(tmp_path))
        uploads.write("file-1", io.BytesIO(b"text"))
        store.file_ids()
        paths = (tmp_path / "files", uploads.path("file-1"), *tmp_path.glob("jobs.sqlite*"))
        assert tuple(stat.S_IMODE(path.stat().st_mode) for path in paths[:3]) == modes
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths[2:]} == {modes[2]}
        store.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("book.txt", "book.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\texts\\my book.txt", "my_book.txt"),
        ("-rf.txt", "rf.txt"),
        (".hidden", "hidden"),
        ("..", "text"),
        ("Bücher\n.txt", "Bücher_.txt"),
        ("x" * 300 + ".jsonl", "x" * 94 + ".jsonl"),
        ("字" * 84 + ".txt", "字" * 32 + ".txt"),  # 256 bytes
    ],
)
def test_a_name_is_one_component_and_no_option(name, safe):
    assert safe_name(name) == safe


def test_a_file_keeps_its_name_and_content(uploads, tmp_path):
    assert uploads.write("file-1", io.BytesIO(b"text")) == 4
    assert lay_out(uploads.path("file-1"), "a b.txt", tmp_path / "text") == "a_b.txt"
    assert files(tmp_path / "text") == {"a_b.txt": "text"}
    # Again, after the trainer was killed.
    assert lay_out(uploads.path("file-1"), "a b.txt", tmp_path / "text") == "a_b.txt"


def test_an_archive_becomes_a_directory(uploads, tmp_path):
    visible = {"b/x.txt": "1", "a/x.txt": "2", "../../x.txt": "3", "/etc/y.txt": "4", "./z.txt": "5"}
    path = archive(uploads, **visible, **{"__MACOSX/x": "6", ".git/z": "7", "d/": ""})
    assert lay_out(path, "texts.zip", tmp_path / "text") == "texts.zip"
    unpacked = files(tmp_path / "text")
    assert sorted(unpacked.values()) == ["1", "2", "3", "4", "5"]
    assert {name.rpartition("-")[2] for name in unpacked} == {"x.txt", "y.txt", "z.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"files", "text"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a.txt": "x" * 6000, "b.txt": "x" * 6000}, "at most 10000 bytes"),  # found out while it is written
        (dict.fromkeys("abc", ""), "at most 2 files, got 3"),
        ({".hidden": "x"}, "no files"),
    ],
    ids=["large", "many", "none"],
)
def test_an_archive_of_too_much_or_nothing_is_refused(uploads, tmp_path, monkeypatch, names, message):
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 10_000)
    monkeypatch.setattr(module, "MAX_ARCHIVE_FILES", 2)
    with pytest.raises(InvalidUpload, match=message):
        lay_out(archive(uploads, **names), "a.zip", tmp_path / "text")
    assert not (tmp_path / "text/a.zip").exists()


@pytest.mark.parametrize("content", [b"PK\3\4 not an archive", b""], ids=["damaged", "empty"])
def test_what_is_no_archive_is_refused(uploads, tmp_path, content):
    uploads.write("file-1", io.BytesIO(content))
    with pytest.raises(InvalidUpload, match=r"a.zip: the archive cannot be unpacked"):
        lay_out(uploads.path("file-1"), "a.zip", tmp_path / "text")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_an_archive_is_stored_or_deflated(uploads, tmp_path, method):
    """A kilobyte of bzip2 unpacks to gigabytes before any of them could be counted."""
    path = archive(uploads, method, **{"a.txt": b"x" * 10**6})
    with pytest.raises(InvalidUpload, match="must be stored or deflated"):
        lay_out(path, "a.zip", tmp_path / "text")


def test_the_directory_of_an_archive_is_limited_before_it_is_read(uploads, tmp_path):
    entry = b"PK\1\2" + bytes(42)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry) * 400_000, 0, 0)
    uploads.write("file-1", io.BytesIO(entry * 400_000 + end))
    tracemalloc.start()
    with pytest.raises(InvalidUpload, match="the directory of an archive may have at most 5120000 bytes, got 18400000"):
        lay_out(uploads.path("file-1"), "a.zip", tmp_path / "text")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_damaged_archive_is_an_invalid_upload(uploads, tmp_path):
    rng = random.Random(0)
    texts = {name: rng.randbytes(500).hex() for name in "ab"}
    whole = archive(uploads, **texts).read_bytes()
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        uploads.write("file-1", io.BytesIO(damaged))
        with suppress(InvalidUpload):
            lay_out(uploads.path("file-1"), "a.zip", tmp_path / f"text{number}")


def test_a_file_without_a_name_in_an_archive_is_no_internal_error(uploads, tmp_path):
    """Python 3.11 raises IndexError for it."""
    content = bytearray(archive(uploads, a=b"text").read_bytes())
    # In its entry of the directory, the name becomes an extra field.
    struct.pack_into("<2H", content, content.index(b"PK\1\2") + 28, 0, 1)
    uploads.write("file-1", io.BytesIO(content))
    with suppress(InvalidUpload):
        lay_out(uploads.path("file-1"), "a.zip", tmp_path / "text")


def test_files_of_interrupted_uploads_are_removed(uploads):
    for name in ("file-1", "file-2"):
        uploads.write(name, io.BytesIO(b"x"))
    uploads.remove_unrecorded(iter(["file-1"]), before=0)
    assert uploads.path("file-2").exists()
    uploads.remove_unrecorded(iter(["file-1"]), before=2**40)
    assert uploads.path("file-1").exists()
    assert not uploads.path("file-2").exists()
