"""Log probabilities of tokens, as OpenAI's completions name them."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from contract.card import GeneratorCard
from contract.tokenizers import Detokenizer
from service.scheduling.sequence import Scores

# A float32 log probability has about 7 decimal places; more would only lengthen responses.
DIGITS = 7
# As Python objects, numbers take ten times the memory of arrays.
_CONVERTED_AT_ONCE = 1024
# A token with log probabilities, as lists and JSON, and each top token (measured: 362 and 814 with 5).
LOGPROBS_BYTES, _ALTERNATIVE_BYTES = 350, 100


@dataclass
class Logprobs:
    """Parallel lists, one entry per token."""

    # The text that each token adds, or the name of a token that adds none. For the unknown token of a prompt it is the
    # text of the prompt that it stands for.
    tokens: list[str] = field(default_factory=list)
    # Natural logarithms; None for the very first token of a text, which follows no other.
    token_logprobs: list[float | None] = field(default_factory=list)
    # The most probable tokens at its position and the token itself; None as above.
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    # Offset of the token's text in code points: within the choice's text, or within the delta if the client prepends
    # deltas. For a backward model in the order of generation: the distance from the token's beginning to the end of the
    # choice's text.
    text_offset: list[int] = field(default_factory=list)

    def extend(self, other: "Logprobs", shift: int = 0) -> None:
        """Append another list's entries, with `shift` added to their offsets."""
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += [offset + shift for offset in other.text_offset] if shift else other.text_offset

    def mirrored(self, length: int) -> "Logprobs":
        """Convert a backward model's log probabilities from the order of generation to reading order, or back.

        `length` is that of the text up to the last token, in the order of generation.
        """
        offsets = [length - offset for offset in reversed(self.text_offset)]
        return Logprobs(self.tokens[::-1], self.token_logprobs[::-1], self.top_logprobs[::-1], offsets)

    def cut(self, start: int, stop: int | None) -> "Logprobs":
        part = slice(start, stop)
        return Logprobs(self.tokens[part], self.token_logprobs[part], self.top_logprobs[part], self.text_offset[part])


# A token's log probability, and the ids and log probabilities of the most probable tokens at its position.
TokenScore = tuple[float, list[int], list[float]]


def token_scores(scores: Scores, num_top: int) -> Iterator[TokenScore]:
    for start in range(0, len(scores.logprobs), _CONVERTED_AT_ONCE):
        converted = slice(start, start + _CONVERTED_AT_ONCE)
        logprobs = np.round(scores.logprobs[converted].astype(float), DIGITS).tolist()
        if not num_top or scores.top_ids is None or scores.top_logprobs is None:
            yield from ((logprob, [], []) for logprob in logprobs)
        else:
            top_ids = scores.top_ids[converted, :num_top].tolist()
            tops = np.round(scores.top_logprobs[converted, :num_top].astype(float), DIGITS).tolist()
            yield from zip(logprobs, top_ids, tops, strict=True)


def logprobs_bytes(num_tokens: int, num_top: int) -> int:
    """Return the size of the log probabilities of `num_tokens` tokens as lists and as JSON."""
    return num_tokens * (LOGPROBS_BYTES + _ALTERNATIVE_BYTES * num_top)


def scores_bytes(num_tokens: int, card: GeneratorCard) -> int:
    """Return the size of log probabilities in queued results: one per token, top ones with ids."""
    return num_tokens * (4 + 8 * card.num_top)


def labels(detokenizer: Detokenizer, token_ids: list[int]) -> list[str]:
    """Return the label of each token of a text: see `Logprobs.tokens`."""
    token_labels = []
    for token_id in token_ids:
        token_labels.append(detokenizer.label(token_id))
        detokenizer.track(token_id)
    return token_labels


def expected_next(scores: Scores, num_top: int, label: Callable[[int], str]) -> dict[str, float]:
    """Return the most probable tokens at the first scored position, and their log probabilities."""
    _, top_ids, tops = next(token_scores(scores, num_top))
    return _by_label(top_ids, tops, label)


def _by_label(top_ids: Sequence[int], tops: Sequence[float], label: Callable[[int], str]) -> dict[str, float]:
    """Return the log probabilities of tokens by label; of several with the same one, that of the most probable."""
    labels = [label(token_id) for token_id in top_ids]
    by_label = dict(zip(labels, tops, strict=True))
    if len(by_label) < len(labels):
        by_label |= dict(zip(reversed(labels), reversed(tops), strict=True))
    return by_label


class PendingLogprobs:
    """The log probabilities of a text's tokens in the order of generation, until the text of each is visible."""

    def __init__(self, length: int = 0, *, backward: bool) -> None:
        self.length = length  # of the text so far, in characters
        self._backward, self._pending = backward, Logprobs()
        # Distance of the last returned token of a backward model; at first that of the text before the first one.
        self._reached = length

    @property
    def is_empty(self) -> bool:
        return not self._pending.tokens

    def add(self, token_id: int, score: TokenScore | None, label: Callable[[int], str]) -> None:
        """Add the next token; `label` returns the text that a token would have as the next one."""
        pending, name = self._pending, label(token_id)
        pending.tokens.append(name)
        pending.token_logprobs.append(None if score is None else score[0])
        top = None
        if score is not None:
            logprob, top_ids, tops = score
            top = _by_label(top_ids, tops, label)
            top[name] = logprob
        pending.top_logprobs.append(top)

    def place(self, text: str, offsets: Sequence[int]) -> None:
        """Add text, and the offsets in it of the tokens whose beginning is known now; see `Detokenizer.track`."""
        for offset in offsets:
            self._pending.text_offset.append(self.length + offset)
        self.length += len(text)

    def take(self, visible_length: int, *, last: bool, stopped: bool = False) -> Logprobs:
        """Return the log probabilities of visible tokens that were not returned before.

        A token is visible if its first character is. For a backward model two more kinds count as visible: the token
        that a stop string cuts through, as if it began there; and, at the end of a choice, tokens whose text is held
        back for a checkpoint.

        Args:
            visible_length: Length of the visible text so far.
            last: Whether the text has ended: then all tokens are returned, unless a stop string truncated it.
            stopped: Whether a stop string truncated the text after the visible part.
        """
        pending, offsets = self._pending, self._pending.text_offset
        count = num_known = (bisect_right if self._backward else bisect_left)(offsets, visible_length)
        if self._backward:
            self._reached = offsets[count - 1] if count else self._reached
            count += stopped and self._reached < visible_length
        if last and not stopped:
            count = len(pending.tokens)
        taken, self._pending = pending, Logprobs()
        if count < len(pending.tokens):
            taken, self._pending = pending.cut(0, count), pending.cut(count, None)
        if self._backward:
            taken.text_offset[num_known:] = [visible_length] * (count - num_known)
        return taken
