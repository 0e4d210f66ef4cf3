"""The commands of a session of writing: what each line that is typed does."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import click

from ostinato import OstinatoError, StateRefused
from ostinato._cli.errors import Failure
from ostinato._cli.errors import line as error_line
from ostinato._cli.sampling import NAMES
from ostinato._cli.screen import on_one_line, say, write_text
from ostinato._cli.writing import new_seed

if TYPE_CHECKING:
    from ostinato import Stream
    from ostinato._cli.writing import Writing

HELP = """\
Enter              let the model go on
TEXT               add it as it is, with its blanks, and let the model go on;
                   \\n is a line's end, \\\\ a backslash, //… a line that begins with /
/undo, /redo       take the last turn back; put it back
/retry             write the last turn again, by another seed
/branch [NAME]     go on in another branch, and leave this one as it is
/branches          list them
/switch NAME       go on in that one
/set [NAME VALUE]  list this branch's options, or set one: /set temperature 0.7; no VALUE: the server's default
/save FILE         write this branch to a file
/load FILE         take a text up from a file, as a branch
/text              show the whole text
/help              show this
/quit              leave, as Ctrl-D does"""


class Session:
    """Takes one line after another."""

    def __init__(self, writing: Writing, *, patient: bool = False) -> None:
        """Begin.

        Args:
            writing: The text.
            patient: Whether a person sits there: the session goes on after a failure, and more is told.
        """
        self._writing, self._patient = writing, patient
        self._commands: dict[str, Callable[[str], None]] = {
            "undo": self._undo,
            "redo": self._redo,
            "retry": self._retry,
            "branch": lambda name: self._writing.branch(name or None),
            "branches": self._branches,
            "switch": self._switch,
            "set": self._set,
            "save": lambda name: self._writing.save(_path(name, "/save")),
            "load": lambda name: self._writing.load(_path(name, "/load")),
            "text": self._text,
            "help": lambda _: write_text(HELP + "\n"),
        }

    def take(self, line: str) -> bool:
        """Do what a line says; say whether the session goes on.

        Raises:
            Failure, OstinatoError: it can't be done, and the session is not patient.
        """
        if line.strip() == "/quit":
            return False
        try:
            self._do(line)
        except KeyboardInterrupt:
            if not self._patient:
                raise
            say("stopped", dim=True)
        except (click.ClickException, OstinatoError) as error:
            if not self._patient:
                raise
            say(error_line(error))
        finally:
            self._writing.keep()
        return True

    def _do(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            return self._go_on(_unescaped(line[1:] if line.startswith("//") else line))
        name, _, rest = line[1:].partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise Failure(f"there is no command /{name}: /help lists them; // begins a text with /")
        return command(rest.strip())

    def _go_on(self, prompt: str = "", **options: Any) -> None:
        """Have the model write, once more from the whole text if it refuses to go on from where that stands."""
        try:
            stream = self._writing.stream(prompt, resume=True, **options)
        except StateRefused as error:
            say(f"the text is read anew: {error.message}", dim=True)
            self._writing.conversation.reread()
            stream = self._writing.stream(prompt, resume=True, **options)
        try:
            with _closed_by_ctrl_c(stream):
                for piece in stream:
                    write_text(piece)
        finally:
            if sys.stdout.isatty():
                write_text("\n")

    def _undo(self, _: str) -> None:
        if not self._writing.undo():
            raise Failure("there is no turn to take back")
        self._show_end()

    def _redo(self, _: str) -> None:
        if self._writing.redo() is None:
            raise Failure("there is no turn to put back")
        self._show_end()

    def _retry(self, _: str) -> None:
        conversation = self._writing.conversation
        before, turn = conversation.turns, conversation.undo()
        if turn is None:
            raise Failure("there is no turn to write again")
        try:
            self._go_on(turn.prompt, seed=new_seed())
        finally:
            if len(conversation.turns) < len(before):  # nothing came in its place
                conversation.turns = before

    def _branches(self, _: str) -> None:
        for name, conversation in self._writing.branches.items():
            mark, turns = "*" if name == self._writing.current else " ", len(conversation.turns)
            write_text(f"{mark} {name}: {turns} turns, {len(conversation.text):,} characters\n")

    def _switch(self, name: str) -> None:
        self._writing.switch(name)
        self._show_end()

    def _set(self, given: str) -> None:
        conversation = self._writing.conversation
        if not given:
            for name, value in {"model": conversation.model, **conversation.options}.items():
                write_text(f"{name} {json.dumps(value, ensure_ascii=False)}\n")
            return
        name, _, written = given.partition(" ")
        name = name.replace("-", "_")
        if name not in (*NAMES, "model"):
            raise Failure(f"there is no option {name!r}: set one of model, {', '.join(NAMES)}")
        if name == "model" and not written:
            raise Failure("name the model: /set model NAME")
        self._writing.set(name, written if name == "model" else _value(name, written.strip()))

    def _text(self, _: str) -> None:
        write_text(self._writing.conversation.text)
        if sys.stdout.isatty():
            write_text("\n")

    def _show_end(self) -> None:
        """Show, to a person, where the text stands now."""
        if not self._patient:
            return
        text = on_one_line(self._writing.conversation.text[-SHOWN:])
        say(f"… {text}" if text else "(the text is empty)", dim=True)


SHOWN = 60  # characters


@contextmanager
def _closed_by_ctrl_c(stream: Stream) -> Iterator[None]:
    """Let Ctrl-C close a stream, so that what has come is a turn.

    An exception from within a read now and then left the connection open, and the server writing.

    Raises:
        KeyboardInterrupt: it was closed.
    """
    closing: list[threading.Thread] = []

    def close(*_: object) -> None:
        # In a thread: this one may hold a lock that closing needs.
        closing.append(threading.Thread(target=stream.close))
        closing[-1].start()

    usual = signal.signal(signal.SIGINT, close)
    try:
        yield
    finally:
        for thread in closing:
            thread.join()
        signal.signal(signal.SIGINT, usual)
        stream.close()
    if closing:
        raise KeyboardInterrupt


def _unescaped(line: str) -> str:
    """Replace backslash and n by a line's end, and two backslashes by one."""
    return "\\".join(part.replace("\\n", "\n") for part in line.split("\\\\"))


def _value(name: str, written: str) -> Any:
    if not written:
        return None
    try:
        return json.loads(written)
    except ValueError:
        if name == "stop":
            return _unescaped(written)
        raise Failure(f"{name} can't be {written!r}: pass a number, or nothing for the server's default") from None


def _path(name: str, command: str) -> Path:
    if not name:
        raise Failure(f"name a file: {command} FILE")
    return Path(name).expanduser()
