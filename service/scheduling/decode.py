"""Inputs and outputs of decode calls: signatures `decode` and `decode_full`.

Pure. Knows arrays and sequences. Does not know when or how a call is made.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from service.scheduling.padding import Arrays, OutputShapes, column
from service.scheduling.sequence import Event, Scores, Sequence
from service.scheduling.transition_table import constraint_inputs


@dataclass(frozen=True)
class Decode:
    """Multi-step decoding with temperature, top-k, top-p and min-p.

    Attributes:
        full: Whether penalties, logit bias, constraints and top logprobs are available as well: `decode_full`.
    """

    full: bool = False

    def inputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
        """Build the inputs except the state."""
        uniforms = np.zeros((batch_size, size), np.float32)
        for slot, sequence in enumerate(sequences):
            uniforms[slot] = sequence.uniforms(size)
        samplings = [sequence.sampling for sequence in sequences]
        inputs = {
            "token_id": column([sequence.last_token_id for sequence in sequences], batch_size, np.int32),
            "uniforms": uniforms,
            # Padding runs all steps, too: a call is faster if no slot ends early.
            "steps": column([min(sequence.num_left, size) for sequence in sequences], batch_size, np.int32, size),
            "temperature": column([sampling.temperature for sampling in samplings], batch_size, np.float32),
            "top_k": column([sampling.top_k for sampling in samplings], batch_size, np.int32),
            "top_p": column([sampling.top_p for sampling in samplings], batch_size, np.float32, 1),
            "min_p": column([sampling.min_p for sampling in samplings], batch_size, np.float32),
        }
        return inputs | _adjustments(sequences, batch_size, size) if self.full else inputs

    def outputs(self, sequences: Many[Sequence], batch_size: int, size: int) -> OutputShapes:
        """Return the shape of each requested output except the state, by name."""
        shapes: OutputShapes = {"token_ids": (batch_size, size)}
        if any(sequence.num_top is not None for sequence in sequences):
            shapes["logprobs"] = (batch_size, size)
        if self.full and any(sequence.num_top for sequence in sequences):
            top = (batch_size, size, sequences[0].num_top_outputs)
            shapes |= {"top_token_ids": top, "top_logprobs": top}
        return shapes

    def apply(self, sequence: Sequence, slot: int, outputs: Arrays, size: int) -> Event | None:
        """Update a sequence from its slot of the outputs."""
        sampled = _truncate(outputs["token_ids"][slot].tolist(), sequence, size)
        scores = None if sequence.num_top is None else _scores(sequence, slot, outputs, len(sampled))
        return sequence.advance(sampled, outputs["state"][slot], scores)


def _adjustments(sequences: Many[Sequence], batch_size: int, size: int) -> Arrays:
    """Build the inputs that only `decode_full` has."""
    samplings = [sequence.sampling for sequence in sequences]
    width = max(len(sequence.adjustments) for sequence in sequences)
    adjusted_ids = np.zeros((batch_size, width), np.int32)
    counts, seen, bias = (np.zeros((batch_size, width), np.float32) for _ in range(3))
    for slot, sequence in enumerate(sequences):
        sequence.adjustments.write(adjusted_ids[slot], counts[slot], seen[slot], bias[slot])
    min_steps = [max(0, min(sequence.sampling.min_tokens - sequence.num_generated, size)) for sequence in sequences]
    return {
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
        "num_top": column([sequence.num_top or 0 for sequence in sequences], batch_size, np.int32),
        **constraint_inputs(sequences, batch_size, size),
    }


def _scores(sequence: Sequence, slot: int, outputs: Arrays, count: int) -> Scores:
    names = ("logprobs", "top_token_ids", "top_logprobs") if sequence.num_top else ("logprobs",)
    # Copies: a view would keep all arrays of the call alive as long as the scores.
    return Scores(*(outputs[name][slot, :count].copy() for name in names))


def _truncate(token_ids: list[int], sequence: Sequence, size: int) -> list[int]:
    """Truncate sampled tokens at `max_tokens`, after the EOS token and at the end of a match, which is moved there."""
    token_ids = token_ids[: min(sequence.num_left, size)]
    if sequence.end_id in token_ids:
        token_ids = token_ids[: token_ids.index(sequence.end_id) + 1]
    if sequence.match is not None:
        return token_ids[: sequence.match.advance(token_ids, sequence.num_left)]
    return token_ids
