"""Calls that draw tokens: `decode` and `decode_full` as arrays in and out.

Pure: knows arrays and sequences, not when a call is made or how.
"""

from collections.abc import Sequence as Many

import numpy as np

from contract import signatures
from service.scheduling.padding import Arrays, OutputShapes, column
from service.scheduling.sequence import Event, Scores, Sequence


class Decode:
    """Draws from the model's distribution by temperature and filters."""

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """Build the inputs beside the state."""
        uniforms = np.zeros((batch_size, size), np.float32)
        for row, sequence in enumerate(sequences):
            uniforms[row] = sequence.uniforms(size)
        samplings = [sequence.sampling for sequence in sequences]
        return {
            "token_id": column([sequence.last_token_id for sequence in sequences], batch_size, np.int32),
            "uniforms": uniforms,
            # Filler rows go on to the end too: a call without rows that end early is a quicker one.
            "steps": column([min(sequence.num_left, size) for sequence in sequences], batch_size, np.int32, size),
            "temperature": column([sampling.temperature for sampling in samplings], batch_size, np.float32),
            "top_k": column([sampling.top_k for sampling in samplings], batch_size, np.int32),
            "top_p": column([sampling.top_p for sampling in samplings], batch_size, np.float32, 1),
            "min_p": column([sampling.min_p for sampling in samplings], batch_size, np.float32),
        }

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:
        """Name the outputs wanted beside the state, with the shape of each."""
        shapes: OutputShapes = {"token_ids": (batch_size, size)}
        if any(sequence.num_top is not None for sequence in sequences):
            shapes["logprobs"] = (batch_size, size)
        return shapes

    def apply(self, sequence: Sequence, row: int, outputs: Arrays, size: int) -> Event | None:
        """Bring a sequence up to date with its row of the reply."""
        drawn = _until_end(outputs["token_ids"][row].tolist(), sequence, size)
        scores = None if sequence.num_top is None else _scores(sequence, row, outputs, len(drawn))
        return sequence.advance(drawn, outputs["state"][row], scores)


class DecodeFull(Decode):
    """Draws after penalties and bias, and tells the most probable tokens."""

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """See `Decode.inputs`."""
        samplings = [sequence.sampling for sequence in sequences]
        width = max(len(sequence.adjustments) for sequence in sequences)
        adjusted_ids = np.zeros((batch_size, width), np.int32)
        counts, seen, bias = (np.zeros((batch_size, width), np.float32) for _ in range(3))
        for row, sequence in enumerate(sequences):
            sequence.adjustments.write(adjusted_ids[row], counts[row], seen[row], bias[row])
        min_steps = [max(0, min(sequence.sampling.min_tokens - sequence.num_generated, size)) for sequence in sequences]
        return {
            **super().inputs(sequences, batch_size, size),
            "adjusted_ids": adjusted_ids,
            "counts": counts,
            "seen": seen,
            "bias": bias,
            "presence_penalty": column([sampling.presence_penalty for sampling in samplings], batch_size, np.float32),
            "frequency_penalty": column([sampling.frequency_penalty for sampling in samplings], batch_size, np.float32),
            "repetition_penalty": column(
                [sampling.repetition_penalty for sampling in samplings], batch_size, np.float32, 1
            ),
            "min_steps": column(min_steps, batch_size, np.int32, size),
        }

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:
        """See `Decode.outputs`."""
        shapes = super().outputs(sequences, batch_size, size)
        if any(sequence.num_top for sequence in sequences):
            shapes |= {
                "top_token_ids": (batch_size, size, signatures.NUM_TOP),
                "top_logprobs": (batch_size, size, signatures.NUM_TOP),
            }
        return shapes


def _scores(sequence: Sequence, row: int, outputs: Arrays, count: int) -> Scores:
    names = ("logprobs", "top_token_ids", "top_logprobs") if sequence.num_top else ("logprobs",)
    # Copies: a view would keep the whole call's arrays as long as its row is waited for.
    return Scores(*(outputs[name][row, :count].copy() for name in names))


def _until_end(token_ids: list[int], sequence: Sequence, size: int) -> list[int]:
    """Cut a row at the tokens that its sequence wanted and behind its end mark."""
    wanted = token_ids[: min(sequence.num_left, size)]
    if sequence.end_id in wanted:
        return wanted[: wanted.index(sequence.end_id) + 1]
    return wanted
