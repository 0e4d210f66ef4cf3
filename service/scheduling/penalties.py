"""Which logits of a text are to be changed, and by what: logit bias, and the counts that penalties go by.

Knows token ids and counts; the formulas are in the graph (`export.graphs.adjustments`). Kept as a sparse list, as only
ids that were read or drawn, or have a bias, are in it.
"""

import itertools
from collections.abc import Sequence

import numpy as np

# Columns of the table.
_COUNT, _SEEN, _BIAS = range(3)


class Adjustments:
    """The ids of one text whose logits may change, in the order in which they came to be known."""

    def __init__(
        self,
        bias: Sequence[tuple[int, float]],
        seen: np.ndarray,
        *,
        counts: bool,
        drawn: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Begin with a prompt.

        Args:
            bias: (token id, what is added to its logit), each id once.
            seen: int32 (ids,): those that stand in the prompt, each once; none where it does not matter.
            counts: Whether drawn tokens are to be counted.
            drawn: int32 (ids,) and float32 (ids,): how often each was drawn before; None: nothing was.
        """
        self._counting = counts
        self._places: dict[int, int] = {}
        self._ids = np.zeros(0, np.int32)
        self._table = np.zeros((3, 0), np.float32)
        self._add([token_id for token_id, _ in bias])
        self._table[_BIAS, : len(bias)] = [value for _, value in bias]
        self._see(seen.tolist())
        if drawn is not None:
            ids, numbers = drawn
            self._see(ids.tolist())
            self._table[_COUNT, [self._places[token_id] for token_id in ids.tolist()]] = numbers

    def __len__(self) -> int:
        return len(self._places)

    def note(self, token_ids: Sequence[int]) -> None:
        """Count drawn tokens."""
        if self._counting:
            self._see(token_ids)
            np.add.at(self._table[_COUNT], [self._places[token_id] for token_id in token_ids], 1.0)

    def write(self, ids: np.ndarray, counts: np.ndarray, seen: np.ndarray, bias: np.ndarray) -> None:
        """Write the list into the first places of a row of each array, (N,) with N ≥ len(self); the rest stays."""
        size = len(self)
        ids[:size] = self._ids[:size]
        counts[:size], seen[:size], bias[:size] = self._table[:, :size]

    def _see(self, token_ids: Sequence[int]) -> None:
        self._add(token_ids)
        self._table[_SEEN, [self._places[token_id] for token_id in token_ids]] = 1.0

    def _add(self, token_ids: Sequence[int]) -> None:
        """Give a place to every id that has none."""
        first = len(self)
        for token_id in token_ids:
            self._places.setdefault(token_id, len(self._places))
        new = len(self) - first
        if len(self) > self._ids.size:
            # Doubled, so that a text that grows is copied seldom.
            spare = max(new, self._ids.size)
            self._ids = np.concatenate([self._ids, np.zeros(spare, np.int32)])
            self._table = np.concatenate([self._table, np.zeros((3, spare), np.float32)], axis=1)
        if new:
            self._ids[first : first + new] = [*itertools.islice(reversed(self._places), new)][::-1]
