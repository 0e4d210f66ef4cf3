"""Fakes of the model server and of observers; they compute in numpy, at once or when released."""

import queue
import threading
from collections import abc
from collections.abc import Callable
from functools import partial

import numpy as np

from contract import signatures
from service.errors import BackendUnavailable, GatewayError
from service.scheduling.call import Arrays, Call
from service.scheduling.sampling_inputs import SamplingParams
from service.scheduling.sequence import ModelVersion, Sequence

VOCABULARY = 50
END = 2
STATE_SIZE = 4
NUM_TOP = 5


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


def fake_score(inputs: Arrays) -> Arrays:
    """Compute what a real `score` would: a token's logprob depends on it and on the state before it."""
    states = inputs["state"].copy()
    rows, width = inputs["token_ids"].shape
    logprobs = np.zeros((rows, width - 1), np.float32)
    for row, length in enumerate(inputs["lengths"]):
        for step in range(length):
            states[row] = fake_step(int(inputs["token_ids"][row, step]), states[row])
            logprobs[row, step] = fake_logprob(int(inputs["token_ids"][row, step + 1]), states[row])
    return {"logprobs": logprobs, "state": states, **_fake_top((rows, width - 1), inputs.get("num_top"))}


def fake_embed(inputs: Arrays) -> Arrays:
    """Compute what a real `embed` would, with the state itself as the top layer's output."""
    states, sums, last = inputs["state"].copy(), inputs["sum"].copy(), np.zeros_like(inputs["sum"])
    for row, length in enumerate(inputs["lengths"]):
        for token_id in inputs["token_ids"][row, :length]:
            states[row] = fake_step(int(token_id), states[row])
            sums[row] += states[row]
            last[row] = states[row]
    return {"state": states, "sum": sums, "last": last}


def fake_next_logprobs(inputs: Arrays) -> Arrays:
    """Compute what a real `next_logprobs` would: distributions that depend on the state, and steps best-first."""
    states, batch = list(fake_prefill(inputs)["state"]), len(inputs["state"])
    logprobs, rows = [fake_distribution(state) for state in states], inputs["row"].tolist()
    appended, totals = [(-1, 0)] * batch, inputs["logprob"].tolist()
    for _ in range(inputs["num_ahead"].max()):
        scores = np.array(totals)[:, None] + np.array(logprobs)
        entries = inputs["transitions"][rows]
        next_rows = entries & (signatures.MAX_ROWS - 1)
        scores[(entries >= signatures.FORBIDDEN) | (next_rows == signatures.FINAL_ROW)] = -np.inf
        scores[:, END] = -np.inf
        for parent, token_id in appended:
            if parent >= 0:
                scores[parent, token_id] = -np.inf
        for place in np.argsort(-scores, axis=None, kind="stable")[:batch].tolist():
            parent, token_id = divmod(place, VOCABULARY)
            is_any = np.isfinite(scores[parent, token_id])
            appended.append((parent if is_any else -1, token_id))
            totals.append(scores[parent, token_id])
            rows.append(int(next_rows[parent, token_id]))
            states.append(fake_step(token_id, states[parent]))
            logprobs.append(fake_distribution(states[-1]))
    parents, token_ids = np.int32(appended).T
    flat = {"token_ids": token_ids, "parents": parents, "logprobs": np.array(logprobs)}
    by_slot = {name: array.reshape(-1, batch, *array.shape[1:]).swapaxes(0, 1) for name, array in flat.items()}
    return by_slot | {"state": np.array(states[:batch])}


def fake_distribution(state: np.ndarray) -> np.ndarray:
    """Return log probabilities float32 (VOCABULARY,) of all tokens, some of them equal."""
    scores = -((state.sum() * 7 + np.arange(VOCABULARY) * 13) % 101) / 10
    return np.float32(scores - np.log(np.exp(scores).sum()))


def fake_inspect(inputs: Arrays) -> Arrays:
    """Compute what a real `inspect` would: the outputs of `score`, and the state after each token as hidden state."""
    states = inputs["state"].copy()
    rows, width = inputs["token_ids"].shape
    hidden = np.zeros((rows, width - 1, STATE_SIZE), np.float32)
    for row, length in enumerate(inputs["lengths"]):
        for step in range(length):
            states[row] = hidden[row, step] = fake_step(int(inputs["token_ids"][row, step]), states[row])
    return {**fake_score(inputs), "hidden_1": hidden}


def fake_logprob(token_id: int, state: np.ndarray) -> np.float32:
    """Return a log probability that differs from token to token and from state to state."""
    return np.float32(-((state.sum() * 7 + token_id) % 101) / 10)


def states_after(token_ids: abc.Iterable[int], state: np.ndarray | None = None) -> np.ndarray:
    """Return float32 (1 + tokens, S): the state before the first token, by default zero, and after each token."""
    states = [np.zeros(STATE_SIZE, np.float32) if state is None else state]
    for token_id in token_ids:
        states.append(fake_step(int(token_id), states[-1]))
    return np.array(states)


def scores_of(token_ids: abc.Sequence[int]) -> list[float]:
    """Return the logprob of every token but the first."""
    states = states_after(token_ids[:-1])[1:]
    return [float(fake_logprob(int(i), state)) for i, state in zip(token_ids[1:], states, strict=True)]


def _fake_top(shape: tuple[int, ...], num_top: np.ndarray | None = None) -> Arrays:
    ids = np.tile(np.arange(NUM_TOP, dtype=np.int32), (*shape, 1))
    if num_top is not None:
        ids[..., num_top.max() :] = 0
    return {"top_token_ids": ids, "top_logprobs": np.float32(-ids / 10.0)}


def fake_decode(inputs: Arrays, end_ids: abc.Sequence[int | None] = ()) -> Arrays:
    """Compute what a real `decode` or `decode_full` would: tokens from state and uniforms, the EOS token included.

    Of the adjustments only two are computed: the counts shift the token by the frequency penalty, and a constraint
    leaves only the tokens that it allows. `end_ids` are the EOS tokens of the first rows, that of others is `END`.
    """
    states = inputs["state"].copy()
    rows, steps = inputs["uniforms"].shape
    drawn, logprobs = np.zeros((rows, steps), np.int32), np.zeros((rows, steps), np.float32)
    for row in range(rows):
        last = int(inputs["token_id"][row])
        at = int(inputs["row"][row]) if "row" in inputs else signatures.UNCONSTRAINED_ROW
        shift = int((inputs["counts"] * inputs["frequency_penalty"][:, None])[row].sum()) if "counts" in inputs else 0
        for step in range(int(inputs["steps"][row])):
            states[row] = fake_step(last, states[row])
            last = int(states[row].sum() + inputs["uniforms"][row, step] * 1000 + shift) % VOCABULARY
            shift += int(inputs["frequency_penalty"][row]) if "counts" in inputs else 0
            last, at, is_complete = _fake_constraint(inputs, row, step, at, last)
            drawn[row, step], logprobs[row, step] = last, fake_logprob(last, states[row])
            if last == (end_ids[row] if row < len(end_ids) else END) or is_complete:
                break
    return {"token_ids": drawn, "logprobs": logprobs, "state": states, **_fake_top((rows, steps))}


def _fake_constraint(inputs: Arrays, row: int, step: int, at: int, token_id: int) -> tuple[int, int, bool]:
    """Return a token that the constraint of a sequence allows, in place of one, the row after it, and if it ends."""
    if at == signatures.UNCONSTRAINED_ROW:
        return token_id, at, False
    entries, budget = inputs["transitions"][at], int(inputs["budget"][row])
    is_limited = budget < signatures.FORBIDDEN_DISTANCE
    allowed = np.flatnonzero(entries < (budget - step if is_limited else budget) << signatures.ROW_BITS)
    token_id = int(allowed[token_id % len(allowed)])
    at = int(entries[token_id]) & (signatures.MAX_ROWS - 1)
    return token_id, at, inputs["continuations"][at] > (budget - step - 1 if is_limited else budget)


COMPUTE = {
    signatures.PREFILL: fake_prefill,
    signatures.SCORE: fake_score,
    signatures.EMBED: fake_embed,
    signatures.INSPECT: fake_inspect,
    signatures.NEXT_LOGPROBS: fake_next_logprobs,
    signatures.DECODE: fake_decode,
    signatures.DECODE_FULL: fake_decode,
}


def make_sequence(**fields) -> Sequence:
    """Return a sequence of a model that no backend serves; fields override the defaults."""
    defaults = {
        "version": ModelVersion("demo", 3),
        "prompt_ids": np.array([1], np.int32),
        "seen_ids": np.zeros(0, np.int32),
        "max_tokens": 4,
        "sampling": SamplingParams(),
        "seed": 1,
        "random_stream": 0,
        "end_id": None,
        "deliver": queue.SimpleQueue().put,
        "state": np.zeros(2, np.float32),
    }
    return Sequence(**{**defaults, **fields})


class FakeObserver:
    """An observer that records the events of the scheduler."""

    def __init__(self) -> None:
        self.events: list[tuple] = []

    def sequence_started(self, sequence, waited_s) -> None:
        self.events.append(("started", sequence, waited_s))

    def call_completed(self, call, seconds) -> None:
        self.events.append(("answered", call, seconds))

    def call_failed(self, call, error, again) -> None:
        self.events.append(("failed", call, error, again))


class FakeListener:
    """A listener that records the events of requests."""

    def __init__(self) -> None:
        self.first, self.gaps, self.finished_requests, self.cancelled_sequences = [], [], [], []
        self.compilations = []

    def first_token(self, model, seconds) -> None:
        self.first.append((model, seconds))

    def token_gap(self, model, seconds, count) -> None:
        self.gaps.append((model, seconds, count))

    def finished(self, model, **counts) -> None:
        self.finished_requests.append((model, counts))

    def compiled(self, seconds, *, is_refused) -> None:
        self.compilations.append((seconds, is_refused))

    def cancelled(self, sequences) -> None:
        self.cancelled_sequences += sequences


class FakeBackend:
    """A backend for the scheduler.

    Attributes:
        calls: Every call made, in order.
        failures: Errors that the next calls end with; the calls after them are computed.
    """

    def __init__(self, *, held: bool = False) -> None:
        """Create the backend.

        Args:
            held: Whether calls wait for `release`.
        """
        self.calls: list[Call] = []
        self.failures: list[GatewayError] = []
        self._gate = threading.Semaphore(0) if held else None
        self._lock, self._in_flight = threading.Lock(), 0

    def release(self, count: int = 1) -> None:
        assert self._gate is not None
        self._gate.release(count)

    def capacity(self, version: ModelVersion, max_calls: int) -> tuple[int, int]:  # noqa: ARG002 - one server for all
        with self._lock:
            return max_calls, max(0, max_calls - self._in_flight)

    def call(self, call: Call, done: Callable[[Arrays | GatewayError, str | None], None]) -> None:
        """Compute on a thread of its own, as gRPC does."""
        self.calls.append(call)
        with self._lock:
            self._in_flight += 1
        inputs = call.inputs()
        failure = self.failures.pop(0) if self.failures else None
        threading.Thread(target=self._answer, args=(call, inputs, failure, done), daemon=True).start()

    def _answer(
        self,
        call: Call,
        inputs: Arrays,
        failure: GatewayError | None,
        done: Callable[[Arrays | GatewayError, str | None], None],
    ) -> None:
        if self._gate is not None and not self._gate.acquire(timeout=10):
            self._finish(done, BackendUnavailable("never released"))
            return
        compute = (
            partial(fake_decode, end_ids=[each.end_id for each in call.sequences])
            if call.is_decode
            else COMPUTE[call.signature]
        )
        self._finish(done, failure or compute(inputs))

    def _finish(
        self, done: Callable[[Arrays | GatewayError, str | None], None], outcome: Arrays | GatewayError
    ) -> None:
        with self._lock:
            self._in_flight -= 1
        done(outcome, None)
