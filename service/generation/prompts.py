"""An encoded prompt: text or token ids from the client, encoded once for all its choices.

Knows tokenizers and a model's direction. Does not know requests or sequences.
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
    """The tokens before the generated text, or after it for a backward model.

    Attributes:
        text: The client's text, or that of the client's token ids.
        ids: int32 (tokens,): its tokens, in reading order; empty for an empty prompt.
        given_as_text: Whether the client sent text.
        backward: Whether the model reads it from right to left.
        after: int32 (tokens,): a checkpoint's unread tokens, which the model reads first; empty without a checkpoint.
    """

    text: str
    ids: np.ndarray
    given_as_text: bool
    tokenizer: Tokenizer
    backward: bool
    after: np.ndarray

    @classmethod
    def of(cls, prompt: PromptText, tokenizer: Tokenizer, *, backward: bool, after: np.ndarray = NOTHING) -> Self:
        """Encode a text, independently of what precedes it, or take token ids as they are."""
        is_text = isinstance(prompt, str)
        text, ids = (
            (prompt, tokenizer.encode(prompt)) if isinstance(prompt, str) else (tokenizer.decode(prompt), prompt)
        )
        # In a list each id may take 40 bytes, and a prompt in the queue may have 131,072 of them.
        array = np.array(ids, np.int32)
        return cls(text, array, given_as_text=is_text, tokenizer=tokenizer, backward=backward, after=after)

    @property
    def is_empty(self) -> bool:
        """Whether the client sent no text and no ids."""
        return not self.text and not self.ids.size

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the client's usage: the BOS token of an empty prompt does not count."""
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes while its request runs."""
        return sys.getsizeof(self.text) + self.ids.nbytes + self.read_ids.nbytes

    @cached_property
    def read_ids(self) -> np.ndarray:
        """The model's input, int32 (tokens,), in the model's direction; the BOS token if it would be empty."""
        if not self.after.size:
            return self._ids_in_model_order if self.ids.size else self._start
        return np.concatenate([self.after, self._ids_in_model_order])

    @cached_property
    def seen_ids(self) -> np.ndarray:
        """Unique ids of `read_ids`, int32."""
        return np.unique(self.read_ids)

    def logprobs(self, scores: Sequence[Scores], num_top: int) -> Logprobs:
        """Return its log probabilities in reading order; `scores` are of all `read_ids` but the first."""
        if not self.ids.size:
            return Logprobs()
        log, detokenizer = (
            (BackwardLog(), self.tokenizer.backward_detokenizer())
            if self.backward
            else (LogprobsLog(), self.tokenizer.detokenizer())
        )
        logprobs = score_prompt(log, self._ids_in_model_order.tolist(), scores, num_top, detokenizer)
        if self.given_as_text:
            logprobs.text_offset = self.tokenizer.offsets(self.text)
        return logprobs

    @property
    def _start(self) -> np.ndarray:
        return np.array([self.tokenizer.special.start], np.int32)

    @property
    def _ids_in_model_order(self) -> np.ndarray:
        return self.ids[::-1] if self.backward else self.ids
