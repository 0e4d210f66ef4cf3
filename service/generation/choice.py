"""One choice of a completion: turns sampled tokens into visible text, up to a stop string, and into checkpoints.

Text is in the order of generation: a backward model's is mirrored, so that it grows at its end like any other. A
`TextDelta` is in reading order. `CandidateFilter` rejects duplicates and copies of training text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat

from contract.tokenizers import Detokenizer
from service.generation.logprobs import Logprobs, PendingLogprobs, token_scores
from service.generation.resume_tokens import Checkpoint
from service.scheduling.sampling_inputs import Match
from service.scheduling.sequence import ChoiceIndex, FinishReason, Result, Scores

# Candidates of a prompt: this many for each choice, and some more for a request of few choices.
CANDIDATES_PER_CHOICE, MORE_CANDIDATES = 10, 90

# Returns whether a choice is a copy of training text: from its token ids and its text.
IsCopy = Callable[[Sequence[int], str], bool]


@lru_cache(256)
def _borders(text: str) -> tuple[int, ...]:
    """Return the KMP failure table of a string: for each prefix the length of its longest border."""
    borders = [0] * len(text)
    for i in range(1, len(text)):
        borders[i] = _extend(text, borders, borders[i - 1], text[i])
    return tuple(borders)


def _extend(stop: str, borders: Sequence[int], matched: int, character: str) -> int:
    """Return the length of the longest prefix of a stop string that ends at `character`, after `matched` characters."""
    while matched and stop[matched] != character:
        matched = borders[matched - 1]
    return matched + (stop[matched] == character)


class StopFinder:
    """The search for the first stop string in the text of one choice.

    One step per character, however repetitive a string is: Knuth, Morris and Pratt, "Fast pattern matching in strings",
    1977. Searching for each string anew at every token took milliseconds for adversarial ones (measured).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._matched = [(stop, _borders(stop)) for stop in stops], [0] * len(stops)
        self.num_pending = 0  # characters at the end of the text so far that may begin a stop string

    def feed(self, text: str) -> tuple[int, int] | None:
        """Search the next characters of the text; return where the first match ends in them and its length, or None.

        If several end there, the longest wins.
        """
        matched = self._matched
        for end, character in enumerate(text, 1):
            complete = 0
            for i, (stop, borders) in enumerate(self._stops):
                matched[i] = _extend(stop, borders, matched[i], character)
                if matched[i] == len(stop):
                    complete = max(complete, matched[i])
            if complete:
                return end, complete
        self.num_pending = max(matched, default=0)
        return None


@dataclass(frozen=True)
class TextDelta:
    """New visible text of one choice, in reading order."""

    index: int  # of the choice in the response
    text: str
    finish_reason: FinishReason | None  # "stop" or "length" with the choice's last delta, else None
    # Log probabilities of the tokens whose text begins in this delta; None if not requested. Offsets count from the
    # beginning of the choice's text, or of this delta if the client prepends it.
    logprobs: Logprobs | None = None
    resume_token: str | None = None  # for the point after this delta, if requested
    cumulative_logprob: float | None = None  # of its tokens, the EOS token included, if a search found it

    @property
    def is_empty(self) -> bool:
        has_logprobs = self.logprobs is not None and bool(self.logprobs.tokens)
        return not (self.text or self.finish_reason or self.resume_token or has_logprobs)


class Choice:
    """A choice that is being generated; its output does not depend on how tokens were grouped into calls.

    Its text ends before the first complete stop string; of several that end at the same character, before the longest.
    """

    def __init__(
        self,
        index: ChoiceIndex,
        detokenizer: Detokenizer,
        stops: Sequence[str] = (),
        *,
        backward: bool,
        num_top: int | None = None,
        leading_text: str = "",
        held_back: str = "",
        checkpoint: Checkpoint | None = None,
        match: Match | None = None,
        may_continue_after_end: bool = False,
        random_stream: int = 0,
        keeps_token_ids: bool = False,
    ) -> None:
        """Start with the text before the first token: `leading_text`, and the text that a checkpoint has `held_back`.

        The stop strings are mirrored for a backward model. `num_top` most probable tokens are returned for each token;
        None: no log probabilities. If a request may resume the choice at its end, text that is not final there is held
        back for that request. `checkpoint`, and how far the text `match`es its constraint, are kept up to date if
        checkpoints may be taken, at its end or before.
        """
        self.index, self.detokenizer, self.random_stream = index, detokenizer, random_stream
        self.checkpoint, self._match = checkpoint, match
        self._backward, self._num_top, self._may_continue = backward, num_top, may_continue_after_end
        self.token_ids: list[int] | None = [] if keeps_token_ids else None  # without the EOS token
        self.prompt_scores: list[Scores] = []  # if this choice's sequence prefills the prompt
        self.finish_reason: FinishReason | None = None
        self.num_tokens = 0  # processed, up to the one that completed a stop string
        self.is_stopped = False  # whether a stop string was found
        self.held_back = ""  # detokenized but invisible text: it may begin a stop string, or follows one
        # Text and log probabilities to be returned, in the order of generation, and the length of all text.
        self._texts, self._logprobs, self._length = [leading_text], Logprobs(), len(leading_text)
        self._pending: PendingLogprobs | None = None
        if num_top is not None:
            self._pending = PendingLogprobs(len(leading_text) + len(held_back), backward=backward)
        self._finder = StopFinder(stops) if stops else None
        self._sum_logprobs, self._num_scored = 0.0, 0
        self._num_tokens_at_checkpoint = 0
        self._append(self._final(held_back))

    @property
    def mean_logprob(self) -> float:
        """Mean log probability of the processed tokens, including the EOS token; 0 if they came without scores."""
        return self._sum_logprobs / max(1, self._num_scored)

    @property
    def pending_text(self) -> str:
        """The text still to be returned, in the order of generation."""
        return "".join(self._texts)

    def add_logprobs(self, logprobs: Logprobs, shift: int = 0) -> None:
        self._logprobs.extend(logprobs, shift)

    def take(self, result: Result) -> int:
        """Process sampled tokens, set `finish_reason` at the end, and return how many are the choice's own."""
        num_before = self.num_tokens
        # The text that a checkpoint held back may already contain a stop string.
        if not self.is_stopped:
            self._feed(result.token_ids, result.scores)
            num_own = self.num_tokens - num_before
            if self.token_ids is not None:
                self.token_ids += result.token_ids[:num_own]
            if self.checkpoint is not None:
                # If the call went past the stop string, keep the state before the call, with all tokens since as
                # unread.
                is_past = self.is_stopped and num_own < len(result.sampled_ids)
                sampled_ids = result.sampled_ids[:num_own] if is_past else result.sampled_ids
                self.checkpoint.advance(sampled_ids, None if is_past else result.state)
                if self._match is not None:
                    # After a stop string, and where a longer match exists, a resuming request continues the match.
                    self._match.advance(sampled_ids)
        if result.finish_reason or self.is_stopped:
            # The EOS token makes the text final, even if a request resumes after it.
            self.finish(result.finish_reason or "stop", is_final=result.finish_reason == "stop")
        else:
            self._take_logprobs(last=False)
        return self.num_tokens - num_before

    def finish(self, reason: FinishReason, *, is_final: bool = False) -> None:
        """Finish; release held-back text, unless a later request may resume before it is final."""
        if is_final or not self._may_continue:
            self._flush()
        self.finish_reason = "stop" if self.is_stopped else reason
        self._take_logprobs(last=True)

    def interrupt(self, *, is_resumable: bool) -> None:
        """Release the output so far after an error, including held-back text unless a request may resume it."""
        if self.checkpoint is None or not is_resumable:
            self._flush()
        self._take_logprobs(last=True)

    def is_due(self, interval: int | None) -> bool:
        """Return whether `interval` tokens have arrived since this last returned True; never if it is None.

        Not while a token's log probability waits for its text: a request that resumes would not return it.
        """
        if interval is None or self.num_tokens - self._num_tokens_at_checkpoint < interval:
            return False
        if self._pending is not None and not self._pending.is_empty:
            return False
        self._num_tokens_at_checkpoint = self.num_tokens
        return True

    def take_delta(self, index: int, resume_token: str | None = None) -> TextDelta:
        """Return the output since the last call, as a delta with this index."""
        text, logprobs = self.pending_text, None
        self._texts.clear()
        if self._pending is not None:
            logprobs, self._logprobs = self._logprobs, Logprobs()
        if self._backward:
            text, logprobs = text[::-1], logprobs and logprobs.mirrored(self._length)
        return TextDelta(index, text, self.finish_reason, logprobs, resume_token)

    def save(self) -> Checkpoint | None:
        """Return the checkpoint behind the text returned so far; None if none may be taken."""
        checkpoint = self.checkpoint
        if checkpoint is not None:
            checkpoint.detokenizer, checkpoint.held_back = self.detokenizer.save(), self.held_back
            if checkpoint.match is not None and self._match is not None:
                checkpoint.match.row = self._match.row
        return checkpoint

    def _feed(self, token_ids: Sequence[int], scores: Scores | None) -> None:
        """Process tokens; one at a time if stop strings or log probabilities require it."""
        before, num_top = self.num_tokens, self._num_top
        if self._finder is not None or self._pending is not None:
            every_score = repeat(None) if scores is None or num_top is None else token_scores(scores, num_top)
            texts = []
            for token_id, score in zip(token_ids, every_score, strict=False):
                if self.is_stopped:
                    break
                self.num_tokens += 1
                if self._pending is not None:
                    self._pending.add(token_id, score, self.detokenizer.label)
                texts.append(self._final(self._detokenize(token_id)))
            self._append("".join(texts))
        else:
            self.num_tokens += len(token_ids)
            self._append(self._in_order(self.detokenizer.feed(token_ids)))
        if scores is not None:
            # The last score is the EOS token's, which is not among `token_ids`.
            own = scores.logprobs[: self.num_tokens - before] if self.is_stopped else scores.logprobs
            # One by one: the sum must not depend on how the tokens were grouped.
            for logprob in own.tolist():
                self._sum_logprobs += logprob
            self._num_scored += len(own)

    def _flush(self) -> None:
        """Append the text held back, after the last token; the detokenizer's part of it may complete a stop string."""
        if not self.is_stopped:
            self._append(self._final(self._detokenize(None)))
        if not self.is_stopped:
            self._append(self.held_back)
            self.held_back = ""

    def _detokenize(self, token_id: int | None) -> str:
        if self._pending is not None:
            text, offsets = self.detokenizer.track(token_id)
            self._pending.place(text, offsets)
        else:
            text = self.detokenizer.flush() if token_id is None else self.detokenizer.feed((token_id,))
        return self._in_order(text)

    def _in_order(self, text: str) -> str:
        return text[::-1] if self._backward else text

    def _final(self, text: str) -> str:
        """Return the part of detokenized text that is final; hold back what may begin a stop string."""
        if self._finder is None:
            return text
        match, num_held = self._finder.feed(text), len(self.held_back)
        text = self.held_back + text
        if match is not None:
            end, length = num_held + match[0], match[1]
            self.is_stopped, self.held_back = True, text[end:]
            return text[: end - length]
        visible = len(text) - self._finder.num_pending
        self.held_back = text[visible:]
        return text[:visible]

    def _append(self, text: str) -> None:
        self._texts.append(text)
        self._length += len(text)

    def _take_logprobs(self, *, last: bool) -> None:
        """Add the log probabilities of the tokens that have become visible."""
        if self._pending is not None:
            self.add_logprobs(self._pending.take(self._length, last=last, stopped=self.is_stopped))


@dataclass
class CandidateFilter:
    """The candidates of one prompt.

    Decisions depend on the texts in the order of their random streams, not on which finish first: the same seed gives
    the same choices.
    """

    count: int  # number of requested choices
    unique: bool  # whether a text that was accepted before is rejected
    is_copy: IsCopy | None  # rejects copies of training text; None: they are accepted
    num_rejected: int = 0  # candidates rejected so far
    num_accepted: int = 0  # candidates accepted so far
    _num_replaced: int = field(default=0, init=False)
    _finished: dict[int, tuple[Sequence[int], str]] = field(default_factory=dict, init=False)
    _accepted: set[str] = field(default_factory=set, init=False)

    def next_candidate(self) -> int | None:
        """Return the number of a candidate to replace a rejected one; None: the limit of candidates is reached.

        Then there are fewer choices than requested.
        """
        number = self.count + self._num_replaced
        if number == CANDIDATES_PER_CHOICE * self.count + MORE_CANDIDATES:
            return None
        self._num_replaced += 1
        return number

    def decide(self, number: int, token_ids: Sequence[int], text: str) -> list[tuple[int, int | None]]:
        """Record a finished candidate; return all candidates that can now be decided, in order of their numbers.

        Each has its rank among the accepted ones, or None if it is rejected. Token ids and text are those that were
        generated, without the prompt, in the order of generation.
        """
        self._finished[number] = token_ids, text
        decided: list[tuple[int, int | None]] = []
        while (candidate := self.num_accepted + self.num_rejected) in self._finished:
            token_ids, text = self._finished.pop(candidate)
            if (self.unique and text in self._accepted) or (self.is_copy is not None and self.is_copy(token_ids, text)):
                self.num_rejected += 1
                decided.append((candidate, None))
                continue
            if self.unique:
                self._accepted.add(text)
            decided.append((candidate, self.num_accepted))
            self.num_accepted += 1
        return decided
