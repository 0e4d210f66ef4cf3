"""Stand-ins for the model server that compute in numpy, at once or when told."""

import threading
from collections.abc import Callable

import numpy as np

from contract import signatures
from service.batch import Arrays, Call
from service.errors import BackendUnavailable, GatewayError

VOCABULARY = 50
END = 2
STATE_SIZE = 4


def fake_step(token_id: int, state: np.ndarray) -> np.ndarray:
    """Return the state after a token: a sum that depends on every token and on their order."""
    return np.float32((state * 31 + token_id + np.arange(STATE_SIZE)) % 997)


def fake_prefill(inputs: Arrays) -> Arrays:
    """Compute what a real `prefill` would, with `fake_step` as the model."""
    states = inputs["state"].copy()
    for row, length in enumerate(inputs["lengths"]):
        for token_id in inputs["token_ids"][row, :length]:
            states[row] = fake_step(int(token_id), states[row])
    return {"state": states}


def fake_decode(inputs: Arrays) -> Arrays:
    """Compute what a real `decode` would: a token from the state and the uniform, the end mark included."""
    states = inputs["state"].copy()
    rows, steps = inputs["uniforms"].shape
    drawn = np.zeros((rows, steps), np.int32)
    for row in range(rows):
        last = int(inputs["token_id"][row])
        for step in range(int(inputs["steps"][row])):
            states[row] = fake_step(last, states[row])
            last = int(states[row].sum() + inputs["uniforms"][row, step] * 1000) % VOCABULARY
            drawn[row, step] = last
            if last == END:
                break
    return {"token_ids": drawn, "state": states}


class FakeBackend:
    """A backend for the scheduler.

    Attributes:
        calls: Every call made, in order.
        failures: Errors to answer the next calls with, before any is computed.
    """

    def __init__(self, *, held: bool = False) -> None:
        """Prepare.

        Args:
            held: Whether calls wait for `release`.
        """
        self.calls: list[Call] = []
        self.failures: list[GatewayError] = []
        self._gate = threading.Semaphore(0) if held else None

    def release(self, count: int = 1) -> None:
        """Let `count` held calls be answered."""
        assert self._gate is not None
        self._gate.release(count)

    def call(self, call: Call, done: Callable[[Arrays | GatewayError], None]) -> None:
        """Answer on a thread of its own, as gRPC does."""
        self.calls.append(call)
        inputs = call.inputs()
        failure = self.failures.pop(0) if self.failures else None
        threading.Thread(target=self._answer, args=(call, inputs, failure, done), daemon=True).start()

    def _answer(
        self, call: Call, inputs: Arrays, failure: GatewayError | None, done: Callable[[Arrays | GatewayError], None]
    ) -> None:
        if self._gate is not None and not self._gate.acquire(timeout=10):
            done(BackendUnavailable("never released"))
            return
        compute = fake_decode if call.signature == signatures.DECODE else fake_prefill
        done(failure or compute(inputs))
