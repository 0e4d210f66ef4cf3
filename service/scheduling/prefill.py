"""Inputs and outputs of prefill calls: signatures `prefill`, `score`, `embed` and `inspect`.

Pure. Knows arrays and sequences. Does not know when or how a call is made.
"""

from collections.abc import Sequence as Many

import numpy as np

from contract import signatures
from service.scheduling.padding import Arrays, OutputShapes, column
from service.scheduling.sequence import Event, PrefillResult, Scores, Sequence


def slice_length(sequence: Sequence, size: int) -> int:
    """Return how many of a sequence's prompt tokens a call of T = `size` prefills."""
    return min(sequence.num_remaining_prompt_tokens, size)


class Prefill:
    """Prefill that returns the state alone."""

    # Input tokens of a slot beyond those that it prefills.
    extra = 0

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """Build the inputs except the state."""
        token_ids = np.zeros((batch_size, size + self.extra), np.int32)
        lengths = [slice_length(sequence, size) for sequence in sequences]
        for slot, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            ids = sequence.prompt_ids[sequence.num_prefilled : sequence.num_prefilled + length + self.extra]
            token_ids[slot, : len(ids)] = ids
        # Padding has the full length, too: a call is faster if no slot ends early.
        return {"token_ids": token_ids, "lengths": column(lengths, batch_size, np.int32, size)}

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:  # noqa: ARG002 - no need of them
        """Return the shape of each requested output except the state, by name."""
        return {}

    def apply(self, sequence: Sequence, slot: int, outputs: Arrays, size: int) -> Event | None:
        """Update a sequence from its slot of the outputs."""
        sequence.record_prefill(slice_length(sequence, size), outputs["state"][slot])
        return (
            PrefillResult(sequence.index, sequence.num_remaining_prompt_tokens, state=sequence.state_snapshot)
            if sequence.returns_state
            else None
        )


class Score(Prefill):
    """Prefill with logprobs of the prompt tokens, each given those before it."""

    extra = 1

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:  # noqa: ARG002 - no need of them
        """See `Prefill.outputs`."""
        top = (batch_size, size, signatures.NUM_TOP)
        return {"logprobs": (batch_size, size), "top_token_ids": top, "top_logprobs": top}

    def apply(self, sequence: Sequence, slot: int, outputs: Arrays, size: int) -> Event | None:
        """See `Prefill.apply`."""
        length = slice_length(sequence, size)
        sequence.record_prefill(length, outputs["state"][slot])
        return PrefillResult(
            sequence.index,
            sequence.num_remaining_prompt_tokens,
            _scores(outputs, slot, length),
            state=sequence.state_snapshot,
        )


class Inspect(Score):
    """Prefill of all tokens, the last included, with traces and the logprobs of the next token at each."""

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:
        """See `Prefill.outputs`."""
        traces = {name: (batch_size, size, units) for name, units in sequences[0].requested_traces}
        return {**super().outputs(sequences, batch_size, size), **traces}

    def apply(self, sequence: Sequence, slot: int, outputs: Arrays, size: int) -> Event | None:
        """See `Prefill.apply`."""
        length = slice_length(sequence, size)
        sequence.record_prefill(length, outputs["state"][slot])
        traces = {name: outputs[name][slot, :length].copy() for name, _ in sequence.requested_traces}
        scores, state = _scores(outputs, slot, length), sequence.state_snapshot
        return PrefillResult(
            sequence.index, sequence.num_remaining_prompt_tokens, scores, state=state, trace_values=traces
        )


class Embed(Prefill):
    """Prefill of all tokens, the last included, with the sum and the last of the top layer's outputs."""

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """See `Prefill.inputs`."""
        sums = np.zeros((batch_size, _hidden_sum(sequences[0]).size), np.float32)
        for slot, sequence in enumerate(sequences):
            sums[slot] = _hidden_sum(sequence)
        return {**super().inputs(sequences, batch_size, size), "sum": sums}

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:  # noqa: ARG002 - for other kinds
        """See `Prefill.outputs`."""
        shape = (batch_size, _hidden_sum(sequences[0]).size)
        return {"sum": shape, "last": shape}

    def apply(self, sequence: Sequence, slot: int, outputs: Arrays, size: int) -> Event | None:
        """See `Prefill.apply`."""
        sequence.record_prefill(slice_length(sequence, size), outputs["state"][slot])
        sequence.hidden_sum = outputs["sum"][slot]
        last = outputs["last"][slot]
        return PrefillResult(
            sequence.index, sequence.num_remaining_prompt_tokens, hidden_sum=sequence.hidden_sum, hidden_last=last
        )


def _scores(outputs: Arrays, slot: int, length: int) -> Scores:
    # Copies: a view would keep all arrays of the call alive as long as the scores.
    return Scores(*(outputs[name][slot, :length].copy() for name in ("logprobs", "top_token_ids", "top_logprobs")))


def _hidden_sum(sequence: Sequence) -> np.ndarray:
    assert sequence.hidden_sum is not None, "a sequence that embeds begins with a sum of zeros"
    return sequence.hidden_sum
