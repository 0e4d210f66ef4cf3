"""Which numbers of rows give a sequence the same bits.

A matrix product rounds differently at different heights, depending on the processor and on TensorFlow's build. So for
each version the gateway computes the same few sequences at every batch size that it may send, and keeps the counts that
agree to the bit. Then a text does not depend on how many others are in the making.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from contract import signatures
from contract.card import GeneratorCard
from service.scheduling.padding import Arrays

log = logging.getLogger(__name__)

Predict = Callable[[str, Arrays, Mapping[str, tuple[int, ...]]], Arrays]

# Different sequences, repeated to fill a call: each must have the same bits at every place.
NUM_SEQUENCES = 8
_LENGTH = 16


@dataclass(frozen=True)
class Probe:
    """What a model server's arithmetic does.

    Attributes:
        batch_sizes: Ascending; a sequence has the same bits at each of them, at any place, in any company.
        sha256: Hash of those bits: two servers with one hash compute alike.
        is_steady: Whether there are such counts; if not, nothing is promised of the one that is used.
        stamp: When the card by which it was made was written; see `service.backends.prober.Assets`.
    """

    batch_sizes: tuple[int, ...]
    sha256: str
    is_steady: bool = True
    stamp: int = 0


def run_probe(card: GeneratorCard, predict: Predict) -> Probe:
    """Compute fixed sequences at every batch size of the card.

    Where counts fall into groups, the largest group is kept, and of equals the one that reaches higher. A count at
    which the place in the call matters is kept only if all are like that: nothing can be promised then, but served it
    is.
    """
    steps = min(_LENGTH, card.max_decode_steps)
    by_bits: dict[bytes | None, list[int]] = {}
    for count in card.batch_sizes:
        by_bits.setdefault(_bits_at(count, steps, card, predict), []).append(count)
    steady = {bits: counts for bits, counts in by_bits.items() if bits is not None}
    if not steady:
        log.warning("model %s: no batch size gives a sequence the same bits at every place", card.name)
        return Probe(card.batch_sizes[-1:], hashlib.sha256(b"unsteady").hexdigest(), is_steady=False)
    bits, counts = max(steady.items(), key=lambda item: (len(item[1]), item[1][-1]))
    return Probe(tuple(counts), hashlib.sha256(bits).hexdigest())


def still_holds(probe: Probe, card: GeneratorCard, predict: Predict) -> bool:
    """Say whether a server computes as a probe found before, by one of its batch sizes."""
    if not probe.is_steady:
        return False
    bits = _bits_at(probe.batch_sizes[0], min(_LENGTH, card.max_decode_steps), card, predict)
    return bits is not None and hashlib.sha256(bits).hexdigest() == probe.sha256


def _bits_at(num_rows: int, steps: int, card: GeneratorCard, predict: Predict) -> bytes | None:
    """Return the bits of the fixed sequences at one batch size; None where they differ from place to place."""
    bits: dict[int, bytes] = {}
    # The second time every sequence stands elsewhere, also where a call holds each of them just once.
    for shift in (0, 3):
        sequences = (np.arange(num_rows) + shift) % NUM_SEQUENCES
        for sequence, found in zip(sequences.tolist(), _compute(sequences, steps, card, predict), strict=True):
            if bits.setdefault(sequence, found) != found:
                return None
    return b"".join(bits[sequence] for sequence in sorted(bits))


def _compute(sequences: np.ndarray, steps: int, card: GeneratorCard, predict: Predict) -> list[bytes]:
    """Run every signature that the gateway calls; return the bits of everything that comes back, row by row."""
    rng = np.random.default_rng(0)
    length, rows = min(_LENGTH, card.max_prefill_length), len(sequences)
    token_ids = rng.integers(0, card.vocab_size, (NUM_SEQUENCES, length + 1)).astype(np.int32)[sequences]
    state = rng.uniform(-0.5, 0.5, (NUM_SEQUENCES, card.state_size)).astype(np.float32)[sequences]
    uniforms = rng.random((NUM_SEQUENCES, steps), dtype=np.float32)[sequences]
    lengths = np.full(rows, length, np.int32)
    reading = {"token_ids": token_ids[:, :-1], "lengths": lengths, "state": state}
    read = predict(signatures.PREFILL, reading, {"state": state.shape})
    width = (rows, card.units)
    sums = {"sum": np.zeros(width, np.float32)}
    embedded = predict(signatures.EMBED, {**reading, **sums}, {"state": state.shape, "sum": width, "last": width})
    top = (rows, length, signatures.NUM_TOP)
    scored = predict(
        signatures.SCORE,
        {**reading, "token_ids": token_ids},
        {"state": state.shape, "logprobs": (rows, length), "top_token_ids": top, "top_logprobs": top},
    )
    drawing = {
        "token_id": token_ids[:, -1],
        "state": read["state"],
        "uniforms": uniforms,
        **_controls(sequences, steps),
    }
    shapes = {"token_ids": uniforms.shape, "logprobs": uniforms.shape, "state": state.shape}
    drawn = predict(signatures.DECODE, drawing, shapes)
    top = (rows, steps, signatures.NUM_TOP)
    shapes |= {"top_token_ids": top, "top_logprobs": top}
    drawn_full = predict(signatures.DECODE_FULL, {**drawing, **_adjustments(token_ids, sequences)}, shapes)
    outputs = [array for call in (read, embedded, scored, drawn, drawn_full) for array in call.values()]
    return [b"".join(array[row].tobytes() for array in outputs) for row in range(rows)]


def _controls(sequences: np.ndarray, steps: int) -> Arrays:
    rows = len(sequences)
    return {
        "steps": np.full(rows, steps, np.int32),
        "temperature": np.full(rows, 0.8, np.float32),
        "top_k": np.where(sequences % 2, 0, 20).astype(np.int32),
        "top_p": np.where(sequences % 3, 1.0, 0.9).astype(np.float32),
        "min_p": np.zeros(rows, np.float32),
    }


def _adjustments(token_ids: np.ndarray, sequences: np.ndarray) -> Arrays:
    """Penalties and a bias for a few ids of each row."""
    rows = len(sequences)
    return {
        "adjusted_ids": np.zeros((rows, 1), np.int32) + token_ids[:, :1],
        "counts": np.ones((rows, 1), np.float32),
        "seen": np.ones((rows, 1), np.float32),
        "bias": np.where(sequences % 2, 0.0, 1.5).astype(np.float32)[:, None],
        "presence_penalty": np.full(rows, 0.3, np.float32),
        "frequency_penalty": np.full(rows, 0.2, np.float32),
        "repetition_penalty": np.where(sequences % 3, 1.0, 1.2).astype(np.float32),
        "min_steps": np.zeros(rows, np.int32),
    }
