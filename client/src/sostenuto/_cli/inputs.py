"""Text inputs of commands: an argument, a file, or standard input. Strips nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sostenuto._cli.errors import Failure, failing_to

STDIN = "-"


def is_piped() -> bool:
    """Return whether standard input is a pipe or a file, not a terminal."""
    return not sys.stdin.isatty()


def text_or_stdin(text: str | None, what: str, *, may_be_empty: bool = False) -> str:
    """Return the text of an argument, or standard input if it is `-` or None.

    Raises:
        click.UsageError: there is no text.
        Failure: the text is empty or not UTF-8.
    """
    if text is not None and text != STDIN:
        return from_argument(text, what)
    if text is None and not is_piped():
        if may_be_empty:
            return ""
        raise click.UsageError(f"no {what}: pass it in quotes, or by a pipe")
    content = from_bytes(sys.stdin.buffer.read(), "standard input")
    if not content and not may_be_empty:
        raise Failure(f'standard input is empty: pipe a {what} into it, or pass "" for none')
    return content


def from_argument(text: str, what: str) -> str:
    """Return an argument; raise Failure if it is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Failure(
            f"the {what} is not UTF-8 at character {error.start}: convert it, for example by iconv"
        ) from error
    return text


def from_file(path: Path) -> str:
    """Return the text of a file; raise Failure if it cannot be read or is not UTF-8."""
    with failing_to(f"read {path}"):
        return from_bytes(path.read_bytes(), str(path))


def from_bytes(content: bytes, where: str, before: int = 0) -> str:
    """Decode UTF-8, or raise Failure with the name of the source, and an offset that counts the bytes before."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x} at offset {before + error.start}; convert it, for"
            " example by iconv"
        ) from error
