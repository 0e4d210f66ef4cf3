"""Automata over token ids, and how far the tokens of a sequence match one.

Pure. Knows rows of a transition table and token ids. Does not know text or patterns, which `service.structured_outputs`
compiles.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from contract import signatures

# Rows before those of the automaton itself: the unconstrained and the final one.
FIRST_ROW = 2
ROW_MASK = signatures.MAX_ROWS - 1


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over token ids; every row can reach a complete match. Compared by identity.

    Attributes:
        table: int32 (M, V): the transition table of `decode_full`, with the two fixed rows; it starts at `FIRST_ROW`.
        continuations: int32 (M,): minimum number of tokens, at least one, from each row to a complete match; the EOS
            token does not count.
        successors: int32 (edges,): rows that follow each row, without `FINAL_ROW`, one row after another.
        first_successor: int32 (M + 1,): where those of each row begin.
    """

    table: np.ndarray
    continuations: np.ndarray
    successors: np.ndarray
    first_successor: np.ndarray

    @property
    def num_states(self) -> int:
        """Its states, without the fixed rows."""
        return len(self.table) - FIRST_ROW

    @property
    def num_bytes(self) -> int:
        """Memory of its arrays."""
        return sum(array.nbytes for array in (self.table, self.continuations, self.successors, self.first_successor))

    @cached_property
    def digest(self) -> str:
        """A hash of the table: equal for equal automata, in any process."""
        return hashlib.blake2b(np.ascontiguousarray(self.table, "<i4").data, digest_size=8).hexdigest()

    def step(self, row: int, token_id: int) -> int:
        """Return the row after a token, which must be allowed."""
        entry: int = self._entries[row, token_id]
        return entry & ROW_MASK

    def is_complete(self, row: int, num_left: int) -> bool:
        """Return whether no longer match can be completed within `num_left` more tokens."""
        return self._continuations[row] > num_left

    # Elements of a memoryview take a quarter of the time of an array's, and each sampled token reads both.
    @cached_property
    def _entries(self) -> memoryview:
        return self.table.data

    @cached_property
    def _continuations(self) -> memoryview:
        return self.continuations.data

    def reachable(self, rows: Iterable[int], steps: int) -> np.ndarray:
        """Return the rows, ascending, that some rows reach in fewer than `steps` steps, with the fixed ones."""
        is_reached = np.zeros(len(self.table), bool)
        is_reached[[signatures.UNCONSTRAINED_ROW, signatures.FINAL_ROW]] = True
        frontier = np.unique(np.fromiter(rows, np.int32))
        for _ in range(steps):
            frontier = frontier[~is_reached[frontier]]
            if not frontier.size:
                break
            is_reached[frontier] = True
            starts, ends = self.first_successor[frontier], self.first_successor[frontier + 1]
            following = [self.successors[start:end] for start, end in zip(starts, ends, strict=True)]
            frontier = np.unique(np.concatenate(following))
        return np.flatnonzero(is_reached)


@dataclass(eq=False)
class Match:
    """How far the tokens of a sequence match a pattern.

    Attributes:
        row: The automaton's row after them; `FINAL_ROW` where no longer match exists.
        is_always_completed: Whether the last tokens before `max_tokens` are chosen so that the match is complete.
        has_ended: Whether the match is complete, and no longer one fits into the tokens that are left.
    """

    automaton: Automaton
    row: int = FIRST_ROW
    is_always_completed: bool = True
    has_ended: bool = False

    @property
    def is_extensible(self) -> bool:
        """Whether a longer match exists."""
        return self.row != signatures.FINAL_ROW

    @property
    def num_missing(self) -> int:
        """Minimum number of tokens, at least one, to a complete match."""
        return int(self.automaton.continuations[self.row])

    def copy(self) -> "Match":
        """Return a copy that advances by itself."""
        return replace(self)

    def advance(self, token_ids: Iterable[int], num_left: int) -> int:
        """Move past sampled tokens and return how many belong to the match: all, if it does not end before.

        As in the graph (`export.graphs.adjustments.Constraints`), it ends where no token is allowed.

        Args:
            token_ids: The next tokens.
            num_left: Tokens that the sequence may have from here on.
        """
        number = 0
        for number, token_id in enumerate(token_ids, 1):
            self.row = self.automaton.step(self.row, token_id)
            left = num_left - number if self.is_always_completed else signatures.FORBIDDEN_DISTANCE
            if self.automaton.is_complete(self.row, left):
                self.has_ended = True
                break
        return number
