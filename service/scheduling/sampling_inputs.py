"""Sampling of a sequence: parameters, random numbers, adjustments of logits, and constraints.

A constraint is an automaton over token ids, which `service.structured_outputs` compiles; a decode call has a transition
table for all of its sequences.
"""

import hashlib
import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from contract import signatures

# Rows of the table of `Adjustments`.
_COUNT, _SEEN, _BIAS = range(3)
# Rows before those of the automaton itself: the unconstrained and the final one.
FIRST_ROW = 2
ROW_MASK = signatures.MAX_ROWS - 1
# Maximum entries of a call's transition table, 16 MiB, if several automata share it.
MAX_SHARED_ENTRIES = 2**22
# A table with fewer entries, 1 MiB, is sent whole: selecting the reachable rows would take longer.
_SELECTED_FROM = 2**18


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters; see `export.graphs.sampling.Controls` and `signatures` there for the meaning of each."""

    temperature: float = 1.0
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    presence_penalty: float = 0.0  # 0 is off
    frequency_penalty: float = 0.0  # 0 is off
    repetition_penalty: float = 1.0  # 1 is off
    bias: tuple[tuple[int, float], ...] = ()  # (token id, value added to its logit); ids are unique
    min_tokens: int = 0  # the EOS token is not sampled among the first `min_tokens` tokens

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always chosen, so that all choices of a prompt are equal."""
        return self.temperature < signatures.GREEDY_BELOW_TEMPERATURE or self.top_k == 1 or self.top_p == 0

    @property
    def counts_tokens(self) -> bool:
        """Whether a penalty is on: prompt and sampled tokens adjust the logits."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1

    @cached_property
    def adjusts(self) -> bool:
        return self.counts_tokens or any(value for _, value in self.bias) or self.min_tokens > 0


class _Generator(threading.local):
    """A thread's generator: a new one costs 15 µs, as numpy asks the system for a seed; setting a state takes 1 µs."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=np.zeros(2, np.uint64))
        # The state before any number was generated.
        self.state = self.philox.state


_generator = _Generator()


def uniforms(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """Generate the uniforms of consecutive positions, float32 (count,) in [0, 1).

    A pure function of seed, stream and position: a token's uniform does not depend on the decode call that sampled it,
    on the other sequences of the batch or on the process.

    Philox 4×64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key (seed, stream); the
    counter's block of four gives positions 4·counter to 4·counter + 3; each is the top 24 bits of its word.
    `Generator.random(float32)` after `advance` does not work: it consumes half a word per number.

    The seed is taken modulo 2⁶⁴. The stream is below 2⁶⁴: for a sequence that resumes nothing, the index of its choice
    within the prompt, from 0. A call costs some 6 µs however few numbers it generates (measured).
    """
    block, skip = divmod(first, 4)
    philox, state = _generator.philox, _generator.state
    state["state"] = {
        "counter": np.array([block, 0, 0, 0], np.uint64),
        "key": np.array([seed % 2**64, stream], np.uint64),
    }
    philox.state = state
    words = philox.random_raw(skip + count)[skip:]
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


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
        sampled: Mapping[int, int] | None = None,
    ) -> None:
        """Start with a prompt.

        Args:
            bias: (token id, value added to its logit); ids are unique.
            seen: int32 (ids,): unique ids of the prompt; empty where no penalty needs them.
            counts: Whether to count sampled tokens.
            sampled: Ids sampled by earlier requests and their counts; None: none were.
        """
        self._counting = counts
        self._index: dict[int, int] = {}
        self._ids = np.zeros(0, np.int32)
        self._table = np.zeros((3, 0), np.float32)
        # Most sequences have neither, and NumPy takes microseconds to do nothing.
        if bias:
            self._add([token_id for token_id, _ in bias])
            self._table[_BIAS, : len(bias)] = [value for _, value in bias]
        if seen.size:
            self._mark_seen(seen.tolist())
        if sampled:
            self._mark_seen([*sampled])
            self._table[_COUNT, [self._index[token_id] for token_id in sampled]] = [*sampled.values()]

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


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over token ids; every row can reach a complete match. Compared by identity."""

    # int32 (M, V): the transition table of `decode_full`, with the two fixed rows; it starts at `FIRST_ROW`.
    table: np.ndarray
    # int32 (M,): minimum number of tokens, at least one, from each row to a complete match; the EOS token does not
    # count.
    continuations: np.ndarray
    successors: np.ndarray  # int32 (edges,): the rows that follow each row, without `FINAL_ROW`, concatenated
    first_successor: np.ndarray  # int32 (M + 1,): where those of each row begin

    @property
    def num_states(self) -> int:
        """Its states, without the fixed rows."""
        return len(self.table) - FIRST_ROW

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in (self.table, self.continuations, self.successors, self.first_successor))

    @cached_property
    def digest(self) -> str:
        """A hash of the table: equal for equal automata, in any process."""
        return hashlib.blake2b(np.ascontiguousarray(self.table, "<i4").data, digest_size=8).hexdigest()

    def step(self, row: int, token_id: int) -> int:
        """Return the row after a token, which must be allowed."""
        entry: int = self._entries[row, token_id]
        return entry & ROW_MASK

    def must_end(self, row: int, num_left: int) -> bool:
        """Return whether no further token fits: the match cannot be extended within `num_left` more tokens."""
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
    """How far the tokens of a sequence match a pattern."""

    automaton: Automaton
    row: int = FIRST_ROW  # the automaton's row after them; `FINAL_ROW` where no longer match exists
    # Tokens that may still follow, the last of which complete the match; None: it may be truncated.
    num_left: int | None = None
    has_ended: bool = False  # whether the match is complete and cannot be extended within the tokens left

    @property
    def is_extensible(self) -> bool:
        """Whether a longer match exists."""
        return self.row != signatures.FINAL_ROW

    @property
    def num_missing(self) -> int:
        """Minimum number of tokens, at least one, to a complete match."""
        return int(self.automaton.continuations[self.row])

    def copy(self) -> "Match":
        return replace(self)

    def advance(self, token_ids: Iterable[int]) -> int:
        """Move past sampled tokens and return how many belong to the match: all, if it does not end before.

        As in the graph (`export.graphs.adjustments.Constraints`), it ends where no token is allowed.
        """
        count, limit = 0, signatures.FORBIDDEN_DISTANCE
        for token_id in token_ids:
            count += 1
            self.row = self.automaton.step(self.row, token_id)
            if self.num_left is not None:
                self.num_left = limit = self.num_left - 1
            if self.automaton.must_end(self.row, limit):
                self.has_ended = True
                break
        return count


def unconstrained_inputs(batch_size: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Return the constraint inputs of a decode call in which any token is allowed.

    The table has a row for each slot, though one would do: TensorFlow Serving's batching requires it.
    """
    return {
        "transitions": np.broadcast_to(np.int32(0), (batch_size, vocab_size)),
        "continuations": np.zeros(batch_size, np.int32),
        "row": np.full(batch_size, signatures.UNCONSTRAINED_ROW, np.int32),
        "budget": np.full(batch_size, signatures.FORBIDDEN_DISTANCE, np.int32),
    }


def constraint_inputs(
    matches: Sequence[Match | None], batch_size: int, steps: int, vocab_size: int
) -> dict[str, np.ndarray]:
    """Return the constraint inputs of a decode call, from the match of each sequence."""
    inputs = unconstrained_inputs(batch_size, vocab_size)
    rows_by_slot: dict[Automaton, dict[int, int]] = {}
    for slot, match in enumerate(matches):
        if match is not None:
            rows_by_slot.setdefault(match.automaton, {})[slot] = match.row
            if match.num_left is not None:
                inputs["budget"][slot] = min(match.num_left, signatures.FORBIDDEN_DISTANCE - 1)
    if not rows_by_slot:
        return inputs
    tables, continuations, num_rows = [], [], 0
    for automaton, at in rows_by_slot.items():
        kept, new_rows = _select(automaton, at.values(), steps)
        # The fixed rows are in the first table only, and all rows after them move by those of the tables before.
        shift = max(0, num_rows - FIRST_ROW)
        inputs["row"][list(at)] = new_rows[list(at.values())] + shift
        own_rows = kept[FIRST_ROW if num_rows else 0 :]
        tables.append(_renumbered(automaton.table[own_rows], new_rows, shift))
        continuations.append(automaton.continuations[own_rows])
        num_rows += len(own_rows)
    if num_rows == batch_size:
        # TensorFlow Serving's batching would take the rows for slots and merge calls, not reject them.
        tables.append(tables[0][:1])
        continuations.append(continuations[0][:1])
    inputs["transitions"] = np.concatenate(tables) if len(tables) > 1 else tables[0]
    inputs["continuations"] = np.concatenate(continuations)
    return inputs


def fit_into_table(matches: Iterable[Match | None]) -> list[bool]:
    """Return for each match whether its automaton fits into the table of one call; the first always fits."""
    shared: set[Automaton] = set()
    fitting = []
    for match in matches:
        fits = match is None or match.automaton in shared or _fits(match.automaton, shared)
        if match is not None and fits:
            shared.add(match.automaton)
        fitting.append(fits)
    return fitting


def _fits(automaton: Automaton, shared: set[Automaton]) -> bool:
    if not shared:
        return True
    num_rows = FIRST_ROW + sum(other.num_states for other in shared) + automaton.num_states
    num_entries = sum(other.table.size for other in shared) + automaton.table.size
    return num_rows < signatures.MAX_ROWS and num_entries <= MAX_SHARED_ENTRIES


def _select(automaton: Automaton, rows: Iterable[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of an automaton that a call needs, ascending, and the number in the call of each of its rows."""
    num_rows = len(automaton.table)
    if automaton.table.size < _SELECTED_FROM:
        return np.arange(num_rows), np.arange(num_rows, dtype=np.int32)
    kept = automaton.reachable(rows, steps)
    # Tokens of the last step lead to rows that the call does not read: any row will do.
    new_rows = np.zeros(num_rows, np.int32)
    new_rows[kept] = np.arange(len(kept), dtype=np.int32)
    return kept, new_rows


def _renumbered(table: np.ndarray, new_rows: np.ndarray, shift: int) -> np.ndarray:
    """Return a table with the rows of a call, those of the automaton itself shifted."""
    if not shift and len(new_rows) == len(table):
        return table
    rows = new_rows[table & ROW_MASK]
    renumbered: np.ndarray = table & ~ROW_MASK | np.where(rows >= FIRST_ROW, rows + shift, rows)
    return renumbered
