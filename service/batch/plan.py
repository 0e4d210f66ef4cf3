"""Which lines of IN are to be answered: one pass over it, against what OUT has already.

Of each custom_id 16 bytes are kept while both are compared, and afterwards one byte a line.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.batch.output_record import OutputRecord
from service.batch.requests_file import Line, custom_id_of, read_lines

DIGEST_BYTES = 16
EMPTY, TO_DO, DONE = range(3)


class Done:
    """What OUT has: digests of custom_ids, and numbers of lines that have none of their own."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.lines: list[int] = []

    def add(self, written: OutputRecord) -> None:
        """Take in a line of OUT."""
        if written.custom_id is not None:
            self.digests += _digest(written.custom_id)
        elif written.line is not None:
            self.lines.append(written.line)


@dataclass(frozen=True)
class Pending:
    """The lines that are to be answered, in their order; can be gone through again, and sent to another process.

    Attributes:
        path: IN.
        states: uint8 (lines,). EMPTY, TO_DO or DONE.
        repeated: int64 (repeated lines, 2). Lines whose custom_id an earlier one has, ascending, and that one.
        num_unknown: Lines of OUT whose custom_id is not in IN.
    """

    path: Path
    states: np.ndarray
    repeated: np.ndarray
    num_unknown: int

    @property
    def num_lines(self) -> int:
        """Lines that are not empty."""
        return int(np.count_nonzero(self.states != EMPTY))

    @property
    def num_to_do(self) -> int:
        """Lines that have no answer yet."""
        return int(np.count_nonzero(self.states == TO_DO))

    def __iter__(self) -> Iterator[Line]:
        """Read IN again, as far as it went when it was counted.

        Raises:
            UsageError: it cannot be read.
        """
        for line in read_lines(self.path):
            if line.number > len(self.states):
                return
            if self.states[line.number - 1] == TO_DO:
                yield self._marked(line)

    def _marked(self, line: Line) -> Line:
        place = np.searchsorted(self.repeated[:, 0], line.number)
        if place < len(self.repeated) and self.repeated[place, 0] == line.number:
            return Line(line.number, line.content, int(self.repeated[place, 1]))
        return line


def survey(path: Path, done: Done) -> Pending:
    """Read IN once and hold it against OUT.

    Raises:
        UsageError: IN cannot be read.
    """
    states, digests, named = bytearray(), bytearray(), bytearray()
    for line in read_lines(path):
        custom_id = custom_id_of(line.content) if line.content else None
        states.append(TO_DO if line.content else EMPTY)
        named.append(custom_id is not None)
        if custom_id is not None:
            digests += _digest(custom_id)
    state = np.frombuffer(states, np.uint8).copy()
    numbers = np.flatnonzero(np.frombuffer(named, np.uint8)) + 1
    finished, first, num_unknown = _compare(_keys(done.digests), _keys(digests))
    state[numbers[finished] - 1] = DONE
    is_repeated = first >= 0
    repeated = np.stack([numbers[is_repeated], numbers[first[is_repeated]]], axis=1)
    _mark_lines(state, numbers, repeated[:, 0], np.array(done.lines, np.int64))
    return Pending(path, state, repeated, num_unknown)


def _compare(out: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Compare the custom_ids of OUT and IN.

    Args:
        out: uint64 (answers, 2).
        given: uint64 (lines, 2).

    Returns:
        bool (lines,), whether OUT has it and it is the first of its name; int64 (lines,), the index of the first of its
        name where it is not that itself, else -1; and how many of OUT are not in IN.
    """
    keys = np.concatenate([out, given])
    # Stable, so that within a name those of OUT come first and then those of IN in their order.
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    begins = np.ones(len(keys), bool)
    begins[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    name = np.cumsum(begins) - 1
    is_given = order >= len(out)
    num_names = int(begins.sum())
    in_out = np.zeros(num_names, bool)
    in_out[name[~is_given]] = True
    first_of = np.full(num_names, -1, np.int64)
    # Assigned from the last to the first, which therefore stays.
    first_of[name[is_given][::-1]] = (order[is_given] - len(out))[::-1]
    name_of = np.empty(len(given), np.int64)
    name_of[order[is_given] - len(out)] = name[is_given]
    is_first = first_of[name_of] == np.arange(len(given))
    first = np.where(is_first, -1, first_of[name_of])
    return in_out[name_of] & is_first, first, int(np.count_nonzero(first_of[name[~is_given]] < 0))


def _mark_lines(state: np.ndarray, named: np.ndarray, repeated: np.ndarray, lines: np.ndarray) -> None:
    """Mark as done the lines that OUT knows by their number, unless a custom_id tells them from others by now."""
    lines = lines[(lines >= 1) & (lines <= len(state))]
    lines = lines[~np.isin(lines, named) | np.isin(lines, repeated)]
    state[lines - 1] = np.where(state[lines - 1] == TO_DO, DONE, state[lines - 1])


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode(), digest_size=DIGEST_BYTES).digest()


def _keys(digests: bytearray) -> np.ndarray:
    """Return digests as uint64 (count, 2)."""
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)
