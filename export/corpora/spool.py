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
    """A temporary file with sequential writes and random reads."""

    def __init__(self, buffer_bytes: int = 0) -> None:
        """Open a temporary file; a buffer collects small writes.

        Raises:
            CorpusError: the file could not be created.
        """
        self._directory, self.size = spool_directory(), 0
        self._buffer, self._buffer_bytes = bytearray(), buffer_bytes
        try:
            self.file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - closed below
        except OSError as error:
            raise self._full(error) from error
        weakref.finalize(self, self.file.close)

    def write(self, content: bytes) -> None:
        """Append bytes.

        Raises:
            CorpusError: the write failed; with a buffer, also later and when reading.
        """
        self._buffer += content
        self.size += len(content)
        if len(self._buffer) >= self._buffer_bytes:
            self._flush()

    def _flush(self) -> None:
        remaining = memoryview(self._buffer)
        try:
            while remaining:
                remaining = remaining[self.file.write(remaining) :]
        except OSError as error:
            raise self._full(error) from error
        self._buffer = bytearray()

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
        num_written = self.size - len(self._buffer)
        return CorpusError(
            f"{self._directory}: {error.strerror or error}, after {num_written:,} bytes of temporary files; "
            f"set TMPDIR to a directory with more space"
        )


def blocks(array: np.ndarray, length: int = BLOCK_BYTES) -> Sequence[np.ndarray]:
    """Split an array into views, so that computations on it need little memory."""
    return [array[start : start + length] for start in range(0, len(array), length)]
