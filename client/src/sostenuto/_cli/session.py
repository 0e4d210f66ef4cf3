"""The commands of an interactive session: what each input line does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sostenuto import SostenutoError, StateRefused
from sostenuto._cli.errors import Failure
from sostenuto._cli.errors import line as error_line
from sostenuto._cli.interrupts import closed_by_ctrl_c
from sostenuto._cli.sampling import NAMES
from sostenuto._cli.screen import on_one_line, say, write_text
from sostenuto._cli.writing import new_seed

if TYPE_CHECKING:
    from sostenuto._cli.writing import Writing

HELP = """\
Enter              continue the text
TEXT               append TEXT, with its spaces, and continue the text;
                   \\n is a newline, \\\\ a backslash, // at the start a /
/undo, /redo       undo the last turn; redo it
/retry             generate the last turn again, with another seed
/branch [NAME]     copy this branch, and switch to the copy
/branches          list the branches
/switch NAME       switch to a branch
/set [NAME VALUE]  list this branch's options, or set one: /set temperature 0.7; no VALUE: the server's default
/save FILE         write this branch to a file
/load FILE         load a file as a new branch
/text              show the whole text
/help              show this help
/quit              exit, as Ctrl-D does"""


class Session:
    """An interactive session: executes input lines one by one."""

    def __init__(self, writing: Writing, *, patient: bool = False) -> None:
        """Start a session; if `patient`, as in a terminal, it continues after a failure, and shows more messages."""
        self._writing, self._patient = writing, patient
        self._commands: dict[str, Callable[[str], None]] = {
            "undo": lambda _: writing.undo(),
            "redo": lambda _: writing.redo(),
            "retry": self._retry,
            "branch": lambda name: writing.branch(name or None),
            "branches": self._branches,
            "switch": writing.switch,
            "set": self._set,
            "save": lambda name: writing.save(_path(name, "/save")),
            "load": lambda name: writing.load(_path(name, "/load")),
            "text": self._text,
            "help": lambda _: write_text(HELP + "\n"),
        }

    def take(self, line: str) -> bool:
        """Execute a line; return whether the session continues.

        Raises:
            Failure, SostenutoError: the line failed, and the session is not patient.
        """
        if line.strip() == "/quit":
            return False
        try:
            try:
                self._do(line)
            finally:
                self._writing.keep()
        except KeyboardInterrupt:
            if not self._patient:
                raise
            say("stopped", dim=True)
        except (click.ClickException, SostenutoError) as error:
            if not self._patient:
                raise
            say(error_line(error))
        return True

    def _do(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            self._generate(_unescaped(line[1:] if line.startswith("//") else line))
            return
        name, _, rest = line[1:].partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise Failure(f"unknown command /{name}: /help lists the commands; // starts a text with /")
        command(rest.strip())
        if name in ("undo", "redo", "switch") and self._patient:
            self._show_end()

    def _generate(self, prompt: str = "", **options: Any) -> None:
        """Generate a turn; if the server refuses the resume token, prefill the whole text instead."""
        try:
            stream = self._writing.stream(prompt, resume=True, **options)
        except StateRefused as error:
            say(f"the whole text is processed again: {error.message}", dim=True)
            self._writing.conversation.reread()
            stream = self._writing.stream(prompt, resume=True, **options)
        try:
            with closed_by_ctrl_c(stream):
                for delta in stream:
                    write_text(delta)
        finally:
            if sys.stdout.isatty():
                write_text("\n")

    def _retry(self, _: str) -> None:
        conversation = self._writing.conversation
        before, turn = conversation.turns, conversation.undo()
        if turn is None:
            raise Failure("there is no turn to generate again")
        try:
            self._generate(turn.prompt, seed=new_seed())
        finally:
            if len(conversation.turns) < len(before):  # the new turn failed: restore the old one
                conversation.turns = before

    def _branches(self, _: str) -> None:
        for name, conversation in self._writing.branches.items():
            marker, turns = "*" if name == self._writing.current else " ", len(conversation.turns)
            write_text(f"{marker} {name}: {turns} turns, {len(conversation.text):,} characters\n")

    def _set(self, argument: str) -> None:
        conversation = self._writing.conversation
        if not argument:
            for name, value in {"model": conversation.model, **conversation.options}.items():
                write_text(f"{name} {json.dumps(value, ensure_ascii=False)}\n")
            return
        name, _, value = argument.partition(" ")
        name = name.replace("-", "_")
        if name not in (*NAMES, "model"):
            raise Failure(f"unknown option {name!r}: set one of model, {', '.join(NAMES)}")
        if name == "model" and not value:
            raise Failure("a model is required: /set model NAME")
        self._writing.set(name, value if name == "model" else _value(name, value.strip()))

    def _text(self, _: str) -> None:
        write_text(self._writing.conversation.text)
        if sys.stdout.isatty():
            write_text("\n")

    def _show_end(self) -> None:
        """Show the end of the text."""
        text = on_one_line(self._writing.conversation.text[-SHOWN:])
        say(f"… {text}" if text else "(the text is empty)", dim=True)


SHOWN = 60  # characters


def _unescaped(line: str) -> str:
    r"""Replace `\n` by a line break and `\\` by a backslash."""
    return "\\".join(part.replace("\\n", "\n") for part in line.split("\\\\"))


def _value(name: str, text: str) -> Any:
    if not text:
        return None
    if name == "regex":
        return text  # has escapes of its own
    if name in ("allowed", "banned"):
        return _unescaped(text)
    try:
        return json.loads(text)
    except ValueError:
        if name == "stop":
            return _unescaped(text)
        kind = "JSON" if name in ("choices", "json_schema") else "a number"
        raise Failure(f"{name} can't be {text!r}: pass {kind}, or nothing for the server's default") from None


def _path(name: str, command: str) -> Path:
    if not name:
        raise Failure(f"a file is required: {command} FILE")
    return Path(name).expanduser()
