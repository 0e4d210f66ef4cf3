"""The Keras model of a generator, and its forward pass over a window with carried state.

The model is an ordinary one, of Keras's own layers; saved as `.keras` it loads anywhere. Training runs it through
`export.training.sequence`, which takes and returns states and needs less time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from export.config import TrainConfig
from export.graphs.graph import INPUT, read_graph
from export.graphs.network import CELLS
from export.training.cudnn import run_keras_layer
from export.training.devices import Cut
from export.training.sequence import product, run_layer, split

States = list[list[tf.Tensor]]
# Parts of the rows of one array, each for a core.
Parts = list[tf.Tensor]

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
) -> tuple[Parts, States]:
    """Run a window.

    Args:
        model: As `build_model` returns it.
        token_ids: int32 (T, batch): time first.
        states: As the previous window returned them.
        training: Whether to drop units.
        compute: How.

    Returns:
        Logits float32 (T, rows, V) of each part of the batch, `compute.cut.rows` of them, and the states after the
        window; of a bidirectional model (1, rows, V) and none.
    """
    batch, given = tf.shape(token_ids)[1], split(token_ids, compute.cut.rows, axis=1)
    outputs, remaining, new_states = list[Parts](), list(states), []
    for node in read_graph(model):
        layer, inputs = node.layer, [given if place == INPUT else outputs[place] for place in node.inputs]
        xs = inputs[0]
        if type(layer) in _NAMES:
            xs, state = _run(layer, xs, remaining.pop(0), compute, training=training)
            new_states.append(state)
        elif isinstance(layer, keras.layers.Bidirectional):
            xs = _run_both_ways(layer, xs, batch, compute, training=training)
        elif isinstance(layer, keras.layers.Dropout):
            if training and layer.rate:
                kept = _mask(layer.rate, layer.seed_generator, [batch, xs[0].shape[-1]], compute)
                xs = [x * some for x, some in zip(xs, kept, strict=True)]
        elif isinstance(layer, keras.layers.Dense):
            xs = [_times(x, layer.kernel, compute) for x in xs]
            xs = [x + layer.bias for x in xs] if layer.use_bias else xs
        elif node.reverse:
            xs = [_times(x, layer.embeddings, compute, transpose_b=True) for x in xs]
        else:
            xs = [layer(list(some) if len(some) > 1 else some[0]) for some in zip(*inputs, strict=True)]
        outputs.append(xs)
    return outputs[-1], new_states


def _run(
    layer: keras.layers.Layer, xs: Parts, state: Sequence[tf.Tensor], compute: Compute, *, training: bool
) -> tuple[Parts, list[tf.Tensor]]:
    masks: list[tf.Tensor | None] = [None] * len(xs)
    if training and layer.recurrent_dropout:
        shape = tf.shape(state[0])
        masks = list(_mask(layer.recurrent_dropout, layer.cell.seed_generator, shape, compute))
    weights = [variable.value for variable in layer.trainable_variables]
    results = []
    for x, mask, *own_state in zip(xs, masks, *[split(vectors, len(xs)) for vectors in state], strict=True):
        if compute.on_gpu and mask is None:
            results.append(run_keras_layer(layer, x, own_state))
        else:
            how = compute.precision, compute.cut.units
            results.append(run_layer(_NAMES[type(layer)], x, own_state, weights, mask, *how))
    ys, new_states = zip(*results, strict=True)
    return list(ys), [tf.concat(vectors, axis=0) for vectors in zip(*new_states, strict=True)]


def _run_both_ways(
    layer: keras.layers.Bidirectional, xs: Parts, batch: tf.Tensor, compute: Compute, *, training: bool
) -> Parts:
    """Return the outputs of both directions, (T, rows, 2 · units), or (1, rows, 2 · units) of the last each made."""
    outputs = []
    for way, axes in ((layer.forward_layer, []), (layer.backward_layer, [0])):
        state = [tf.zeros([batch, way.units])] * _num_vectors(way)
        ys, _ = _run(way, [tf.reverse(x, axes) for x in xs], state, compute, training=training)
        outputs.append([tf.reverse(y, axes) if layer.return_sequences else y[-1:] for y in ys])
    return [tf.concat(both, axis=-1) for both in zip(*outputs, strict=True)]


def _mask(rate: float, seed: keras.random.SeedGenerator, shape: Any, compute: Compute) -> Parts:
    """Draw what is left of (batch, width) for a whole window, by a layer's own numbers; it is the same in any parts."""
    return split(keras.random.dropout(tf.ones(shape), rate, seed=seed), compute.cut.rows)


def _times(x: tf.Tensor, kernel: tf.Tensor, compute: Compute, **transposed: bool) -> tf.Tensor:
    """Multiply all steps (T, rows, K) by a kernel; where units are cut, a core takes a part of them."""
    parts = split(tf.reshape(x, [-1, x.shape[-1]]), compute.cut.units)
    y = tf.concat([product(part, kernel, compute.precision, **transposed) for part in parts], axis=0)
    return tf.reshape(y, tf.concat([tf.shape(x)[:-1], y.shape[1:]], axis=0))
