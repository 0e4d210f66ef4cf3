"""The Keras model of a generator, and its forward pass over a window with carried state.

The model is an ordinary one, of Keras's own layers; saved as `.keras` it loads anywhere. Training runs it through
`export.training.sequence`, which takes and returns states and needs less time, unless its layers read both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from export.config import TrainConfig
from export.graphs.graph import INPUT, read_graph
from export.graphs.network import CELLS
from export.training.cudnn import run_keras_layer
from export.training.sequence import product, run_layer

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
    if config.embedding_dropout:
        x = _dropout(config.embedding_dropout, x, "embedding_dropout")
    outputs = []
    for i in range(config.layers):
        below, x = x, _recurrent(config, i)(x)
        x = _dropout(config.dropout, x, f"dropout_{i}")
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


def _dropout(rate: float, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.Dropout(rate, noise_shape=_ONE_MASK[: len(x.shape)], name=name)(x)


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


@dataclass(frozen=True)
class Compute:
    """How a forward pass is computed.

    Attributes:
        precision: float32 or bfloat16, for the factors of matrix products on a CPU.
        on_gpu: Whether Keras's own layers run, by cuDNN.
    """

    precision: tf.DType = tf.float32
    on_gpu: bool = False


def forward(
    model: keras.Model,
    token_ids: tf.Tensor,
    states: Sequence[Sequence[tf.Tensor]],
    *,
    training: bool,
    compute: Compute = Compute(),
) -> tuple[tf.Tensor, States]:
    """Run a window.

    Args:
        model: As `build_model` returns it.
        token_ids: int32 (T, batch): time first.
        states: As the previous window returned them.
        training: Whether to drop units.
        compute: How.

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
            x, state = _run(layer, inputs[0], remaining.pop(0), compute, training=training)
            new_states.append(state)
        elif isinstance(layer, keras.layers.Dropout):
            drops = training and layer.rate
            x = inputs[0] * _mask(layer.rate, layer.seed_generator, inputs[0])[None] if drops else inputs[0]
        elif isinstance(layer, keras.layers.Dense):
            x = _dense(layer, inputs[0], compute.precision)
        elif node.reverse:
            x = layer(inputs[0], reverse=True)
        else:
            x = layer(inputs if len(inputs) > 1 else inputs[0])
        outputs.append(x)
    return outputs[-1], new_states


def _run(
    layer: keras.layers.Layer, x: tf.Tensor, state: Sequence[tf.Tensor], compute: Compute, *, training: bool
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    drops = training and layer.recurrent_dropout
    if compute.on_gpu and not drops:
        return run_keras_layer(layer, x, state)
    mask = _mask(layer.recurrent_dropout, layer.cell.seed_generator, state[0]) if drops else None
    weights = [variable.value for variable in layer.trainable_variables]
    return run_layer(_NAMES[type(layer)], x, state, weights, mask, compute.precision)


def _mask(rate: float, seed: keras.random.SeedGenerator, x: tf.Tensor) -> tf.Tensor:
    """Draw what is left of x (…, batch, width) for a whole window, float32 (batch, width), by a layer's own numbers."""
    return keras.random.dropout(tf.ones(tf.shape(x)[-2:]), rate, seed=seed)


def _dense(layer: keras.layers.Dense, x: tf.Tensor, precision: tf.DType) -> tf.Tensor:
    """Multiply all steps at once."""
    flat = product(tf.reshape(x, [-1, x.shape[-1]]), layer.kernel, precision)
    flat = flat + layer.bias if layer.use_bias else flat
    return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [layer.units]], axis=0))
