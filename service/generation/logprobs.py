"""Log probabilities of a text's tokens in OpenAI's shape, kept back until the text of each is shown.

Knows tokens, their labels and their places in the text. Does not know stop strings or JSON.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from contract.tokenizer import Detokenizer
from service.scheduling.sequence import Scores

# float32 holds about 7 digits behind the point of a log probability; more would only make answers longer.
DIGITS = 7
# Numbers as Python's objects are ten times as large as in arrays.
_ROWS_AT_ONCE = 1024


@dataclass
class Logprobs:
    """Parallel lists, one entry per token, as OpenAI's completions name them.

    Attributes:
        tokens: The text that each token adds, or the name of one that adds none.
        token_logprobs: Natural logarithms; None for a text's very first token, which follows nothing.
        top_logprobs: The most probable tokens in its place and the token itself, None as above.
        text_offset: Where the token's text begins, in code points: within the choice's text, or within the piece that
            begins with it where each piece goes before those so far.
    """

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def extend(self, other: "Logprobs", shift: int = 0) -> None:
        """Append another piece's, whose offsets are too small by `shift`."""
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += [offset + shift for offset in other.text_offset] if shift else other.text_offset


Row = tuple[float, list[int], list[float]]


def score_rows(scores: Scores, num_top: int) -> Iterator[Row]:
    """Yield each token's log probability, and the ids and log probabilities of the most probable ones there."""
    for start in range(0, len(scores.logprobs), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        logprobs = np.round(scores.logprobs[rows].astype(float), DIGITS).tolist()
        if not num_top or scores.top_ids is None or scores.top_logprobs is None:
            yield from ((logprob, [], []) for logprob in logprobs)
        else:
            top_ids = scores.top_ids[rows, :num_top].tolist()
            tops = np.round(scores.top_logprobs[rows, :num_top].astype(float), DIGITS).tolist()
            yield from zip(logprobs, top_ids, tops, strict=True)


def labels(detokenizer: Detokenizer, token_ids: list[int]) -> list[str]:
    """Return what each token of a text is called: see `Logprobs.tokens`."""
    found = []
    for token_id in token_ids:
        found.append(detokenizer.label(token_id))
        detokenizer.track(token_id)
    return found


def expected_next(scores: Scores, num_top: int, detokenizer: Detokenizer) -> dict[str, float]:
    """Return the most probable tokens of the first place that was scored, and their log probabilities."""
    _, top_ids, tops = next(score_rows(scores, num_top))
    return dict(zip(map(detokenizer.label, top_ids), tops, strict=True))


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
        return self._advance(detokenizer, token_id)

    def end(self, detokenizer: Detokenizer) -> str:
        """Return the text that the detokenizer held, now that no more tokens come."""
        return self._advance(detokenizer, None)

    def take(self, shown: int = 0, *, last: bool, stopped: bool = False) -> Logprobs:
        """Hand out tokens that were not handed out before.

        Args:
            shown: Length of the text shown so far; what begins behind it is kept back.
            last: Whether the text has ended: then all are handed out, unless it was cut off.
            stopped: Whether it was cut off behind what is shown.
        """
        taken, offsets = self._pending, self._pending.text_offset
        if (last and not stopped) or not offsets or offsets[-1] < shown:
            self._pending = Logprobs()
            return taken
        count = sum(offset < shown for offset in offsets)
        self._pending = _cut(taken, count, None)
        return _cut(taken, 0, count)

    def _advance(self, detokenizer: Detokenizer, token_id: int | None) -> str:
        text, places = detokenizer.track(token_id)
        for place in places:
            self._pending.text_offset.append(self._offset + place)
        self._offset += len(text)
        return text


class BackwardLog(LogprobsLog):
    """The tokens of one choice that is written from its end.

    Until they are handed out, `text_offset` has the distance from each token's beginning to the text's end, for as many
    as it is certain of.
    """

    def __init__(self, offset: int = 0) -> None:
        super().__init__(offset)
        # Distance from the beginning of the last token handed out.
        self._reached = 0

    def take(self, shown: int = 0, *, last: bool, stopped: bool = False) -> Logprobs:
        """Hand out, in order of reading, tokens whose beginning is shown, with offsets within what is shown.

        At a stop that cuts through a token, too: it stands at the beginning of what is left. And where a text is put
        down, tokens whose text is held stand at the edge.
        """
        pending = self._pending
        count = bisect_right(pending.text_offset, shown)
        distances = pending.text_offset[:count]
        self._reached = distances[-1] if distances else self._reached
        if stopped and self._reached < shown:
            distances.append(shown)
        elif last and not stopped:
            distances += [shown] * (len(pending.tokens) - len(distances))
        taken = _cut(pending, 0, len(distances))
        self._pending = _cut(pending, len(distances), None)
        return Logprobs(
            taken.tokens[::-1],
            taken.token_logprobs[::-1],
            taken.top_logprobs[::-1],
            [shown - distance for distance in reversed(distances)],
        )


def _cut(logprobs: Logprobs, start: int, stop: int | None) -> Logprobs:
    cut = slice(start, stop)
    return Logprobs(
        logprobs.tokens[cut], logprobs.token_logprobs[cut], logprobs.top_logprobs[cut], logprobs.text_offset[cut]
    )


def score_prompt(
    log: LogprobsLog,
    token_ids: Sequence[int],
    scores: Sequence[Scores],
    num_top: int,
    detokenizer: Detokenizer,
) -> Logprobs:
    """Lay out the tokens of a prompt.

    Args:
        log: A fresh one, of the model's direction.
        token_ids: All of them, in the order in which the model reads.
        scores: Of all but the first, or of all and some before them, in that order.
        num_top: Most probable tokens wanted in each place.
        detokenizer: A fresh one, of the model's direction.
    """
    num_rows = 1 + sum(len(part.logprobs) for part in scores)
    rows: Iterator[Row | None] = chain([None], *(score_rows(part, num_top) for part in scores))
    num_characters = 0
    for token_id, row in zip(token_ids, islice(rows, num_rows - len(token_ids), None), strict=True):
        num_characters += len(log.add(detokenizer, token_id, row))
    num_characters += len(log.end(detokenizer))
    return log.take(num_characters, last=True)
