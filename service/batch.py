"""Sequences laid side by side as the arrays of one call, and a call's reply parted into sequences again.

Pure: knows arrays and sequences, not when a call is made or how.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np

from contract import signatures
from service.errors import InternalError
from service.sequence import Event, Failure, ModelVersion, Sequence

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Call:
    """One request to the model server; equal only to itself.

    Attributes:
        signature: Which function.
        sequences: Whose rows come first; the rest are filler.
        num_rows: B, filler rows included.
        size: K of `decode` or T of `prefill`.
    """

    model: ModelVersion
    signature: str
    sequences: tuple[Sequence, ...]
    num_rows: int
    size: int

    def inputs(self) -> Arrays:
        """Build the input tensors, each with `num_rows` rows."""
        return self._decode_inputs() if self.signature == signatures.DECODE else self._prefill_inputs()

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Name the output tensors that are wanted, with the shape of each."""
        shapes: dict[str, tuple[int, ...]] = {"state": (self.num_rows, self.sequences[0].state.size)}
        if self.signature == signatures.DECODE:
            shapes["token_ids"] = (self.num_rows, self.size)
        return shapes

    def _states(self) -> np.ndarray:
        states = np.zeros((self.num_rows, self.sequences[0].state.size), np.float32)
        for row, sequence in enumerate(self.sequences):
            states[row] = sequence.state
        return states

    def _column(self, values: Rows[float], dtype: type, filler: float = 0) -> np.ndarray:
        """Put the sequences' values above those of the filler rows: (num_rows,)."""
        column: np.ndarray = np.full(self.num_rows, filler, dtype)
        column[: len(values)] = values
        return column

    def _prefill_inputs(self) -> Arrays:
        token_ids = np.zeros((self.num_rows, self.size), np.int32)
        lengths = [min(sequence.num_unread, self.size) for sequence in self.sequences]
        for row, (sequence, length) in enumerate(zip(self.sequences, lengths, strict=True)):
            token_ids[row, :length] = sequence.prompt_ids[sequence.num_read : sequence.num_read + length]
        # Filler rows count to their end too: a call without rows that end early is a quicker one.
        return {"token_ids": token_ids, "lengths": self._column(lengths, np.int32, self.size), "state": self._states()}

    def _decode_inputs(self) -> Arrays:
        sequences, steps = self.sequences, self.size
        uniforms = np.zeros((self.num_rows, steps), np.float32)
        for row, sequence in enumerate(sequences):
            uniforms[row] = sequence.uniforms.take(sequence.num_drawn, steps)
        samplings = [sequence.sampling for sequence in sequences]
        return {
            "token_id": self._column([sequence.last_id for sequence in sequences], np.int32),
            "state": self._states(),
            "uniforms": uniforms,
            "steps": self._column([min(sequence.num_left, steps) for sequence in sequences], np.int32, steps),
            "temperature": self._column([sampling.temperature for sampling in samplings], np.float32),
            "top_k": self._column([sampling.top_k for sampling in samplings], np.int32),
            "top_p": self._column([sampling.top_p for sampling in samplings], np.float32, 1),
            "min_p": self._column([sampling.min_p for sampling in samplings], np.float32),
        }

    def apply(self, outputs: Arrays) -> list[Event | None]:
        """Bring every sequence up to date with the reply.

        Returns:
            What to tell each sequence's client; None where it has only read.
        """
        states = outputs["state"]
        finite = np.atleast_1d(np.isfinite(states).all(axis=1))
        drawn = outputs["token_ids"].tolist() if self.signature == signatures.DECODE else None
        events: list[Event | None] = []
        for row, sequence in enumerate(self.sequences):
            if not finite[row]:
                events.append(Failure(sequence.choice, InternalError("the model computed NaN or infinity")))
            elif drawn is None:
                sequence.read(min(sequence.num_unread, self.size), states[row])
                events.append(None)
            else:
                events.append(sequence.advance(_until_end(drawn[row], sequence, self.size), states[row]))
        return events


def _until_end(token_ids: list[int], sequence: Sequence, size: int) -> list[int]:
    """Cut a row at the tokens that its sequence wanted and behind its end mark."""
    wanted = token_ids[: min(sequence.num_left, size)]
    if sequence.end_id in wanted:
        return wanted[: wanted.index(sequence.end_id) + 1]
    return wanted
