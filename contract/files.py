"""Bounded reads, and atomic writes: a reader sees either the whole old file or the whole new one."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

# Maximum size of a file that people or commands write: configuration, labels, keys, a card.
MAX_CONFIG_BYTES: Final = 16 * 2**20


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never wait for the writer of a pipe, or read a device without end.

    Raises:
        OSError: it cannot be opened, or is not a regular file; `strerror` is the reason.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """Return the content of a regular file of bounded size.

    Raises:
        OSError: as `open_regular`, or the file has more than `max_bytes`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > max_bytes else file.read(max_bytes + 1)
        if max(size, len(content)) > max_bytes:
            reason = f"must have at most {max_bytes:,} bytes, got {max(size, len(content)):,}"
            raise OSError(errno.EFBIG, reason, str(path))
        return content


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace or create a file in an existing directory. Symbolic links are followed; pipes are written directly.

    Raises:
        OSError: the write failed, and the file is unchanged. The error names the file and the reason.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(_to_bytes(content))
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    with atomic_write(target) as file:
        file.write(_to_bytes(content))


@contextlib.contextmanager
def atomic_write(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file; replace `path` with it when the block ends, delete it when the block raises.

    `mode` is that of the file, whatever the umask; by default the umask decides.
    """
    with _temporary_file(path, mode) as (temporary, file):
        yield file
        _flush_to_disk(file)
        os.replace(temporary, path)
    sync_directory(path.parent)


def create_atomically(path: Path, content: str | bytes, mode: int | None = None) -> bool:
    """Create a file in an existing directory, unless it exists; return whether it was created.

    Of several concurrent processes one succeeds. `mode` is as for `atomic_write`, errors are those of
    `write_atomically`.
    """
    if os.path.lexists(path):
        return False
    with _temporary_file(path, mode) as (temporary, file):
        file.write(_to_bytes(content))
        _flush_to_disk(file)
        try:
            # Unlike a rename, a hard link never replaces a file.
            os.link(temporary, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


def is_shared(directory: Path) -> bool:
    """Return whether a directory is for all processes of its group: it is writable for the group and set-group-ID."""
    mode = directory.stat().st_mode
    return bool(mode & stat.S_IWGRP and mode & stat.S_ISGID)


def private_mode(directory: Path) -> int:
    """Return the mode of a private file: only its owner may use it, in a directory that `is_shared` also its group."""
    return 0o660 if is_shared(directory) else 0o600


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock a file, unless another process has; yield whether it is locked. The lock ends with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk: only then does a rename survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush all files and directories below a directory to disk, before a rename makes them visible."""
    for path in (*root.rglob("*"), root):
        if path.is_file() or path.is_dir():
            # It works for files, too.
            sync_directory(path)


@contextlib.contextmanager
def _temporary_file(path: Path, mode: int | None) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a temporary file in the directory of `path` and unlink it at the end; errors name `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    os.fchmod(descriptor, mode)
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
