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
_ROWS, _LENGTH = 8, 64


def check_saved_model(path: Path, model: keras.Model, weights: StackWeights, num_tokens: int) -> None:
    """Load a SavedModel and hold it against the Keras model that it was made from.

    One step from a random state must give the same log probabilities to 1e-5 · max(1, |logit|), and a random text the
    same mean negative log likelihood to 1e-4, by `score` and by `serving_default`.

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
    scored = _score(functions[signatures.SCORE], token_ids, state)
    logits = functions[signatures.SERVING_DEFAULT](token_ids=tf.constant(token_ids[:, :-1]))["logits"]
    figures = {signatures.SCORE: -scored.mean(), signatures.SERVING_DEFAULT: _loss(logits, token_ids)}
    for name, loss in figures.items():
        if not abs(loss - expected) <= LOSS_TOLERANCE:
            raise CheckFailed(f"signature {name}: mean negative log likelihood {loss}, but Keras gives {expected}")


def _check_step(score: Any, model: keras.Model, weights: StackWeights, rng: np.random.Generator) -> None:
    """Hold one step from a random state against the Keras layers' own cells."""
    token_ids = rng.integers(0, weights.vocab_size, _ROWS).astype(np.int32)
    state = rng.uniform(-1, 1, (_ROWS, weights.state_size)).astype(np.float32)
    logits = _keras_step(model, weights, token_ids, state)
    expected = tf.nn.log_softmax(logits).numpy()
    targets = rng.integers(0, weights.vocab_size, (_ROWS, 16)).astype(np.int32)
    for column in targets.T:
        got = _score(score, np.stack([token_ids, column], axis=1), state)[:, 0]
        rows = np.arange(_ROWS)
        wrong = np.abs(got - expected[rows, column]) / np.maximum(1, np.abs(logits[rows, column]))
        if not wrong.max() <= STEP_TOLERANCE:
            raise CheckFailed(f"one step differs from Keras by {wrong.max():.2e} · max(1, |logit|), over 1e-5")


def _keras_step(model: keras.Model, weights: StackWeights, token_ids: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Run one step through the Keras layers: logits float32 (rows, V)."""
    recurrent = [layer for layer in model.layers if isinstance(layer, keras.layers.RNN)]
    per_layer = 2 if weights.cell == "lstm" else 1
    sizes = [layer.units for layer in recurrent for _ in range(per_layer)]
    parts = np.split(state, np.cumsum(sizes)[:-1], axis=1)
    x = tf.constant(weights.embedding[token_ids])
    for i, layer in enumerate(recurrent):
        own = [tf.constant(part) for part in parts[i * per_layer : (i + 1) * per_layer]]
        x, _ = layer.cell(x, own)
    return np.asarray(x @ weights.output_kernel + weights.output_bias)


def _score(score: Any, token_ids: np.ndarray, state: np.ndarray) -> np.ndarray:
    rows, length = token_ids.shape
    lengths = np.full(rows, length - 1, np.int32)
    arguments = {"token_ids": token_ids, "lengths": lengths, "state": state}
    return score(**{name: tf.constant(value) for name, value in arguments.items()})["logprobs"].numpy()


def _keras_loss(model: keras.Model, token_ids: np.ndarray) -> float:
    outputs = model(token_ids[:, :-1], training=False)
    if model.layers[-1].activation is keras.activations.softmax:
        outputs = tf.math.log(outputs)
    return _loss(outputs, token_ids)


def _loss(logits: tf.Tensor, token_ids: np.ndarray) -> float:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(token_ids[:, 1:], logits)
    return float(tf.reduce_mean(losses))
