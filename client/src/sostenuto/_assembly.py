"""Assembles the chunks of a stream into a `Generation`.

After a resumption, text that the new stream repeats is compared with the text that was already delivered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sostenuto._errors import ResumptionFailed
from sostenuto._results import Generation, TextDelta, required


class _Part(NamedTuple):
    """One text delta of a choice, as received."""

    text: str
    # Lists with one entry per token, by name. Offsets of a prepended delta are relative to its own start.
    logprobs: dict[str, list[Any]] | None
    prepended: bool  # before the earlier deltas
    before: int = 0  # characters delivered by earlier streams, which the offsets of this stream do not count


class ResumePoint(NamedTuple):
    """A point in the first choice's text from which another request can resume."""

    state: str  # the resume token
    usage: dict[str, Any]  # of the request up to this point
    num_parts: int  # text deltas before it


class Assembly:
    """The chunks received so far. `generation` is valid after any chunk."""

    def __init__(self) -> None:
        self.resume_point: ResumePoint | None = None  # the last one, of the first choice
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, list[_Part]] = {}  # in order of arrival
        self._used: dict[str, Any] = {}  # usage of earlier streams
        self._is_usage_whole = False  # whether the latest usage is that of the whole stream
        self._before = 0  # characters delivered by earlier streams
        self._overlap = ""  # delivered text of the first choice that the resumed stream will repeat

    @property
    def generation(self) -> Generation:
        """The chunks so far, in the shape of a response that was not streamed."""
        choices = []
        for index, fields in self._choices.items():
            choice = {**fields, **_joined(self._parts[index])}
            if index == 0 and self._overlap:
                choice |= _joined([*self._parts[index], self._overlap_part()])
                choice["state"] = None  # the latest one precedes the text that is still to be repeated
            choices.append(choice)
        return Generation.from_response({**self._fields, "choices": choices, "usage": self._usage()})

    def add(self, chunk: dict[str, Any]) -> list[TextDelta]:
        """Add a chunk and return its text deltas, without text that was already delivered.

        Raises:
            UnexpectedResponse: the chunk has an unknown shape.
            ResumptionFailed: the resumed stream does not repeat the delivered text.
        """
        choices = required(chunk, "choices", list)
        self._fields.update((name, value) for name, value in chunk.items() if value is not None)
        deltas = [self._add_choice(choice) for choice in choices]
        usage = self._usage() if chunk.get("usage") else None
        self._is_usage_whole = bool(usage and not choices)
        if usage and choices and choices[0]["index"] == 0 and choices[0].get("state"):
            required(usage, "completion_tokens", int)
            self.resume_point = ResumePoint(choices[0]["state"], usage, len(self._parts[0]))
        return deltas

    def end_early(self) -> None:
        """End at the finish reason: the usage up to a resume point is not that of the generation."""
        if not self._is_usage_whole:
            self._used = {}
            self._fields.pop("usage", None)

    def rewind(self) -> None:
        """Rewind to the resume point, or to the start: the next chunk continues from there."""
        point = self.resume_point
        num_parts, self._used = (point.num_parts, point.usage) if point else (0, {})
        parts = self._parts.get(0, [])
        self._overlap = _joined([*parts[num_parts:], self._overlap_part()])["text"]
        del parts[num_parts:]
        self._fields.pop("usage", None)
        self._before = sum(len(part.text) for part in parts)

    def _overlap_part(self) -> _Part:
        parts = self._parts.get(0, [])
        return _Part(self._overlap, None, bool(parts and parts[-1].prepended))

    def _usage(self) -> dict[str, Any] | None:
        """Add up the usage of all streams; prompt tokens are those of the first stream."""
        latest = self._fields.get("usage")
        if not self._used:
            return latest
        prompt, completion = self._used.get("prompt_tokens", 0), self._used["completion_tokens"]
        completion += (latest or {}).get("completion_tokens", 0)
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {**self._used, **counts}

    def _add_choice(self, choice: dict[str, Any]) -> TextDelta:
        index, text = required(choice, "index", int), required(choice, "text", str)
        prepend, finish_reason = bool(choice.get("prepend")), choice.get("finish_reason")
        parts = self._parts.setdefault(index, [])
        parts.append(_Part(text, choice.get("logprobs"), prepend, self._before))
        fields = self._choices.setdefault(index, {})
        if text or finish_reason:
            fields.pop("state", None)  # that state precedes this delta, or the end
        fields.update((name, value) for name, value in choice.items() if value is not None or name not in fields)
        fields.pop("prepend", None)
        if index == 0:
            text = self._without_overlap(text, prepend)
            if finish_reason and self._overlap:
                raise _text_differs()
        return TextDelta(index, text, finish_reason, prepend)

    def _without_overlap(self, text: str, prepend: bool) -> str:
        """Return the part of a delta that was not delivered yet."""
        if not self._overlap:
            return text
        num_repeated = min(len(text), len(self._overlap))
        if prepend:
            same = self._overlap.endswith(text[len(text) - num_repeated :])
            new = text[: len(text) - num_repeated]
            self._overlap = self._overlap[: len(self._overlap) - num_repeated]
        else:
            same, new = self._overlap.startswith(text[:num_repeated]), text[num_repeated:]
            self._overlap = self._overlap[num_repeated:]
        if not same:
            raise _text_differs()
        return new


def _text_differs() -> ResumptionFailed:
    return ResumptionFailed(
        "the stream was interrupted, and the resumed text differs: it comes from another version of the model, or from "
        "another type of CPU; send the request again"
    )


def _joined(parts: list[_Part]) -> dict[str, Any]:
    """Join the texts and the per-token lists of log probabilities."""
    in_order = [part for part in reversed(parts) if part.prepended] + [part for part in parts if not part.prepended]
    prepended = sum(len(part.text) for part in parts if part.prepended)
    logprobs: dict[str, list[Any]] | None = None
    start = 0
    for part in in_order:
        if part.logprobs is not None:
            logprobs = {} if logprobs is None else logprobs
            _extend(logprobs, part.logprobs, start if part.prepended else prepended + part.before)
        start += len(part.text)
    return {"text": "".join([part.text for part in in_order]), "logprobs": logprobs}


def _extend(lists: dict[str, list[Any]], new: dict[str, list[Any]], shift: int) -> None:
    """Append each new list to the list of the same name; add `shift` to text offsets."""
    for name, entries in new.items():
        shifted = [offset + shift for offset in entries or []] if name == "text_offset" and shift else entries or []
        lists.setdefault(name, []).extend(shifted)
