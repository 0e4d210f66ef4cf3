"""The pieces of a stream, put together again. It knows the shape of chunks, and neither bytes nor connections.

A stream that broke off may come in parts: what a new part repeats of the text is held against what was delivered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ostinato._errors import ResumptionFailed
from ostinato._results import Generation, TextDelta, required

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class _Part(NamedTuple):
    """A piece as it came.

    Attributes:
        logprobs: Lists with one entry per token, by name. Offsets of a prepended piece count from its own beginning.
        prepended: Whether it was put before those so far.
        before: Characters of the text that offsets do not count, as an earlier stream brought them.
    """

    text: str
    logprobs: dict[str, list[Any]] | None
    prepended: bool
    before: int = 0


class Mark(NamedTuple):
    """A place in the first choice's text from which another request can go on.

    Attributes:
        state: The server's token for it.
        usage: What the request had used up to there.
        num_parts: How many parts of the text stand before it.
    """

    state: str
    usage: dict[str, Any]
    num_parts: int


class Assembly:
    """What a stream has brought so far: chunks go in, and a Generation can be had at any time.

    Attributes:
        mark: The last place from which the text can be gone on with; None: there is none.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.mark: Mark | None = None
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, list[_Part]] = {}  # in order of arrival
        self._used: dict[str, Any] = {}  # by streams before this one
        self._before = 0  # characters that those brought
        self._owed = ""  # what was delivered of the first choice, and is to come again

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come."""
        return not self._fields

    @property
    def generation(self) -> Generation:
        """What has come so far, in the shape of an answer that was not streamed."""
        choices = []
        for index, known in self._choices.items():
            owed = [self._owed_part()] if index == 0 and self._owed else []
            choices.append({**known, **_joined([*self._parts[index], *owed])})
        return Generation.from_response({**self._fields, "choices": choices, "usage": self._usage()})

    def add(self, chunk: dict[str, Any]) -> list[TextDelta]:
        """Take a chunk, and return its pieces of text, without what was delivered before.

        Raises:
            UnexpectedResponse: the chunk has another shape.
            ResumptionFailed: it is of another text than the one that broke off.
        """
        choices = required(chunk, "choices", list)
        self._fields.update((name, value) for name, value in chunk.items() if value is not None)
        pieces = [self._add_choice(choice) for choice in choices]
        usage = self._usage() if chunk.get("usage") else None
        if usage and choices and choices[0].get("state"):
            required(usage, "completion_tokens", int)
            self.mark = Mark(choices[0]["state"], usage, len(self._parts[0]))
        return pieces

    def rewind(self) -> None:
        """Go back to the mark, or to the beginning: the next chunk goes on from there."""
        num_parts, self._used = (self.mark.num_parts, self.mark.usage) if self.mark else (0, {})
        parts = self._parts.get(0, [])
        self._owed = _joined([*parts[num_parts:], self._owed_part()])["text"]
        del parts[num_parts:]
        self._fields.pop("usage", None)
        self._before = sum(len(part.text) for part in parts)

    def _owed_part(self) -> _Part:
        parts = self._parts.get(0, [])
        return _Part(self._owed, None, bool(parts and parts[-1].prepended))

    def _usage(self) -> dict[str, Any] | None:
        """Add up what the streams of the text have used: the prompt is the first one's alone."""
        latest = self._fields.get("usage")
        if not self._used:
            return latest
        num_completion_tokens = self._used["completion_tokens"] + (latest or {}).get("completion_tokens", 0)
        num_prompt_tokens = self._used.get("prompt_tokens", 0)
        counts = (num_prompt_tokens, num_completion_tokens, num_prompt_tokens + num_completion_tokens)
        return {**self._used, **dict(zip(_COUNTS, counts))}

    def _add_choice(self, choice: dict[str, Any]) -> TextDelta:
        index, text = required(choice, "index", int), required(choice, "text", str)
        prepend, finish_reason = bool(choice.get("prepend")), choice.get("finish_reason")
        parts = self._parts.setdefault(index, [])
        parts.append(_Part(text, choice.get("logprobs"), prepend, self._before))
        known = self._choices.setdefault(index, {})
        if text:
            known.pop("state", None)  # it stands before this piece
        known.update((name, value) for name, value in choice.items() if value is not None or name not in known)
        known.pop("prepend", None)
        if index == 0:
            text = self._without_owed(text, prepend)
            if finish_reason and self._owed:
                raise _other_text()
        return TextDelta(index, text, finish_reason, prepend)

    def _without_owed(self, text: str, prepend: bool) -> str:
        """Return what is new of a piece."""
        if not self._owed:
            return text
        known = min(len(text), len(self._owed))
        if prepend:
            same, new = self._owed.endswith(text[len(text) - known :]), text[: len(text) - known]
            self._owed = self._owed[: len(self._owed) - known]
        else:
            same, new = self._owed.startswith(text[:known]), text[known:]
            self._owed = self._owed[known:]
        if not same:
            raise _other_text()
        return new


def _other_text() -> ResumptionFailed:
    return ResumptionFailed(
        "the stream broke off, and what the server goes on with is another text, by another version of the model or on "
        "another kind of machine: send the request again"
    )


def _joined(parts: list[_Part]) -> dict[str, Any]:
    """Join texts and, token by token, the lists of log probabilities."""
    in_order = [part for part in reversed(parts) if part.prepended] + [part for part in parts if not part.prepended]
    prepended = sum(len(part.text) for part in parts if part.prepended)
    logprobs: dict[str, list[Any]] | None = None
    place = 0
    for part in in_order:
        if part.logprobs is not None:
            logprobs = {} if logprobs is None else logprobs
            _extend(logprobs, part.logprobs, place if part.prepended else prepended + part.before)
        place += len(part.text)
    return {"text": "".join([part.text for part in in_order]), "logprobs": logprobs}


def _extend(known: dict[str, list[Any]], new: dict[str, list[Any]], shift: int) -> None:
    """Append each of the new lists to the known list of the same name; offsets are too small by `shift`."""
    for name, entries in new.items():
        moved = [offset + shift for offset in entries or []] if name == "text_offset" and shift else entries or []
        known.setdefault(name, []).extend(moved)
