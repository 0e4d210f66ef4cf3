"""Inputs and outputs of prefill calls: signatures `prefill`, `score`, `embed` and `inspect`.

Pure. Knows arrays and sequences. Does not know when or how a call is made.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from service.scheduling.padding import Arrays, OutputShapes, column
from service.scheduling.sequence import Event, PrefillResult, Scores, Sequence


@dataclass(frozen=True)
class Prefill:
    """Prefill with the state, and with whatever else the signature returns.

    Attributes:
        scores: Whether it returns logprobs of the token after each: `score` and `inspect`.
        sums: Whether it returns the sum and the last of the top layer's outputs: `embed`.
    """

    scores: bool = False
    sums: bool = False

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """Build the inputs except the state."""
        extra = int(self.scores)  # the token after the last that is prefilled
        token_ids = np.zeros((batch_size, size + extra), np.int32)
        lengths = [_slice_length(sequence, size) for sequence in sequences]
        for slot, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            ids = sequence.prompt_ids[sequence.num_prefilled : sequence.num_prefilled + length + extra]
            token_ids[slot, : len(ids)] = ids
        # Padding has the full length, too: a call is faster if no slot ends early.
        inputs = {"token_ids": token_ids, "lengths": column(lengths, batch_size, np.int32, size)}
        if self.sums:
            inputs["sum"] = np.zeros((batch_size, _hidden_sum(sequences[0]).size), np.float32)
            for slot, sequence in enumerate(sequences):
                inputs["sum"][slot] = _hidden_sum(sequence)
        return inputs

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:
        """Return the shape of each requested output except the state, by name."""
        shapes: OutputShapes = {name: (batch_size, size, units) for name, units in sequences[0].requested_activations}
        if self.scores:
            top = (batch_size, size, sequences[0].num_top_outputs)
            shapes |= {"logprobs": (batch_size, size), "top_token_ids": top, "top_logprobs": top}
        if self.sums:
            shapes |= dict.fromkeys(("sum", "last"), (batch_size, _hidden_sum(sequences[0]).size))
        return shapes

    def apply(self, sequence: Sequence, slot: int, outputs: Arrays, size: int) -> Event | None:
        """Update a sequence from its slot of the outputs."""
        length = _slice_length(sequence, size)
        sequence.record_prefill(length, outputs["state"][slot])
        if self.sums:
            sequence.hidden_sum = outputs["sum"][slot]
        if not (self.scores or self.sums or sequence.returns_state):
            return None

        def of_slot(name: str) -> np.ndarray:
            # A copy: a view would keep all arrays of the call alive as long as the event.
            return outputs[name][slot, :length].copy()

        return PrefillResult(
            sequence.index,
            sequence.num_remaining_prompt_tokens,
            Scores(*map(of_slot, ("logprobs", "top_token_ids", "top_logprobs"))) if self.scores else None,
            sequence.hidden_sum,
            outputs["last"][slot] if self.sums else None,
            sequence.state_snapshot,
            {name: of_slot(name) for name, _ in sequence.requested_activations},
        )


def _slice_length(sequence: Sequence, size: int) -> int:
    """Return how many of a sequence's prompt tokens a call of T = `size` prefills."""
    return min(sequence.num_remaining_prompt_tokens, size)


def _hidden_sum(sequence: Sequence) -> np.ndarray:
    assert sequence.hidden_sum is not None, "a sequence that embeds begins with a sum of zeros"
    return sequence.hidden_sum
