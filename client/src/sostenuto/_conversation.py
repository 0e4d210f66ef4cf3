"""A conversation: a text that grows by turns, each resumed from the state of the previous one, and its file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sostenuto._errors import InvalidArgument, UnexpectedResponse
from sostenuto._fields import as_json_schema
from sostenuto._results import Generation, required, shortened
from sostenuto._stream import Stream

if TYPE_CHECKING:
    from sostenuto._client import Client

FORMAT = 1  # version of the file format
_NOT_OPTIONS = {"n", "best_of", "echo", "suffix", "prepend", "state", "return_state", "model"}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: a prompt and the text generated after it.

    Attributes:
        prompt: str. Text appended by the caller.
        text: str. The generated text.
        finish_reason: str or None. None if the stream was closed before its end.
        state: str or None. Resume token of the end of the turn. None: the next turn prefills the whole text.
    """

    prompt: str
    text: str
    finish_reason: str | None = None
    state: str | None = field(default=None, repr=False)


class Conversation:
    """A text that grows by turns. Each turn resumes from the state of the previous one, so no text is prefilled twice.

    `client.conversation()` creates one. Not thread-safe; branches are independent of each other. Supports forward
    models only. After a stop string the next turn continues after the string, which `text` omits.

    Attributes:
        turns: tuple of Turn.
        options: dict. Arguments of `Client.generate` for every turn.
    """

    def __init__(
        self, client: Client, *, model: str, prompt: str = "", turns: tuple[Turn, ...] = (), **options: Any
    ) -> None:
        """Start or continue a conversation; see `Client.conversation`."""
        self._client, self._beginning, self._model = client, prompt, model
        if "json_schema" in options:
            # `save` writes JSON.
            options["json_schema"] = as_json_schema(options["json_schema"])
        self.turns, self.options = turns, options

    @property
    def model(self) -> str:
        """The model's name. After a change, the next turn prefills the whole text."""
        return self._model

    @model.setter
    def model(self, name: str) -> None:
        if name != self._model:
            self.reread()
        self._model = name

    def generate(self, prompt: str = "", **options: Any) -> Generation:
        """Append a prompt, generate a turn and return its generation.

        Args:
            prompt: str.
            options: Arguments of `Client.generate`, for this turn only.

        Raises:
            StateRefused: the server rejects the previous state; call `reread()` and try again.
            SostenutoError: as `Client.generate`. The conversation is unchanged.
        """
        turns = self.turns
        generation = self._client.generate(**self._request(prompt, options), return_state=True)
        self._add(prompt, turns, generation)
        return generation

    def stream(self, prompt: str = "", **options: Any) -> Stream:
        """Append a prompt and stream a turn. The turn is added when the stream ends or is closed.

        Arguments and errors are those of `generate`, plus `resume` of `Client.stream`. If the stream is closed before
        its end, or if other turns are added or undone while it runs, its turn has no state: the next turn prefills the
        whole text.
        """
        turns = self.turns
        stream = self._client.stream(**self._request(prompt, options), return_state=True)
        stream._when_ended(partial(self._add, prompt, turns))
        return stream

    @property
    def text(self) -> str:
        """The whole text so far, with prompts."""
        return self._beginning + "".join(turn.prompt + turn.text for turn in self.turns)

    @property
    def state(self) -> str | None:
        """Resume token of the last turn; without one, the next turn prefills the whole text."""
        return self.turns[-1].state if self.turns else None

    def undo(self) -> Turn | None:
        """Remove the last turn and return it; None if there is none."""
        if not self.turns:
            return None
        last, self.turns = self.turns[-1], self.turns[:-1]
        return last

    def branch(self) -> Conversation:
        """Return an independent copy of the conversation."""
        beginning, turns, options = self._beginning, self.turns, deepcopy(self.options)
        return Conversation(self._client, model=self.model, prompt=beginning, turns=turns, **options)

    def reread(self) -> None:
        """Drop all resume tokens, so that the next turn prefills the whole text; use it when a state has expired."""
        self.turns = tuple(replace(turn, state=None) for turn in self.turns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation to a file, atomically. The file contains the text and the states, but no API key.

        A new file is readable by its owner only; an existing file keeps its permissions.

        Raises:
            OSError: the file cannot be written.
            InvalidArgument: an option is not JSON-serializable, or the text is not encodable as UTF-8.
        """
        document = {
            "sostenuto_conversation": FORMAT,
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
        """Load a conversation from a file that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            InvalidArgument: the file contains no conversation.
        """
        try:
            raw = json.loads(Path(path).read_bytes())
            file_format = raw["sostenuto_conversation"]
            if file_format == FORMAT:
                turns = tuple(_turn(turn) for turn in raw["turns"])
                model, prompt = required(raw, "model", str), required(raw, "prompt", str)
                return cls(client, model=model, prompt=prompt, turns=turns, **raw["options"])
        except (UnexpectedResponse, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidArgument(f"{path} is not a file of Conversation.save()") from error
        raise InvalidArgument(f"{path}: is of format {file_format!r}: update sostenuto")

    def __repr__(self) -> str:
        tail = shortened(self.text[::-1])[::-1]
        return f"Conversation({tail!r}, model={self.model!r}, turns={len(self.turns)})"

    def _request(self, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
        fields = {**self.options, **options}
        unsupported = sorted(_NOT_OPTIONS.intersection(fields))
        if unsupported:
            raise InvalidArgument(
                f"{unsupported[0]} is not an option of a conversation, which has one completion per turn: omit it"
            )
        if self.state is None:
            return {"model": self.model, "prompt": self.text + prompt, **fields}
        # The token determines the model version and the labels; the name may resolve to another version by now.
        kept = {name: value for name, value in self.options.items() if name != "labels"}
        return {"prompt": prompt, "state": self.state, **kept, **options}

    def _add(self, prompt: str, before: tuple[Turn, ...], generation: Generation) -> None:
        choice = generation.choices[0] if generation.choices else None
        if choice is not None:
            # The state follows the turns at the time of the request, so it is invalid after other turns.
            state = choice.state if self.turns is before else None
            self.turns = (*self.turns, Turn(prompt, choice.text, choice.finish_reason, state))


def _turn(raw: Any) -> Turn:
    """Parse a turn; ignores fields that a later version may have added."""
    return Turn(required(raw, "prompt", str), required(raw, "text", str), raw.get("finish_reason"), raw.get("state"))


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Replace a file's content with a text, as UTF-8, atomically.

    An existing file keeps its permissions, and symbolic links are followed. A new file is readable by its owner only,
    because anyone who can read a resume token can resume from it.

    Raises:
        OSError: the file cannot be written; it is unchanged. The error names `path`.
    """
    target = os.path.realpath(path)
    try:
        descriptor, draft = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".", suffix=".draft")
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(content)
        with suppress(FileNotFoundError):
            shutil.copymode(target, draft)
        os.replace(draft, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)
