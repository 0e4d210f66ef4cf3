"""Texts to upload: a path, a directory, a text or an open file becomes a file name and its content."""

from __future__ import annotations

import io
import os
import zipfile
from os import PathLike
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from sostenuto._errors import InvalidArgument

Source: TypeAlias = str | PathLike[str] | bytes | IO[str] | IO[bytes]

DEFAULT_NAME = "text.txt"


class Upload(NamedTuple):
    """A file to upload."""

    filename: str
    content: bytes

    @classmethod
    def of(cls, source: Source, filename: str | None = None) -> Upload:
        """Read a source. A str with a line break is a text, any other one a path. A directory becomes a .zip archive.

        Args:
            source: A path, a text, bytes, or a file that is open for reading.
            filename: str. Default: the name of the file or directory; for a text, `text.txt`.

        Raises:
            InvalidArgument: there is no such file, the directory is empty, or UTF-8 cannot encode the text.
            OSError: a file cannot be read.
        """
        name, content = _read(source)
        return cls(filename or name, content)


def _read(source: Source) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return DEFAULT_NAME, source
    if isinstance(source, str) and "\n" in source:
        return DEFAULT_NAME, _encoded(source)
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        if not path.exists():
            raise InvalidArgument(f"there is no file {str(source)!r}: pass a path, or a text with a line break")
        return _archive(path) if path.is_dir() else (path.name, path.read_bytes())
    content, name = source.read(), getattr(source, "name", None)
    # A temporary file may have a number for a name.
    filename = os.path.basename(name) if isinstance(name, str) else DEFAULT_NAME
    return filename, content if isinstance(content, bytes) else _encoded(content)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the text has a lone surrogate at character {error.start:,}, which UTF-8 cannot encode: decode the text "
            "with its own encoding"
        ) from None


def _archive(directory: Path) -> tuple[str, bytes]:
    """Return the name and the content of an archive of all files below a directory, except hidden ones."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names = {path.relative_to(directory): path for path in paths}
    shown = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.parts)}
    if not shown:
        raise InvalidArgument(f"the directory {str(directory)!r} has no files: pass one with text files")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for name, path in shown.items():
            archive.write(path, name)
    return f"{directory.resolve().name}.zip", packed.getvalue()
