"""Packs sequences into the batched inputs of one model call, and applies its outputs to them.

Pure. Knows arrays and sequences. Does not know when or how a call is made.
"""

from dataclasses import dataclass

import numpy as np

from contract import signatures
from service.errors import InternalError
from service.params import ModelVersion
from service.scheduling.decode import Decode
from service.scheduling.padding import Arrays, OutputShapes, finite_sequences
from service.scheduling.prefill import Prefill
from service.scheduling.sequence import Event, Failure, Sequence

NOT_FINITE = "the model computed NaN or infinity"
_KINDS: dict[str, Prefill | Decode] = {
    signatures.PREFILL: Prefill(),
    signatures.SCORE: Prefill(scores=True),
    signatures.EMBED: Prefill(sums=True),
    signatures.INSPECT: Prefill(scores=True),
    signatures.DECODE: Decode(),
    signatures.DECODE_FULL: Decode(full=True),
}


@dataclass(frozen=True, eq=False)
class Call:
    """One batched request to the model server; compared by identity.

    Attributes:
        sequences: In the first slots of the batch; the others are padding.
        batch_size: B, padding included.
        size: K, the decode steps of a decode call; T, the tokens per slot of a prefill call.
    """

    model: ModelVersion
    signature: str
    sequences: tuple[Sequence, ...]
    batch_size: int
    size: int
    precision: signatures.PrecisionName = signatures.FLOAT32

    @property
    def signature_name(self) -> str:
        """Name of the signature in the model's files, with the precision."""
        return signatures.in_precision(self.signature, self.precision)

    @property
    def is_decode(self) -> bool:
        """Whether this is a decode call; otherwise it is a prefill call."""
        return isinstance(_KINDS[self.signature], Decode)

    @property
    def vocab_size(self) -> int:
        """Exclusive upper limit of the model's token ids."""
        return self.sequences[0].vocab_size

    def inputs(self) -> Arrays:
        """Build the input tensors, padded to `batch_size`."""
        states = np.zeros((self.batch_size, self.sequences[0].state.size), np.float32)
        for slot, sequence in enumerate(self.sequences):
            states[slot] = sequence.state
        return {"state": states, **_KINDS[self.signature].inputs(self.sequences, self.batch_size, self.size)}

    def outputs(self) -> OutputShapes:
        """Return the shape of each requested output tensor, by name."""
        state = (self.batch_size, self.sequences[0].state.size)
        return {"state": state, **_KINDS[self.signature].outputs(self.sequences, self.batch_size, self.size)}

    def apply(self, outputs: Arrays) -> list[Event | None]:
        """Update every sequence from the outputs, and return the event to emit for each, or None."""
        kind = _KINDS[self.signature]
        finite = finite_sequences(outputs)
        events: list[Event | None] = []
        for slot, sequence in enumerate(self.sequences):
            if finite[slot]:
                events.append(kind.apply(sequence, slot, outputs, self.size))
            else:
                events.append(Failure(sequence.index, InternalError(NOT_FINITE)))
        return events
