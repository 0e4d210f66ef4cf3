"""From drawn tokens to the text that a client may see: joining, and stop strings.

Knows one text. What it shows does not depend on how the tokens were grouped into calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from contract.tokenizer import Detokenizer


@dataclass
class TextAssembler:
    """Turns a sequence's tokens into visible text.

    Attributes:
        stops: The text ends before the first of these to be complete; of two that end at one place, before the longer.
        num_tokens: Tokens taken, the one that completed a stop included and those after it not.
        stopped: Whether a stop was found.
    """

    detokenizer: Detokenizer
    stops: tuple[str, ...] = ()
    num_tokens: int = 0
    stopped: bool = False
    _held: str = field(default="", init=False)

    def feed(self, token_ids: Sequence[int]) -> str:
        """Take tokens and return the text that is certain; an unfinished stop string is held back."""
        if self.stops:
            return "".join([self._feed_one(token_id) for token_id in token_ids if not self.stopped])
        self.num_tokens += len(token_ids)
        return self.detokenizer.feed(token_ids)

    def flush(self) -> str:
        """Return the text held back, now that no more tokens come."""
        held, self._held = self._held, ""
        return held

    def _feed_one(self, token_id: int) -> str:
        """Take one token: only so is it certain which stop was complete first, whatever the chunks."""
        self.num_tokens += 1
        text = self._held + self.detokenizer.feed([token_id])
        places = [(text.find(stop) + len(stop), text.find(stop)) for stop in self.stops if stop in text]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)[1]]
        keep = max(_overlap(text, stop) for stop in self.stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
