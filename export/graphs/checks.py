"""Numerical verification of an exported SavedModel against its model, required before publishing."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from contract import signatures
from export.errors import CheckFailed
from export.graphs.exportable import Exportable

# Of log probabilities, losses and outputs of layers.
TOLERANCE = 1e-4
# Against the model in bfloat16, whose factors have three digits: for a wrong graph, not for a coarse one. How much
# worse the model becomes is in `export.graphs.precision_check`.
BFLOAT16_TOLERANCE = 0.25
_BATCH_SIZE, _LENGTH = 8, 64
# Tokens to compare one by one: few, as rounding errors grow with each step in a network with large weights. The state
# matters from the second one on.
_COMPARED = 4
_EMBED_LENGTH = 8
_NUM_SAMPLED = 16
_SHARE_PADDING = 0.05
_CHECKED = (signatures.PREFILL, signatures.DECODE_FULL, signatures.SCORE, signatures.EMBED, signatures.INSPECT)


def check_saved_model(path: Path, model: Exportable, num_tokens: int) -> None:
    """Load a SavedModel and compare it with the model that it was exported from.

    The tokens are random. `score` must give the model's log probabilities of the first ones to 1e-4 · max(1, |log p|).
    The mean negative log likelihood of whole sequences must match to 1e-4 for `score` (in one call, and in two halves,
    the first by `prefill`) and for `serving_default`. `embed` must give the outputs of the model's top layer to 1e-4.
    The log probabilities of `decode_full` for the tokens that it samples, and those of `inspect`, must match `score` to
    1e-4. The last states of `inspect` must equal the state that it returns. Signatures in bfloat16 must match
    each other as closely, and the model to 0.25.

    Raises:
        CheckFailed: a value differs by more than its tolerance; the message gives the values or the difference.
    """
    functions = tf.saved_model.load(str(path)).signatures
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, num_tokens, (_BATCH_SIZE, _LENGTH + 1)).astype(np.int32)
    # Many models treat padding specially, and with a vocabulary of 20,000 random ids would hardly include it.
    token_ids[rng.random(token_ids.shape) < _SHARE_PADDING] = 0
    expected = _log_probabilities(model.logits(token_ids[:, :-1]), token_ids)
    logits = _call(functions[signatures.SERVING_DEFAULT], token_ids=token_ids[:, :-1])["logits"]
    _check_loss(signatures.SERVING_DEFAULT, _log_probabilities(logits, token_ids), expected, TOLERANCE)
    for precision, tolerance in ((signatures.FLOAT32, TOLERANCE), (signatures.BFLOAT16, BFLOAT16_TOLERANCE)):
        names = {name: signatures.in_precision(name, precision) for name in _CHECKED}
        variants = {name: functions[variant] for name, variant in names.items() if variant in functions}
        if variants:
            _check_signatures(variants, model, token_ids, expected, tolerance, rng)


def _check_signatures(
    functions: Any,
    model: Exportable,
    token_ids: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
    rng: np.random.Generator,
) -> None:
    """Check the signatures of one precision, by their names without it; the tolerance is that of the model's values."""
    state = np.zeros((_BATCH_SIZE, model.network.state_size), np.float32)
    scored = _score(functions, token_ids, state)["logprobs"]
    _check_tokens(scored, expected, tolerance)
    _check_loss(signatures.SCORE, scored, expected, tolerance)
    half = _LENGTH // 2
    first = token_ids[:, :half]
    prefill = functions[signatures.PREFILL]
    prefilled = _call(prefill, token_ids=first, lengths=_full(_BATCH_SIZE, half), state=state)["state"]
    rest = _score(functions, token_ids[:, half:], prefilled)["logprobs"]
    _check_loss(f"{signatures.PREFILL} and {signatures.SCORE}", rest, scored[:, half:], TOLERANCE)
    _check_embed(functions[signatures.EMBED], model, token_ids[:, :_EMBED_LENGTH], state, tolerance)
    _check_inspect(functions, model, token_ids[:, :half], state)
    _check_decode_full(functions, model, token_ids[:, half], prefilled, rng)


def _check_tokens(scored: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    errors = np.abs(scored - expected) / np.maximum(1, np.abs(expected))
    worst = errors[:, :_COMPARED].max()
    if not worst <= tolerance:
        raise CheckFailed(
            f"{signatures.SCORE}: a log probability is off by {worst:.2e} · max(1, |log p|), over {tolerance:g}"
        )


def _check_loss(name: str, actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    if not abs(actual.mean() - expected.mean()) <= tolerance:
        raise CheckFailed(
            f"{name}: mean negative log likelihood {-actual.mean()}, but the model gives {-expected.mean()}"
        )


def _check_embed(embed: Any, model: Exportable, token_ids: np.ndarray, state: np.ndarray, tolerance: float) -> None:
    """Compare the mean and the last top-layer output with the model's, if these are known."""
    if model.tops is None:
        return
    expected, length = model.tops(token_ids), token_ids.shape[1]
    total = np.zeros((_BATCH_SIZE, model.network.output_size), np.float32)
    actual = _call(embed, token_ids=token_ids, lengths=_full(_BATCH_SIZE, length), state=state, sum=total)
    for name, value, expected_value in (
        ("sum", actual["sum"] / length, expected.mean(axis=1)),
        ("last", actual["last"], expected[:, -1]),
    ):
        difference = np.abs(value - expected_value).max()
        if not difference <= tolerance:
            raise CheckFailed(
                f"{signatures.EMBED}: {name} differs from the model's by {difference:.2e}, over {tolerance:g}"
            )


def _check_inspect(functions: Any, model: Exportable, token_ids: np.ndarray, state: np.ndarray) -> None:
    """Compare the log probabilities with `score`, and the last states with the returned state."""
    inspected = _call(
        functions[signatures.INSPECT], token_ids=token_ids, lengths=_full(_BATCH_SIZE, _LENGTH // 2 - 1), state=state
    )
    scored = _score(functions, token_ids, state)
    states = [each.output for each in model.network.activations if each.kind in (signatures.HIDDEN, signatures.CELL)]
    parts = np.concatenate([inspected[name][:, -1] for name in states], axis=1) if states else inspected["state"]
    for name, actual, expected_value in (
        *((name, inspected[name], scored[name]) for name in ("logprobs", "top_logprobs", "state")),
        ("states", parts, inspected["state"]),
    ):
        difference = np.abs(actual - expected_value).max()
        if not difference <= TOLERANCE:
            raise CheckFailed(f"{signatures.INSPECT}: {name} differ by {difference:.2e}, over 1e-4")


def _check_decode_full(
    functions: Any, model: Exportable, token_id: np.ndarray, state: np.ndarray, rng: np.random.Generator
) -> None:
    """Sample with every adjustment on, without a constraint, and compare the log probabilities with `score`."""
    columns = {
        **dict.fromkeys(("steps", "min_steps"), np.int32(_NUM_SAMPLED)),
        "temperature": np.float32(1),
        "top_k": np.int32(0),
        "top_p": np.float32(1),
        "min_p": np.float32(0),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), np.float32(0.5)),
        "repetition_penalty": np.float32(1.2),
        "row": np.int32(signatures.UNCONSTRAINED_ROW),
        "budget": np.int32(signatures.FORBIDDEN_DISTANCE),
        "num_top": np.int32(signatures.NUM_TOP),
    }
    sampled = _call(
        functions[signatures.DECODE_FULL],
        token_id=token_id,
        state=state,
        uniforms=rng.integers(0, 2**23, (_BATCH_SIZE, _NUM_SAMPLED)).astype(np.float32) / np.float32(2**23),
        adjusted_ids=token_id[:, None],
        transitions=np.zeros((1, model.network.vocab_size), np.int32),
        continuations=np.zeros(1, np.int32),
        **dict.fromkeys(("counts", "seen", "bias"), np.ones((_BATCH_SIZE, 1), np.float32)),
        **{name: np.full(_BATCH_SIZE, value) for name, value in columns.items()},
    )
    token_ids = np.concatenate([token_id[:, None], sampled["token_ids"]], axis=1)
    for name, expected in _score(functions, token_ids, state).items():
        difference = np.abs(sampled[name] - expected).max()
        # Equally probable tokens may be in any order.
        if name != "top_token_ids" and not difference <= TOLERANCE:
            raise CheckFailed(f"{signatures.DECODE_FULL}: {name} differs from score by {difference:.2e}, over 1e-4")


def _score(functions: Any, token_ids: np.ndarray, state: np.ndarray) -> dict[str, np.ndarray]:
    batch_size, length = token_ids.shape
    return _call(functions[signatures.SCORE], token_ids=token_ids, lengths=_full(batch_size, length - 1), state=state)


def _call(function: Any, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def _full(batch_size: int, value: int) -> np.ndarray:
    return np.full(batch_size, value, np.int32)


def _log_probabilities(logits: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Return the log probability of each token after the first, float32 (batch, T)."""
    log_probabilities = tf.nn.log_softmax(logits).numpy()
    return np.take_along_axis(log_probabilities, token_ids[:, 1:, None], axis=2)[:, :, 0]
