"""A text written in turns with a model: its branches and the operations on them. Shows nothing."""

from __future__ import annotations

import glob
import random
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sostenuto import InvalidArgument
from sostenuto._cli.errors import Failure, failing_to
from sostenuto._fields import PATTERNS

if TYPE_CHECKING:
    from sostenuto import Client, Conversation, Stream, Turn

MAIN = "main"
_BRANCH = re.compile(r"[\w-]+")
SEED_BITS = 53  # as the server's own seeds: exact in a double


class Writing:
    """Branches of a text, one of which is current.

    Attributes:
        branches: dict of str to Conversation, in order of creation.
        current: str. Name of the current branch.
    """

    def __init__(self, client: Client, conversation: Conversation, path: Path | None = None) -> None:
        """Start with one branch, `main`. `keep` writes to the path, if there is one."""
        self._client, self._path = client, path
        self.branches, self.current = {MAIN: conversation}, MAIN
        self._undone: dict[str, list[Turn]] = {}

    @classmethod
    def open(cls, client: Client, path: Path) -> Writing:
        """Load the file that `keep` wrote, with all branches; raise Failure if it contains no conversation."""
        writing = cls(client, _loaded(client, path), path)
        for sibling in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*{glob.escape(path.suffix)}")):
            name = sibling.name[len(path.stem) + 1 : len(sibling.name) - len(path.suffix)]
            if _BRANCH.fullmatch(name) and name != MAIN:
                with suppress(InvalidArgument):  # an unrelated file
                    writing.branches[name] = client.load_conversation(sibling)
        return writing

    @property
    def conversation(self) -> Conversation:
        """The current branch."""
        return self.branches[self.current]

    def stream(self, prompt: str = "", **options: Any) -> Stream:
        """Stream the next turn of the current branch."""
        stream = self.conversation.stream(prompt, **options)
        self._undone.pop(self.current, None)
        return stream

    def undo(self) -> None:
        """Undo the last turn; raise Failure if there is none."""
        turn = self.conversation.undo()
        if turn is None:
            raise Failure("there is no turn to undo")
        self._undone.setdefault(self.current, []).append(turn)

    def redo(self) -> None:
        """Redo the turn that was undone last; raise Failure if there is none."""
        undone = self._undone.get(self.current)
        if not undone:
            raise Failure("there is no turn to redo")
        self.conversation.turns = (*self.conversation.turns, undone.pop())

    def branch(self, name: str | None = None) -> None:
        """Copy the current branch and switch to the copy; raise Failure if its name is invalid or taken."""
        if name is None:
            name = next(free for number in range(2, 10**9) if (free := f"branch-{number}") not in self.branches)
        self._add(name, self.conversation.branch())

    def load(self, path: Path) -> None:
        """Load a conversation as a branch named after its file, and switch to it.

        Raises:
            Failure: the file cannot be read or contains no conversation, or the branch exists.
        """
        self._add(re.sub(r"[^\w-]+", "-", path.stem).strip("-") or "loaded", _loaded(self._client, path))

    def switch(self, name: str) -> None:
        """Switch to another branch; raise Failure if there is none of this name."""
        if name not in self.branches:
            raise Failure(f"there is no branch {name!r}: /branches lists them")
        self.current = name

    def set(self, name: str, value: Any) -> None:
        """Set an option of the branch; None: the server's default.

        A new model prefills the whole text. A pattern replaces the one before.
        """
        if name == "model":
            self.conversation.model = str(value)
            undone = self._undone.get(self.current, [])
            undone[:] = [replace(turn, state=None) for turn in undone]  # their tokens are of the previous model
        elif value is None:
            self.conversation.options.pop(name, None)
        else:
            for other in PATTERNS if name in PATTERNS else ():
                self.conversation.options.pop(other, None)
            self.conversation.options[name] = value

    def save(self, path: Path) -> None:
        """Write the current branch to a file, or raise Failure."""
        with failing_to(f"write {path}"):
            self.conversation.save(path)

    def keep(self) -> None:
        """Save the current branch: `main` to the text's file, others next to it; raise Failure if it fails."""
        if self._path is not None:
            path = self._path
            self.save(path if self.current == MAIN else path.with_name(f"{path.stem}.{self.current}{path.suffix}"))

    def _add(self, name: str, conversation: Conversation) -> None:
        if not _BRANCH.fullmatch(name):
            raise Failure(f"{name!r} is not a branch name: use letters, digits, _ and -")
        if name in self.branches:
            raise Failure(f"there is a branch {name!r} already: /switch {name}")
        self.branches[name] = conversation
        self.current = name


def new_seed() -> int:
    """Return a random seed."""
    return random.SystemRandom().getrandbits(SEED_BITS)


def _loaded(client: Client, path: Path) -> Conversation:
    try:
        with failing_to(f"read {path}"):
            return client.load_conversation(path)
    except InvalidArgument as error:
        raise Failure(f"{path} is not a file of `sostenuto write`") from error
