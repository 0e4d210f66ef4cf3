"""Log probabilities of a text's tokens in OpenAI's shape, kept back until the text of each is shown.

Knows tokens, their labels and their places in the text. Does not know stop strings or JSON.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from contract.tokenizer import Detokenizer
from service.sequence import Scores

# float32 holds about 7 digits behind the point of a log probability; more would only make answers longer.
DIGITS = 7


@dataclass
class Logprobs:
    """Parallel lists, one entry per token, as OpenAI's completions name them.

    Attributes:
        tokens: The text that each token adds, or the name of one that adds none.
        token_logprobs: Natural logarithms; None for a text's very first token, which follows nothing.
        top_logprobs: The most probable tokens in its place and the token itself, None as above.
        text_offset: Where the token's text begins within the choice's text, in code points.
    """

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def extend(self, other: "Logprobs") -> None:
        """Append another piece's."""
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += other.text_offset


Row = tuple[float, list[int], list[float]]


def score_rows(scores: Scores, num_top: int) -> Iterator[Row]:
    """Yield each token's log probability, and the ids and log probabilities of the most probable ones there."""
    logprobs = np.round(scores.logprobs.astype(float), DIGITS).tolist()
    if not num_top or scores.top_ids is None or scores.top_logprobs is None:
        return ((logprob, [], []) for logprob in logprobs)
    top_ids = scores.top_ids[:, :num_top].tolist()
    tops = np.round(scores.top_logprobs[:, :num_top].astype(float), DIGITS).tolist()
    return zip(logprobs, top_ids, tops, strict=True)


class LogprobsLog:
    """The tokens of one choice, in order; each is handed out once its text is shown."""

    def __init__(self, offset: int = 0) -> None:
        """Begin.

        Args:
            offset: Length of the text before the first token.
        """
        self._pending = Logprobs()
        self._offset = offset

    def add(self, detokenizer: Detokenizer, token_id: int, row: Row | None) -> str:
        """Take the next token and return its text, after the detokenizer took it too."""
        pending = self._pending
        label = detokenizer.label(token_id)
        pending.tokens.append(label)
        if row is None:
            pending.token_logprobs.append(None)
            pending.top_logprobs.append(None)
        else:
            logprob, top_ids, tops = row
            top = dict(zip(map(detokenizer.label, top_ids), tops, strict=True))
            top[label] = logprob
            pending.token_logprobs.append(logprob)
            pending.top_logprobs.append(top)
        pending.text_offset.append(self._offset)
        text = detokenizer.feed((token_id,))
        self._offset += len(text)
        return text

    def take(self, end: int | None = None) -> Logprobs:
        """Hand out the tokens that begin before a place in the text; all of them for None."""
        taken, offsets = self._pending, self._pending.text_offset
        if end is None or not offsets or offsets[-1] < end:
            self._pending = Logprobs()
            return taken
        count = sum(offset < end for offset in offsets)
        self._pending = _cut(taken, count, None)
        return _cut(taken, 0, count)


def _cut(logprobs: Logprobs, start: int, stop: int | None) -> Logprobs:
    cut = slice(start, stop)
    return Logprobs(
        logprobs.tokens[cut], logprobs.token_logprobs[cut], logprobs.top_logprobs[cut], logprobs.text_offset[cut]
    )


def score_prompt(
    token_ids: Sequence[int],
    scores: Sequence[Scores],
    num_top: int,
    detokenizer: Detokenizer,
    offsets: list[int] | None,
) -> Logprobs:
    """Lay out the tokens of a prompt.

    Args:
        token_ids: All of them.
        scores: Of all but the first, in order.
        num_top: Most probable tokens wanted in each place.
        detokenizer: A fresh one.
        offsets: Places in the prompt's own text; None for a prompt of ids, whose text is what they add.
    """
    log = LogprobsLog()
    every_row: list[Row | None] = [None, *(row for part in scores for row in score_rows(part, num_top))]
    for token_id, row in zip(token_ids, every_row, strict=True):
        log.add(detokenizer, token_id, row)
    laid_out = log.take()
    if offsets is not None:
        laid_out.text_offset = offsets
    return laid_out
