"""One text of a request as it comes back: its pieces, where it stands, and how it is put down.

Knows a text's tokens and what was shown of them. Does not know requests, or how tokens are drawn.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from service.generation.checkpoint import Checkpoint, Point
from service.generation.detokenize import TextAssembler
from service.generation.logprobs import Logprobs
from service.scheduling.sequence import Chunk, FinishReason, ModelVersion


@dataclass(frozen=True)
class TextDelta:
    """Text of one choice.

    Attributes:
        index: Of the choice, among all that are made.
        finish_reason: "stop" or "length" with the choice's last piece, else None.
        logprobs: Of the tokens whose text begins in this piece; None if they were not asked for. Their places are
            within the choice's text, or within this piece if it goes before those so far.
        state: Token to go on with behind this piece, if it was asked for.
    """

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None = None
    state: str | None = None


@dataclass
class Choice:
    """A text in the making.

    Attributes:
        end_id: The end mark, or None.
        point: Where the text stands, as far as it has been taken in here; kept up only if `is_kept`.
        stream: Which of the seed's streams its random numbers are.
        counted: How often each token that penalties count was drawn; None: there are none.
        is_kept: Whether it may be put down before its end or at it.
        is_left_open: Whether it is to be gone on with behind its end. Then what may still become something else is held
            there, for those who go on.
        last_at: Monotonic seconds at which its last tokens came.
        is_open: Whether what it begins with was handed out.
        finish_reason: None until it has ended.
        num_tokens_at_checkpoint: Of its tokens, how many had been drawn when it was last put down.
        pieces: Those that were not handed out yet, in order of arrival.
    """

    assembler: TextAssembler
    end_id: int | None
    point: Point
    stream: int
    counted: Counter[int] | None
    is_kept: bool
    is_left_open: bool
    is_open: bool = False
    last_at: float | None = None
    finish_reason: FinishReason | None = None
    num_tokens_at_checkpoint: int = 0
    pieces: list[TextDelta] = field(default_factory=list)

    def take(self, chunk: Chunk) -> str:
        """Take in what was drawn; return the text that is certain, and note the end if it has come."""
        assembler, before = self.assembler, self.assembler.num_tokens
        text = assembler.feed(chunk.token_ids, chunk.scores)
        if self.is_kept:
            self._move(chunk, assembler.num_tokens - before)
        # A text that has come to its end mark is over, whoever goes on behind it.
        is_over = chunk.finish_reason == "stop" or (chunk.finish_reason == "length" and not self.is_left_open)
        if is_over and not assembler.stopped:
            text += assembler.flush()
        self.finish_reason = "stop" if assembler.stopped else chunk.finish_reason
        return text

    def is_due(self, interval: int | None) -> bool:
        """Whether so many tokens have been drawn since this was last true; None: it never is."""
        num_tokens = self.assembler.num_tokens
        if interval is None or num_tokens - self.num_tokens_at_checkpoint < interval:
            return False
        self.num_tokens_at_checkpoint = num_tokens
        return True

    def save(self, model: ModelVersion, weights_sha256: str, seed: int) -> Checkpoint:
        """Put it down where it stands."""
        counted = self.counted or Counter()
        return Checkpoint(
            model=model,
            weights_sha256=weights_sha256,
            point=self.point,
            seed=seed,
            stream=self.stream,
            detokenizer=self.assembler.detokenizer.save(),
            held=self.assembler.held,
            counted=(np.array([*counted.keys()], np.int32), np.array([*counted.values()], np.float32)),
        )

    def _move(self, chunk: Chunk, num_taken: int) -> None:
        """Note where the text stands after a chunk of which so many tokens belong to it."""
        token_ids, state = chunk.token_ids[:num_taken], chunk.state
        marked = chunk.finish_reason == "stop"
        if self.assembler.stopped and (marked or num_taken < len(chunk.token_ids)):
            # Cut off before what the call has read: the state from before it stays, with all that came since unread.
            state = None
        elif marked and self.end_id is not None:
            token_ids = [*token_ids, self.end_id]
        self.point = self.point.after(token_ids, state)
        if self.counted is not None:
            self.counted.update(token_ids)
