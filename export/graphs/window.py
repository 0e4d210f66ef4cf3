"""Sliding-window models: models without carried state, whose state is the window of the last tokens.

Bidirectional layers, for one, have to start again at the window's end for each token. The state vector contains token
ids as floats (exact to 2²⁴), the newest last, left-padded with 0. The zero state is the empty window, so callers handle
it like any other state.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Activation
from export.errors import NotFinite, UnsupportedModel
from export.graphs.graph import Node, read_graph
from export.graphs.network import without_softmax
from export.graphs.precision import FLOAT32, Precision, Vectors
from export.graphs.rebuild import all_layers

# Tolerance of the sum of probabilities; those of bfloat16 are up to 1% off.
_PROBABILITY_TOLERANCE = 2e-2
# Lower limit of probabilities before the logarithm, as log(0) is undefined.
MIN_PROBABILITY = 1e-37
_BATCH_SIZE = 8

# int32 (batch, W) to float32 (batch, width) or (batch, W, width), of which the last token is used.
Function = Callable[[tf.Tensor], tf.Tensor]


class Window(tf.Module):
    """A function of a window of tokens, called for each token on the whole window."""

    # A step is large: see `export.graphs.loop.repeat`.
    unroll = 1
    # The precisions that it can compute in: whatever the model itself uses is taken for float32.
    precisions = (FLOAT32,)
    from_rows, to_rows, select = FLOAT32.from_rows, FLOAT32.to_rows, FLOAT32.select

    def __init__(
        self, top: Function, project: Function, context: int, sizes: tuple[int, int], resources: Sequence[Any]
    ) -> None:
        """Wrap a model that is split into two parts.

        Args:
            top: Maps a window, int32 (batch, context), to the model's top, float32 (batch, U).
            project: Maps the top to logits, float32 (batch, V).
            context: Window length in tokens.
            sizes: U and V.
            resources: Variables and other objects that both parts use, to be saved with the model.
        """
        super().__init__()
        self.state_size, (self.output_size, self.vocab_size) = context, sizes
        # Traced once for all signatures: a layer that loops over the window is a large graph.
        self._top = tf.function(top, input_signature=[tf.TensorSpec([None, context], tf.int32)])
        self._project, self._kept = project, list(resources)

    def in_precision(self, precision: Precision) -> "Window":  # noqa: ARG002 - it has just one
        """Return itself; see `export.graphs.cells.StatefulNetwork.in_precision`."""
        return self

    def split(self, state: tf.Tensor) -> Vectors:
        """Return the window, float32 (batch, context), as the only part of the state."""
        return [state]

    def join(self, parts: Vectors) -> tf.Tensor:
        """Return the window, the inverse of `split`."""
        return parts[0]

    def step(self, token_ids: tf.Tensor, parts: Vectors) -> tuple[tf.Tensor, Vectors]:
        """Process one token per sequence; see `export.graphs.cells.RecurrentStep.step`."""
        window = tf.concat([parts[0][:, 1:], tf.cast(token_ids, tf.float32)[:, None]], axis=1)
        return self._top(tf.cast(window, tf.int32)), [window]

    @property
    def activations(self) -> list[Activation]:
        """Only the top, as everything below is recomputed for each token."""
        return [Activation(signatures.TOP, 0, self.output_size)]

    def step_with_activations(self, token_ids: tf.Tensor, parts: Vectors) -> tuple[tf.Tensor, Vectors, Vectors]:
        """Process one token per sequence; see `export.graphs.cells.RecurrentStep.step_with_activations`."""
        output, parts = self.step(token_ids, parts)
        return output, parts, [output]

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Project the model's top float32 (batch, U) to logits float32 (batch, V)."""
        return self._project(hidden)


def keras_window(model: keras.Model, context: int) -> Window:
    """Create a sliding-window model of a Keras model from token ids (batch, W) to (batch, V) or (batch, W, V).

    If its last layer is Dense, linear or softmax, its top is the input of that layer; else the output itself.

    Raises:
        UnsupportedModel: the outputs have another shape.
    """
    variables = [variable.value for variable in model.variables]
    dense, below = _split_model(model)
    if dense is None or below is None:
        return function_window(lambda token_ids: call(model, token_ids, model), context, variables)

    def top(token_ids: tf.Tensor) -> tf.Tensor:
        return last_output(call(below, token_ids, model))

    def project(hidden: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(hidden, dense.kernel.value)
        return logits if dense.bias is None else logits + dense.bias.value

    return Window(top, project, context, (int(dense.kernel.shape[0]), int(dense.kernel.shape[1])), variables)


def call(part: keras.Model, token_ids: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Run a model, or a part of it, on token ids int32 (batch, T) in inference mode without cuDNN."""
    with without_cudnn(model):
        return part(as_input(token_ids, model), training=False)


def function_window(function: Function, context: int, resources: Sequence[Any]) -> Window:
    """Create a sliding-window model of a function from token ids to logits or probabilities; a call tests which.

    Raises:
        UnsupportedModel: the outputs have another shape.
    """
    outputs = last_output(function(tf.zeros([_BATCH_SIZE, context], tf.int32)))
    if outputs.shape.rank != 2 or not outputs.dtype.is_floating:
        raise UnsupportedModel(
            f"the outputs must be floats of shape (batch, vocabulary) or (batch, tokens, vocabulary), got "
            f"{outputs.dtype.name} of shape {tuple(outputs.shape)}"
        )
    vocab_size = int(outputs.shape[1])
    random_ids = np.random.default_rng(0).integers(0, vocab_size, (_BATCH_SIZE, context))
    outputs = last_output(function(tf.constant(random_ids, tf.int32)))
    are_probabilities = gives_probabilities(outputs)
    rows = np.asarray(tf.cast(outputs, tf.float32))
    # As logits, outputs of sigmoids and similar would give nearly uniform samples. All zeros are the logits of a model
    # with an untrained last layer.
    if not are_probabilities and (rows >= 0).all() and (rows <= 1).all() and rows.any():
        raise UnsupportedModel(
            f"every output is between 0 and 1, but they add up to {rows.sum(axis=1).max():.3g} and not to 1: neither "
            f"probabilities nor logits"
        )

    def top(token_ids: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(last_output(function(token_ids)), tf.float32)
        return tf.math.log(tf.maximum(outputs, MIN_PROBABILITY)) if are_probabilities else outputs

    return Window(top, lambda hidden: hidden, context, (vocab_size, vocab_size), resources)


def gives_probabilities(outputs: tf.Tensor) -> bool:
    """Return whether outputs (batch, V) of a model are probabilities and not logits.

    Raises:
        NotFinite: an output is NaN or infinite.
    """
    rows = np.asarray(tf.cast(outputs, tf.float32))
    if not np.isfinite(rows).all():
        raise NotFinite("an output is NaN or infinite: the training did not converge")
    return bool((rows >= 0).all() and np.abs(rows.sum(axis=1) - 1).max() < _PROBABILITY_TOLERANCE)


def last_output(outputs: tf.Tensor) -> tf.Tensor:
    """Return the output for the last token, (batch, width), of an output (batch, T, width) or (batch, width)."""
    outputs = tf.convert_to_tensor(outputs)
    return outputs[:, -1] if outputs.shape.rank == 3 else outputs


def as_input(token_ids: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Cast ids to the input dtype of a model."""
    # Models without an explicit input dtype have float inputs.
    inputs = getattr(model, "inputs", None)
    return tf.cast(token_ids, inputs[0].dtype) if inputs else token_ids


def _split_model(model: keras.Model) -> tuple[Any, keras.Model | None]:
    """Split a model into its Dense output layer, without a separate softmax after it, and the model below."""
    try:
        nodes = without_softmax(read_graph(model))
    except UnsupportedModel:
        return None, None
    last = nodes[-1].layer
    if is_shared(last, nodes):
        return None, None
    activations = (keras.activations.linear, keras.activations.softmax)
    is_dense = type(last) is keras.layers.Dense and last.activation in activations
    return (last, model_up_to(model, lambda: last.input)) if is_dense else (None, None)


def is_shared(layer: Any, nodes: Sequence[Node]) -> bool:
    """Return whether a layer is called more than once: then it has no unique input or output."""
    return sum(node.layer is layer for node in nodes) > 1


def model_up_to(model: keras.Model, tensor: Callable[[], Any]) -> keras.Model | None:
    """Create a model up to a tensor of another; None if Keras fails because layers are shared between models."""
    try:
        return keras.Model(model.inputs, tensor())
    except (AttributeError, ValueError):
        return None


@contextlib.contextmanager
def without_cudnn(model: keras.Model) -> Iterator[None]:
    """Disable cuDNN during tracing: Keras uses it if a GPU is visible, and a CPU could not run the graph."""
    layers = [layer for layer in all_layers(model) if hasattr(layer, "use_cudnn")]
    previous = [layer.use_cudnn for layer in layers]
    try:
        for layer in layers:
            layer.use_cudnn = False
        yield
    finally:
        for layer, value in zip(layers, previous, strict=True):
            layer.use_cudnn = value
