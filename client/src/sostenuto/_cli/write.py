"""`sostenuto write`: write a text in turns with a model."""

from __future__ import annotations

import glob
import json
import random
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sostenuto import Client, Conversation, InvalidArgument, SostenutoError, StateRefused, Turn
from sostenuto._cli.errors import Failure, check_place, error_line, failing_to
from sostenuto._cli.options import (
    FILE,
    NAMES,
    chosen_model,
    connect,
    given_fields,
    model_option,
    sampling_options,
    server_options,
)
from sostenuto._cli.terminal import (
    lines_of,
    on_one_line,
    read_until_ctrl_c,
    say,
    text_argument,
    typed_lines,
    write_text,
)
from sostenuto._fields import PATTERNS

MAX_TOKENS = 200  # per turn; the server's default is 16
TAIL, END = 400, 60  # characters to show of a loaded text, and of a changed one
MAIN = "main"
SEED_BITS = 53  # like the server's own seeds, exact in a double
_BRANCH = re.compile(r"[\w-]+")

EPILOG = """\
\b
Examples:
  sostenuto write "Once upon a time" --temperature 0.7
  sostenuto write --file story.json
  printf 'Once upon a time\\n\\n/text\\n' | sostenuto write

An empty line continues the text. Any other line is appended to the text first; \\n in it is a newline. Ctrl-C stops the
turn and keeps its text, Ctrl-D exits. /help lists the commands. Lines from a pipe are executed as if they were typed;
standard output is what the model generates, and the first error ends the session."""

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


@click.command(epilog=EPILOG, short_help="Write text in turns with a model.")
@click.argument("prompt", required=False)
@click.option(
    "--file",
    "path",
    type=FILE,
    metavar="FILE",
    help="Load the text from this file if it exists (omit PROMPT then), and save it after each line. A branch NAME of "
    "story.json is saved next to it, as story.NAME.json.",
)
@model_option
@sampling_options
@server_options
def write(prompt: str | None, *, path: Path | None, model: str | None, **options: Any) -> None:
    """Write text in turns with a model: you add a line, then the model generates up to 200 tokens (--max-tokens).

    The text starts with PROMPT. Each turn resumes from the state of the previous one, so no text is processed twice.
    """
    fields = given_fields(options)
    with connect() as client:
        session = _begin(client, prompt, path, model, fields)
        session.set("max_tokens", session.conversation.options.get("max_tokens", MAX_TOKENS))
        if sys.stdin.isatty():
            return _converse(session)
        for line in lines_of(sys.stdin.buffer, "standard input"):
            if not session.take(line):
                break
    return None


def _begin(client: Client, prompt: str | None, path: Path | None, model: str | None, fields: dict[str, Any]) -> Session:
    if path is None or not path.exists():
        if path is not None:
            check_place(path)
        return Session(client, client.conversation(text_argument(prompt or "", "prompt"), model=model, **fields), path)
    if prompt is not None:
        raise click.UsageError(f"{path} has a text already: omit PROMPT, or pass another file")
    session, model = Session.open(client, path), chosen_model(model)
    if model is not None and model != session.conversation.model:
        session.set("model", model)
    for name, value in fields.items():
        session.set(name, value)
    return session


def _converse(session: Session) -> None:
    """Run an interactive session; it shows failures and continues."""
    session.patient = True
    model, text = session.conversation.model, session.conversation.text
    say(f"{model}: Enter continues, text is appended, /help lists commands, Ctrl-D exits", dim=True)
    if text:
        write_text(("…" if len(text) > TAIL else "") + text[-TAIL:] + "\n")
    for line in typed_lines(lambda: "> " if session.current == MAIN else f"{session.current}> "):
        if not session.take(line):
            return
    say("")  # Ctrl-D leaves the cursor behind the prompt


class Session:
    """A text that is written line by line: branches, one of which is current.

    Attributes:
        branches: dict of str to Conversation, in order of creation.
        current: str. Name of the current branch.
        patient: bool. Whether it continues after a failure and shows more messages, as in a terminal.
    """

    def __init__(self, client: Client, conversation: Conversation, path: Path | None = None) -> None:
        """Start with one branch, `main`, which is saved to the path, if there is one."""
        self.branches, self.current, self.patient = {MAIN: conversation}, MAIN, False
        self._client, self._path = client, path
        self._undone: dict[str, list[Turn]] = {}
        self._commands: dict[str, Callable[[str], None]] = {
            "undo": self._undo,
            "redo": self._redo,
            "retry": self._retry,
            "branch": self._branch,
            "branches": self._list_branches,
            "switch": self._switch,
            "set": self._set,
            "save": self._save_to,
            "load": self._load,
            "text": self._show_text,
            "help": lambda _: write_text(HELP + "\n"),
        }

    @classmethod
    def open(cls, client: Client, path: Path) -> Session:
        """Load a saved text with all branches; raise Failure if the file contains no conversation."""
        session = cls(client, _loaded(client, path), path)
        for sibling in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*{glob.escape(path.suffix)}")):
            name = sibling.name[len(path.stem) + 1 : len(sibling.name) - len(path.suffix)]
            if _BRANCH.fullmatch(name) and name != MAIN and sibling.is_file():
                with suppress(InvalidArgument), failing_to(f"read {sibling}"):  # an unrelated file
                    session.branches[name] = client.load_conversation(sibling)
        return session

    @property
    def conversation(self) -> Conversation:
        return self.branches[self.current]

    def take(self, line: str) -> bool:
        """Execute a line and save the branch; return whether the session continues."""
        if line.strip() == "/quit":
            return False
        try:
            try:
                self._do(line)
            finally:
                self._keep()
        except KeyboardInterrupt:
            if not self.patient:
                raise
            say("stopped", dim=True)
        except (click.ClickException, SostenutoError) as error:
            if not self.patient:
                raise
            say(error_line(error))
        return True

    def set(self, name: str, value: Any) -> None:
        """Set an option of the branch; None: the server's default.

        Another model or other labels prefill the whole text. A pattern replaces the one before.
        """
        conversation, options = self.conversation, self.conversation.options
        before = conversation.model, options.get("labels")
        if name == "model":
            conversation.model = str(value)
        else:
            for replaced in PATTERNS if name in PATTERNS and value is not None else (name,):
                options.pop(replaced, None)
            if value is not None:
                options[name] = value
        if before != (conversation.model, options.get("labels")):  # which the resume tokens have
            conversation.reread()
            undone = self._undone.get(self.current, [])
            undone[:] = [replace(turn, state=None) for turn in undone]

    def _do(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            self._generate(_unescaped(line[1:] if line.startswith("//") else line))
            return
        name, _, rest = line[1:].partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise Failure(f"unknown command /{name}: /help lists the commands; // starts a text with /")
        command(rest if name == "set" else rest.strip())
        if name in ("undo", "redo", "switch") and self.patient:
            end = on_one_line(self.conversation.text[-END:])
            say(f"… {end}" if end else "(the text is empty)", dim=True)

    def _generate(self, prompt: str = "", **options: Any) -> None:
        """Generate a turn; if the server refuses the resume token, prefill the whole text instead."""
        try:
            stream = self.conversation.stream(prompt, resume=True, **options)
        except StateRefused as error:
            say(f"the whole text is processed again: {error.message}", dim=True)
            self.conversation.reread()
            stream = self.conversation.stream(prompt, resume=True, **options)
        self._undone.pop(self.current, None)
        try:
            read_until_ctrl_c(stream, write_text, stream.close)
        finally:
            if sys.stdout.isatty():
                write_text("\n")

    def _undo(self, _: str) -> None:
        turn = self.conversation.undo()
        if turn is None:
            raise Failure("there is no turn to undo")
        self._undone.setdefault(self.current, []).append(turn)

    def _redo(self, _: str) -> None:
        undone = self._undone.get(self.current)
        if not undone:
            raise Failure("there is no turn to redo")
        self.conversation.turns = (*self.conversation.turns, undone.pop())

    def _retry(self, _: str) -> None:
        conversation = self.conversation
        before, turn = conversation.turns, conversation.undo()
        if turn is None:
            raise Failure("there is no turn to generate again")
        try:
            self._generate(turn.prompt, seed=random.SystemRandom().getrandbits(SEED_BITS))
        except Exception:  # unlike after Ctrl-C, which keeps the text so far
            conversation.turns = before
            raise
        finally:
            if len(conversation.turns) < len(before):  # stopped before its first token
                conversation.turns = before

    def _branch(self, name: str) -> None:
        """Copy the current branch and switch to the copy."""
        if not name:
            numbered = (f"branch-{number}" for number in range(2, 10**9))
            name = next(free for free in numbered if free not in self.branches and not self._has_file(free))
        self._add(name, self.conversation.branch())

    def _load(self, name: str) -> None:
        """Load a conversation as a branch named after its file, and switch to it."""
        path = _path(name, "/load")
        self._add(re.sub(r"[^\w-]+", "-", path.stem).strip("-") or "loaded", _loaded(self._client, path))

    def _add(self, name: str, conversation: Conversation) -> None:
        if not _BRANCH.fullmatch(name):
            raise Failure(f"{name!r} is not a branch name: use letters, digits, _ and -")
        if name in self.branches:
            raise Failure(f"branch {name!r} already exists: /switch {name}")
        if self._has_file(name):  # which is not a branch, or one of an earlier text
            raise Failure(f"file {self._file(name)}, where {name!r} would be saved, already exists: use another name")
        self.branches[name] = conversation
        self.current = name

    def _switch(self, name: str) -> None:
        if name not in self.branches:
            raise Failure(f"there is no branch {name!r}: /branches lists them")
        self.current = name

    def _list_branches(self, _: str) -> None:
        for name, conversation in self.branches.items():
            marker, turns = "*" if name == self.current else " ", len(conversation.turns)
            write_text(f"{marker} {name}: {turns} turns, {len(conversation.text):,} characters\n")

    def _set(self, argument: str) -> None:
        if not argument.strip():
            for name, value in {"model": self.conversation.model, **self.conversation.options}.items():
                write_text(f"{name} {json.dumps(value, ensure_ascii=False)}\n")
            return
        name, _, value = argument.partition(" ")
        name = name.replace("-", "_")
        if name not in (*NAMES, "model"):
            raise Failure(f"unknown option {name!r}: set one of model, {', '.join(NAMES)}")
        if name == "model" and not value:
            raise Failure("a model is required: /set model NAME")
        # A space may be one of the characters.
        value = value if name in ("allowed", "banned") else value.strip()
        self.set(name, value if name == "model" else _value(name, value))

    def _show_text(self, _: str) -> None:
        write_text(self.conversation.text)
        if sys.stdout.isatty():
            write_text("\n")

    def _save_to(self, name: str) -> None:
        path = _path(name, "/save")
        if path.is_file() and path.stat().st_size:
            _loaded(self._client, path)  # only another conversation is replaced
        self._save(path)

    def _save(self, path: Path) -> None:
        with failing_to(f"write {path}"):
            self.conversation.save(path)

    def _keep(self) -> None:
        """Save the current branch, if the text has a file."""
        if self._path is not None:
            self._save(self._file(self.current))

    def _file(self, branch: str) -> Path:
        """Return the file of a branch: `main` has the text's own, others are next to it."""
        assert self._path is not None, "the text has a file"
        path = self._path
        return path if branch == MAIN else path.with_name(f"{path.stem}.{branch}{path.suffix}")

    def _has_file(self, branch: str) -> bool:
        return self._path is not None and self._file(branch).exists()


def _loaded(client: Client, path: Path) -> Conversation:
    try:
        with failing_to(f"read {path}"):
            return client.load_conversation(path)
    except InvalidArgument as error:
        raise Failure(f"{path} is not a file of `sostenuto write`") from error


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
        value = json.loads(text)
        return value if name != "stop" or isinstance(value, (str, list)) else text
    except ValueError:
        if name == "stop":
            return _unescaped(text)
        kind = "JSON" if name in ("choices", "json_schema", "labels") else "a number"
        raise Failure(f"{name} can't be {text!r}: pass {kind}, or nothing for the server's default") from None


def _path(name: str, command: str) -> Path:
    if not name:
        raise Failure(f"a file is required: {command} FILE")
    return Path(name).expanduser()
