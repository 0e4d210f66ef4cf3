"""Guess numbers: how many texts a model would guess before a given one.

Estimated from a sample of the model: Dell'Amico and Filippone, "Monte Carlo Strength Evaluation: Fast and Reliable
Password Checking", CCS 2015.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from sostenuto._inspection import GuessNumber


class GuessNumbers:
    """Estimates guess numbers from the log probabilities of sampled texts."""

    def __init__(self, logprobs: Iterable[float], num_samples: int) -> None:
        """Sort the sample, the most probable first, and sum 1/p and 1/p² over it.

        `num_samples` is its size, with the texts whose log probability is unknown: less than all of these.
        """
        self._num_samples, self._costs = num_samples, sorted(-logprob for logprob in logprobs)
        self._sums = [0.0, *accumulate(map(math.exp, self._costs))]
        self._squares = [0.0, *accumulate(math.exp(2 * cost) for cost in self._costs)]

    def of(self, text: str, logprob: float) -> GuessNumber:
        """Return the guess number of a text with this log probability.

        A text of probability p is in the sample with probability p, so that 1/p, summed over the more probable texts of
        the sample and divided by its size, is an unbiased estimate of their number.
        """
        count, size = bisect_left(self._costs, -logprob), self._num_samples
        mean = self._sums[count] / size
        variance = self._squares[count] / size - mean**2
        return GuessNumber(text, logprob, mean, math.sqrt(max(0.0, variance) / size))
