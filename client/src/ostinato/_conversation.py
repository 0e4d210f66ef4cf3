"""A text that grows by turns. It knows what each turn said and where it stands, and nothing of HTTP."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato._errors import InvalidArgument
from ostinato._results import shortened

if TYPE_CHECKING:
    from ostinato._client import Client
    from ostinato._results import Generation
    from ostinato._stream import Stream

FORMAT = 1  # of a file


@dataclass(frozen=True)
class Turn:
    """What was given, and what the model made of it.

    Attributes:
        prompt: str. What was read first.
        text: str. What the model wrote.
        finish_reason: str or None. None for a text that was left before its end.
        state: str or None. Where the text stands behind it; None: it is read anew by the next turn.
    """

    prompt: str
    text: str
    finish_reason: str | None = None
    state: str | None = field(default=None, repr=False)


class Conversation:
    """A text that grows by turns, each of which goes on from the state of the one before: nothing is read twice.

    `client.conversation()` makes one. One thread at a time may use it; branches are independent of each other.

    Attributes:
        model: str.
        turns: tuple of Turn.
        options: dict. Arguments of `Client.generate` for every turn.
    """

    def __init__(
        self, client: Client, *, model: str, prompt: str = "", turns: tuple[Turn, ...] = (), **options: Any
    ) -> None:
        """Begin, or go on; see `Client.conversation`."""
        self._client, self._beginning = client, prompt
        self.model, self.turns, self.options = model, turns, options

    def generate(self, prompt: str = "", **options: Any) -> Generation:
        """Take a turn: the prompt is read, and the model goes on. Return what it wrote.

        Args:
            prompt: str.
            options: arguments of `Client.generate`, for this turn alone.

        Raises:
            StateRefused: the state before cannot be gone on with; after `reread()` the text is read anew.
            OstinatoError: as `Client.generate`. The conversation stays as it was.
        """
        generation = self._client.generate(**self._request(prompt, options), return_state=True)
        self._add(prompt, generation)
        return generation

    def stream(self, prompt: str = "", **options: Any) -> Stream:
        """Take a turn, and return its text as it is written. The turn counts once the stream has ended or is left.

        Arguments and errors are those of `generate`, and `resume` of `Client.stream`. A stream that is left before its
        end has no state: the next turn reads the text anew.
        """
        stream = self._client.stream(**self._request(prompt, options), return_state=True)
        stream.when_ended(partial(self._add, prompt))
        return stream

    @property
    def text(self) -> str:
        """The whole text so far: prompts and what the model wrote."""
        return self._beginning + "".join(turn.prompt + turn.text for turn in self.turns)

    @property
    def state(self) -> str | None:
        """Where the text stands; None: it is read anew by the next turn."""
        return self.turns[-1].state if self.turns else None

    def undo(self) -> Turn | None:
        """Take the last turn back and return it; None: there is none."""
        if not self.turns:
            return None
        *turns, last = self.turns
        self.turns = tuple(turns)
        return last

    def branch(self) -> Conversation:
        """Return another conversation that stands where this one does."""
        beginning, turns = self._beginning, self.turns
        return Conversation(self._client, model=self.model, prompt=beginning, turns=turns, **self.options)

    def reread(self) -> None:
        """Forget where the text stands, so that the next turn reads all of it: the state may be too old."""
        if self.turns:
            last = self.turns[-1]
            self.turns = (*self.turns[:-1], Turn(last.prompt, last.text, last.finish_reason))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, which is whole at any moment. It holds the text and the states, and no API key.

        Raises:
            OSError: the file cannot be written.
        """
        document = {
            "ostinato_conversation": FORMAT,
            "model": self.model,
            "prompt": self._beginning,
            "options": self.options,
            "turns": [asdict(turn) for turn in self.turns],
        }
        content = json.dumps(document, ensure_ascii=False, indent=1)
        path = Path(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(content, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], client: Client) -> Conversation:
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            InvalidArgument: it holds no conversation.
        """
        try:
            raw = json.loads(Path(path).read_bytes())
            if raw["ostinato_conversation"] != FORMAT:
                raise InvalidArgument(f"{path}: is of format {raw['ostinato_conversation']!r}: update ostinato-client")
            turns = tuple(Turn(**turn) for turn in raw["turns"])
            return cls(client, model=raw["model"], prompt=raw["prompt"], turns=turns, **raw["options"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InvalidArgument):
                raise
            raise InvalidArgument(f"{path}: holds no conversation: name a file that save() wrote") from error

    def __repr__(self) -> str:
        """Show what one looks for first; of a long text the end."""
        tail = shortened(self.text[::-1])[::-1]
        return f"Conversation({tail!r}, model={self.model!r}, turns={len(self.turns)})"

    def _request(self, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
        fields = {**self.options, **options}
        if self.state is None:
            return {"model": self.model, "prompt": self.text + prompt, **fields}
        # The state names the version that the text is of; another may answer to the model's name by now.
        return {"prompt": prompt, "state": self.state, **fields}

    def _add(self, prompt: str, generation: Generation) -> None:
        choice = generation.choices[0] if generation.choices else None
        if choice is not None:
            self.turns = (*self.turns, Turn(prompt, choice.text, choice.finish_reason, choice.state))
