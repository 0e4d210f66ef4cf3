"""Calls that read prompts: `prefill`, `score`, `embed` and `inspect` as arrays in and out.

Pure: knows arrays and sequences, not when a call is made or how.
"""

from collections.abc import Sequence as Many

import numpy as np

from contract import signatures
from service.scheduling.padding import Arrays, OutputShapes, column
from service.scheduling.sequence import Event, Read, Scores, Sequence


def slice_length(sequence: Sequence, size: int) -> int:
    """Return how many of a sequence's tokens a call of T = `size` reads."""
    return min(sequence.num_remaining_prompt_tokens, size)


class Prefill:
    """Reads, and learns nothing but the state."""

    # Tokens that a row needs beyond those it reads.
    extra = 0

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """Build the inputs beside the state."""
        token_ids = np.zeros((batch_size, size + self.extra), np.int32)
        lengths = [slice_length(sequence, size) for sequence in sequences]
        for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            ids = sequence.prompt_ids[sequence.num_read : sequence.num_read + length + self.extra]
            token_ids[row, : len(ids)] = ids
        # Filler rows count to their end too: a call without rows that end early is a quicker one.
        return {"token_ids": token_ids, "lengths": column(lengths, batch_size, np.int32, size)}

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:  # noqa: ARG002 - no need of them
        """Name the outputs wanted beside the state, with the shape of each."""
        return {}

    def apply(self, sequence: Sequence, row: int, outputs: Arrays, size: int) -> Event | None:
        """Bring a sequence up to date with its row of the reply."""
        sequence.read(slice_length(sequence, size), outputs["state"][row])
        return (
            Read(sequence.index, sequence.num_remaining_prompt_tokens, state=sequence.state_snapshot)
            if sequence.returns_state
            else None
        )


class Score(Prefill):
    """Reads, and says how probable each token was after those before it."""

    extra = 1

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:  # noqa: ARG002 - no need of them
        """See `Prefill.outputs`."""
        top = (batch_size, size, signatures.NUM_TOP)
        return {"logprobs": (batch_size, size), "top_token_ids": top, "top_logprobs": top}

    def apply(self, sequence: Sequence, row: int, outputs: Arrays, size: int) -> Event | None:
        """See `Prefill.apply`."""
        length = slice_length(sequence, size)
        sequence.read(length, outputs["state"][row])
        return Read(
            sequence.index,
            sequence.num_remaining_prompt_tokens,
            _scores(outputs, row, length),
            state=sequence.state_snapshot,
        )


class Inspect(Score):
    """Reads every token, the last too, and says what goes on at each of them, and what it expects next."""

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:
        """See `Prefill.outputs`."""
        told = {name: (batch_size, size, units) for name, units in sequences[0].tells}
        return {**super().outputs(sequences, batch_size, size), **told}

    def apply(self, sequence: Sequence, row: int, outputs: Arrays, size: int) -> Event | None:
        """See `Prefill.apply`."""
        length = slice_length(sequence, size)
        sequence.read(length, outputs["state"][row])
        told = {name: outputs[name][row, :length].copy() for name, _ in sequence.tells}
        scores, state = _scores(outputs, row, length), sequence.state_snapshot
        return Read(sequence.index, sequence.num_remaining_prompt_tokens, scores, state=state, told=told)


class Embed(Prefill):
    """Reads every token, the last too, and adds up what the top layer says."""

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """See `Prefill.inputs`."""
        sums = np.zeros((batch_size, _hidden_sum(sequences[0]).size), np.float32)
        for row, sequence in enumerate(sequences):
            sums[row] = _hidden_sum(sequence)
        return {**super().inputs(sequences, batch_size, size), "sum": sums}

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:  # noqa: ARG002 - for other kinds
        """See `Prefill.outputs`."""
        shape = (batch_size, _hidden_sum(sequences[0]).size)
        return {"sum": shape, "last": shape}

    def apply(self, sequence: Sequence, row: int, outputs: Arrays, size: int) -> Event | None:
        """See `Prefill.apply`."""
        sequence.read(slice_length(sequence, size), outputs["state"][row])
        sequence.hidden_sum = outputs["sum"][row]
        last = outputs["last"][row]
        return Read(
            sequence.index, sequence.num_remaining_prompt_tokens, hidden_sum=sequence.hidden_sum, hidden_last=last
        )


def _scores(outputs: Arrays, row: int, length: int) -> Scores:
    # Copies: a view would keep the whole call's arrays as long as its row is waited for.
    return Scores(*(outputs[name][row, :length].copy() for name in ("logprobs", "top_token_ids", "top_logprobs")))


def _hidden_sum(sequence: Sequence) -> np.ndarray:
    assert sequence.hidden_sum is not None, "a sequence that embeds begins with a sum of zeros"
    return sequence.hidden_sum
