"""Atomic writes: a reader sees either the whole old file or the whole new one, however the writer ends.

Knows temporary files, `fsync`, links and renames. Does not know what is written.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Replace a file, or create it; a link leads to where it led. A pipe or device is written directly.

    Args:
        path: In a directory that exists.
        content: Text is written in UTF-8.
        mode: Permissions of the file, less the umask.

    Raises:
        OSError: the disk did not take it; the file is as it was. The error names the file and the reason.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(_to_bytes(content))
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    with atomic_write(target, mode) as file:
        file.write(_to_bytes(content))


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file, which replaces the file at `path` when the block ends, and is removed when it raises.

    Raises:
        OSError: as for `write_atomically`.
    """
    with _temporary_file(path, mode) as (temporary, file):
        yield file
        _flush_to_disk(file)
        os.replace(temporary, path)
    sync_directory(path.parent)


def create_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> bool:
    """Create a file unless there is one. Of several processes at once one succeeds.

    Args:
        path: In a directory that exists.
        content: Text is written in UTF-8.
        mode: Permissions of the file, less the umask.

    Returns:
        Whether it was created; a file that is there stays as it is.

    Raises:
        OSError: the disk did not take it, and there is no file. The error names the file and the reason.
    """
    if os.path.lexists(path):
        return False
    with _temporary_file(path, mode) as (temporary, file):
        file.write(_to_bytes(content))
        _flush_to_disk(file)
        try:
            # Unlike a rename, a link never takes the place of a file.
            os.link(temporary, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


def sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk: a rename outlasts a power failure only after that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Force all files and names below a directory to the disk, before a rename makes them visible."""
    for path in (*root.rglob("*"), root):
        if path.is_file() or path.is_dir():
            # Both are synced alike.
            sync_directory(path)


@contextlib.contextmanager
def _temporary_file(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a temporary file beside `path` and unlink it at the end; errors name `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield temporary, file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _to_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
