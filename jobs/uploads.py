"""Contents of uploaded files: written as they arrive, and laid out as the text that a job trains on.

Whoever uploads is not trusted: sizes are limited while bytes are written, and no name from an archive leaves its
directory.
"""

import io
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from contract.files import atomic_write, is_shared, private_mode

# Of an archive: bytes that it unpacks to, and files.
MAX_UNPACKED_BYTES, MAX_ARCHIVE_FILES = 256 * 2**20, 10_000
# Of its directory. 32 MiB of entries without names took 500 MB and 20 s.
_MAX_DIRECTORY_BYTES = 512 * MAX_ARCHIVE_FILES
# `zipfile` limits the output of these alone: a block of bzip2 or LZMA unpacks to gigabytes at once.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BLOCK_BYTES = 2**20
# What a file name may consist of on disk; letters of any script.
_UNSAFE = re.compile(r"[^\w.-]+")
# In UTF-8; file systems allow 255, and a file of an archive gets a number before its name.
_MAX_NAME_BYTES = 100


class InvalidUpload(Exception):
    """A file cannot be trained on; the message says why."""


class Uploads:
    """The directory of uploaded files, by id.

    They are private to their owner or, if the parent directory is shared with a group, to that group.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, file_id: str, content: IO[bytes]) -> int:
        """Write a file; return its size in bytes; raise OSError."""
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True, exist_ok=True)
            if is_shared(self._directory.parent):
                self._directory.chmod(0o2770)
        # A trainer that is another user may link a file only if it may write it, too.
        with atomic_write(self.path(file_id), mode=private_mode(self._directory)) as file:
            shutil.copyfileobj(content, file, _BLOCK_BYTES)
            return file.tell()

    def path(self, file_id: str) -> Path:
        """Return the path of a file, which may not exist."""
        return self._directory / file_id

    def remove(self, file_id: str) -> None:
        self.path(file_id).unlink(missing_ok=True)

    def remove_unrecorded(self, recorded: Iterable[str], before: float) -> None:
        """Delete files that have no record: an upload was interrupted after its file was written, `before` a time."""
        known = set(recorded)
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            with suppress(OSError):
                if path.name not in known and path.stat().st_mtime < before:
                    path.unlink()


def safe_name(filename: str) -> str:
    """Return a file name without directories, control characters and spaces, which keeps its suffix."""
    name = _UNSAFE.sub("_", PurePosixPath(filename.replace("\\", "/")).name).lstrip(".-") or "text"
    stem, suffix = os.path.splitext(name)
    suffix = suffix[:10]
    return stem.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def lay_out(upload: Path, filename: str, directory: Path) -> str:
    """Lay out an upload below a directory as a corpus, and return its path relative to it.

    A file is linked under its own name; a .zip archive becomes a directory of its files.

    Raises:
        InvalidUpload: the archive is damaged, encrypted, has no file, or too much is in it.
        OSError: the file is gone, or cannot be written.
    """
    name = safe_name(filename)
    target = directory / name
    if target.exists():
        return name
    directory.mkdir(parents=True, exist_ok=True)
    if not name.lower().endswith(".zip"):
        os.link(upload, target)
        return name
    draft = directory / f".{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        with _ArchiveFile(upload) as file, zipfile.ZipFile(file) as archive:
            _unpack(archive, draft)
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise InvalidUpload(f"{filename}: the archive cannot be unpacked ({error})") from error
    draft.rename(target)
    return name


class _ArchiveFile(io.FileIO):
    """A file whose single reads are limited: `zipfile` reads the directory of an archive, of any size, in one."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as the base class does.

        Raises:
            InvalidUpload: `size` is more than a directory may have.
        """
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise InvalidUpload(
                f"the directory of an archive may have at most {_MAX_DIRECTORY_BYTES} bytes, got {size}"
            )
        return super().read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek as the base class does; raise BadZipFile for a position before the file, which an archive may name."""
        if offset < 0 and whence == os.SEEK_SET:
            raise zipfile.BadZipFile("Bad offset")
        return super().seek(offset, whence)


def _unpack(archive: zipfile.ZipFile, directory: Path) -> None:
    """Unpack the files of an archive that are not hidden, each under a number and its own name.

    The sizes that an archive declares are not trusted.
    """
    members = [member for member in archive.infolist() if not member.is_dir() and not _is_hidden(member.filename)]
    if not members:
        raise InvalidUpload("the archive has no files")
    if len(members) > MAX_ARCHIVE_FILES:
        raise InvalidUpload(f"an archive may have at most {MAX_ARCHIVE_FILES} files, got {len(members)}")
    if any(member.compress_type not in _COMPRESSIONS for member in members):
        raise InvalidUpload("the files of an archive must be stored or deflated")
    left = MAX_UNPACKED_BYTES
    for number, member in enumerate(sorted(members, key=lambda member: member.filename)):
        with archive.open(member) as packed, (directory / f"{number:05}-{safe_name(member.filename)}").open("xb") as to:
            while block := packed.read(_BLOCK_BYTES):
                left -= len(block)
                if left < 0:
                    raise InvalidUpload(f"an archive may unpack to at most {MAX_UNPACKED_BYTES} bytes, got more")
                to.write(block)


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(part.startswith((".", "__MACOSX")) for part in parts if part not in (".", ".."))
