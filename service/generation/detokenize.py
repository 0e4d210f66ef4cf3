"""From drawn tokens to the text that a client may see: joining, stop strings, log probabilities of what is seen.

Knows one text. What it shows does not depend on how the tokens were grouped into calls. Of a text that is written from
its end it knows the mirror image, which grows at its end like any other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from contract.tokenizer import Detokenizer
from service.generation.logprobs import BackwardLog, Logprobs, LogprobsLog, Row, score_rows
from service.generation.stop_strings import StopFinder, Stops
from service.scheduling.sequence import Scores


@dataclass(frozen=True)
class ReversedDetokenizer:
    """A backward detokenizer whose text comes mirrored, so that each piece goes behind those so far."""

    detokenizer: Detokenizer

    def feed(self, token_ids: Iterable[int]) -> str:
        """Return the next text's mirror image."""
        return self.detokenizer.feed(token_ids)[::-1]

    def flush(self) -> str:
        """Return the mirror image of what is held."""
        return self.detokenizer.flush()[::-1]

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        """Return the next text's mirror image, and places, which are distances and stay as they are."""
        text, places = self.detokenizer.track(token_id)
        return text[::-1], places

    def label(self, token_id: int) -> str:
        """Return a token as it is read."""
        return self.detokenizer.label(token_id)

    def save(self) -> Any:
        """Return what is carried over to the next token."""
        return self.detokenizer.save()

    def restore(self, checkpoint: Any) -> None:
        """Go on where another one was saved."""
        self.detokenizer.restore(checkpoint)


@dataclass
class TextAssembler:
    """Turns a sequence's tokens into visible text.

    Attributes:
        detokenizer: Of the text; `ReversedDetokenizer` if it is written from its end.
        stops: The text ends before the first of these to be complete; of several that end at one place, before the
            longest. Mirrored, too, if it is written from its end.
        num_top: Most probable tokens wanted beside each token; None: no log probabilities.
        offset: Length of the text before what comes next, for the places in log probabilities.
        backward: Whether the text is written from its end: then what is returned of it is mirrored, and its log
            probabilities are in order of reading.
        num_tokens: Tokens taken, the one that completed a stop included and those after it not.
        stopped: Whether a stop was found.
        held: Text that has come and is not shown: it may be the beginning of a stop, or stands behind one. To begin
            with, what an earlier text held, which `begin` takes.
    """

    detokenizer: Detokenizer
    stops: Stops
    num_top: int | None = None
    offset: int = 0
    backward: bool = False
    num_tokens: int = 0
    stopped: bool = False
    held: str = ""
    _sum_logprobs: float = field(default=0.0, init=False)
    _num_scored: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        # Tokens stand behind what is held; of a text that is written from its end, before it.
        log = BackwardLog(len(self.held)) if self.backward else LogprobsLog(self.offset + len(self.held))
        self._log = None if self.num_top is None else log
        self._finder = StopFinder(self.stops) if self.stops else None

    @property
    def mean_logprob(self) -> float:
        """Of the tokens taken, the end mark among them, if they came with scores."""
        return self._sum_logprobs / max(1, self._num_scored)

    def begin(self) -> str:
        """Return what is certain of the text that an earlier one held."""
        held, self.held = self.held, ""
        text = self._show(held)
        self.offset += len(text)
        return text

    def feed(self, token_ids: Sequence[int], scores: Scores | None = None) -> str:
        """Take tokens and return the text that is certain; an unfinished stop string is held back."""
        before = self.num_tokens
        if self._finder is not None or self._log is not None:
            every_row = repeat(None) if scores is None or self.num_top is None else score_rows(scores, self.num_top)
            pairs = zip(token_ids, every_row, strict=False)
            text = "".join([self._feed_one(token_id, row) for token_id, row in pairs if not self.stopped])
        else:
            self.num_tokens += len(token_ids)
            text = self.detokenizer.feed(token_ids)
        if scores is not None:
            # The end mark's score is the last one, and there is no token for it.
            self._add_scores(scores.logprobs[: self.num_tokens - before] if self.stopped else scores.logprobs)
        self.offset += len(text)
        return text

    def flush(self) -> str:
        """Return the text held back, now that no more tokens come; what the detokenizer held may complete a stop."""
        text = self._show(self.detokenizer.flush() if self._log is None else self._log.end(self.detokenizer))
        if not self.stopped:
            text, self.held = text + self.held, ""
        self.offset += len(text)
        return text

    def take_logprobs(self, *, last: bool) -> Logprobs | None:
        """Return the log probabilities of the tokens whose text was shown since the last time, if they are wanted."""
        if self._log is None:
            return None
        return self._log.take(self.offset, last=last, stopped=self.stopped)

    def _add_scores(self, logprobs: np.ndarray) -> None:
        """Add up, one after another: so the sum does not depend on how the tokens were grouped."""
        for logprob in logprobs.tolist():
            self._sum_logprobs += logprob
        self._num_scored += len(logprobs)

    def _feed_one(self, token_id: int, row: Row | None) -> str:
        """Take one token: only so is it certain which stop was complete first, whatever the chunks."""
        self.num_tokens += 1
        if self._log is None:
            piece = self.detokenizer.feed((token_id,))
        else:
            piece = self._log.add(self.detokenizer, token_id, row)
        return self._show(piece)

    def _show(self, piece: str) -> str:
        """Return what is certain once a piece has come."""
        if self._finder is None:
            return piece
        found = self._finder.feed(piece)
        text = self.held + piece
        if found is not None:
            end = len(self.held) + found.end
            self.stopped, self.held = True, text[end:]
            return text[: end - found.length]
        visible = len(text) - self._finder.num_pending
        self.held = text[visible:]
        return text[:visible]
