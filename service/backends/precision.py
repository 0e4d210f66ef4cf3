"""Serving precision: in which of its precisions a version is called.

All backends of a gateway compute a version in the same precision, as it is part of what makes output reproducible.
Knows settings, cards and the time that calls take. Does not know how a backend is reached.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from contract import signatures
from contract.card import GeneratorCard
from contract.signatures import PrecisionName
from service.backends.determinism_probe import Predict, decode_controls
from service.params import ModelVersion

log = logging.getLogger(__name__)

Wanted = Literal["auto", "float32", "bfloat16"]
PredictAs = Callable[[PrecisionName], Predict]

AUTO: Final = "auto"
# The precision of all models, under "".
DEFAULT: Mapping[str, Wanted] = MappingProxyType({"": AUTO})
# By how many nats per token the loss may be higher for `auto` to choose bfloat16.
MAX_DIFFERENCE = 0.002
# How many times as fast it must be. A margin: close to 1, noise would decide at each start, and output depends on the
# precision.
MIN_SPEEDUP = 1.25
# The call that is timed: that of a busy server.
_BATCH_SIZE, _STEPS, _ROUNDS = 32, 64, 5


class PrecisionPolicy:
    """Chooses the precision of each version once; thread-safe."""

    def __init__(self, wanted: Mapping[str, Wanted] = DEFAULT) -> None:
        """Prepare.

        Args:
            wanted: "auto", "float32" or "bfloat16" by model, and under "" for all others.
        """
        self._wanted, self._lock = wanted, threading.Lock()
        self._chosen: dict[tuple[ModelVersion, str], PrecisionName] = {}

    def choose(self, ref: ModelVersion, card: GeneratorCard, predict: PredictAs) -> PrecisionName:
        """Return the precision of a version's calls; `auto` measures it at the backend that is probed first.

        Args:
            ref: The version.
            card: Its card.
            predict: Returns a function that calls its signatures in a precision.

        Raises:
            GatewayError: as `predict` raises it.
        """
        key = ref, card.weights_sha256
        if key not in self._chosen:
            choice = self._decide(ref, card, predict)
            with self._lock:
                # Of several backends that are probed at once, the first decides.
                self._chosen.setdefault(key, choice)
        return self._chosen[key]

    def _decide(self, ref: ModelVersion, card: GeneratorCard, predict: PredictAs) -> PrecisionName:
        what, wanted = f"model {ref.name} version {ref.version}", self._wanted.get(ref.name, self._wanted[""])
        if card.precision_check is None:
            if wanted == signatures.BFLOAT16:
                log.warning("%s: float32, as it was exported without signatures in bfloat16", what)
            return signatures.FLOAT32
        if wanted != AUTO:
            return wanted
        difference = card.precision_check.difference
        if difference > MAX_DIFFERENCE:
            log.info("%s: float32, as bfloat16 costs %.4f nats per token", what, difference)
            return signatures.FLOAT32
        speedup = _speedup(card, predict)
        choice: PrecisionName = signatures.BFLOAT16 if speedup >= MIN_SPEEDUP else signatures.FLOAT32
        log.info("%s: %s, as bfloat16 decodes %.2f times as fast", what, choice, speedup)
        return choice


def _speedup(card: GeneratorCard, predict: PredictAs) -> float:
    """Return how many times as fast bfloat16 decodes."""
    batch_size = min(card.batch_sizes, key=lambda size: abs(size - _BATCH_SIZE))
    best: dict[PrecisionName, float] = {signatures.FLOAT32: np.inf, signatures.BFLOAT16: np.inf}
    # In turn, and the best of each: other work on the server slows down both.
    for _ in range(_ROUNDS):
        for precision, seconds in best.items():
            best[precision] = min(seconds, _seconds(card, batch_size, predict(precision)))
    return best[signatures.FLOAT32] / best[signatures.BFLOAT16]


def _seconds(card: GeneratorCard, batch_size: int, predict: Predict) -> float:
    """Return the seconds of one decode call."""
    steps, sequences = min(_STEPS, card.max_decode_steps), np.arange(batch_size)
    state = np.zeros((batch_size, card.state_size), np.float32)
    inputs = {
        "token_id": np.zeros(batch_size, np.int32),
        "state": state,
        "uniforms": np.full((batch_size, steps), 0.5, np.float32),
        **decode_controls(sequences, steps),
    }
    began = time.perf_counter()
    predict(signatures.DECODE, inputs, {"token_ids": (batch_size, steps), "state": state.shape})
    return time.perf_counter() - began
