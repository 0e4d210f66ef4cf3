"""A text that grows by turns. It knows what each turn said and where it stands, and nothing of HTTP."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato._errors import InvalidArgument, UnexpectedResponse
from ostinato._files import write_whole
from ostinato._results import required, shortened

if TYPE_CHECKING:
    from ostinato._client import Client
    from ostinato._results import Generation
    from ostinato._stream import Stream

FORMAT = 1  # of a file
_NOT_OPTIONS = {"n", "best_of", "echo", "suffix", "prepend", "state", "return_state", "model"}


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

    It is for models that read forwards.

    Attributes:
        turns: tuple of Turn.
        options: dict. Arguments of `Client.generate` for every turn.
    """

    def __init__(
        self, client: Client, *, model: str, prompt: str = "", turns: tuple[Turn, ...] = (), **options: Any
    ) -> None:
        """Begin, or go on; see `Client.conversation`."""
        self._client, self._beginning, self._model = client, prompt, model
        self.turns, self.options = turns, options

    @property
    def model(self) -> str:
        """The model. Another one reads the whole text anew with the next turn."""
        return self._model

    @model.setter
    def model(self, name: str) -> None:
        if name != self._model:
            self.reread()
        self._model = name

    def generate(self, prompt: str = "", **options: Any) -> Generation:
        """Take a turn: the prompt is read, and the model goes on. Return what it wrote.

        Args:
            prompt: str.
            options: arguments of `Client.generate`, for this turn alone.

        Raises:
            StateRefused: the state before cannot be gone on with; after `reread()` the text is read anew.
            OstinatoError: as `Client.generate`. The conversation stays as it was.
        """
        turns = self.turns
        generation = self._client.generate(**self._request(prompt, options), return_state=True)
        self._add(prompt, turns, generation)
        return generation

    def stream(self, prompt: str = "", **options: Any) -> Stream:
        """Take a turn, and return its text as it is written. The turn counts once the stream has ended or is left.

        Arguments and errors are those of `generate`, and `resume` of `Client.stream`. A stream that is left before its
        end has no state: the next turn reads the text anew. So it does if there were other turns or `undo` meanwhile.
        """
        turns = self.turns
        stream = self._client.stream(**self._request(prompt, options), return_state=True)
        stream._when_ended(partial(self._add, prompt, turns))
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
        self.turns = tuple(replace(turn, state=None) for turn in self.turns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, which is whole at any moment. It holds the text and the states, and no API key.

        A new file is for its owner alone; one that is there keeps its permissions.

        Raises:
            OSError: the file cannot be written.
            InvalidArgument: an option has no JSON, or the text no UTF-8.
        """
        document = {
            "ostinato_conversation": FORMAT,
            "model": self.model,
            "prompt": self._beginning,
            "options": self.options,
            "turns": [asdict(turn) for turn in self.turns],
        }
        try:
            content = json.dumps(document, ensure_ascii=False, indent=1)
            content.encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f"the conversation cannot be written as JSON ({error}): correct its options"
            ) from error
        write_whole(path, content)

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
            turns = tuple(_turn(turn) for turn in raw["turns"])
            model, prompt = required(raw, "model", str), required(raw, "prompt", str)
            return cls(client, model=model, prompt=prompt, turns=turns, **raw["options"])
        except UnexpectedResponse as error:
            raise InvalidArgument(f"{path}: holds no conversation: name a file that save() wrote") from error
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
        wrong = sorted(_NOT_OPTIONS.intersection(fields))
        if wrong:
            raise InvalidArgument(f"{wrong[0]} is no option of a conversation, which grows by one text: leave it out")
        if self.state is None:
            return {"model": self.model, "prompt": self.text + prompt, **fields}
        # The state names the version that the text is of; another may answer to the model's name by now.
        return {"prompt": prompt, "state": self.state, **fields}

    def _add(self, prompt: str, before: tuple[Turn, ...], generation: Generation) -> None:
        choice = generation.choices[0] if generation.choices else None
        if choice is not None:
            # The state is of the turns that there were when the text was asked for.
            state = choice.state if self.turns is before else None
            self.turns = (*self.turns, Turn(prompt, choice.text, choice.finish_reason, state))


def _turn(raw: Any) -> Turn:
    """Read a turn; what a later version may have added is read over."""
    return Turn(required(raw, "prompt", str), required(raw, "text", str), raw.get("finish_reason"), raw.get("state"))
