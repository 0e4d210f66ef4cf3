"""Detokenization of one sequence: visible text, stop strings, and log probabilities of the visible tokens.

Knows one sequence. Its output does not depend on how the tokens were grouped into model calls. Text of a backward model
is handled as its mirror image, which grows at its end like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from contract.tokenizer import Detokenizer
from service.generation.logprobs import BackwardLog, Logprobs, LogprobsLog, TokenScore, token_scores
from service.generation.stop_strings import StopFinder, Stops
from service.scheduling.sequence import Scores


@dataclass
class TextAssembler:
    """Turns a sequence's tokens into visible text.

    Attributes:
        detokenizer: The sequence's detokenizer, of the model's direction.
        stops: Stop strings: the text ends before the first one that is complete; of several that end at the same
            character, before the longest. Mirrored for a backward model.
        num_top: Number of most probable tokens to return for each token; None: no log probabilities.
        offset: Length of all text before the next text, for the offsets in log probabilities.
        backward: Whether the model is a backward model: then returned text is mirrored, and log probabilities are in
            reading order.
        num_tokens: Tokens processed, up to the one that completed a stop string.
        stopped: Whether a stop string was found.
        held_back: Detokenized text that is not visible: it may begin a stop string, or follows one. Initially the text
            that a checkpoint held back, which `begin` processes.
    """

    detokenizer: Detokenizer
    stops: Stops
    num_top: int | None = None
    offset: int = 0
    backward: bool = False
    num_tokens: int = 0
    stopped: bool = False
    held_back: str = ""
    _sum_logprobs: float = field(default=0.0, init=False)
    _num_scored: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        # The first token follows the held text, or precedes it for a backward model.
        log = BackwardLog(len(self.held_back)) if self.backward else LogprobsLog(self.offset + len(self.held_back))
        self._log = None if self.num_top is None else log
        self._finder = StopFinder(self.stops) if self.stops else None

    @property
    def mean_logprob(self) -> float:
        """Mean log probability of the processed tokens, the EOS token included; 0 if they came without scores."""
        return self._sum_logprobs / max(1, self._num_scored)

    def begin(self) -> str:
        """Return the final part of the text that a checkpoint held back."""
        held_back, self.held_back = self.held_back, ""
        text = self._show(held_back)
        self.offset += len(text)
        return text

    def feed(self, token_ids: Sequence[int], scores: Scores | None = None) -> str:
        """Process tokens and return the text that is final; a possible beginning of a stop string is held back."""
        before = self.num_tokens
        if self._finder is not None or self._log is not None:
            every_score = repeat(None) if scores is None or self.num_top is None else token_scores(scores, self.num_top)
            pairs = zip(token_ids, every_score, strict=False)
            text = "".join([self._feed_one(token_id, score) for token_id, score in pairs if not self.stopped])
        else:
            self.num_tokens += len(token_ids)
            text = self._appended(self.detokenizer.feed(token_ids))
        if scores is not None:
            # The last score is the EOS token's, which is not among `token_ids`.
            self._add_scores(scores.logprobs[: self.num_tokens - before] if self.stopped else scores.logprobs)
        self.offset += len(text)
        return text

    def flush(self) -> str:
        """Return the text held back, after the last token; the detokenizer's part of it may complete a stop string."""
        text = self.detokenizer.flush() if self._log is None else self._log.end(self.detokenizer)
        text = self._show(self._appended(text))
        if not self.stopped:
            text, self.held_back = text + self.held_back, ""
        self.offset += len(text)
        return text

    def take_logprobs(self, *, last: bool) -> Logprobs | None:
        """Return the log probabilities of the tokens that became visible since the last call; None if not requested."""
        if self._log is None:
            return None
        return self._log.take(self.offset, last=last, stopped=self.stopped)

    def _add_scores(self, logprobs: np.ndarray) -> None:
        """Add log probabilities one by one, so that the sum does not depend on how the tokens were grouped."""
        for logprob in logprobs.tolist():
            self._sum_logprobs += logprob
        self._num_scored += len(logprobs)

    def _feed_one(self, token_id: int, score: TokenScore | None) -> str:
        """Process one token: token by token, the first complete stop string does not depend on the chunks."""
        self.num_tokens += 1
        if self._log is None:
            piece = self.detokenizer.feed((token_id,))
        else:
            piece = self._log.add(self.detokenizer, token_id, score)
        return self._show(self._appended(piece))

    def _appended(self, text: str) -> str:
        return text[::-1] if self.backward else text

    def _show(self, piece: str) -> str:
        """Append text and return the part that is final."""
        if self._finder is None:
            return piece
        match = self._finder.feed(piece)
        text = self.held_back + piece
        if match is not None:
            end = len(self.held_back) + match.end
            self.stopped, self.held_back = True, text[end:]
            return text[: end - match.length]
        visible = len(text) - self._finder.num_pending
        self.held_back = text[visible:]
        return text[:visible]
