"""A prompt as the model reads it: text or ids from the client, encoded once for all its choices.

Knows tokenizers, and from which end a model reads. Does not know requests or sequences.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from contract.tokenizer import Tokenizer
from service.api.parameters import PromptText
from service.generation.logprobs import BackwardLog, Logprobs, LogprobsLog, score_prompt
from service.scheduling.sequence import Scores

NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class EncodedPrompt:
    """What a text goes on with, or, backwards, leads up to.

    Attributes:
        text: As it was given, or what the ids add up to.
        ids: int32 (tokens,): its tokens, in order of reading; none for a text that begins from nothing.
        given_as_text: Whether `text` is the client's own.
        backward: Whether the model reads it from its end.
        after: int32 (tokens,): what is read before it, of a text that goes on; none if there is no such text.
    """

    text: str
    ids: np.ndarray
    given_as_text: bool
    tokenizer: Tokenizer
    backward: bool
    after: np.ndarray

    @classmethod
    def of(cls, given: PromptText, tokenizer: Tokenizer, *, backward: bool, after: np.ndarray = NOTHING) -> Self:
        """Encode a text by itself, or take its ids as they are."""
        as_text = isinstance(given, str)
        text, ids = (given, tokenizer.encode(given)) if isinstance(given, str) else (tokenizer.decode(given), given)
        # Of a list each id may take 40 bytes, and a prompt that waits may have 131,072 of them.
        array = np.array(ids, np.int32)
        return cls(text, array, given_as_text=as_text, tokenizer=tokenizer, backward=backward, after=after)

    @property
    def is_empty(self) -> bool:
        """Whether a client gave nothing."""
        return not self.text and not self.ids.size

    @property
    def num_tokens(self) -> int:
        """Tokens that the client is told of: a start mark in place of nothing is none."""
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes while its request is answered."""
        return sys.getsizeof(self.text) + self.ids.nbytes + self.read_ids.nbytes

    @cached_property
    def read_ids(self) -> np.ndarray:
        """What the model reads, int32 (tokens,), in its order; the start mark where there is nothing to read."""
        if not self.after.size:
            return self._in_models_order if self.ids.size else self._start
        return np.concatenate([self.after, self._in_models_order])

    @cached_property
    def seen_ids(self) -> np.ndarray:
        """Each id of those once, int32."""
        return np.unique(self.read_ids)

    def logprobs(self, scores: Sequence[Scores], num_top: int) -> Logprobs:
        """Lay out its tokens in order of reading; `scores` are of all `read_ids` but the first."""
        if not self.ids.size:
            return Logprobs()
        log, detokenizer = (
            (BackwardLog(), self.tokenizer.backward_detokenizer())
            if self.backward
            else (LogprobsLog(), self.tokenizer.detokenizer())
        )
        laid_out = score_prompt(log, self._in_models_order.tolist(), scores, num_top, detokenizer)
        if self.given_as_text:
            laid_out.text_offset = self.tokenizer.offsets(self.text)
        return laid_out

    @property
    def _start(self) -> np.ndarray:
        return np.array([self.tokenizer.special.start], np.int32)

    @property
    def _in_models_order(self) -> np.ndarray:
        return self.ids[::-1] if self.backward else self.ids
