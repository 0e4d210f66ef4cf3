"""Sliding-window models: models without carried state, whose state is the window of the last tokens.

Bidirectional layers, for example, must start again at the window's end for each token. The state vector contains token
ids as floats (exact to 2²⁴), the newest last, left-padded with 0. The zero state is the empty window, so callers handle
it like any other state.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from contract import signatures
from contract.card import Activation
from export.errors import UnsupportedModel
from export.graphs.network import Node, all_layers, read_graph, without_softmax
from export.graphs.precision import FLOAT32, Precision, Vectors

# int32 (batch, W) to float32 (batch, width), for the last token.
Function = Callable[[tf.Tensor], tf.Tensor]


class Window(tf.Module):
    """A function of a window of tokens, called for each token on the whole window; see `cells.StatefulNetwork`."""

    # A step is large: see `export.graphs.loop.repeat`.
    unroll = 1
    # The model's own precision is reported as float32.
    precisions = (FLOAT32,)

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
        self.state_sizes = [context]
        # Traced once for all signatures: a layer that loops over the window is a large graph.
        self._top = tf.function(top, input_signature=[tf.TensorSpec([None, context], tf.int32)])
        self.project, self._kept = project, list(resources)

    @property
    def activations(self) -> list[Activation]:
        """Only the top, as everything below it is recomputed for each token."""
        return [Activation(signatures.TOP, 0, self.output_size)]

    def step(
        self,
        precision: Precision,  # noqa: ARG002 - it has just one
        token_ids: tf.Tensor,
        state: Vectors,
    ) -> tuple[tf.Tensor, Vectors, Vectors]:
        """Process one token per sequence; the state is the window, float32 (batch, context)."""
        window = tf.concat([state[0][:, 1:], tf.cast(token_ids, tf.float32)[:, None]], axis=1)
        output = self._top(tf.cast(window, tf.int32))
        return output, [window], [output]


def keras_window(model: keras.Model, logits: Function, context: int) -> Window:
    """Create a sliding-window model of a Keras model, whose logits a function returns.

    If its last layer is Dense, linear or softmax, its top is the input of that layer; else the logits themselves.
    """
    variables = [variable.value for variable in model.variables]
    dense, below = _split_model(model)
    if dense is None or below is None:
        return logits_window(logits, context, variables)

    def top(token_ids: tf.Tensor) -> tf.Tensor:
        return last_output(call(below, token_ids, model))

    def project(hidden: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(hidden, dense.kernel.value)
        return logits if dense.bias is None else logits + dense.bias.value

    return Window(top, project, context, (int(dense.kernel.shape[0]), int(dense.kernel.shape[1])), variables)


def logits_window(logits: Function, context: int, resources: Sequence[Any]) -> Window:
    """Create a sliding-window model whose top is the logits."""
    vocab_size = int(logits(tf.zeros([1, context], tf.int32)).shape[1])
    return Window(logits, lambda hidden: hidden, context, (vocab_size, vocab_size), resources)


def call(part: keras.Model, token_ids: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Run a model, or a part of it, on token ids int32 (batch, T) in inference mode without cuDNN."""
    with without_cudnn(model):
        return part(as_input(token_ids, model), training=False)


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
