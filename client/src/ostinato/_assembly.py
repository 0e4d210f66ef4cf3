"""The pieces of a stream, put together again. It knows the shape of chunks, and neither bytes nor connections."""

from __future__ import annotations

from typing import Any

from ostinato._results import Generation, Piece, required


class Assembly:
    """What a stream has brought so far: chunks go in, and a Generation can be had at any time."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}

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
        choices = [{**self._choices[index], "text": "".join(self._texts[index])} for index in self._choices]
        return Generation.from_answer({**self._fields, "choices": choices})

    def _add_choice(self, choice: dict[str, Any]) -> Piece:
        index, text = required(choice, "index", int), required(choice, "text", str)
        self._texts.setdefault(index, []).append(text)
        known = self._choices.setdefault(index, {})
        logprobs = _joined(known.get("logprobs"), choice.get("logprobs"))
        known.update((name, value) for name, value in choice.items() if value is not None or name not in known)
        known["logprobs"] = logprobs
        return Piece(index, text, choice.get("finish_reason"))


def _joined(known: dict[str, list[Any]] | None, new: dict[str, list[Any]] | None) -> dict[str, list[Any]] | None:
    """Append each of the new lists, one entry per token, to the known list of the same name."""
    if known is None or new is None:
        return known or new
    for name, entries in new.items():
        known[name] = (known.get(name) or []) + (entries or [])
    return known
