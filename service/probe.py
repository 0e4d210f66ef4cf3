"""Which numbers of rows give a sequence the same bits.

A matrix product rounds differently at different heights, depending on the processor and on TensorFlow's build. So for
each version the gateway computes the same few sequences at every row count that it may send, and keeps the counts that
agree to the bit. Then a text does not depend on how many others are in the making.
"""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from contract import signatures
from contract.card import GeneratorCard

Arrays = dict[str, np.ndarray]
Predict = Callable[[str, Arrays, tuple[str, ...]], Arrays]

# Different sequences, repeated to fill a call: each must have the same bits at every place.
NUM_SEQUENCES = 8
_LENGTH = 16


@dataclass(frozen=True)
class Probe:
    """What a model server's arithmetic does.

    Attributes:
        row_counts: Ascending; a sequence has the same bits at each of them, at any place, in any company.
        sha256: Hash of those bits: two servers with one hash compute alike.
    """

    row_counts: tuple[int, ...]
    sha256: str


def run_probe(card: GeneratorCard, predict: Predict) -> Probe:
    """Compute fixed sequences at every row count of the card.

    Where counts fall into groups, the largest group is kept, and of equals the one that reaches higher. A single count
    always agrees with itself, so every model can be served.
    """
    steps = min(_LENGTH, card.max_decode_steps)
    by_bits: dict[bytes, list[int]] = {}
    for count in card.row_counts:
        bits = _bits_at(count, steps, card, predict)
        by_bits.setdefault(bits or f"unequal at {count} rows".encode(), []).append(count)
    bits, counts = max(by_bits.items(), key=lambda item: (len(item[1]), item[1]))
    return Probe(tuple(counts), hashlib.sha256(bits).hexdigest())


def _bits_at(num_rows: int, steps: int, card: GeneratorCard, predict: Predict) -> bytes | None:
    """Return the bits of the fixed sequences at one row count; None where they differ from place to place."""
    rng = np.random.default_rng(0)
    shape = (NUM_SEQUENCES, _LENGTH)
    rows = np.arange(num_rows) % NUM_SEQUENCES
    token_ids = rng.integers(0, card.vocab_size, shape).astype(np.int32)[rows]
    uniforms = rng.random((NUM_SEQUENCES, steps), dtype=np.float32)[rows]
    state = rng.uniform(-0.5, 0.5, (NUM_SEQUENCES, card.state_size)).astype(np.float32)[rows]
    lengths = np.full(num_rows, _LENGTH, np.int32)
    read = predict(signatures.PREFILL, {"token_ids": token_ids, "lengths": lengths, "state": state}, ("state",))[
        "state"
    ]
    drawn = predict(
        signatures.DECODE,
        {
            "token_id": token_ids[:, -1],
            "state": read,
            "uniforms": uniforms,
            "steps": np.full(num_rows, steps, np.int32),
            "temperature": np.full(num_rows, 0.8, np.float32),
            "top_k": np.where(rows % 2, 0, 20).astype(np.int32),
            "top_p": np.where(rows % 3, 1.0, 0.9).astype(np.float32),
            "min_p": np.zeros(num_rows, np.float32),
        },
        ("token_ids", "logprobs", "state"),
    )
    places = [
        read[row].tobytes() + b"".join(drawn[name][row].tobytes() for name in ("token_ids", "logprobs", "state"))
        for row in range(num_rows)
    ]
    firsts = places[:NUM_SEQUENCES]
    alike = all(place == first for place, first in zip(places, itertools.cycle(firsts), strict=False))
    return b"".join(firsts) if alike else None
