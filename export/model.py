"""The Keras model of a generator, and its forward pass over a window with carried state.

The model is an ordinary one, of Keras's own layers; saved as `.keras` it loads anywhere. Training runs it through
`export.sequence`, which takes and returns states and needs less time, unless its layers read both ways.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from export.config import TrainConfig
from export.graph import INPUT, read_graph
from export.network import CELLS
from export.sequence import run_layer

States = list[list[tf.Tensor]]

_NAMES = {kind: name for name, kind in CELLS.items()}
# One mask per sequence: dropping other units at every step would disturb what the state carries.
_ONE_MASK = (None, 1, None)


def build_model(config: TrainConfig, vocab_size: int) -> keras.Model:
    """Build an untrained model.

    Returns:
        Token ids int32 (batch, T) to logits float32 (batch, T, V); for a bidirectional one (batch, context) to
        (batch, V), those of what follows.
    """
    keras.utils.set_random_seed(config.seed)
    token_ids = keras.layers.Input([config.num_seen], dtype="int32", name="token_ids")
    kind = keras.layers.ReversibleEmbedding if config.tie_embeddings else keras.layers.Embedding
    embedding = kind(vocab_size, config.embedding, trainable=not config.freeze_embedding, name="embedding")
    x = embedding(token_ids)
    outputs = []
    for i in range(config.layers):
        below, x = x, _recurrent(config, i)(x)
        x = keras.layers.Dropout(config.dropout, noise_shape=_ONE_MASK[: len(x.shape)], name=f"dropout_{i}")(x)
        if config.connections == "residual" and below.shape[-1] == x.shape[-1]:
            x = keras.layers.Add(name=f"residual_{i}")([below, x])
        outputs.append(x)
    if config.connections == "skip":
        x = keras.layers.Concatenate(name="skip")(outputs)
    if not config.tie_embeddings:
        logits = keras.layers.Dense(vocab_size, name="logits")(x)
    else:
        if x.shape[-1] != config.embedding:
            x = keras.layers.Dense(config.embedding, use_bias=False, name="projection")(x)
        logits = embedding(x, reverse=True)
    return keras.Model(token_ids, logits, name=config.name.replace(".", "_"))


def _recurrent(config: TrainConfig, i: int) -> keras.layers.Layer:
    # What reads both ways has one output for the window: what follows it.
    whole = not config.bidirectional or i < config.layers - 1
    options = {"return_sequences": whole, "recurrent_dropout": config.recurrent_dropout, "name": f"recurrent_{i}"}
    layer = CELLS[config.cell](config.units, **options)
    return keras.layers.Bidirectional(layer, name=f"bidirectional_{i}") if config.bidirectional else layer


def count_parameters(config: TrainConfig, vocab_size: int) -> int:
    """Count the weights of the model that `build_model` would build."""
    gates, biases = {"simple_rnn": (1, 1), "lstm": (4, 1), "gru": (3, 2)}[config.cell]
    ways = 2 if config.bidirectional else 1
    top = config.units * ways
    widths = [config.embedding, *[top] * (config.layers - 1)]
    recurrent = sum(ways * gates * config.units * (width + config.units + biases) for width in widths)
    if config.connections == "skip":
        top *= config.layers
    if config.tie_embeddings:
        output = top * config.embedding if top != config.embedding else 0
    else:
        output = vocab_size * (top + 1)
    return vocab_size * config.embedding + recurrent + output


def zero_states(model: keras.Model, rows: int) -> States:
    """Return the state before any token: per recurrent layer its vectors, float32 (rows, units) each."""
    layers = [node.layer for node in read_graph(model) if type(node.layer) in _NAMES]
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
        Logits float32 (T, batch, V) and the states after the window; of a bidirectional model (1, batch, V) and none.
    """
    nodes = read_graph(model)
    if any(isinstance(node.layer, keras.layers.Bidirectional) for node in nodes):
        return model(tf.transpose(token_ids), training=training)[None], []
    outputs, remaining, new_states = list[tf.Tensor](), list(states), []
    for node in nodes:
        layer, inputs = node.layer, [token_ids if place == INPUT else outputs[place] for place in node.inputs]
        if type(layer) in _NAMES:
            weights = [variable.value for variable in layer.trainable_variables]
            mask = _state_mask(layer, tf.shape(token_ids)[1]) if training and layer.recurrent_dropout else None
            x, state = run_layer(_NAMES[type(layer)], inputs[0], remaining.pop(0), weights, mask)
            new_states.append(state)
        elif isinstance(layer, keras.layers.Dropout):
            # The layer's mask is shared over axis 1, and here time is axis 0.
            x = tf.transpose(layer(tf.transpose(inputs[0], [1, 0, 2]), training=training), [1, 0, 2])
        elif node.reverse:
            x = layer(inputs[0], reverse=True)
        else:
            x = layer(inputs if len(inputs) > 1 else inputs[0])
        outputs.append(x)
    return outputs[-1], new_states


def _state_mask(layer: keras.layers.Layer, rows: tf.Tensor) -> tf.Tensor:
    """Draw recurrent dropout's mask float32 (rows, units), from the layer's own random numbers."""
    ones = tf.ones([rows, layer.units])
    return keras.random.dropout(ones, layer.recurrent_dropout, seed=layer.cell.seed_generator)
