"""Input lines of a session: from a terminal, with history, or piped in. Does not know the session's commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from sostenuto._cli.errors import Failure
from sostenuto._cli.inputs import from_bytes
from sostenuto._cli.screen import say


def typed(prompt: Callable[[], str]) -> Iterator[str]:
    """Yield lines from the terminal until Ctrl-D; Ctrl-C discards one and shows how to exit."""
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - gives input() line editing and history
    while True:
        try:
            yield input(prompt()) if sys.stdout.isatty() else _without_terminal(prompt())
        except KeyboardInterrupt:
            say("\n(Ctrl-D exits)", dim=True)
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise Failure("the terminal's line is not UTF-8: set the terminal to UTF-8") from error


def piped() -> Iterator[str]:
    """Yield the lines of standard input, without line ends; raise Failure if one is not UTF-8."""
    before = 0
    for line in sys.stdin.buffer:
        yield from_bytes(line, "standard input", before).removesuffix("\n").removesuffix("\r")
        before += len(line)


def _without_terminal(prompt: str) -> str:
    """Read a line when standard output is a file: input() would write the prompt into that file."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")
