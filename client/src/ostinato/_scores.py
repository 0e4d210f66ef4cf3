"""How probable a text is, token by token, and what a text is in tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ostinato._results import Choice, required, shortened


@dataclass(frozen=True)
class ScoredToken:
    """One token of a text, and how sure the model was of it.

    Attributes:
        text: str. What it adds to the text, or its name if it adds nothing.
        logprob: float or None. Natural logarithm of its probability; None for the one that nothing goes before.
        offset: int. Where it begins in the text, in characters.
        alternatives: dict of str to float. The most probable tokens in its place, and itself, with their logarithms.
    """

    text: str
    logprob: float | None
    offset: int
    alternatives: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def probability(self) -> float | None:
        """Its probability, from 0 to 1; None for the one that nothing goes before."""
        return None if self.logprob is None else math.exp(self.logprob)


@dataclass(frozen=True, repr=False)
class Score:
    """How probable a text is. Its first token (the last one, of a model that reads backwards) has no score.

    Attributes:
        text: str.
        tokens: tuple of ScoredToken, in order of reading.
    """

    text: str
    tokens: tuple[ScoredToken, ...]

    @classmethod
    def from_choice(cls, choice: Choice) -> Score:
        """Read a choice that was echoed with log probabilities."""
        return cls(choice.text, scored_tokens(choice.logprobs) if choice.logprobs else ())

    @property
    def num_scored(self) -> int:
        """How many of the tokens have a log probability."""
        return sum(token.logprob is not None for token in self.tokens)

    @property
    def logprob(self) -> float:
        """Natural logarithm of the text's probability: the sum over its tokens, in nats."""
        return math.fsum(token.logprob for token in self.tokens if token.logprob is not None)

    @property
    def perplexity(self) -> float:
        """Among how many equally probable tokens the model might as well have chosen: exp(-logprob / num_scored)."""
        return math.exp(-self.logprob / self.num_scored) if self.num_scored else math.nan

    @property
    def bits_per_character(self) -> float:
        """-logprob / ln 2 over the characters of the scored tokens: comparable between units of text."""
        ends = [token.offset for token in self.tokens[1:]] + [len(self.text)]
        scored = [end - token.offset for token, end in zip(self.tokens, ends) if token.logprob is not None]
        return -self.logprob / math.log(2) / sum(scored) if any(scored) else math.nan

    def __repr__(self) -> str:
        """Show what one looks for first; a long text is cut."""
        return (
            f"Score({shortened(self.text)!r}, tokens={len(self.tokens)}, logprob={self.logprob:.4g}, "
            f"perplexity={self.perplexity:.4g}, bits_per_character={self.bits_per_character:.4g})"
        )


@dataclass(frozen=True)
class Tokens:
    """A text in tokens; `len()` is their number.

    Attributes:
        ids: list of int. What `prompt` and `detokenize` take.
        texts: list of str. What each adds to the text, or its name if it adds nothing.
    """

    ids: list[int]
    texts: list[str]

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> Tokens:
        """Read an answer of `/tokenize`.

        Raises:
            UnexpectedResponse: a field is missing or of another type.
        """
        return cls(required(raw, "tokens", list), required(raw, "token_strs", list))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ids)


@dataclass(frozen=True)
class Neighbor:
    """A token, and how near its vector is to another one's.

    Attributes:
        token: str. Its text, or its name if it has none.
        token_id: int.
        cosine: float. Of the angle between the two, from -1 to 1.
    """

    token: str
    token_id: int
    cosine: float


@dataclass(frozen=True, repr=False)
class EmbeddingMap:
    """Tokens in the plane in which their vectors differ most; lists have an entry for each.

    Attributes:
        tokens: list of str.
        token_ids: list of int.
        x: list of float. And `y`.
        explained: list of float. Which share of all differences each axis shows.
    """

    tokens: list[str]
    token_ids: list[int]
    x: list[float]
    y: list[float]
    explained: list[float]

    def __repr__(self) -> str:
        """Show how much there is."""
        return f"EmbeddingMap({len(self.tokens)} tokens, explained={self.explained})"


def scored_tokens(logprobs: dict[str, list[Any]]) -> tuple[ScoredToken, ...]:
    """Turn the API's parallel lists into one token after another.

    Raises:
        UnexpectedResponse: a list is missing.
    """
    tokens, scores = required(logprobs, "tokens", list), required(logprobs, "token_logprobs", list)
    offsets, tops = required(logprobs, "text_offset", list), required(logprobs, "top_logprobs", list)
    return tuple(
        ScoredToken(text, score, offset, top or {}) for text, score, offset, top in zip(tokens, scores, offsets, tops)
    )
