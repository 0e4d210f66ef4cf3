"""Unnamed temporary files for data larger than memory; they disappear with the process, even if it is killed."""

import os
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np

from export.errors import CorpusError

# /tmp may be in memory; /var/tmp is for large files: https://systemd.io/TEMPORARY_DIRECTORIES
_SMALL, _LARGE = "/tmp", "/var/tmp"
# Size of reads and writes.
BLOCK_BYTES = 1 << 20


def spool_directory() -> str:
    """Return the directory for temporary files: `TMPDIR` if set, else /var/tmp."""
    directory = tempfile.gettempdir()
    is_configured = directory != _SMALL or "TMPDIR" in os.environ
    return directory if is_configured or not os.access(_LARGE, os.W_OK) else _LARGE


class Spool:
    """A temporary file with sequential, buffered writes and random reads."""

    def __init__(self) -> None:
        """Open a temporary file.

        Raises:
            CorpusError: the file could not be created.
        """
        self._directory, self.size = spool_directory(), 0
        try:
            self.file = tempfile.TemporaryFile(dir=self._directory, buffering=BLOCK_BYTES)  # noqa: SIM115 - see below
        except OSError as error:
            raise self._full(error) from error
        # Not `file.close`, which would write what is in the buffer, and fail again after a full disk.
        weakref.finalize(self, self.file.raw.close)

    def write(self, content: bytes) -> None:
        """Append bytes.

        Raises:
            CorpusError: this write or an earlier one failed; so may `read` and `map`.
        """
        try:
            self.file.write(content)
        except OSError as error:
            raise self._full(error) from error
        self.size += len(content)

    def _flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            raise self._full(error) from error

    def read(self, start: int, stop: int) -> bytes:
        self._flush()
        parts: list[bytes] = []
        while start < stop and (part := os.pread(self.file.fileno(), stop - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def map(self, dtype: np.dtype, *, writable: bool = False) -> np.ndarray:
        """Return the file as a memory-mapped array, (size / itemsize,)."""
        self._flush()
        if not self.size:
            # An empty file cannot be mapped.
            return np.empty(0, dtype)
        # A plain array: slices of a `memmap` cost more.
        return np.asarray(np.memmap(self.file, dtype, "r+" if writable else "r"))

    def _full(self, error: OSError) -> CorpusError:
        return CorpusError(
            f"{self._directory}: {error.strerror or error}, after {self.size:,} bytes of temporary files; "
            f"set TMPDIR to a directory with more space"
        )


def blocks(array: np.ndarray, length: int = BLOCK_BYTES) -> Sequence[np.ndarray]:
    """Split an array into views, so that computations on it need little memory."""
    return [array[start : start + length] for start in range(0, len(array), length)]
