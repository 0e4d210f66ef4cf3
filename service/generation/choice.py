"""One choice of a completion: its text deltas, its point in the sequence, and its checkpoints.

Knows a choice's tokens and which of their text is visible. Does not know requests, or how tokens are sampled.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from service.generation.checkpoint import Checkpoint, ResumePoint, SavedMatch
from service.generation.detokenize import TextAssembler
from service.generation.logprobs import Logprobs
from service.params import ModelVersion
from service.scheduling.automaton import Match
from service.scheduling.sequence import DecodeResult, FinishReason
from service.structured_outputs.patterns import Constraint


@dataclass(frozen=True)
class TextDelta:
    """New visible text of one choice.

    Attributes:
        index: Index of the choice among all that are generated.
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


@dataclass(frozen=True)
class ConstrainedMatch:
    """A constraint, and how far a text matches it."""

    constraint: Constraint
    match: Match

    def copy(self) -> "ConstrainedMatch":
        """Return a copy whose match advances by itself."""
        return ConstrainedMatch(self.constraint, self.match.copy())


@dataclass
class Choice:
    """A choice that is being generated.

    Attributes:
        prompt_index: Its prompt.
        number: Its number among the choices of that prompt.
        end_id: The EOS token, or None.
        point: Its point in the sequence after the chunks processed here; kept up to date only if `keeps_checkpoint`.
        random_stream: Index of the seed's random stream.
        token_counts: How often each token that penalties count was sampled; None: no penalty counts tokens.
        constrained: What its text must match, kept up to date as `point` is; None: no constraint.
        keeps_checkpoint: Whether checkpoints may be taken, at its end or before.
        may_continue_after_end: Whether a request may resume it at its end. Then text that is not final is held back
            there, for that request.
        is_started: Whether its leading text was returned.
        finish_reason: None until it has finished.
        num_tokens_at_checkpoint: Number of its tokens when the last checkpoint was taken.
        deltas: Deltas that were not returned yet, in order of arrival.
        num_left: Tokens that may be sampled after `point`.
        token_ids: Its tokens, without the EOS token; None: they are not needed.
    """

    prompt_index: int
    number: int
    assembler: TextAssembler
    end_id: int | None
    point: ResumePoint
    random_stream: int
    token_counts: Counter[int] | None
    constrained: ConstrainedMatch | None
    keeps_checkpoint: bool
    may_continue_after_end: bool
    is_started: bool = False
    finish_reason: FinishReason | None = None
    num_tokens_at_checkpoint: int = 0
    deltas: list[TextDelta] = field(default_factory=list)
    num_left: int = 0
    token_ids: list[int] | None = None

    def take(self, chunk: DecodeResult) -> str:
        """Process a chunk: return the text that is final now, and set `finish_reason` at the end."""
        assembler, before = self.assembler, self.assembler.num_tokens
        text = assembler.feed(chunk.token_ids, chunk.scores)
        if self.token_ids is not None:
            self.token_ids += chunk.token_ids[: assembler.num_tokens - before]
        if self.keeps_checkpoint:
            self._advance_point(chunk, assembler.num_tokens - before)
        # The EOS token makes the text final, even if a request resumes after it.
        is_final = chunk.finish_reason == "stop" or (
            chunk.finish_reason == "length" and not self.may_continue_after_end
        )
        if is_final and not assembler.stopped:
            text += assembler.flush()
        self.finish_reason = "stop" if assembler.stopped else chunk.finish_reason
        return text

    def is_due(self, interval: int | None) -> bool:
        """Return whether at least `interval` tokens came since this was last true; None: never."""
        num_tokens = self.assembler.num_tokens
        if interval is None or num_tokens - self.num_tokens_at_checkpoint < interval:
            return False
        self.num_tokens_at_checkpoint = num_tokens
        return True

    def save(self, model: ModelVersion, weights_sha256: str, seed: int) -> Checkpoint:
        """Return a checkpoint of its current point."""
        token_counts = self.token_counts or Counter()
        return Checkpoint(
            model=model,
            weights_sha256=weights_sha256,
            point=self.point,
            seed=seed,
            random_stream=self.random_stream,
            detokenizer=self.assembler.detokenizer.save(),
            held_back=self.assembler.held_back,
            token_counts=(np.array([*token_counts.keys()], np.int32), np.array([*token_counts.values()], np.float32)),
            match=self._partial_match(),
        )

    def _partial_match(self) -> SavedMatch | None:
        if self.constrained is None:
            return None
        match = self.constrained.match
        return SavedMatch(self.constrained.constraint, match.row, match.automaton.digest)

    def _advance_point(self, chunk: DecodeResult, num_tokens: int) -> None:
        """Move the point past a chunk, whose first `num_tokens` tokens belong to the choice."""
        token_ids, state = chunk.token_ids[:num_tokens], chunk.state
        if self.assembler.stopped and (chunk.has_eos or num_tokens < len(chunk.token_ids)):
            # The call went past the stop string: keep the state before the call, with all tokens since as unread.
            state = None
        elif chunk.has_eos and self.end_id is not None:
            token_ids = [*token_ids, self.end_id]
        self.point = self.point.after(token_ids, state)
        if self.token_counts is not None:
            self.token_counts.update(token_ids)
        if self.constrained is not None:
            # After a stop string, and where a longer match exists, the request that resumes continues it.
            self.constrained.match.advance(token_ids, self.num_left)
            self.num_left -= len(token_ids)
