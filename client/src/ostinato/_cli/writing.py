"""A text that is written together with a model: its branches, and what can be done to them. It shows nothing."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato import InvalidArgument
from ostinato._cli.errors import Failure, reason

if TYPE_CHECKING:
    from ostinato import Client, Conversation, Stream, Turn

MAIN = "main"
_BRANCH = re.compile(r"[\w-]+")
SEED_BITS = 53  # as the server draws them: a double holds them


class Writing:
    """Branches of a text, one of which is written on.

    Attributes:
        branches: dict of str to Conversation, in the order in which they were made.
        current: str. The name of the one that is written on.
    """

    def __init__(self, client: Client, conversation: Conversation, path: Path | None = None) -> None:
        """Begin.

        Args:
            client: Of the server that writes.
            conversation: What the text begins with.
            path: Where `keep` writes to; None: nowhere.
        """
        self._client, self._path = client, path
        self.branches, self.current = {MAIN: conversation}, MAIN
        self._undone: dict[str, list[Turn]] = {}

    @classmethod
    def take_up(cls, client: Client, path: Path) -> Writing:
        """Read what `keep` wrote, all branches of it.

        Raises:
            Failure: it can't be read.
            InvalidArgument: it holds no conversation.
        """
        writing = cls(client, _loaded(client, path), path)
        for beside in sorted(path.parent.glob(f"{_escaped(path.stem)}.*{_escaped(path.suffix)}")):
            name = beside.name[len(path.stem) + 1 : len(beside.name) - len(path.suffix)]
            if _BRANCH.fullmatch(name) and name != MAIN:
                with suppress(InvalidArgument):  # somebody else's file
                    writing.branches[name] = client.load_conversation(beside)
        return writing

    @property
    def conversation(self) -> Conversation:
        """The branch that is written on."""
        return self.branches[self.current]

    def stream(self, prompt: str = "", **options: Any) -> Stream:
        """Have the model go on."""
        stream = self.conversation.stream(prompt, **options)
        self._undone.pop(self.current, None)
        return stream

    def undo(self) -> bool:
        """Take the last turn back; say whether there was one."""
        turn = self.conversation.undo()
        if turn is None:
            return False
        self._undone.setdefault(self.current, []).append(turn)
        return True

    def redo(self) -> Turn | None:
        """Put back the turn that was taken back last, and return it; None: there is none."""
        undone = self._undone.get(self.current)
        if not undone:
            return None
        turn = undone.pop()
        self.conversation.turns = (*self.conversation.turns, turn)
        return turn

    def branch(self, name: str | None = None) -> None:
        """Make another branch that stands where this one does, and write on that.

        Raises:
            Failure: it can't have that name.
        """
        if name is None:
            name = next(free for number in range(2, 10**9) if (free := f"branch-{number}") not in self.branches)
        self._add(name, self.conversation.branch())

    def load(self, path: Path) -> None:
        """Take up a conversation from a file as a branch of that name, and write on that.

        Raises:
            Failure: it can't be read, or there is such a branch.
            InvalidArgument: it holds no conversation.
        """
        self._add(re.sub(r"[^\w-]+", "-", path.stem).strip("-") or "loaded", _loaded(self._client, path))

    def switch(self, name: str) -> None:
        """Write on another branch.

        Raises:
            Failure: there is none of that name.
        """
        if name not in self.branches:
            raise Failure(f"there is no branch {name!r}: /branches lists them")
        self.current = name

    def set(self, name: str, value: Any) -> None:
        """Set an option of this branch's further turns; None: leave it to the server. Another model reads anew."""
        if name == "model":
            self.conversation.model = str(value)
            undone = self._undone.get(self.current, [])
            undone[:] = [replace(turn, state=None) for turn in undone]  # states of the model before
        elif value is None:
            self.conversation.options.pop(name, None)
        else:
            self.conversation.options[name] = value

    def save(self, path: Path) -> None:
        """Write this branch to a file.

        Raises:
            Failure: that can't be done.
        """
        try:
            self.conversation.save(path)
        except OSError as error:
            raise Failure(f"cannot write {path}: {reason(error)}") from error

    def keep(self) -> None:
        """Write this branch to where the text is kept: `main` to the file itself, another one beside it.

        Raises:
            Failure: that can't be done.
        """
        if self._path is not None:
            path = self._path
            self.save(path if self.current == MAIN else path.with_name(f"{path.stem}.{self.current}{path.suffix}"))

    def _add(self, name: str, conversation: Conversation) -> None:
        if not _BRANCH.fullmatch(name):
            raise Failure(f"{name!r} is no name of a branch: use letters, digits, _ and -")
        if name in self.branches:
            raise Failure(f"there is a branch {name!r} already: /switch {name}")
        self.branches[name] = conversation
        self.current = name


def new_seed() -> int:
    """Draw a seed."""
    return random.SystemRandom().getrandbits(SEED_BITS)


def _loaded(client: Client, path: Path) -> Conversation:
    try:
        return client.load_conversation(path)
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason(error)}") from error
    except InvalidArgument as error:
        raise Failure(f"{path} holds no text of `ostinato write`: name another file") from error


def _escaped(part: str) -> str:
    """Return a part of a file's name as a pattern that fits it alone."""
    return re.sub(r"([*?[])", r"[\1]", part)
