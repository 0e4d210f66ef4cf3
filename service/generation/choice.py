"""One choice of a completion: from sampled tokens to visible text, up to a stop string, and to checkpoints.

Text is handled in the order of generation: that of a backward model as its mirror image, which grows at its end like
any other. A `TextDelta` has it in reading order.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from contract.tokenizer import Detokenizer
from service.generation.logprobs import Logprobs, PendingLogprobs, TokenScore, token_scores
from service.generation.resume_tokens import Checkpoint, ResumePoint, SavedMatch
from service.params import ModelVersion
from service.scheduling.constraints import Match
from service.scheduling.sequence import ChoiceIndex, FinishReason, Result, Scores
from service.structured_outputs.patterns import Constraint


@dataclass(frozen=True)
class StopString:
    """A stop string and its KMP failure table: for each prefix the length of its longest border.

    One step per character, however repetitive the string is: Knuth, Morris and Pratt, "Fast pattern matching in
    strings", 1977. Searching for each string anew at every token took milliseconds for hostile ones (measured).
    """

    text: str
    borders: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> "StopString":
        """Prepare the search for a string."""
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


class StopFinder:
    """The search for the first stop string in the text of one choice.

    Attributes:
        num_pending: Number of characters at the end of the text so far that may begin a stop string.
    """

    def __init__(self, stops: Sequence[StopString]) -> None:
        self._stops, self._matched, self.num_pending = stops, [0] * len(stops), 0

    def feed(self, text: str) -> tuple[int, int] | None:
        """Search the next characters of the text; return where the first match ends in them and its length, or None.

        Of several that end there, it is the longest.
        """
        matched = self._matched
        for end, character in enumerate(text, 1):
            complete = 0
            for i, stop in enumerate(self._stops):
                matched[i] = stop.step(matched[i], character)
                if matched[i] == len(stop.text):
                    complete = max(complete, matched[i])
            if complete:
                return end, complete
        self.num_pending = max(matched, default=0)
        return None


@dataclass
class TextAssembler:
    """Turns a sequence's tokens into visible text; its output does not depend on how they were grouped into calls.

    Attributes:
        detokenizer: The sequence's detokenizer, of the model's direction.
        stops: Stop strings: the text ends before the first one that is complete; of several that end at the same
            character, before the longest. Mirrored for a backward model.
        num_top: Number of most probable tokens to return for each token; None: no log probabilities.
        length: Length of the choice's text so far, in characters: initially of the text before the first token.
        backward: Whether the model is a backward model.
        num_tokens: Tokens processed, up to the one that completed a stop string.
        stopped: Whether a stop string was found.
        held_back: Detokenized text that is not visible: it may begin a stop string, or follows one. Initially the text
            that a checkpoint held back, which `begin` processes.
    """

    detokenizer: Detokenizer
    stops: Sequence[StopString]
    num_top: int | None = None
    length: int = 0
    backward: bool = False
    num_tokens: int = 0
    stopped: bool = False
    held_back: str = ""
    _sum_logprobs: float = field(default=0.0, init=False)
    _num_scored: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._pending: PendingLogprobs | None = None
        if self.num_top is not None:
            # The first token follows the text held back.
            self._pending = PendingLogprobs(self.length + len(self.held_back), backward=self.backward)
        self._finder = StopFinder(self.stops) if self.stops else None

    @property
    def mean_logprob(self) -> float:
        """Mean log probability of the processed tokens, the EOS token included; 0 if they came without scores."""
        return self._sum_logprobs / max(1, self._num_scored)

    def begin(self) -> str:
        """Return the final part of the text that a checkpoint held back."""
        held_back, self.held_back = self.held_back, ""
        return self._lengthen(self._show(held_back))

    def feed(self, token_ids: Sequence[int], scores: Scores | None = None) -> str:
        """Process tokens and return the text that is final; a possible beginning of a stop string is held back."""
        before = self.num_tokens
        if self._finder is not None or self._pending is not None:
            every_score = repeat(None) if scores is None or self.num_top is None else token_scores(scores, self.num_top)
            pairs = zip(token_ids, every_score, strict=False)
            text = "".join([self._feed_one(token_id, score) for token_id, score in pairs if not self.stopped])
        else:
            self.num_tokens += len(token_ids)
            text = self._mirrored(self.detokenizer.feed(token_ids))
        if scores is not None:
            # The last score is the EOS token's, which is not among `token_ids`.
            self._add_scores(scores.logprobs[: self.num_tokens - before] if self.stopped else scores.logprobs)
        return self._lengthen(text)

    def flush(self) -> str:
        """Return the text held back, after the last token; the detokenizer's part of it may complete a stop string."""
        text = self._show(self._detokenize(None))
        if not self.stopped:
            text, self.held_back = text + self.held_back, ""
        return self._lengthen(text)

    def take_logprobs(self, *, last: bool) -> Logprobs | None:
        """Return the log probabilities of the tokens that became visible since the last call; None if not requested."""
        if self._pending is None:
            return None
        return self._pending.take(self.length, last=last, stopped=self.stopped)

    def _add_scores(self, logprobs: np.ndarray) -> None:
        """Add log probabilities one by one, so that the sum does not depend on how the tokens were grouped."""
        for logprob in logprobs.tolist():
            self._sum_logprobs += logprob
        self._num_scored += len(logprobs)

    def _feed_one(self, token_id: int, score: TokenScore | None) -> str:
        """Process one token: token by token, the first complete stop string does not depend on the calls."""
        self.num_tokens += 1
        if self._pending is not None:
            self._pending.add(token_id, score, self.detokenizer.label)
        return self._show(self._detokenize(token_id))

    def _detokenize(self, token_id: int | None) -> str:
        """Return the text of a token, or what the detokenizer held back."""
        if self._pending is not None:
            text, offsets = self.detokenizer.track(token_id)
            self._pending.place(text, offsets)
        else:
            text = self.detokenizer.flush() if token_id is None else self.detokenizer.feed((token_id,))
        return self._mirrored(text)

    def _mirrored(self, text: str) -> str:
        return text[::-1] if self.backward else text

    def _lengthen(self, text: str) -> str:
        self.length += len(text)
        return text

    def _show(self, text: str) -> str:
        """Append text and return the part that is final."""
        if self._finder is None:
            return text
        match = self._finder.feed(text)
        held = len(self.held_back)
        text = self.held_back + text
        if match is not None:
            end, length = held + match[0], match[1]
            self.stopped, self.held_back = True, text[end:]
            return text[: end - length]
        visible = len(text) - self._finder.num_pending
        self.held_back = text[visible:]
        return text[:visible]


@dataclass(frozen=True)
class TextDelta:
    """New visible text of one choice, in reading order.

    Attributes:
        index: Index of the choice in the response.
        finish_reason: "stop" or "length" with the choice's last delta, else None.
        logprobs: Log probabilities of the tokens whose text begins in this delta; None if not requested. Offsets count
            from the beginning of the choice's text, or of this delta if the client prepends it.
        resume_token: For the point after this delta, if requested.
    """

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None = None
    resume_token: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing for the client."""
        has_logprobs = self.logprobs is not None and bool(self.logprobs.tokens)
        return not (self.text or self.finish_reason or self.resume_token or has_logprobs)


@dataclass
class Progress:
    """How far the text that a choice has returned has come in its sequence: what a checkpoint contains.

    Attributes:
        point: Its point in the sequence.
        token_counts: How often each token that penalties count was sampled; None: no penalty counts tokens.
        constraint: What the text must match; None: no constraint.
        match: How far it does.
        num_left: Tokens that may be sampled after `point`.
    """

    point: ResumePoint
    num_left: int
    token_counts: Counter[int] | None
    constraint: Constraint | None
    match: Match | None

    def advance(self, sampled_ids: list[int], state: np.ndarray | None) -> None:
        """Move past sampled tokens; see `ResumePoint.after`."""
        self.point = self.point.after(sampled_ids, state)
        if self.token_counts is not None:
            self.token_counts.update(sampled_ids)
        if self.match is not None:
            # After a stop string, and where a longer match exists, the request that resumes continues it.
            self.match.advance(sampled_ids, self.num_left)
        self.num_left -= len(sampled_ids)


@dataclass
class Choice:
    """A choice that is being generated.

    Attributes:
        index: Its prompt, and its number among the choices of that prompt.
        progress: Kept up to date if checkpoints may be taken, at its end or before; else None.
        may_continue_after_end: Whether a request may resume it at its end. Then text that is not final is held back
            there, for that request.
        random_stream: Index of the seed's random stream.
        token_ids: Its tokens, without the EOS token; None: they are not needed.
        scores: Scores of its prompt, if this choice's sequence prefills it.
        finish_reason: None until it has finished.
        num_tokens_at_checkpoint: Number of its tokens when the last checkpoint was taken.
    """

    index: ChoiceIndex
    assembler: TextAssembler
    progress: Progress | None
    may_continue_after_end: bool
    random_stream: int = 0
    token_ids: list[int] | None = None
    scores: list[Scores] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_tokens_at_checkpoint: int = 0
    # Text and logprobs that were not returned yet, in the order of generation.
    _texts: list[str] = field(default_factory=list)
    _logprobs: Logprobs = field(default_factory=Logprobs)

    def begin(self, leading_text: str) -> None:
        """Start with the text before the first token."""
        self._texts += leading_text, self.assembler.begin()

    def add_logprobs(self, logprobs: Logprobs | None, shift: int = 0) -> None:
        """Append log probabilities, with `shift` added to their offsets."""
        if logprobs is not None:
            self._logprobs.extend(logprobs, shift)

    def take(self, result: Result) -> int:
        """Process sampled tokens, set `finish_reason` at the end, and return how many are the choice's own."""
        assembler, num_before = self.assembler, self.assembler.num_tokens
        # The text that a checkpoint held back may have completed a stop string before.
        if not assembler.stopped:
            self._texts.append(assembler.feed(result.token_ids, result.scores))
            num_own = assembler.num_tokens - num_before
            if self.token_ids is not None:
                self.token_ids += result.token_ids[:num_own]
            if self.progress is not None:
                if assembler.stopped and num_own < len(result.sampled_ids):
                    # The call went past the stop string: keep the state before it, with all tokens since as unread.
                    self.progress.advance(result.sampled_ids[:num_own], None)
                else:
                    self.progress.advance(result.sampled_ids, result.state)
        if result.finish_reason or assembler.stopped:
            # The EOS token makes the text final, even if a request resumes after it.
            self.finish(result.finish_reason or "stop", is_final=result.finish_reason == "stop")
        self.add_logprobs(assembler.take_logprobs(last=self.finish_reason is not None))
        return assembler.num_tokens - num_before

    def finish(self, reason: FinishReason, *, is_final: bool = False) -> None:
        """Finish, and return all text unless a request may resume it and the end is not final."""
        if (is_final or not self.may_continue_after_end) and not self.assembler.stopped:
            self._texts.append(self.assembler.flush())
        self.finish_reason = "stop" if self.assembler.stopped else reason

    def interrupt(self) -> None:
        """Return what an error leaves: also the text held back, unless a request may resume it."""
        if self.progress is None and not self.assembler.stopped:
            self._texts.append(self.assembler.flush())
        self.add_logprobs(self.assembler.take_logprobs(last=True))

    def is_due(self, interval: int | None) -> bool:
        """Return whether at least `interval` tokens came since this was last true; None: never."""
        num_tokens = self.assembler.num_tokens
        if interval is None or num_tokens - self.num_tokens_at_checkpoint < interval:
            return False
        self.num_tokens_at_checkpoint = num_tokens
        return True

    @property
    def pending_text(self) -> str:
        """The text that was not returned yet, in the order of generation."""
        return "".join(self._texts)

    def take_delta(self, index: int, resume_token: str | None = None) -> TextDelta:
        """Return what was not returned before, as a delta of the choice with this index."""
        text, logprobs = self.pending_text, None
        if self.assembler.num_top is not None:
            logprobs, self._logprobs = self._logprobs, Logprobs()
        self._texts.clear()
        if self.assembler.backward:
            text = text[::-1]
            logprobs = None if logprobs is None else logprobs.mirrored(self.assembler.length)
        return TextDelta(index, text, self.finish_reason, logprobs, resume_token)

    def save(self, progress: Progress, model: ModelVersion, weights_sha256: str, seed: int) -> Checkpoint:
        """Return a checkpoint of its current point."""
        counts, match = progress.token_counts or Counter(), progress.match
        return Checkpoint(
            model=model,
            weights_sha256=weights_sha256,
            point=progress.point,
            seed=seed,
            random_stream=self.random_stream,
            detokenizer=self.assembler.detokenizer.save(),
            held_back=self.assembler.held_back,
            token_counts=(np.array([*counts.keys()], np.int32), np.array([*counts.values()], np.float32)),
            match=SavedMatch(progress.constraint, match.row, match.automaton.digest)
            if match and progress.constraint
            else None,
        )
