"""Incremental search for the first of several stop strings in streamed text.

One step per character and stop string, however repetitive the strings are: Knuth, Morris and Pratt, "Fast pattern
matching in strings", 1977. Searching for each string anew at every token took milliseconds for hostile ones (measured).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _Pattern:
    """A stop string and its KMP failure table: for each prefix the length of its longest border."""

    text: str
    borders: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> "_Pattern":
        borders = [0] * len(text)
        for i in range(1, len(text)):
            length = borders[i - 1]
            while length and text[i] != text[length]:
                length = borders[length - 1]
            borders[i] = length + (text[i] == text[length])
        return cls(text, tuple(borders))

    def step(self, matched: int, character: str) -> int:
        """Return the length of the longest prefix of the string that ends at `character`, the next of the text."""
        while matched and self.text[matched] != character:
            matched = self.borders[matched - 1]
        return matched + (self.text[matched] == character)


class Stops:
    """Stop strings, prepared for search; shared by the choices of a request."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.patterns = tuple(_Pattern.of(stop) for stop in stops)

    def __bool__(self) -> bool:
        return bool(self.patterns)


@dataclass(frozen=True)
class StopMatch:
    """The end of a stop string in the text.

    Attributes:
        end: Number of characters of the text fed last, up to and including the stop string's last one.
        length: Length of the string; of several that end there, of the longest.
    """

    end: int
    length: int


class StopFinder:
    """The search in the text of one choice.

    Attributes:
        num_pending: Number of characters at the end of the text so far that may begin a stop string.
    """

    def __init__(self, stops: Stops) -> None:
        self._patterns = stops.patterns
        self._matched = [0] * len(stops.patterns)
        self.num_pending = 0

    def feed(self, piece: str) -> StopMatch | None:
        """Search the next characters of the text; return the first match, or None."""
        matched = self._matched
        for end, character in enumerate(piece, 1):
            complete = 0
            for i, pattern in enumerate(self._patterns):
                matched[i] = pattern.step(matched[i], character)
                if matched[i] == len(pattern.text):
                    complete = max(complete, matched[i])
            if complete:
                return StopMatch(end, complete)
        self.num_pending = max(matched, default=0)
        return None
