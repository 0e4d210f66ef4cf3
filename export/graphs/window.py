"""Models that cannot carry a state from token to token: their state is the window of the last tokens that they saw.

Bidirectional layers, for one, begin anew at the window's end with every token. The row that stands for the state holds
token ids as floats (exact to 2²⁴), the newest at its end and padding, 0, in front: the zero state is the empty window,
and nobody who hands states on can tell the difference.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Trace
from export.errors import NotFinite, UnsupportedModel
from export.graphs.graph import Node, read_graph
from export.graphs.network import without_softmax
from export.graphs.rebuild import all_layers

# How far the sum of a row of probabilities may be from 1; those of bfloat16 are up to 1% off.
_PROBABILITY_TOLERANCE = 2e-2
# In place of probabilities of 0, whose logarithm is none.
LEAST = 1e-37
_ROWS = 8

# int32 (batch, W) to float32 (batch, width) or (batch, W, width), of which the last counts.
Function = Callable[[tf.Tensor], tf.Tensor]


class Window(tf.Module):
    """A function of a window of tokens, called with every token anew."""

    unroll = 1

    def __init__(
        self, top: Function, project: Function, context: int, sizes: tuple[int, int], resources: Sequence[Any]
    ) -> None:
        """Take a model in two parts.

        Args:
            top: From a window, int32 (batch, context), to the model's top, float32 (batch, U).
            project: From there to logits, float32 (batch, V).
            context: Tokens of a window.
            sizes: U and V.
            resources: Variables and whatever else both parts use: they are saved with it.
        """
        super().__init__()
        self.state_size, (self.output_size, self.vocab_size) = context, sizes
        # Traced once for all signatures: a layer that loops over the window is a large graph.
        self._top = tf.function(top, input_signature=[tf.TensorSpec([None, context], tf.int32)])
        self._project, self._kept = project, list(resources)

    def split(self, state: tf.Tensor) -> list[tf.Tensor]:
        """Return the window, float32 (batch, context), as the one part of the state."""
        return [state]

    def join(self, parts: list[tf.Tensor]) -> tf.Tensor:
        """Undo `split`."""
        return parts[0]

    def step(self, token_ids: tf.Tensor, parts: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Read one token per row; see `export.graphs.cells.StatefulNetwork.step`."""
        window = tf.concat([parts[0][:, 1:], tf.cast(token_ids, tf.float32)[:, None]], axis=1)
        return self._top(tf.cast(window, tf.int32)), [window]

    @property
    def traces(self) -> list[Trace]:
        """What `step_with_traces` tells: the top alone, as what goes on below it is done anew with every token."""
        return [Trace(signatures.TOP, 0, self.output_size)]

    def step_with_traces(
        self, token_ids: tf.Tensor, parts: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """Read one token per row and tell what went on; see `export.graphs.cells.StatefulNetwork.step_with_traces`."""
        output, parts = self.step(token_ids, parts)
        return output, parts, [output]

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Return logits float32 (batch, V) of the model's top float32 (batch, U)."""
        return self._project(hidden)


def keras_window(model: keras.Model, context: int) -> Window:
    """Make a window model of a Keras model from token ids (batch, W) to (batch, V) or (batch, W, V).

    Where its last layer is Dense, linear or softmax, its top is what that layer takes; else it is the output itself.

    Raises:
        UnsupportedModel: the outputs have another shape.
    """
    variables = [variable.value for variable in model.variables]
    dense, below = _parts(model)
    if dense is None or below is None:
        return function_window(lambda token_ids: call(model, token_ids, model), context, variables)

    def top(token_ids: tf.Tensor) -> tf.Tensor:
        return newest(call(below, token_ids, model))

    def project(hidden: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(hidden, dense.kernel.value)
        return logits if dense.bias is None else logits + dense.bias.value

    return Window(top, project, context, (int(dense.kernel.shape[0]), int(dense.kernel.shape[1])), variables)


def call(part: keras.Model, token_ids: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Run a model, or a part of it, on token ids int32 (batch, T) as it is run when it is served."""
    with without_cudnn(model):
        return part(as_input(token_ids, model), training=False)


def function_window(function: Function, context: int, resources: Sequence[Any]) -> Window:
    """Make a window model of any function from token ids to logits or probabilities, whichever it turns out to give.

    Raises:
        UnsupportedModel: the outputs have another shape.
    """
    outputs = newest(function(tf.zeros([_ROWS, context], tf.int32)))
    if outputs.shape.rank != 2 or not outputs.dtype.is_floating:
        raise UnsupportedModel(
            f"the outputs must be floats of shape (batch, vocabulary) or (batch, tokens, vocabulary), got "
            f"{outputs.dtype.name} of shape {tuple(outputs.shape)}"
        )
    vocab_size = int(outputs.shape[1])
    some = np.random.default_rng(0).integers(0, vocab_size, (_ROWS, context))
    answers = newest(function(tf.constant(some, tf.int32)))
    soft = gives_probabilities(answers)
    if not soft:
        _require_known_kind(answers)

    def top(token_ids: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(newest(function(token_ids)), tf.float32)
        return tf.math.log(tf.maximum(outputs, LEAST)) if soft else outputs

    return Window(top, lambda hidden: hidden, context, (vocab_size, vocab_size), resources)


def gives_probabilities(outputs: tf.Tensor) -> bool:
    """Say by some of its outputs, (batch, V), whether a model gives probabilities and not logits.

    Raises:
        NotFinite: one is no number.
    """
    rows = np.asarray(tf.cast(outputs, tf.float32))
    if not np.isfinite(rows).all():
        raise NotFinite("an output is NaN or infinite: the training did not converge")
    return bool((rows >= 0).all() and np.abs(rows.sum(axis=1) - 1).max() < _PROBABILITY_TOLERANCE)


def _require_known_kind(outputs: tf.Tensor) -> None:
    """Refuse the outputs of sigmoids and their like: taken for logits they would make nearly uniform texts."""
    rows = np.asarray(tf.cast(outputs, tf.float32))
    # Zeros alone are the logits of a model whose last layer has learnt nothing.
    if (rows >= 0).all() and (rows <= 1).all() and rows.any():
        raise UnsupportedModel(
            f"every output is between 0 and 1, but they add up to {rows.sum(axis=1).max():.3g} and not to 1: neither "
            f"probabilities nor logits"
        )


def newest(outputs: tf.Tensor) -> tf.Tensor:
    """Return what a model says of the last token: of (batch, T, width) or (batch, width), the latter."""
    outputs = tf.convert_to_tensor(outputs)
    return outputs[:, -1] if outputs.shape.rank == 3 else outputs


def as_input(token_ids: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Cast ids to what a model takes."""
    # The lesson's way of writing models gives them inputs of floats.
    inputs = getattr(model, "inputs", None)
    return tf.cast(token_ids, inputs[0].dtype) if inputs else token_ids


def _parts(model: keras.Model) -> tuple[Any, keras.Model | None]:
    """Part a model into its output layer, behind which may stand a softmax of its own, and what is below."""
    try:
        nodes = without_softmax(read_graph(model))
    except UnsupportedModel:
        return None, None
    last = nodes[-1].layer
    if is_shared(last, nodes):
        return None, None
    plain = (keras.activations.linear, keras.activations.softmax)
    is_dense = type(last) is keras.layers.Dense and last.activation in plain
    return (last, model_up_to(model, lambda: last.input)) if is_dense else (None, None)


def is_shared(layer: Any, nodes: Sequence[Node]) -> bool:
    """Say whether a layer is called more than once: then it has no input or output of its own."""
    return sum(node.layer is layer for node in nodes) > 1


def model_up_to(model: keras.Model, tensor: Callable[[], Any]) -> keras.Model | None:
    """Make a model of a part of another; None where layers are used by several models, and Keras loses the thread."""
    try:
        return keras.Model(model.inputs, tensor())
    except (AttributeError, ValueError):
        return None


@contextlib.contextmanager
def without_cudnn(model: keras.Model) -> Iterator[None]:
    """Keep Keras from choosing cuDNN while a graph is traced: where a GPU is in sight, a CPU could not run it."""
    layers = [layer for layer in all_layers(model) if hasattr(layer, "use_cudnn")]
    before = [layer.use_cudnn for layer in layers]
    try:
        for layer in layers:
            layer.use_cudnn = False
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.use_cudnn = value
