"""Finding the first of some stop strings in a text that comes piece by piece.

One step per character and stop string, however the strings repeat themselves: Knuth, Morris and Pratt, "Fast pattern
matching in strings", 1977. Looking for each string anew at every token took milliseconds for hostile ones (measured).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _Pattern:
    """A stop string, and for each of its beginnings the longest proper end of it that is a beginning too."""

    text: str
    borders: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> "_Pattern":
        borders = [0] * len(text)
        for place in range(1, len(text)):
            length = borders[place - 1]
            while length and text[place] != text[length]:
                length = borders[length - 1]
            borders[place] = length + (text[place] == text[length])
        return cls(text, tuple(borders))

    def step(self, matched: int, character: str) -> int:
        """Return how much of the string stands at the end of the text after one more character."""
        while matched and self.text[matched] != character:
            matched = self.borders[matched - 1]
        return matched + (self.text[matched] == character)


class Stops:
    """Stop strings made ready; shared by the texts of a request."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.patterns = tuple(_Pattern.of(stop) for stop in stops)

    def __bool__(self) -> bool:
        return bool(self.patterns)


@dataclass(frozen=True)
class Found:
    """Where a stop string was completed.

    Attributes:
        end: Characters of the piece up to and with its last one.
        length: Of the string; of several that end there, the longest.
    """

    end: int
    length: int


class StopFinder:
    """Watches one text.

    Attributes:
        num_pending: Characters at the end of the text so far that may turn out to begin a stop string.
    """

    def __init__(self, stops: Stops) -> None:
        self._patterns = stops.patterns
        self._matched = [0] * len(stops.patterns)
        self.num_pending = 0

    def feed(self, piece: str) -> Found | None:
        """Take the next piece; return the first place at which a stop string is complete, if there is one."""
        matched = self._matched
        for end, character in enumerate(piece, 1):
            complete = 0
            for i, pattern in enumerate(self._patterns):
                matched[i] = pattern.step(matched[i], character)
                if matched[i] == len(pattern.text):
                    complete = max(complete, matched[i])
            if complete:
                return Found(end, complete)
        self.num_pending = max(matched, default=0)
        return None
