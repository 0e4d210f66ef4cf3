"""The plan of a run: the lines of IN without an output record, found in one pass over IN.

Memory: 16 bytes per custom_id while IN and OUT are compared, then one byte per line.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sostenuto._batch.formats import OutputRecord
from sostenuto._batch.requests_file import Line, custom_id_of, read_lines

DIGEST_BYTES = 16
EMPTY, PENDING, COMPLETED = range(3)


class CompletedLines:
    """The lines that OUT has: digests of custom_ids, numbers of lines without a custom_id of their own, and errors."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.lines: list[int] = []
        self.errors = Counter[str]()  # number of lines by the code of their error

    def add(self, record: OutputRecord) -> None:
        if record.code is not None:
            self.errors[record.code] += 1
        if record.custom_id is not None:
            self.digests += _digest(record.custom_id)
        elif record.line is not None:
            self.lines.append(record.line)


@dataclass(frozen=True)
class PendingLines:
    """The lines to send, in order; iterable more than once, and picklable."""

    path: Path  # IN
    states: np.ndarray  # uint8 (lines,): EMPTY, PENDING or COMPLETED
    # int64 (repeated lines, 2): numbers of lines with a duplicate custom_id, ascending, and of the first line with it.
    repeated: np.ndarray
    num_unknown: int  # lines of OUT whose custom_id is not in IN

    @property
    def num_lines(self) -> int:
        """Number of lines that are not empty."""
        return int(np.count_nonzero(self.states != EMPTY))

    @property
    def num_pending(self) -> int:
        """Number of lines without an output record."""
        return int(np.count_nonzero(self.states == PENDING))

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines to send, reading IN again up to its length in the first pass."""
        for line in read_lines(self.path):
            if line.number > len(self.states):
                return
            if self.states[line.number - 1] == PENDING:
                yield self._with_first_line(line)

    def _with_first_line(self, line: Line) -> Line:
        index = np.searchsorted(self.repeated[:, 0], line.number)
        if index < len(self.repeated) and self.repeated[index, 0] == line.number:
            return Line(line.number, line.content, int(self.repeated[index, 1]))
        return line


def find_pending(path: Path, completed: CompletedLines) -> PendingLines:
    """Read IN once and compare it with OUT."""
    states, digests, has_id = bytearray(), bytearray(), bytearray()
    for line in read_lines(path):
        custom_id = custom_id_of(line.content) if line.content else None
        states.append(PENDING if line.content else EMPTY)
        has_id.append(custom_id is not None)
        if custom_id is not None:
            digests += _digest(custom_id)
    state = np.frombuffer(states, np.uint8).copy()
    numbers = np.flatnonzero(np.frombuffer(has_id, np.uint8)) + 1
    in_out, first, num_unknown = _compare(_keys(completed.digests), _keys(digests))
    is_first = first == np.arange(len(first))
    state[numbers[in_out & is_first] - 1] = COMPLETED
    repeated = np.stack([numbers, numbers[first]], axis=1)[~is_first]
    _mark_lines(state, numbers, repeated[:, 0], np.array(completed.lines, np.int64))
    return PendingLines(path, state, repeated, num_unknown)


def _compare(out: np.ndarray, requested: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Compare the custom_ids of OUT and IN: uint64 (records, 2) and (lines, 2).

    Returns bool (lines,), whether OUT has the custom_id; int64 (lines,), the index of the first line with the same one;
    and the number of records of OUT that are not in IN.
    """
    ids = _ids(np.concatenate([out, requested]))
    out_ids, in_ids = ids[: len(out)], ids[len(out) :]
    in_out, num_unknown = np.isin(in_ids, out_ids), int(np.count_nonzero(~np.isin(out_ids, in_ids)))
    _, first_of, index = np.unique(in_ids, return_index=True, return_inverse=True)
    return in_out, first_of[index], num_unknown


def _ids(keys: np.ndarray) -> np.ndarray:
    """Number the distinct rows of uint64 (count, 2), as int64 (count,): equal ones get the same number."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_new = np.ones(len(keys), bool)
    is_new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    ids = np.empty(len(keys), np.int64)
    ids[order] = np.cumsum(is_new) - 1
    return ids


def _mark_lines(state: np.ndarray, has_id: np.ndarray, repeated: np.ndarray, lines: np.ndarray) -> None:
    """Mark the lines that OUT identifies by number as completed, unless they have a unique custom_id by now."""
    lines = lines[(lines >= 1) & (lines <= len(state))]
    lines = lines[~np.isin(lines, has_id) | np.isin(lines, repeated)]
    state[lines - 1] = np.where(state[lines - 1] == PENDING, COMPLETED, state[lines - 1])


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode(), digest_size=DIGEST_BYTES).digest()


def _keys(digests: bytearray) -> np.ndarray:
    """Return digests as uint64 (count, 2)."""
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)
