"""Files without a name for what does not fit into memory: they vanish with the process, however it ends.

Knows bytes and where there is room for them. Does not know what they mean.
"""

import os
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np

from export.errors import CorpusError

# /tmp may lie in memory; /var/tmp is for what is large: https://systemd.io/TEMPORARY_DIRECTORIES
_SMALL, _LARGE = "/tmp", "/var/tmp"
# Read and written at once.
BLOCK_BYTES = 1 << 20


def spool_directory() -> str:
    """Return where such files lie: as `TMPDIR` says, or in /var/tmp."""
    folder = tempfile.gettempdir()
    chosen = folder != _SMALL or "TMPDIR" in os.environ
    return folder if chosen or not os.access(_LARGE, os.W_OK) else _LARGE


class Spool:
    """A file that is written from its beginning to its end, and read anywhere."""

    def __init__(self) -> None:
        """Open a file.

        Raises:
            CorpusError: there is no place for one.
        """
        self._folder, self.size = spool_directory(), 0
        try:
            self.file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed below
        except OSError as error:
            raise self._full(error) from error
        weakref.finalize(self, self.file.close)

    def write(self, content: bytes | memoryview) -> None:
        """Put bytes behind those written before.

        Raises:
            CorpusError: the disk did not take them.
        """
        left = memoryview(content)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise self._full(error) from error
        self.size += len(content)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from one place to another."""
        parts: list[bytes] = []
        while start < stop and (part := os.pread(self.file.fileno(), stop - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def map(self, dtype: np.dtype, *, writable: bool = False) -> np.ndarray:
        """Return all of it as an array, (size / itemsize,), of which memory holds what is in use."""
        if not self.size:
            # An empty file cannot be mapped.
            return np.empty(0, dtype)
        # A plain array: slices of a `memmap` cost more.
        return np.asarray(np.memmap(self.file, dtype, "r+" if writable else "r"))

    def _full(self, error: OSError) -> CorpusError:
        return CorpusError(
            f"{self._folder}: {error.strerror or error}, after {self.size:,} bytes; text and token ids lie there while "
            f"they are in use, and TMPDIR names another folder"
        )


def blocks(array: np.ndarray, length: int = BLOCK_BYTES) -> Sequence[np.ndarray]:
    """Cut an array into views, so that what is computed of it needs little memory."""
    return [array[start : start + length] for start in range(0, len(array), length)]
