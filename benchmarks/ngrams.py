"""`python -m benchmarks.ngrams --corpus FILE`: an interpolated Kneser–Ney model of characters, beside what it costs.

The baseline of `/v1/score`: Kneser and Ney (1995) with one discount per order and interpolation (Chen and Goodman 1999,
section 4.1.6). It is trained on the head of a text, and scores the tail that `benchmarks.quality` holds out.
"""

import argparse
import math
import time
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.report import machine, print_table

ORDERS = (3, 4, 5, 6, 7, 8)
HELD_OUT = 0.1


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


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.ngrams", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="text file; its last tenth is held out")
    corpus = parser.parse_args().corpus.read_text(encoding="utf-8")
    # As `benchmarks.quality` splits it.
    cut = math.floor(len(corpus) * (1 - HELD_OUT) + 1e-6)
    rows = []
    for order in ORDERS:
        started = time.process_time()
        model = KneserNey(corpus[:cut], order)
        trained = time.process_time()
        nats = model.nats(corpus[cut:]) / len(corpus[cut:])
        speed = len(corpus[cut:]) / (time.process_time() - trained)
        rows.append((order, f"{nats:.4f}", f"{nats / math.log(2):.3f}", f"{trained - started:.1f}", f"{speed:,.0f}"))
    print(f"{machine()}; one core, Python\n")
    print_table(("order", "nats/character", "bits/character", "s to train", "characters/s"), rows)


if __name__ == "__main__":
    main()
