"""An interpolated Kneser–Ney model of characters, the baseline of `/v1/score` in the docs.

Kneser and Ney (1995) with one discount per order and interpolation (Chen and Goodman 1999, section 4.1.6).
"""

import math
from collections import Counter, defaultdict


class KneserNey:
    """Interpolated Kneser–Ney smoothing of n-grams of characters."""

    def __init__(self, text: str, order: int) -> None:
        """Count n-grams; those of lower orders count in how many contexts a character has occurred."""
        self._order, self._num_characters = order, len(set(text)) + 1  # and an unknown one
        counts = Counter(text[i : i + order] for i in range(len(text) - order + 1))
        self._levels = []
        for size in range(order, 0, -1):
            totals, kinds = defaultdict[str, int](int), defaultdict[str, int](int)
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                kinds[gram[:-1]] += 1
            of_counts = Counter(counts.values())
            discount = of_counts[1] / (of_counts[1] + 2 * of_counts[2]) if of_counts[1] else 0.5
            self._levels.append((size, counts, totals, kinds, discount))
            counts = Counter(gram[1:] for gram in counts)

    def probability(self, context: str, character: str) -> float:
        probability = 1 / self._num_characters
        for size, counts, totals, kinds, discount in reversed(self._levels):
            history = context[len(context) - size + 1 :] if size > 1 else ""
            total = totals.get(history, 0)
            if total:
                kept = max(0.0, counts.get(history + character, 0) - discount)
                probability = (kept + discount * kinds[history] * probability) / total
        return probability

    def nats(self, text: str) -> float:
        """Return the negative log probability of a text after nothing."""
        size = self._order - 1
        return -sum(math.log(self.probability(text[max(0, i - size) : i], text[i])) for i in range(len(text)))
