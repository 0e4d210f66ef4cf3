"""The Keras model of a generator, and its forward pass over a window with carried state.

The model is an ordinary one, of Keras's own layers; saved as `.keras` it loads anywhere. Training runs it through
`export.training.sequence`, which takes and returns states and needs less time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from export.config import TrainConfig
from export.graphs.graph import INPUT, read_graph
from export.graphs.network import CELLS
from export.training.cudnn import run_keras_layer
from export.training.sequence import Cut, product, run_layer, split

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
    return [[tf.zeros([rows, layer.units])] * _num_vectors(layer) for layer in layers]


def _num_vectors(layer: keras.layers.Layer) -> int:
    return 2 if isinstance(layer, CELLS["lstm"]) else 1


@dataclass(frozen=True)
class Compute:
    """How a forward pass is computed.

    Attributes:
        precision: float32 or bfloat16, for the factors of matrix products on a CPU.
        on_gpu: Whether Keras's own layers run, by cuDNN.
        cut: Into how many parts layers are cut, a core each.
    """

    precision: tf.DType = tf.float32
    on_gpu: bool = False
    cut: Cut = Cut()  # noqa: RUF009 - frozen


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
    outputs, remaining, new_states = list[tf.Tensor](), list(states), []
    for node in read_graph(model):
        layer, inputs = node.layer, [token_ids if place == INPUT else outputs[place] for place in node.inputs]
        if type(layer) in _NAMES:
            x, state = _run(layer, inputs[0], remaining.pop(0), compute, training=training)
            new_states.append(state)
        elif isinstance(layer, keras.layers.Bidirectional):
            x = _run_both_ways(layer, inputs[0], compute, training=training)
        elif isinstance(layer, keras.layers.Dropout):
            drops = training and layer.rate
            x = inputs[0] * _mask(layer.rate, layer.seed_generator, inputs[0])[None] if drops else inputs[0]
        elif isinstance(layer, keras.layers.Dense):
            x = _times(inputs[0], layer.kernel, compute)
            x = x + layer.bias if layer.use_bias else x
        elif node.reverse:
            x = _times(inputs[0], layer.embeddings, compute, transpose_b=True)
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
    return run_layer(_NAMES[type(layer)], x, state, weights, mask, compute.precision, compute.cut)


def _run_both_ways(layer: keras.layers.Bidirectional, x: tf.Tensor, compute: Compute, *, training: bool) -> tf.Tensor:
    """Return the outputs of both directions, (T, batch, 2 · units), or (1, batch, 2 · units) of the last each made."""
    outputs = []
    for way, axes in ((layer.forward_layer, []), (layer.backward_layer, [0])):
        state = [tf.zeros([tf.shape(x)[1], way.units])] * _num_vectors(way)
        y, _ = _run(way, tf.reverse(x, axes), state, compute, training=training)
        outputs.append(tf.reverse(y, axes) if layer.return_sequences else y[-1:])
    return tf.concat(outputs, axis=-1)


def _mask(rate: float, seed: keras.random.SeedGenerator, x: tf.Tensor) -> tf.Tensor:
    """Draw what is left of x (…, batch, width) for a whole window, float32 (batch, width), by a layer's own numbers."""
    return keras.random.dropout(tf.ones(tf.shape(x)[-2:]), rate, seed=seed)


def _times(x: tf.Tensor, kernel: tf.Tensor, compute: Compute, **transposed: bool) -> tf.Tensor:
    """Multiply all steps (T, batch, K) by a kernel; a core takes a part of them."""
    parts = split(tf.reshape(x, [-1, x.shape[-1]]), compute.cut.parts)
    y = tf.concat([product(part, kernel, compute.precision, **transposed) for part in parts], axis=0)
    return tf.reshape(y, tf.concat([tf.shape(x)[:-1], y.shape[1:]], axis=0))
