"""The logit adjustments of a sequence: its bias, and the token counts behind its penalties."""

import itertools
from collections.abc import Sequence

import numpy as np

# Rows of the table of `Adjustments`.
_COUNT, _SEEN, _BIAS = range(3)


class Adjustments:
    """Logit bias of a sequence, and the token counts behind its penalties; their formulas are in the graph.

    A sparse list of the token ids that are in the prompt, were sampled or have a bias, in order of first occurrence.
    """

    def __init__(
        self,
        bias: Sequence[tuple[int, float]],
        seen: np.ndarray,
        *,
        counts: bool,
        sampled: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Start with a prompt.

        Args:
            bias: (token id, value added to its logit); ids are unique.
            seen: int32 (ids,): unique ids of the prompt; empty where no penalty needs them.
            counts: Whether to count sampled tokens.
            sampled: int32 (ids,) and float32 (ids,): ids sampled by earlier requests and their counts; None: none were.
        """
        self._counting = counts
        self._index: dict[int, int] = {}
        self._ids = np.zeros(0, np.int32)
        self._table = np.zeros((3, 0), np.float32)
        self._add([token_id for token_id, _ in bias])
        self._table[_BIAS, : len(bias)] = [value for _, value in bias]
        self._mark_seen(seen.tolist())
        if sampled is not None:
            ids, sample_counts = sampled
            self._mark_seen(ids.tolist())
            self._table[_COUNT, [self._index[token_id] for token_id in ids.tolist()]] = sample_counts

    def __len__(self) -> int:
        return len(self._index)

    def note(self, token_ids: Sequence[int]) -> None:
        """Count sampled tokens."""
        if self._counting:
            self._mark_seen(token_ids)
            np.add.at(self._table[_COUNT], [self._index[token_id] for token_id in token_ids], 1.0)

    def write(self, ids: np.ndarray, counts: np.ndarray, seen: np.ndarray, bias: np.ndarray) -> None:
        """Write the list into the first elements of each array, (N,) with N ≥ len(self); keep the others."""
        size = len(self)
        ids[:size] = self._ids[:size]
        counts[:size], seen[:size], bias[:size] = self._table[:, :size]

    def _mark_seen(self, token_ids: Sequence[int]) -> None:
        self._add(token_ids)
        self._table[_SEEN, [self._index[token_id] for token_id in token_ids]] = 1.0

    def _add(self, token_ids: Sequence[int]) -> None:
        """Append the ids that are not in the list yet."""
        first = len(self)
        for token_id in token_ids:
            self._index.setdefault(token_id, len(self._index))
        new = len(self) - first
        if len(self) > self._ids.size:
            # Capacity doubles, so that a growing sequence is rarely copied.
            growth = max(new, self._ids.size)
            self._ids = np.concatenate([self._ids, np.zeros(growth, np.int32)])
            self._table = np.concatenate([self._table, np.zeros((3, growth), np.float32)], axis=1)
        if new:
            self._ids[first : first + new] = [*itertools.islice(reversed(self._index), new)][::-1]
