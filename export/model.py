"""The Keras model of a generator, and its forward pass over a window with carried state.

The model is an ordinary one: Embedding, recurrent layers, Dropout, Dense; saved as `.keras` it loads anywhere. Training
runs it through `export.sequence`, which takes and returns states and needs less time.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from export.config import TrainConfig
from export.sequence import run_layer
from export.weights import CELLS

States = list[list[tf.Tensor]]


def build_model(config: TrainConfig, vocab_size: int) -> keras.Model:
    """Build an untrained model: token ids int32 (batch, T) to logits float32 (batch, T, V)."""
    keras.utils.set_random_seed(config.seed)
    # One mask per sequence: dropping other units at every step would disturb what the state carries.
    one_mask = (None, 1, None)
    layers: list[keras.layers.Layer] = [
        keras.layers.Input([None], dtype="int32", name="token_ids"),
        keras.layers.Embedding(vocab_size, config.embedding, name="embedding"),
    ]
    for i in range(config.layers):
        layers.append(CELLS[config.cell](config.units, return_sequences=True, name=f"recurrent_{i}"))
        layers.append(keras.layers.Dropout(config.dropout, noise_shape=one_mask, name=f"dropout_{i}"))
    layers.append(keras.layers.Dense(vocab_size, name="logits"))
    return keras.Sequential(layers, name=config.name.replace(".", "_"))


def count_parameters(config: TrainConfig, vocab_size: int) -> int:
    """Count the weights of the model that `build_model` would build."""
    gates, biases = {"simple_rnn": (1, 1), "lstm": (4, 1), "gru": (3, 2)}[config.cell]
    widths = [config.embedding, *[config.units] * (config.layers - 1)]
    recurrent = sum(gates * config.units * (width + config.units + biases) for width in widths)
    return vocab_size * (config.embedding + config.units + 1) + recurrent


def zero_states(model: keras.Model, rows: int) -> States:
    """Return the state before any token: per recurrent layer its vectors, float32 (rows, units) each."""
    layers = [layer for layer in model.layers if isinstance(layer, tuple(CELLS.values()))]
    return [[tf.zeros([rows, layer.units])] * (2 if isinstance(layer, CELLS["lstm"]) else 1) for layer in layers]


def forward(
    model: keras.Model, token_ids: tf.Tensor, states: Sequence[Sequence[tf.Tensor]], *, training: bool
) -> tuple[tf.Tensor, States]:
    """Run a window.

    Args:
        model: As `build_model` returns it.
        token_ids: int32 (T, batch): time first.
        states: As the previous window returned them.
        training: Whether to drop units.

    Returns:
        Logits float32 (T, batch, V) and the states after the window.
    """
    cells = {kind: name for name, kind in CELLS.items()}
    x, remaining, new_states = token_ids, list(states), []
    for layer in model.layers:
        if type(layer) in cells:
            weights = [variable.value for variable in layer.trainable_variables]
            x, state = run_layer(cells[type(layer)], x, remaining.pop(0), weights)
            new_states.append(state)
        elif isinstance(layer, keras.layers.Dropout):
            # The layer's mask is shared over axis 1, and here time is axis 0.
            x = tf.transpose(layer(tf.transpose(x, [1, 0, 2]), training=training), [1, 0, 2])
        else:
            x = layer(x)
    return x, new_states
