"""Model calls: pack sequences into batched inputs, and apply the outputs to them."""

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from contract import signatures
from service.errors import GatewayError, InternalError
from service.scheduling.sampling_inputs import constraint_inputs
from service.scheduling.sequence import ModelVersion, Result, Scores, Sequence

NOT_FINITE = "the model computed NaN or infinity"
Arrays = dict[str, np.ndarray]
# Called once with the outputs of a call, or its error, and the probe hash of the server that computed it, or None.
OnCompleted = Callable[[Arrays | GatewayError, str | None], None]
# Requested outputs: shape by name.
OutputShapes = dict[str, tuple[int, ...]]
# Signatures that return logprobs of the token after each.
_SCORING = (signatures.SCORE, signatures.INSPECT)
_SCORES = ("logprobs", "top_token_ids", "top_logprobs")


@dataclass(frozen=True, eq=False)
class Call:
    """One batched request to the model server; compared by identity."""

    version: ModelVersion
    signature: str
    sequences: tuple[Sequence, ...]  # in the first slots of the batch; the others are padding
    batch_size: int  # B, padding included
    size: int  # K, the decode steps of a decode call; T, the tokens per slot of a prefill call
    precision: signatures.PrecisionName = signatures.FLOAT32

    @property
    def signature_name(self) -> str:
        """Name of the signature in the model's files, with the precision."""
        return signatures.in_precision(self.signature, self.precision)

    @property
    def is_decode(self) -> bool:
        return self.signature in (signatures.DECODE, signatures.DECODE_FULL)

    @property
    def vocab_size(self) -> int:
        """Exclusive upper limit of the model's token ids."""
        return self.sequences[0].vocab_size

    def inputs(self) -> Arrays:
        """Build the input tensors, padded to `batch_size`.

        Called on a backend's thread. The scheduler does not touch a sequence while it is in a call.
        """
        if self.signature == signatures.NEXT_LOGPROBS:
            return self._search_inputs()
        states = np.zeros((self.batch_size, self.sequences[0].state.size), np.float32)
        for slot, sequence in enumerate(self.sequences):
            states[slot] = sequence.state
            if self.is_decode and sequence.interventions is not None:
                sequence.interventions.apply(states[slot])
        return {"state": states, **(self._decode_inputs() if self.is_decode else self._prefill_inputs())}

    def output_shapes(self) -> OutputShapes:
        """Return the shape of each requested output tensor, by name."""
        if self.signature == signatures.NEXT_LOGPROBS:
            return self._search_outputs()
        state = (self.batch_size, self.sequences[0].state.size)
        return {"state": state, **(self._decode_outputs() if self.is_decode else self._prefill_outputs())}

    def apply(self, outputs: Arrays) -> list[Result | None]:
        """Update every sequence from the outputs, and return the result to deliver for each, or None."""
        if self.signature == signatures.NEXT_LOGPROBS:
            return [self._apply_search(outputs)]
        apply_slot = self._apply_decode if self.is_decode else self._apply_prefill
        return [
            apply_slot(sequence, slot, outputs)
            if is_finite
            else Result(sequence.index, error=InternalError(NOT_FINITE))
            for slot, (sequence, is_finite) in enumerate(zip(self.sequences, finite_sequences(outputs), strict=False))
        ]

    def _column(self, values: abc.Sequence[float] | np.ndarray, dtype: type, padding: float = 0) -> np.ndarray:
        """Return an array (batch_size,): the sequences' values, then padding."""
        column: np.ndarray = np.full(self.batch_size, padding, dtype)
        column[: len(values)] = values
        return column

    def _decode_inputs(self) -> Arrays:
        uniforms = np.zeros((self.batch_size, self.size), np.float32)
        for slot, sequence in enumerate(self.sequences):
            uniforms[slot] = sequence.uniforms(self.size)
        inputs = {
            "token_id": self._column([sequence.last_token_id for sequence in self.sequences], np.int32),
            "uniforms": uniforms,
            # Padding runs all steps, too: a call is faster if no slot ends early.
            "steps": self._column([min(each.num_left, self.size) for each in self.sequences], np.int32, self.size),
            **self._sampling_inputs("temperature", "top_k", "top_p", "min_p"),
        }
        return inputs | self._adjustment_inputs() if self.signature == signatures.DECODE_FULL else inputs

    def _sampling_inputs(self, *names: str) -> Arrays:
        """Build the inputs with the names of sampling parameters; padding samples greedily, without filters."""
        inputs = {}
        for name in names:
            values = [getattr(sequence.sampling, name) for sequence in self.sequences]
            dtype = np.int32 if name == "top_k" else np.float32
            inputs[name] = self._column(values, dtype, padding=name in ("top_p", "repetition_penalty"))
        return inputs

    def _adjustment_inputs(self) -> Arrays:
        """Build the inputs that only `decode_full` has."""
        sequences, size = self.sequences, self.size
        shape = (self.batch_size, max(len(sequence.adjustments) for sequence in sequences))
        adjusted_ids = np.zeros(shape, np.int32)
        counts, seen, bias = (np.zeros(shape, np.float32) for _ in range(3))
        for slot, sequence in enumerate(sequences):
            sequence.adjustments.write(adjusted_ids[slot], counts[slot], seen[slot], bias[slot])
        min_steps = [max(0, min(each.sampling.min_tokens - each.num_generated, size)) for each in sequences]
        return {
            "adjusted_ids": adjusted_ids,
            "counts": counts,
            "seen": seen,
            "bias": bias,
            **self._sampling_inputs("presence_penalty", "frequency_penalty", "repetition_penalty"),
            "min_steps": self._column(min_steps, np.int32, size),
            "num_top": self._column([sequence.num_top or 0 for sequence in sequences], np.int32),
            **constraint_inputs([each.match for each in sequences], self.batch_size, size, self.vocab_size),
        }

    def _decode_outputs(self) -> OutputShapes:
        shape = (self.batch_size, self.size)
        shapes: OutputShapes = {"token_ids": shape}
        if any(sequence.num_top is not None for sequence in self.sequences):
            shapes["logprobs"] = shape
        if self.signature == signatures.DECODE_FULL and any(sequence.num_top for sequence in self.sequences):
            top = (*shape, self.sequences[0].num_top_outputs)
            shapes |= {"top_token_ids": top, "top_logprobs": top}
        return shapes

    def _apply_decode(self, sequence: Sequence, slot: int, outputs: Arrays) -> Result | None:
        sampled_ids = sequence.truncate(outputs["token_ids"][slot, : self.size].tolist())
        scores = None
        if sequence.num_top is not None:
            names = _SCORES if sequence.num_top else _SCORES[:1]
            # Copies: a view would keep all arrays of the call alive as long as the scores.
            scores = Scores(*(outputs[name][slot, : len(sampled_ids)].copy() for name in names))
        return sequence.advance(sampled_ids, outputs["state"][slot], scores)

    def _prefill_inputs(self) -> Arrays:
        extra = int(self.signature in _SCORING)  # the token after the last prefilled one
        token_ids = np.zeros((self.batch_size, self.size + extra), np.int32)
        lengths = [self._slice_length(sequence) for sequence in self.sequences]
        for slot, (sequence, length) in enumerate(zip(self.sequences, lengths, strict=True)):
            ids = sequence.prompt_ids[sequence.num_prefilled : sequence.num_prefilled + length + extra]
            token_ids[slot, : len(ids)] = ids
        # Padding has the full length, too: a call is faster if no slot ends early.
        inputs = {"token_ids": token_ids, "lengths": self._column(lengths, np.int32, self.size)}
        if self.signature == signatures.SCORE:
            inputs["num_top"] = self._column([sequence.prompt_num_top for sequence in self.sequences], np.int32)
        if self.signature == signatures.EMBED:
            inputs["sum"] = np.zeros((self.batch_size, self.sequences[0].hidden_sum.size), np.float32)
            for slot, sequence in enumerate(self.sequences):
                inputs["sum"][slot] = sequence.hidden_sum
        return inputs

    def _prefill_outputs(self) -> OutputShapes:
        first, shape = self.sequences[0], (self.batch_size, self.size)
        shapes: OutputShapes = {name: (*shape, units) for name, units in first.requested_activations}
        if self.signature in _SCORING:
            shapes["logprobs"] = shape
        if self.signature == signatures.INSPECT or any(each.prompt_num_top for each in self.sequences):
            shapes |= dict.fromkeys(("top_token_ids", "top_logprobs"), (*shape, first.num_top_outputs))
        if self.signature == signatures.EMBED:
            shapes |= dict.fromkeys(("sum", "last"), (self.batch_size, first.hidden_sum.size))
        return shapes

    def _apply_prefill(self, sequence: Sequence, slot: int, outputs: Arrays) -> Result | None:
        length, is_embedding = self._slice_length(sequence), self.signature == signatures.EMBED
        sequence.record_prefill(length, outputs["state"][slot])
        if is_embedding:
            sequence.hidden_sum = outputs["sum"][slot]
        if not (self.signature in _SCORING or is_embedding or sequence.returns_state):
            return None

        def of_slot(name: str) -> np.ndarray:
            # A copy: a view would keep all arrays of the call alive as long as the result.
            return outputs[name][slot, :length].copy()

        names = _SCORES if sequence.prompt_num_top or self.signature == signatures.INSPECT else _SCORES[:1]
        return Result(
            sequence.index,
            sequence.num_remaining_prompt_tokens,
            scores=Scores(*map(of_slot, names)) if self.signature in _SCORING else None,
            hidden_sum=sequence.hidden_sum,
            hidden_last=outputs["last"][slot] if is_embedding else None,
            state=sequence.state_snapshot,
            activations={name: of_slot(name) for name, _ in sequence.requested_activations},
            is_reproducible=sequence.is_reproducible,
        )

    @property
    def _num_steps_ahead(self) -> int:
        return self.sequences[0].search.num_ahead // self.batch_size

    def _search_inputs(self) -> Arrays:
        """Build the inputs of a step of a search: its only sequence has a slot for each token."""
        (sequence,) = self.sequences
        step = sequence.search
        last_ids = sequence.prompt_ids[sequence.num_prefilled :].tolist()
        states = np.zeros((self.batch_size, sequence.state.shape[-1]), np.float32)
        states[: len(last_ids)] = sequence.state
        lengths = [len(unread) + 1 for unread in step.unread]
        token_ids = np.zeros((self.batch_size, max(lengths)), np.int32)
        for slot, (unread, last_id) in enumerate(zip(step.unread, last_ids, strict=True)):
            token_ids[slot, : lengths[slot]] = *unread, last_id
        constraints = constraint_inputs(step.matches, self.batch_size, self._num_steps_ahead + 1, self.vocab_size)
        # One row is enough; with one per slot, TensorFlow Serving's batching would merge searches.
        is_constrained = len(constraints["transitions"]) != self.batch_size
        return {
            "state": states,
            "token_ids": token_ids,
            "lengths": self._column(lengths, np.int32, max(lengths)),
            "num_ahead": np.full(self.batch_size, self._num_steps_ahead, np.int32),
            "logprob": self._column(step.logprobs, np.float32, -np.inf),
            "row": constraints["row"],
            "transitions": constraints["transitions"][: None if is_constrained else 1],
        }

    def _search_outputs(self) -> OutputShapes:
        (sequence,) = self.sequences
        each = (self.batch_size, self._num_steps_ahead + 1)
        state = (self.batch_size, sequence.state.shape[-1])
        return {"token_ids": each, "parents": each, "logprobs": (*each, self.vocab_size), "state": state}

    def _apply_search(self, outputs: Arrays) -> Result:
        (sequence,) = self.sequences
        count = sequence.num_remaining_prompt_tokens
        # One step after another, in the order that parents refer to; copies, which do not keep the response alive.
        parents, token_ids, logprobs = (
            outputs[name].swapaxes(0, 1).reshape(-1, *outputs[name].shape[2:]).copy()
            for name in ("parents", "token_ids", "logprobs")
        )
        states, is_computed = outputs["state"][:count].copy(), parents >= 0
        is_computed[:count] = True
        if not (np.isfinite(logprobs[is_computed]).all() and np.isfinite(states).all()):
            return Result(sequence.index, error=InternalError(NOT_FINITE))
        sequence.record_prefill(count, states[-1])
        return Result(
            sequence.index,
            next_logprobs=logprobs,
            appended=list(zip(parents.tolist(), token_ids.tolist(), strict=True)),
            state=states,
            is_reproducible=sequence.is_reproducible,
        )

    def _slice_length(self, sequence: Sequence) -> int:
        """Return how many of a sequence's prompt tokens a prefill call reads."""
        return min(sequence.next_prefill[1], self.size)


def finite_sequences(outputs: Arrays) -> np.ndarray:
    """Return bool (batch,): whether all floats of a slot are finite, over all outputs of a call."""
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    finite: np.ndarray = np.logical_and.reduce([np.isfinite(it).reshape(len(it), -1).all(axis=1) for it in floats])
    return finite
