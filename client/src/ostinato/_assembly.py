"""The pieces of a stream, put together again. It knows the shape of chunks, and neither bytes nor connections."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from ostinato._results import Generation, Piece, required


class _Part(NamedTuple):
    """A piece as it came.

    Attributes:
        logprobs: Lists with one entry per token, by name. Offsets of a prepended piece count from its own beginning.
        prepended: Whether it was put before those so far.
    """

    text: str
    logprobs: dict[str, list[Any]] | None
    prepended: bool


class Assembly:
    """What a stream has brought so far: chunks go in, and a Generation can be had at any time."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, deque[_Part]] = {}  # in order of reading

    def add(self, chunk: dict[str, Any]) -> list[Piece]:
        """Take a chunk, and return its pieces of text.

        Raises:
            UnexpectedAnswer: the chunk has another shape.
        """
        self._fields.update((name, value) for name, value in chunk.items() if value is not None)
        return [self._add_choice(choice) for choice in required(chunk, "choices", list)]

    @property
    def generation(self) -> Generation:
        """What has come so far, in the shape of an answer that was not streamed."""
        choices = [{**known, **_joined(self._parts[index])} for index, known in self._choices.items()]
        return Generation.from_answer({**self._fields, "choices": choices})

    def _add_choice(self, choice: dict[str, Any]) -> Piece:
        index, text = required(choice, "index", int), required(choice, "text", str)
        prepend = bool(choice.get("prepend"))
        parts = self._parts.setdefault(index, deque())
        (parts.appendleft if prepend else parts.append)(_Part(text, choice.get("logprobs"), prepend))
        known = self._choices.setdefault(index, {})
        known.update((name, value) for name, value in choice.items() if value is not None or name not in known)
        known.pop("prepend", None)
        return Piece(index, text, choice.get("finish_reason"), prepend)


def _joined(parts: deque[_Part]) -> dict[str, Any]:
    """Join texts and, token by token, the lists of log probabilities."""
    prepended = sum(len(part.text) for part in parts if part.prepended)
    logprobs: dict[str, list[Any]] | None = None
    place = 0
    for part in parts:
        if part.logprobs is not None:
            logprobs = {} if logprobs is None else logprobs
            _extend(logprobs, part.logprobs, place if part.prepended else prepended)
        place += len(part.text)
    return {"text": "".join([part.text for part in parts]), "logprobs": logprobs}


def _extend(known: dict[str, list[Any]], new: dict[str, list[Any]], shift: int) -> None:
    """Append each of the new lists to the known list of the same name; offsets are too small by `shift`."""
    for name, entries in new.items():
        moved = [offset + shift for offset in entries or []] if name == "text_offset" and shift else entries or []
        known.setdefault(name, []).extend(moved)
