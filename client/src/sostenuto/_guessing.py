"""Guess numbers: how many texts a model would guess before a given one.

Estimated from a sample of the model: Dell'Amico and Filippone, "Monte Carlo Strength Evaluation: Fast and Reliable
Password Checking", CCS 2015.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

from sostenuto._inspection import GuessNumber


class GuessNumbers:
    """Estimates guess numbers from the log probabilities of sampled texts."""

    def __init__(self, logprobs: Iterable[float], num_samples: int) -> None:
        """Sort the sample, the most probable first, and sum 1/p and 1/p² over it.

        `num_samples` is its size, including texts of unknown log probability, below all of these.
        """
        self._num_samples, self._costs = num_samples, sorted(-logprob for logprob in logprobs)
        # The sums over the first texts, as multiples of 1/p and 1/p² of the last one, as 1/p² overflows a float for a
        # text of 355 nats.
        self._sums, self._squares = [0.0], [0.0]
        for before, cost in pairwise([0.0, *self._costs]):
            ratio = math.exp(before - cost)
            self._sums.append(self._sums[-1] * ratio + 1)
            self._squares.append(self._squares[-1] * ratio**2 + 1)

    def of(self, text: str, logprob: float) -> GuessNumber:
        """Return the guess number of a text with this log probability.

        A text of probability p is in the sample with probability p, so that 1/p, summed over the more probable texts of
        the sample and divided by its size, is an unbiased estimate of their number.
        """
        count, size = bisect_left(self._costs, -logprob), self._num_samples
        mean = self._sums[count] / size
        error = math.sqrt(max(0.0, self._squares[count] / size - mean**2) / size)
        unit = self._costs[count - 1] if count else 0.0
        return GuessNumber(text, logprob, _times_exp(mean, unit), _times_exp(error, unit))


def _times_exp(factor: float, exponent: float) -> float:
    """Return factor · e^exponent, infinity where that exceeds a float."""
    try:
        return factor and math.exp(exponent + math.log(factor))
    except OverflowError:
        return math.inf
