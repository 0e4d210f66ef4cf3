"""The Keras model of a generator, and its forward pass over a BPTT window with carried state.

The model consists of Keras's own layers, so a `.keras` file of it loads anywhere. Training runs it through
`export.training.sequence`, which takes and returns states and is faster.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from export.config import TrainConfig
from export.errors import TrainingFailed
from export.graphs.network import CELLS, INPUT, NAMES, Node, read_graph
from export.training.devices import Compute, free_bytes
from export.training.sequence import product, run_layer, split

States = list[list[tf.Tensor]]
# One array, partitioned along the batch: one part per core.
Parts = list[tf.Tensor]

# Up to this many tokens, such as characters, embeddings start with a standard deviation of 1, and output biases with
# zero. More tokens need smaller embeddings, as some should become alike and rare ones keep most of their initial
# values, and biases by frequency: words had 3.228 after five epochs, and 3.313 before; Chinese verse ended with 4.54,
# not 4.67. But seven epochs of characters ended with 1.397, and with such biases with 1.404 (`benchmarks/HISTORY.md`).
_FEW_TOKENS, _MIN_EMBEDDING_STD = 100, 0.3
# For a tied embedding, which is also the output layer: its first logits must not be large.
TIED_RANGE = 0.05
# With LSTM layers, input kernels and output layer start with twice the values of Glorot's initialization, which treats
# the gates of a kernel as one, and forget gates start half open, without Keras's bias of 1: four epochs of a million
# characters ended with 1.466, not 1.476, and three of 250,000 by words with 4.006, not 4.189. GRU and SimpleRNN were
# worse (`benchmarks/HISTORY.md`).
_LSTM_GAIN = 2.0
# Copies of the weights: the weights, their gradients, the optimizer's two moments, those of a sample and of an export.
# Measured: 8 to 11 with 2,048 and 4,096 units.
_COPIES = 8
# float32 values saved per token, unit and layer for the backward pass: measured 5 (simple_rnn), 15 (lstm and gru).
_KEPT_PER_UNIT = 5
# One dropout mask per sequence: a new mask at every step would disturb the carried state.
_ONE_MASK = (None, 1, None)
# A vocabulary up to this multiple of the embedding's width is the input of a recurrent layer as one-hot vectors: two
# products with V inputs take no longer than two with D inputs and the gradients of those. With 65 characters and 128
# inputs a training is 1.1 to 1.2 times as fast on a CPU without AVX-512 (`benchmarks/HISTORY.md`).
_MAX_ONE_HOT = 1.5
# Names of layers.
_LOGITS, _PROJECTION = "logits", "projection"


def build_model(config: TrainConfig, vocab_size: int, target_counts: np.ndarray | None = None) -> keras.Model:
    """Build an untrained model that maps token ids int32 (batch, T) to logits float32 (batch, T, V).

    A bidirectional model maps (batch, context) to (batch, V), the logits of the next token. With the frequencies of
    tokens, int (V,), the biases of the output layer start from their logarithms instead of zero if there are many
    tokens, so that no update is needed to learn which are rare.
    """
    keras.utils.set_random_seed(config.seed)
    token_ids = keras.layers.Input([config.window_length], dtype="int32", name="token_ids")
    kind = keras.layers.ReversibleEmbedding if config.tie_embeddings else keras.layers.Embedding
    std = min(1.0, max(_MIN_EMBEDDING_STD, (_FEW_TOKENS / vocab_size) ** 0.5))  # unless it is the output layer, too
    limit = TIED_RANGE if config.tie_embeddings else 3**0.5 * std
    embedding = kind(
        vocab_size,
        config.embedding,
        embeddings_initializer=keras.initializers.RandomUniform(-limit, limit),
        trainable=not config.freeze_embedding,
        name="embedding",
    )
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
        logits = keras.layers.Dense(vocab_size, kernel_initializer=_initializer(config), name=_LOGITS)(x)
    else:
        if x.shape[-1] != config.embedding:
            x = keras.layers.Dense(config.embedding, use_bias=False, name=_PROJECTION)(x)
        logits = embedding(x, reverse=True)
    model = keras.Model(token_ids, logits, name=config.name.replace(".", "_"))
    if target_counts is not None and vocab_size > _FEW_TOKENS and not config.tie_embeddings:
        log_counts = np.log(target_counts + 1.0)
        model.get_layer(_LOGITS).bias.assign(log_counts - log_counts.mean())
    return model


def _dropout(rate: float, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    noise_shape = _ONE_MASK if len(x.shape) == len(_ONE_MASK) else None  # None: each value of (batch, width) by itself
    return keras.layers.Dropout(rate, noise_shape=noise_shape, name=name)(x)


def _initializer(config: TrainConfig) -> keras.initializers.Initializer:
    gain = _LSTM_GAIN if config.cell == "lstm" else 1.0
    return keras.initializers.VarianceScaling(gain**2, mode="fan_avg", distribution="uniform")


def _recurrent(config: TrainConfig, i: int) -> keras.layers.Layer:
    # A bidirectional model predicts only the token after the window.
    returns_sequences = not config.bidirectional or i < config.layers - 1
    options = {
        "return_sequences": returns_sequences,
        "recurrent_dropout": config.recurrent_dropout,
        "kernel_initializer": _initializer(config),
        **({"unit_forget_bias": False} if config.cell == "lstm" else {}),
        "name": f"recurrent_{i}",
    }
    layer = CELLS[config.cell](config.units, **options)
    return keras.layers.Bidirectional(layer, name=f"bidirectional_{i}") if config.bidirectional else layer


def count_parameters(config: TrainConfig, vocab_size: int) -> int:
    """Return the number of parameters of the model that `build_model` builds."""
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


def require_memory(config: TrainConfig, vocab_size: int, window_tokens: int) -> None:
    """Check a lower bound of the memory of a training run; a run that passes may still be too large.

    `window_tokens` are those of one update, over the whole batch.

    Raises:
        TrainingFailed: the training needs more memory than is free.
    """
    num_parameters, ways = count_parameters(config, vocab_size), 2 if config.bidirectional else 1
    # A bidirectional model has logits only for the token after a window.
    logits = vocab_size / (config.window_length or 1)
    per_token = logits + _KEPT_PER_UNIT * config.layers * config.units * ways
    needed, free = 4 * (_COPIES * num_parameters + window_tokens * per_token), free_bytes()
    if needed > free:
        raise TrainingFailed(
            f"{num_parameters:,} parameters (layers = {config.layers}, units = {config.units}, embedding = "
            f"{config.embedding}, vocabulary {vocab_size:,}) and {window_tokens:,} tokens at once (batch_size = "
            f"{config.batch_size}, sequence_length = {config.sequence_length}) need at least {needed / 2**30:.1f} "
            f"GiB of memory, but only {free / 2**30:.1f} GiB is free"
        )


def scaled_layer(model: keras.Model) -> keras.layers.Layer | None:
    """Return the layer whose weights scale the logits; None if logits are products with the embedding itself."""
    return next((layer for layer in model.layers if layer.name in (_LOGITS, _PROJECTION)), None)


@contextlib.contextmanager
def scaled_logits(model: keras.Model, scale: float) -> Iterator[None]:
    """Scale the logits of a model; its weights are bit-identical after the block."""
    layer = scaled_layer(model)
    if layer is None:
        yield
        return
    weights = layer.get_weights()
    layer.set_weights([weight * np.float32(scale) for weight in weights])
    try:
        yield
    finally:
        layer.set_weights(weights)


def zero_states(model: keras.Model, rows: int) -> States:
    """Return the zero state: for each recurrent layer its vectors, float32 (rows, units) each."""
    layers = [node.layer for node in read_graph(model) if type(node.layer) in NAMES]
    return [[tf.zeros([rows, layer.units])] * _num_vectors(layer) for layer in layers]


def _num_vectors(layer: keras.layers.Layer) -> int:
    return 2 if isinstance(layer, CELLS["lstm"]) else 1


def layer_outputs(
    model: keras.Model, token_ids: tf.Tensor, states: Sequence[Sequence[tf.Tensor]], *, training: bool, compute: Compute
) -> tuple[list[Parts], States]:
    """Run the model over a BPTT window of token ids, int32 (T, batch): time first.

    Returns the outputs of every layer for each of the `compute.row_parts` parts of the batch, float32 (T, rows, width),
    logits last, and the states after the window. A bidirectional model's logits are (1, rows, V), and it has no states.
    """
    batch_size, token_id_parts = tf.shape(token_ids)[1], split(token_ids, compute.row_parts, axis=1)
    outputs, remaining, new_states = list[Parts](), list(states), []
    nodes = read_graph(model)
    for node in nodes:
        inputs = [token_id_parts if i == INPUT else outputs[i] for i in node.inputs]
        if type(node.layer) in NAMES:
            embeddings = _one_hot_embeddings(nodes, node, compute)
            xs = inputs[0] if embeddings is None else [tf.one_hot(ids, embeddings.shape[0]) for ids in token_id_parts]
            own_state = remaining.pop(0)
            xs, state = _run_recurrent(node.layer, xs, own_state, compute, training=training, embeddings=embeddings)
            new_states.append(state)
        elif isinstance(node.layer, keras.layers.Bidirectional):
            xs = _run_bidirectional(node.layer, inputs[0], batch_size, compute, training=training)
        elif isinstance(node.layer, keras.layers.Dropout):
            xs = _run_dropout(node.layer, inputs[0], batch_size, compute) if training else inputs[0]
        else:
            xs = _run_stateless(node, inputs, compute)
        outputs.append(xs)
    return outputs, new_states


def _one_hot_embeddings(nodes: Sequence[Node], node: Node, compute: Compute) -> tf.Variable | None:
    """Return the embeddings (V, D) that a recurrent layer reads, if one-hot vectors of tokens are its faster inputs.

    With one-hot inputs (T, B, V) the kernel (D, G·H) becomes the product of embeddings and kernel, (V, G·H). Then no
    gradients of the inputs are computed, which is a product, too, and fewer than D inputs are multiplied if V < D.
    """
    below = nodes[node.inputs[0]]
    if compute.on_gpu or below.reverse or not isinstance(below.layer, keras.layers.Embedding):
        return None
    embeddings = below.layer.embeddings.value
    vocab_size, width = embeddings.shape
    return embeddings if vocab_size <= _MAX_ONE_HOT * width else None


def activation_penalty(model: keras.Model, outputs: Sequence[Parts]) -> tf.Tensor:
    """Return the mean square of the top layer's outputs plus that of their changes between steps, summed over tokens.

    `outputs` are those of `layer_outputs`. The two terms are AR and TAR of Merity et al. 2017, "Revisiting Activation
    Regularization for Language RNNs" (arXiv 1708.01009), here with one factor, and both before dropout.
    """
    kinds = *NAMES, keras.layers.Bidirectional
    *_, top = (xs for node, xs in zip(read_graph(model), outputs, strict=True) if isinstance(node.layer, kinds))
    return tf.add_n([_squares(x) for x in top]) / top[0].shape[-1]


@tf.custom_gradient
def _squares(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return the sum of the squares of x (T, rows, width) and of its changes between steps.

    TensorFlow's own gradient takes a quarter of an update's time: it copies x a dozen times.
    """

    def gradient(d: tf.Tensor) -> tf.Tensor:
        # The first and the last step have one neighbor, and a change of 0 to the other.
        neighbors = tf.concat([x[:1], x[:-1]], axis=0) + tf.concat([x[1:], x[-1:]], axis=0)
        return 6.0 * d * x - 2.0 * d * neighbors

    return 2.0 * (tf.nn.l2_loss(x) + tf.nn.l2_loss(x[1:] - x[:-1])), gradient


def _run_stateless(node: Node, inputs: list[Parts], compute: Compute) -> Parts:
    layer = node.layer
    if isinstance(layer, keras.layers.Dense):
        xs = [_matmul(x, layer.kernel, compute) for x in inputs[0]]
        return [x + layer.bias for x in xs] if layer.use_bias else xs
    if node.reverse:
        return [_matmul(x, layer.embeddings, compute, transpose_b=True) for x in inputs[0]]
    return [layer(list(part) if len(part) > 1 else part[0]) for part in zip(*inputs, strict=True)]


def _run_dropout(layer: keras.layers.Dropout, xs: Parts, batch_size: tf.Tensor, compute: Compute) -> Parts:
    if not layer.rate:
        return xs
    masks = _dropout_mask(layer.rate, layer.seed_generator, [batch_size, xs[0].shape[-1]], compute)
    return [x * mask for x, mask in zip(xs, masks, strict=True)]


def _run_recurrent(
    layer: keras.layers.Layer,
    xs: Parts,
    state: Sequence[tf.Tensor],
    compute: Compute,
    *,
    training: bool,
    embeddings: tf.Variable | None = None,
) -> tuple[Parts, list[tf.Tensor]]:
    """Return the outputs of a layer, (T, rows, units) each, and its new state; with embeddings, `xs` are one-hot."""
    masks: list[tf.Tensor | None] = [None] * len(xs)
    if training and layer.recurrent_dropout:
        shape = tf.shape(state[0])
        masks = list(_dropout_mask(layer.recurrent_dropout, layer.cell.seed_generator, shape, compute))
    weights = [variable.value for variable in layer.trainable_variables]
    if embeddings is not None:
        weights[0] = tf.matmul(embeddings, weights[0])
    results = []
    for x, mask, *own_state in zip(xs, masks, *[split(vectors, len(xs)) for vectors in state], strict=True):
        if compute.on_gpu and mask is None:
            results.append(run_keras_layer(layer, x, own_state))
        else:
            options = compute.precision, compute.unit_parts
            results.append(run_layer(NAMES[type(layer)], x, own_state, weights, mask, *options))
    ys, new_states = zip(*results, strict=True)
    return list(ys), [tf.concat(vectors, axis=0) for vectors in zip(*new_states, strict=True)]


def run_keras_layer(
    layer: keras.layers.Layer, inputs: tf.Tensor, state: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Run Keras's own layer, which uses cuDNN on a GPU, with the result of `export.training.sequence.run_layer`.

    Recurrent dropout is ignored: cuDNN has none. The inputs are float32 (T, B, D), the state [h] or, for LSTM, [h, c],
    float32 (B, H) each.
    """
    batch_major, initial = tf.transpose(inputs, [1, 0, 2]), list(state) if len(state) > 1 else state[0]
    settings = {"return_sequences": True, "return_state": True, "go_backwards": False}
    previous, rate = {name: getattr(layer, name) for name in settings}, layer.cell.recurrent_dropout
    # Only during the call: Keras saves them with the model. A copy of the layer would have variables of its own, which
    # a traced function must not create.
    try:
        vars(layer).update(settings)
        layer.cell.recurrent_dropout = 0.0
        outputs, *last = layer(batch_major, initial_state=initial, training=False)
    finally:
        vars(layer).update(previous)
        layer.cell.recurrent_dropout = rate
    return tf.transpose(outputs, [1, 0, 2]), [tf.stop_gradient(part) for part in last]


def _run_bidirectional(
    layer: keras.layers.Bidirectional, xs: Parts, batch_size: tf.Tensor, compute: Compute, *, training: bool
) -> Parts:
    """Return the outputs of both directions, (T, rows, 2 · units), or the last of each, (1, rows, 2 · units)."""
    outputs = []
    for way, axes in ((layer.forward_layer, []), (layer.backward_layer, [0])):
        state = [tf.zeros([batch_size, way.units])] * _num_vectors(way)
        ys, _ = _run_recurrent(way, [tf.reverse(x, axes) for x in xs], state, compute, training=training)
        outputs.append([tf.reverse(y, axes) if layer.return_sequences else y[-1:] for y in ys])
    return [tf.concat(both, axis=-1) for both in zip(*outputs, strict=True)]


def _dropout_mask(rate: float, seed: keras.random.SeedGenerator, shape: Any, compute: Compute) -> Parts:
    """Sample a dropout mask (batch, width) for a window from a layer's seed generator; it is the same for any parts.

    A replica's mask is of its own share of the batch. The generators of all replicas are in the same state.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    own_seed = tf.cast(seed.next(), tf.int32) + tf.stack([replica, 0])
    return split(tf.nn.experimental.stateless_dropout(tf.ones(shape), rate, own_seed), compute.row_parts)


def _matmul(x: tf.Tensor, kernel: tf.Tensor, compute: Compute, **transposed: bool) -> tf.Tensor:
    """Multiply all steps (T, rows, K) by a kernel; where units are partitioned, split the steps over the cores."""
    parts = split(tf.reshape(x, [-1, x.shape[-1]]), compute.unit_parts)
    y = tf.concat([product(part, kernel, compute.precision, **transposed) for part in parts], axis=0)
    return tf.reshape(y, tf.concat([tf.shape(x)[:-1], y.shape[1:]], axis=0))
