"""Sequences laid side by side as the arrays of one call, and a call's reply parted into sequences again.

Pure: knows arrays and sequences, not when a call is made or how.
"""

from dataclasses import dataclass

import numpy as np

from contract import signatures
from service.errors import InternalError
from service.scheduling.decode import Decode, DecodeFull
from service.scheduling.padding import Arrays, OutputShapes, finite_sequences
from service.scheduling.prefill import Embed, Inspect, Prefill, Score
from service.scheduling.sequence import Event, Failure, ModelVersion, Sequence

NOT_FINITE = "the model computed NaN or infinity"
_KINDS: dict[str, Prefill | Decode] = {
    signatures.PREFILL: Prefill(),
    signatures.SCORE: Score(),
    signatures.EMBED: Embed(),
    signatures.INSPECT: Inspect(),
    signatures.DECODE: Decode(),
    signatures.DECODE_FULL: DecodeFull(),
}


@dataclass(frozen=True, eq=False)
class Call:
    """One request to the model server; equal only to itself.

    Attributes:
        signature: Which function.
        sequences: Whose rows come first; the rest are filler.
        batch_size: B, filler rows included.
        size: K of calls that draw or T of calls that read.
    """

    model: ModelVersion
    signature: str
    sequences: tuple[Sequence, ...]
    batch_size: int
    size: int

    @property
    def is_decode(self) -> bool:
        """Whether it draws tokens; else it reads them."""
        return isinstance(_KINDS[self.signature], Decode)

    @property
    def vocab_size(self) -> int:
        """The model's token ids are below this."""
        return self.sequences[0].vocab_size

    def inputs(self) -> Arrays:
        """Build the input tensors, each with `batch_size` rows."""
        states = np.zeros((self.batch_size, self.sequences[0].state.size), np.float32)
        for row, sequence in enumerate(self.sequences):
            states[row] = sequence.state
        return {"state": states, **_KINDS[self.signature].inputs(self.sequences, self.batch_size, self.size)}

    def outputs(self) -> OutputShapes:
        """Name the output tensors that are wanted, with the shape of each."""
        state = (self.batch_size, self.sequences[0].state.size)
        return {"state": state, **_KINDS[self.signature].outputs(self.sequences, self.batch_size, self.size)}

    def apply(self, outputs: Arrays) -> list[Event | None]:
        """Bring every sequence up to date with the reply.

        Returns:
            What to tell each sequence's client; None where there is nothing to tell.
        """
        kind = _KINDS[self.signature]
        finite = finite_sequences(outputs)
        events: list[Event | None] = []
        for row, sequence in enumerate(self.sequences):
            if finite[row]:
                events.append(kind.apply(sequence, row, outputs, self.size))
            else:
                events.append(Failure(sequence.index, InternalError(NOT_FINITE)))
        return events
