"""Determinism probe: finds the batch sizes that are bit-exact with each other.

A matrix product rounds differently at different batch sizes, depending on the CPU and on TensorFlow's build. So for
each version the gateway computes the same few sequences at every batch size of its card, and keeps the batch sizes that
are bit-exact. Then the output of a sequence does not depend on how many others run.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from contract import signatures
from contract.card import GeneratorCard
from service.reloading_file import Stamp
from service.scheduling.call import Arrays, OutputShapes
from service.scheduling.sampling_inputs import unconstrained_inputs

log = logging.getLogger(__name__)

Predict = Callable[[str, Arrays, OutputShapes], Arrays]

# Distinct sequences, repeated to fill the batch: each must be bit-exact in every slot.
NUM_SEQUENCES = 8
_LENGTH = 16


@dataclass(frozen=True)
class Probe:
    """The result of a determinism probe: a fingerprint of a model server's arithmetic.

    A sequence is bit-exact at each of the batch sizes, in any slot, with any other sequences. `sha256` is the probe
    hash, of all outputs: two servers with the same hash are bit-exact with each other.
    """

    batch_sizes: tuple[int, ...]  # ascending
    sha256: str
    is_deterministic: bool = True  # otherwise the only batch size is not reproducible
    stamp: Stamp = None  # of the card at the time; see `service.backends.health_checks.Assets`
    is_stale: bool = False  # must be repeated before the server gets calls of the version


def run_probe(card: GeneratorCard, num_tokens: int, predict: Predict) -> Probe:
    """Compute fixed sequences, of tokens below `num_tokens`, at every batch size of the card.

    If the batch sizes fall into several bit-exact groups, the largest group is kept, in a tie the one with the larger
    maximum. A batch size at which slots differ is excluded. If all are, the largest is used, and output is not
    reproducible.
    """
    steps = min(_LENGTH, card.max_decode_steps)
    groups: dict[bytes | None, list[int]] = {}
    for batch_size in card.batch_sizes:
        groups.setdefault(_outputs_at(batch_size, steps, card, num_tokens, predict), []).append(batch_size)
    steady = {outputs: batch_sizes for outputs, batch_sizes in groups.items() if outputs is not None}
    if not steady:
        log.warning("model %s: no batch size is bit-exact in every slot", card.name)
        return Probe(card.batch_sizes[-1:], hashlib.sha256(b"unsteady").hexdigest(), is_deterministic=False)
    outputs, batch_sizes = max(steady.items(), key=lambda item: (len(item[1]), item[1][-1]))
    return Probe(tuple(batch_sizes), hashlib.sha256(outputs).hexdigest())


def still_holds(probe: Probe, card: GeneratorCard, num_tokens: int, predict: Predict) -> bool:
    """Check at the smallest batch size whether a server still has an earlier probe's hash."""
    if not probe.is_deterministic:
        return False
    outputs = _outputs_at(probe.batch_sizes[0], min(_LENGTH, card.max_decode_steps), card, num_tokens, predict)
    return outputs is not None and hashlib.sha256(outputs).hexdigest() == probe.sha256


def _outputs_at(batch_size: int, steps: int, card: GeneratorCard, num_tokens: int, predict: Predict) -> bytes | None:
    """Return the outputs of the fixed sequences at one batch size; None if they differ between slots."""
    outputs: dict[int, bytes] = {}
    # With the second shift every sequence is in another slot, even if the batch holds each only once.
    for first in (shift + start for shift in (0, 3) for start in range(0, NUM_SEQUENCES, batch_size)):
        sequences = (np.arange(batch_size) + first) % NUM_SEQUENCES
        computed = _compute(sequences, steps, card, num_tokens, predict)
        for sequence, output in zip(sequences.tolist(), computed, strict=True):
            if outputs.setdefault(sequence, output) != output:
                return None
    return b"".join(outputs[sequence] for sequence in sorted(outputs))


def _compute(sequences: np.ndarray, steps: int, card: GeneratorCard, num_tokens: int, predict: Predict) -> list[bytes]:
    """Run every signature but `inspect`; return the bytes of all outputs of each slot."""
    rng = np.random.default_rng(0)
    length, batch_size = min(_LENGTH, card.max_prefill_length), len(sequences)
    # The output layer may be wider than the vocabulary, and the embedding narrower than the output layer.
    token_ids = rng.integers(0, num_tokens, (NUM_SEQUENCES, length + 1)).astype(np.int32)[sequences]
    state = rng.uniform(-0.5, 0.5, (NUM_SEQUENCES, card.state_size)).astype(np.float32)[sequences]
    uniforms = rng.random((NUM_SEQUENCES, steps), dtype=np.float32)[sequences]
    lengths = np.full(batch_size, length, np.int32)
    prefill_inputs = {"token_ids": token_ids[:, :-1], "lengths": lengths, "state": state}
    prefilled = predict(signatures.PREFILL, prefill_inputs, {"state": state.shape})
    width = (batch_size, card.units)
    sums = {"sum": np.zeros(width, np.float32)}
    embedded = predict(signatures.EMBED, prefill_inputs | sums, {"state": state.shape, "sum": width, "last": width})
    # Without steps ahead, whose expansions depend on all slots.
    inputs = {
        **prefill_inputs,
        **dict.fromkeys(("num_ahead", "row"), np.zeros(batch_size, np.int32)),
        "logprob": np.zeros(batch_size, np.float32),
        # A row for each slot: a server that batches rejects inputs of another first dimension.
        "transitions": np.zeros((batch_size, card.vocab_size), np.int32),
    }
    shapes = {"state": state.shape, "logprobs": (batch_size, 1, card.vocab_size)}
    last = predict(signatures.NEXT_LOGPROBS, inputs, shapes)
    top = (batch_size, length, card.num_top)
    scored = predict(
        signatures.SCORE,
        {**prefill_inputs, "token_ids": token_ids, "num_top": np.full(batch_size, card.num_top, np.int32)},
        {"state": state.shape, "logprobs": (batch_size, length), "top_token_ids": top, "top_logprobs": top},
    )
    decode_inputs = {
        "token_id": token_ids[:, -1],
        "state": prefilled["state"],
        "uniforms": uniforms,
        # Sampling parameters that vary by sequence.
        "steps": np.full(batch_size, steps, np.int32),
        "temperature": np.full(batch_size, 0.8, np.float32),
        "top_k": np.where(sequences % 2, 0, 20).astype(np.int32),
        "top_p": np.where(sequences % 3, 1.0, 0.9).astype(np.float32),
        "min_p": np.zeros(batch_size, np.float32),
    }
    shapes = {"token_ids": uniforms.shape, "logprobs": uniforms.shape, "state": state.shape}
    decoded = predict(signatures.DECODE, decode_inputs, shapes)
    top = (batch_size, steps, card.num_top)
    shapes |= {"top_token_ids": top, "top_logprobs": top}
    decoded_full = predict(
        signatures.DECODE_FULL, {**decode_inputs, **_adjustments(token_ids, sequences, card)}, shapes
    )
    calls = (prefilled, embedded, scored, decoded, decoded_full, last)
    outputs = [array for call in calls for array in call.values()]
    return [b"".join(array[slot].tobytes() for array in outputs) for slot in range(batch_size)]


def _adjustments(token_ids: np.ndarray, sequences: np.ndarray, card: GeneratorCard) -> Arrays:
    """Return penalties, and a count and a bias for one token id per slot, without constraints, which only mask."""
    batch_size = len(sequences)
    return {
        "adjusted_ids": np.zeros((batch_size, 1), np.int32) + token_ids[:, :1],
        "counts": np.ones((batch_size, 1), np.float32),
        "seen": np.ones((batch_size, 1), np.float32),
        "bias": np.where(sequences % 2, 0.0, 1.5).astype(np.float32)[:, None],
        "presence_penalty": np.full(batch_size, 0.3, np.float32),
        "frequency_penalty": np.full(batch_size, 0.2, np.float32),
        "repetition_penalty": np.where(sequences % 3, 1.0, 1.2).astype(np.float32),
        "min_steps": np.zeros(batch_size, np.int32),
        "num_top": np.full(batch_size, card.num_top, np.int32),
        **unconstrained_inputs(batch_size, card.vocab_size),
    }
