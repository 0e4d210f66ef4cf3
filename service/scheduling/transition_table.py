"""The transition table of a decode call: one for the automata of all its sequences.

Pure. Knows automata and sequences. Does not know when or how a call is made.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Many

import numpy as np

from contract import signatures
from service.scheduling.automaton import FIRST_ROW, ROW_MASK, Automaton
from service.scheduling.padding import Arrays, column
from service.scheduling.sequence import Sequence

# Maximum entries of a call's transition table, 16 MiB, if several automata share it.
MAX_SHARED_ENTRIES = 2**22
# A table with fewer entries, 1 MiB, is sent whole: to select the reachable rows would take longer.
_SELECTED_FROM = 2**18


def unconstrained(batch_size: int, vocab_size: int) -> Arrays:
    """Return the constraint inputs of a call in which any token is allowed.

    The table has a row for each slot, though one would do: TensorFlow Serving's batching requires it.
    """
    return {
        "transitions": np.broadcast_to(np.int32(0), (batch_size, vocab_size)),
        "continuations": np.zeros(batch_size, np.int32),
        "row": np.full(batch_size, signatures.UNCONSTRAINED_ROW, np.int32),
        "budget": np.full(batch_size, signatures.FORBIDDEN_DISTANCE, np.int32),
    }


def constraint_inputs(sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
    """Build the constraint inputs of a decode call of `size` steps."""
    inputs = unconstrained(batch_size, sequences[0].vocab_size)
    rows_by_slot: dict[Automaton, dict[int, int]] = {}
    for slot, sequence in enumerate(sequences):
        if sequence.match is not None:
            rows_by_slot.setdefault(sequence.match.automaton, {})[slot] = sequence.match.row
    if not rows_by_slot:
        return inputs
    rows, tables, continuations, num_rows = inputs["row"], [], [], 0
    for automaton, at in rows_by_slot.items():
        kept, new_rows = _select(automaton, at.values(), size)
        # The fixed rows are in the first table only, and all rows after them move by those of the tables before.
        shift = max(0, num_rows - FIRST_ROW)
        rows[list(at)] = new_rows[list(at.values())] + shift
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
    budgets = [
        sequence.num_left if sequence.match is not None and sequence.match.is_always_completed else None
        for sequence in sequences
    ]
    none = signatures.FORBIDDEN_DISTANCE
    inputs["budget"] = column(
        [none if budget is None else min(budget, none - 1) for budget in budgets], batch_size, np.int32, none
    )
    return inputs


def share_table(sequences: Many[Sequence]) -> list[Sequence]:
    """Return those of the sequences whose automata fit into the table of one call, the first one always."""
    shared: dict[Automaton, int] = {}
    fitting = []
    for sequence in sequences:
        if sequence.match is None:
            fitting.append(sequence)
            continue
        automaton = sequence.match.automaton
        if shared and automaton not in shared:
            num_rows = FIRST_ROW + sum(other.num_states for other in shared) + automaton.num_states
            if num_rows >= signatures.MAX_ROWS or sum(shared.values()) + automaton.table.size > MAX_SHARED_ENTRIES:
                continue
        shared[automaton] = automaton.table.size
        fitting.append(sequence)
    return fitting


def _select(automaton: Automaton, rows: Iterable[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of an automaton that a call needs, ascending, and the number in the call of each of its rows."""
    num_rows = len(automaton.table)
    if automaton.table.size < _SELECTED_FROM:
        return np.arange(num_rows), np.arange(num_rows, dtype=np.int32)
    kept = automaton.reachable(rows, steps)
    # Tokens of the last step lead to rows that no step of the call reads: any row will do.
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
