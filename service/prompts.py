"""A prompt as the model reads it: text or ids from the client, encoded once for all its choices.

Knows tokenizers. Does not know requests or sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from contract.tokenizer import Tokenizer
from service.logprobs import Logprobs, score_prompt
from service.schema import PromptText
from service.sequence import Scores


@dataclass(frozen=True)
class EncodedPrompt:
    """What a text goes on with.

    Attributes:
        text: As it was given, or what the ids add up to.
        ids: Its tokens; none for a text that begins from nothing.
        given_as_text: Whether `text` is the client's own.
    """

    text: str
    ids: list[int]
    given_as_text: bool
    tokenizer: Tokenizer

    @classmethod
    def of(cls, given: PromptText, tokenizer: Tokenizer) -> Self:
        """Encode a text, or take its ids as they are."""
        if isinstance(given, str):
            return cls(given, tokenizer.encode(given), given_as_text=True, tokenizer=tokenizer)
        return cls(tokenizer.decode(given), given, given_as_text=False, tokenizer=tokenizer)

    @property
    def num_tokens(self) -> int:
        """Tokens that the client is told of: a start mark in place of nothing is none."""
        return len(self.ids)

    @cached_property
    def read_ids(self) -> np.ndarray:
        """What the model reads, int32 (tokens,): the ids, or the start mark where there are none."""
        return np.asarray(self.ids or [self.tokenizer.special.start], np.int32)

    @cached_property
    def seen_ids(self) -> np.ndarray:
        """Each id of those once, int32."""
        return np.unique(self.read_ids)

    def logprobs(self, scores: Sequence[Scores], num_top: int) -> Logprobs:
        """Lay out its tokens; `scores` are those of all but the first."""
        if not self.ids:
            return Logprobs()
        offsets = self.tokenizer.offsets(self.text) if self.given_as_text else None
        return score_prompt(self.ids, scores, num_top, self.tokenizer.detokenizer(), offsets)
