"""Texts that are given to a command: as an argument, in a file, or on standard input. Nothing is stripped from them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ostinato._cli.errors import Failure, reason

STDIN = "-"


def is_piped() -> bool:
    """Whether standard input comes from a program or a file, and not from a keyboard."""
    return not sys.stdin.isatty()


def text_or_stdin(text: str | None, what: str, *, may_be_empty: bool = False) -> str:
    """Return the text, or what is piped in where it is `-` or not given.

    Args:
        text: The argument.
        what: Its name, for messages.
        may_be_empty: Whether nothing at all is something, too.

    Raises:
        click.UsageError: there is none.
        Failure: it is empty, or not UTF-8.
    """
    if text is not None and text != STDIN:
        return from_argument(text, what)
    if text is None and not is_piped():
        if may_be_empty:
            return ""
        raise click.UsageError(f"no {what}: pass it in quotes, or pipe it in")
    read = from_bytes(sys.stdin.buffer.read(), "standard input")
    if not read and not may_be_empty:
        raise Failure(f'standard input is empty: pipe in a {what}, or pass "" for none')
    return read


def from_argument(text: str, what: str) -> str:
    """Return an argument, whose bytes may be no text.

    Raises:
        Failure: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Failure(
            f"the {what} is not UTF-8 at character {error.start}: convert it, for example by iconv"
        ) from error
    return text


def from_file(path: Path) -> str:
    """Return a file's text.

    Raises:
        Failure: it can't be read, or is not UTF-8.
    """
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason(error)}") from error


def from_bytes(content: bytes, where: str, before: int = 0) -> str:
    """Decode bytes.

    Args:
        content: The bytes.
        where: Where they are from, for the message.
        before: How many bytes went before them.

    Raises:
        Failure: they are not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x} at offset {before + error.start}; convert it, for"
            " example by iconv"
        ) from error
