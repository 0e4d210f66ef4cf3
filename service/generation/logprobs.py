"""Log probabilities of a choice's tokens in OpenAI's format, each held back until the text of its token is visible.

Knows tokens, their labels and their offsets in the text. Does not know stop strings or JSON.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import orjson

from contract import signatures
from contract.tokenizer import Detokenizer
from service.scheduling.sequence import Scores

# A float32 log probability has about 7 decimal places; more would only make responses longer.
DIGITS = 7
# As Python objects, numbers take ten times the memory that they take in arrays.
_CONVERTED_AT_ONCE = 1024


@dataclass
class Logprobs:
    """Parallel lists, one entry per token, as OpenAI's completions name them.

    Attributes:
        tokens: The text that each token adds, or the name of a token that adds none. For the unknown token of a prompt
            it is the text of the prompt that it stands for.
        token_logprobs: Natural logarithms; None for the very first token of a text, which follows no other.
        top_logprobs: The most probable tokens at its position and the token itself; None as above.
        text_offset: Offset of the token's text in code points: within the choice's text, or within the delta if the
            client prepends deltas.
    """

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def extend(self, other: "Logprobs", shift: int = 0) -> None:
        """Append those of another delta, and add `shift` to its offsets."""
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += [offset + shift for offset in other.text_offset] if shift else other.text_offset


# A token's log probability, and the ids and log probabilities of the most probable tokens at its position.
TokenScore = tuple[float, list[int], list[float]]


def token_scores(scores: Scores, num_top: int) -> Iterator[TokenScore]:
    """Yield the score of each token, as Python objects."""
    for start in range(0, len(scores.logprobs), _CONVERTED_AT_ONCE):
        converted = slice(start, start + _CONVERTED_AT_ONCE)
        logprobs = np.round(scores.logprobs[converted].astype(float), DIGITS).tolist()
        if not num_top or scores.top_ids is None or scores.top_logprobs is None:
            yield from ((logprob, [], []) for logprob in logprobs)
        else:
            top_ids = scores.top_ids[converted, :num_top].tolist()
            tops = np.round(scores.top_logprobs[converted, :num_top].astype(float), DIGITS).tolist()
            yield from zip(logprobs, top_ids, tops, strict=True)


def labels(detokenizer: Detokenizer, token_ids: list[int]) -> list[str]:
    """Return the label of each token of a text: see `Logprobs.tokens`."""
    token_labels = []
    for token_id in token_ids:
        token_labels.append(detokenizer.label(token_id))
        detokenizer.track(token_id)
    return token_labels


def expected_next(scores: Scores, num_top: int, detokenizer: Detokenizer) -> dict[str, float]:
    """Return the most probable tokens at the first scored position, and their log probabilities."""
    _, top_ids, tops = next(token_scores(scores, num_top))
    return dict(zip(map(detokenizer.label, top_ids), tops, strict=True))


class LogprobsLog:
    """The log probabilities of one choice's tokens, in order; each is returned once its text is visible."""

    def __init__(self, offset: int = 0) -> None:
        """Start with no tokens; `offset` is the length of the text before the first."""
        self._pending = Logprobs()
        self._offset = offset

    def add(self, detokenizer: Detokenizer, token_id: int, score: TokenScore | None) -> str:
        """Add the next token, pass it to the detokenizer and return its text."""
        pending = self._pending
        label = detokenizer.label(token_id)
        pending.tokens.append(label)
        if score is None:
            pending.token_logprobs.append(None)
            pending.top_logprobs.append(None)
        else:
            logprob, top_ids, tops = score
            top = dict(zip(map(detokenizer.label, top_ids), tops, strict=True))
            top[label] = logprob
            pending.token_logprobs.append(logprob)
            pending.top_logprobs.append(top)
        return self._advance(detokenizer, token_id)

    def end(self, detokenizer: Detokenizer) -> str:
        """Return the text that the detokenizer held back, after the last token."""
        return self._advance(detokenizer, None)

    def take(self, visible_length: int = 0, *, last: bool, stopped: bool = False) -> Logprobs:
        """Return the log probabilities of visible tokens that were not returned before.

        Args:
            visible_length: Length of the visible text so far; tokens that begin after it are held back.
            last: Whether the text has ended: then all tokens are returned, unless a stop string cut it off.
            stopped: Whether a stop string cut the text off after the visible part.
        """
        taken, offsets = self._pending, self._pending.text_offset
        if (last and not stopped) or not offsets or offsets[-1] < visible_length:
            self._pending = Logprobs()
            return taken
        count = sum(offset < visible_length for offset in offsets)
        self._pending = _cut(taken, count, None)
        return _cut(taken, 0, count)

    def _advance(self, detokenizer: Detokenizer, token_id: int | None) -> str:
        text, offsets = detokenizer.track(token_id)
        for offset in offsets:
            self._pending.text_offset.append(self._offset + offset)
        self._offset += len(text)
        return text


class BackwardLog(LogprobsLog):
    """The log probabilities of one choice of a backward model.

    Until tokens are returned, `text_offset` has the distance from the beginning of each to the end of the text, for the
    first tokens, of which it is known.
    """

    def __init__(self, offset: int = 0) -> None:
        super().__init__(offset)
        # That distance of the last token that was returned.
        self._reached = 0

    def take(self, visible_length: int = 0, *, last: bool, stopped: bool = False) -> Logprobs:
        """Return, in reading order, tokens whose beginning is visible, with offsets within the visible text.

        A token that a stop string cuts through is returned too, at offset 0. So are, at the end of a choice that keeps
        a checkpoint, the tokens whose text is held back.
        """
        pending = self._pending
        count = bisect_right(pending.text_offset, visible_length)
        distances = pending.text_offset[:count]
        self._reached = distances[-1] if distances else self._reached
        if stopped and self._reached < visible_length:
            distances.append(visible_length)
        elif last and not stopped:
            distances += [visible_length] * (len(pending.tokens) - len(distances))
        taken = _cut(pending, 0, len(distances))
        self._pending = _cut(pending, len(distances), None)
        return Logprobs(
            taken.tokens[::-1],
            taken.token_logprobs[::-1],
            taken.top_logprobs[::-1],
            [visible_length - distance for distance in reversed(distances)],
        )


def _cut(logprobs: Logprobs, start: int, stop: int | None) -> Logprobs:
    cut = slice(start, stop)
    return Logprobs(
        logprobs.tokens[cut], logprobs.token_logprobs[cut], logprobs.top_logprobs[cut], logprobs.text_offset[cut]
    )


def score_prompt(
    log: LogprobsLog,
    token_ids: Sequence[int],
    scores: Sequence[Scores],
    num_top: int,
    detokenizer: Detokenizer,
) -> Logprobs:
    """Return the log probabilities of a prompt's tokens, in reading order.

    Args:
        log: A new one, for the model's direction.
        token_ids: All tokens of the prompt, in the order in which the model reads.
        scores: In that order, of all tokens but the first, or of all tokens and some before them, which are skipped.
        num_top: Number of most probable tokens to return for each token.
        detokenizer: A new one, for the model's direction.
    """
    num_characters = 0
    for token_id, score in _scored(token_ids, scores, num_top):
        num_characters += len(log.add(detokenizer, token_id, score))
    num_characters += len(log.end(detokenizer))
    return log.take(num_characters, last=True)


def prompt_logprobs_json(
    token_ids: Sequence[int], scores: Sequence[Scores], num_top: int, detokenizer: Detokenizer
) -> list[bytes]:
    """Return vLLM's `prompt_logprobs` of each token, in the order in which the model reads, as JSON.

    Each is an object by token id: first the token itself, then the most probable tokens at its position. A rank beyond
    those that the model returns is null. Encoded at once: as Python objects they take ten times the memory.

    The arguments are those of `score_prompt`.
    """
    entries = []
    for token_id, score in _scored(token_ids, scores, signatures.NUM_TOP):
        by_id: dict[str, Any] | None = None
        if score is not None:
            logprob, top_ids, tops = score
            ranks = {top_id: rank for rank, top_id in enumerate(top_ids, 1)}
            top = list(zip(top_ids, tops, strict=True))[:num_top]
            others = [(top_id, value) for top_id, value in top if top_id != token_id]
            by_id = {
                str(i): {"logprob": value, "rank": ranks.get(i), "decoded_token": detokenizer.label(i)}
                for i, value in [(token_id, logprob), *others]
            }
        # A copy: orjson's own object keeps its buffer of some kilobytes.
        entries.append(bytes(memoryview(orjson.dumps(by_id))))
        detokenizer.track(token_id)
    return entries


def _scored(
    token_ids: Sequence[int], scores: Sequence[Scores], num_top: int
) -> Iterator[tuple[int, TokenScore | None]]:
    """Yield each token with its score, which the first token of a text does not have; see `score_prompt`."""
    num_scores = 1 + sum(len(part.logprobs) for part in scores)
    every_score: Iterator[TokenScore | None] = chain([None], *(token_scores(part, num_top) for part in scores))
    return zip(token_ids, islice(every_score, num_scores - len(token_ids), None), strict=True)
