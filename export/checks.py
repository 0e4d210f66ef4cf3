"""Whether an exported SavedModel computes what its Keras model computes. Nothing is published before this says yes."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from export.errors import CheckFailed
from export.weights import StackWeights

STEP_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-4
_ROWS, _LENGTH = 8, 64
# What `embed` reads: few tokens, as rounding grows from step to step in a network with large weights.
_EMBED_LENGTH = 8
_DRAWN = 16


def check_saved_model(path: Path, model: keras.Model, weights: StackWeights, num_tokens: int) -> None:
    """Load a SavedModel and hold it against the Keras model that it was made from.

    One step from a random state must give the same log probabilities to 1e-5 · max(1, |logit|), and a random text the
    same mean negative log likelihood to 1e-4, by `score` and by `serving_default`; `embed` must give the top layer's
    outputs to 1e-4. What `decode_full` says of the tokens that it draws must be what `score` says of them, to 1e-4.

    Args:
        path: The SavedModel's folder.
        model: The Keras model.
        weights: What was read from it.
        num_tokens: Size of the tokenizer's vocabulary.

    Raises:
        CheckFailed: a figure differs by more; the message gives both.
    """
    functions = tf.saved_model.load(str(path)).signatures
    rng = np.random.default_rng(0)
    _check_step(functions[signatures.SCORE], model, weights, rng)
    token_ids = rng.integers(0, num_tokens, (_ROWS, _LENGTH + 1)).astype(np.int32)
    expected = _keras_loss(model, token_ids)
    state = np.zeros((_ROWS, weights.state_size), np.float32)
    scored = _score(functions[signatures.SCORE], token_ids, state)["logprobs"]
    logits = functions[signatures.SERVING_DEFAULT](token_ids=tf.constant(token_ids[:, :-1]))["logits"]
    figures = {signatures.SCORE: -scored.mean(), signatures.SERVING_DEFAULT: _loss(logits, token_ids)}
    for name, loss in figures.items():
        if not abs(loss - expected) <= LOSS_TOLERANCE:
            raise CheckFailed(f"signature {name}: mean negative log likelihood {loss}, but Keras gives {expected}")
    _check_embed(functions[signatures.EMBED], model, weights, token_ids[:, :_EMBED_LENGTH])
    _check_decode_full(functions, weights, num_tokens, rng)


def _check_step(score: Any, model: keras.Model, weights: StackWeights, rng: np.random.Generator) -> None:
    """Hold one step from a random state against the Keras layers' own cells."""
    token_ids = rng.integers(0, weights.vocab_size, _ROWS).astype(np.int32)
    state = rng.uniform(-1, 1, (_ROWS, weights.state_size)).astype(np.float32)
    logits = _keras_step(model, weights, token_ids, state)
    expected = tf.nn.log_softmax(logits).numpy()
    targets = rng.integers(0, weights.vocab_size, (_ROWS, 16)).astype(np.int32)
    for column in targets.T:
        got = _score(score, np.stack([token_ids, column], axis=1), state)["logprobs"][:, 0]
        rows = np.arange(_ROWS)
        wrong = np.abs(got - expected[rows, column]) / np.maximum(1, np.abs(logits[rows, column]))
        if not wrong.max() <= STEP_TOLERANCE:
            raise CheckFailed(f"one step differs from Keras by {wrong.max():.2e} · max(1, |logit|), over 1e-5")


def _keras_step(model: keras.Model, weights: StackWeights, token_ids: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Run one step through the Keras layers: logits float32 (rows, V)."""
    recurrent = _recurrent(model)
    per_layer = 2 if weights.cell == "lstm" else 1
    sizes = [layer.units for layer in recurrent for _ in range(per_layer)]
    parts = np.split(state, np.cumsum(sizes)[:-1], axis=1)
    x = tf.constant(weights.embedding[token_ids])
    for i, layer in enumerate(recurrent):
        own = [tf.constant(part) for part in parts[i * per_layer : (i + 1) * per_layer]]
        x, _ = layer.cell(x, own)
    return np.asarray(x @ weights.output_kernel + weights.output_bias)


def _recurrent(model: keras.Model) -> list[keras.layers.RNN]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.RNN)]


def _check_embed(embed: Any, model: keras.Model, weights: StackWeights, token_ids: np.ndarray) -> None:
    """Hold the mean and the last output of a text from the zero state against the Keras layers."""
    x = tf.constant(weights.embedding[token_ids])
    for layer in _recurrent(model):
        x = layer(x, initial_state=layer.get_initial_state(_ROWS), training=False)
    expected = np.asarray(x)
    rows, length, width = expected.shape
    state, total = np.zeros((rows, weights.state_size), np.float32), np.zeros((rows, width), np.float32)
    got = _call(embed, token_ids=token_ids, lengths=np.full(rows, length, np.int32), state=state, sum=total)
    for name, value, right in (
        ("sum", got["sum"] / length, expected.mean(axis=1)),
        ("last", got["last"], expected[:, -1]),
    ):
        wrong = np.abs(value - right).max()
        if not wrong <= OUTPUT_TOLERANCE:
            raise CheckFailed(f"signature {signatures.EMBED}: {name} differs from Keras by {wrong:.2e}, over 1e-4")


def _check_decode_full(functions: Any, weights: StackWeights, num_tokens: int, rng: np.random.Generator) -> None:
    """Let rows draw with every adjustment on and have `score` judge the same tokens."""
    columns = {
        **dict.fromkeys(("steps", "min_steps"), np.int32(_DRAWN)),
        "temperature": np.float32(1),
        "top_k": np.int32(0),
        "top_p": np.float32(1),
        "min_p": np.float32(0),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), np.float32(0.5)),
        "repetition_penalty": np.float32(1.2),
    }
    token_id = rng.integers(0, num_tokens, _ROWS).astype(np.int32)
    state = rng.uniform(-1, 1, (_ROWS, weights.state_size)).astype(np.float32)
    drawn = _call(
        functions[signatures.DECODE_FULL],
        token_id=token_id,
        state=state,
        uniforms=rng.integers(0, 2**23, (_ROWS, _DRAWN)).astype(np.float32) / np.float32(2**23),
        adjusted_ids=token_id[:, None],
        **dict.fromkeys(("counts", "seen", "bias"), np.ones((_ROWS, 1), np.float32)),
        **{name: np.full(_ROWS, value) for name, value in columns.items()},
    )
    text = np.concatenate([token_id[:, None], drawn["token_ids"]], axis=1)
    for name, expected in _score(functions[signatures.SCORE], text, state).items():
        wrong = np.abs(drawn[name] - expected).max()
        # Tokens that are equally probable may stand in either order.
        if name != "top_token_ids" and not wrong <= OUTPUT_TOLERANCE:
            raise CheckFailed(
                f"signature {signatures.DECODE_FULL}: {name} differs from score by {wrong:.2e}, over 1e-4"
            )


def _score(score: Any, token_ids: np.ndarray, state: np.ndarray) -> dict[str, np.ndarray]:
    rows, length = token_ids.shape
    return _call(score, token_ids=token_ids, lengths=np.full(rows, length - 1, np.int32), state=state)


def _call(function: Any, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def _keras_loss(model: keras.Model, token_ids: np.ndarray) -> float:
    outputs = model(token_ids[:, :-1], training=False)
    if model.layers[-1].activation is keras.activations.softmax:
        outputs = tf.math.log(outputs)
    return _loss(outputs, token_ids)


def _loss(logits: tf.Tensor, token_ids: np.ndarray) -> float:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(token_ids[:, 1:], logits)
    return float(tf.reduce_mean(losses))
