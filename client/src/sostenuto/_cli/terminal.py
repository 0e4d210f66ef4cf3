"""Input and output: arguments, files, standard input; output without active control characters; tables; Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console

from sostenuto._cli.errors import Failure, failing_to
from sostenuto._concurrency import visible

T = TypeVar("T")

STDIN = "-"
GAP = 2  # spaces between two columns
CHECK_S = 0.2  # a signal just before a wait begins does not interrupt it
_BREAKS = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r"})


def text_or_stdin(text: str | None, what: str, *, may_be_empty: bool = False) -> str:
    """Return the text of an argument, or standard input if it is `-` or None; nothing is stripped."""
    if text is not None and text != STDIN:
        return text_argument(text, what)
    if text is None and sys.stdin.isatty():
        if may_be_empty:
            return ""
        raise click.UsageError(f"no {what}: pass it in quotes, or by a pipe")
    content = _decoded(sys.stdin.buffer.read(), "standard input")
    if not content and not may_be_empty:
        raise Failure(f'standard input is empty: pipe a {what} into it, or pass "" for none')
    return content


def text_argument(text: str, what: str) -> str:
    """Return an argument; raise Failure if it is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Failure(
            f"the {what} is not UTF-8 at character {error.start}: convert it, for example with iconv"
        ) from error
    return text


def text_of(path: Path) -> str:
    """Return the text of a file; raise Failure if it cannot be read or is not UTF-8."""
    with failing_to(f"read {path}"):
        return _decoded(path.read_bytes(), str(path))


def typed_lines(prompt: Callable[[], str]) -> Iterator[str]:
    """Yield lines from the terminal until Ctrl-D; Ctrl-C discards one and shows how to exit."""
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - gives input() line editing and history
    while True:
        try:
            yield input(prompt()) if sys.stdout.isatty() else _line_without_terminal(prompt())
        except KeyboardInterrupt:
            say("\n(Ctrl-D exits)", dim=True)
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise Failure("the terminal's line is not UTF-8: set the terminal to UTF-8") from error


def lines_of(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the lines of a file, without line ends and byte order mark; raise Failure if one is not UTF-8."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            where = f"{name}, line {number:,} is not UTF-8 at byte {error.start}"
            raise Failure(f"{where}: convert it, for example with iconv") from error
        yield text.removesuffix("\n").removesuffix("\r")


def _line_without_terminal(prompt: str) -> str:
    """Read a line when standard output is a file: input() would write the prompt into that file."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _decoded(content: bytes, where: str) -> str:
    """Decode UTF-8, or raise Failure with the name of the source."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; convert it, for example "
            "with iconv"
        ) from error


def read_until_ctrl_c(stream: Iterable[T], show: Callable[[T], None], close: Callable[[], None]) -> None:
    """Show each item of a stream in another thread; close the stream at the end.

    Ctrl-C closes the stream and lets the thread end, so that the text so far can be kept; a second one interrupts at
    once. An exception raised within a read sometimes left the connection open and the server generating.
    """
    failures: list[BaseException] = []
    over, interrupted = threading.Event(), threading.Event()

    def run() -> None:
        try:
            for item in stream:
                show(item)
        except BaseException as error:  # top of a thread: raised below
            failures.append(error)
        finally:
            over.set()

    def interrupt(*_: object) -> None:
        if interrupted.is_set():  # the reader of the output may block the thread
            raise KeyboardInterrupt
        interrupted.set()
        close()

    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.SIG_IGN:  # as in a background job of a script
        signal.signal(signal.SIGINT, interrupt)
    threading.Thread(target=run, daemon=True).start()
    try:
        while not over.wait(CHECK_S):
            pass
    finally:
        signal.signal(signal.SIGINT, previous)
        close()
    if interrupted.is_set():
        raise KeyboardInterrupt
    if failures:
        raise failures[0]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error, which the program handles; rich would exit with another exit code."""
        raise BrokenPipeError


def on_one_line(text: str) -> str:
    """Escape control characters and line breaks, for a table cell."""
    return visible(text.translate(_BREAKS))


def console(*, stderr: bool = False) -> Console:
    """Return a rich console that interprets nothing in a text."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(line: str, *, dim: bool = False) -> None:
    """Write a message for the user to standard error."""
    console(stderr=True).print(visible(line), style="dim" if dim else "")


def write_text(text: str) -> None:
    """Write a text to standard output and flush: unchanged, or with control characters escaped on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(visible(text))
        sys.stdout.flush()
        return
    output = sys.stdout.buffer
    output.write(text.encode("utf-8", "replace"))
    output.flush()


def write_json(value: Any) -> None:
    write_text(as_json(value))


def as_json(value: Any) -> str:
    """Return a value as a line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def print_table(headings: Sequence[str], rows: Iterable[Iterable[object]], numbers: Sequence[str] = ()) -> None:
    """Print a table, or one record per row if the columns do not fit the terminal's width.

    Cells are escaped; None becomes `-`. Columns whose heading is one of the numbers are right-aligned.
    """
    screen = console()
    shown = [["-" if cell is None else on_one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headings, *shown, strict=True)]
    if screen.is_terminal and sum(widths) + GAP * (len(widths) - 1) > screen.width:
        pairs = (zip(headings, row, strict=True) for row in shown)
        records = ("".join(f"{heading}: {cell}\n" for heading, cell in each) for each in pairs)
        screen.print("\n".join(records), end="")
        return
    for row in (headings, *shown):
        cells = []
        for heading, cell, width in zip(headings, row, widths, strict=True):
            padding = " " * (width - cell_len(cell))
            cells.append(padding + cell if heading in numbers else cell + padding)
        screen.print((" " * GAP).join(cells).rstrip(), style="bold" if row is headings else "")
