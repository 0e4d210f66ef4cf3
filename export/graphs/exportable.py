"""Preparation of a Keras model or an imported function for export, with carried state or a sliding window."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from export.errors import NotFinite, UnsupportedModel
from export.graphs.cells import StatefulNetwork
from export.graphs.network import CELLS, Network, all_layers, read_graph, read_network, without_softmax
from export.graphs.window import (
    Function,
    Window,
    as_input,
    call,
    is_shared,
    keras_window,
    last_output,
    logits_window,
    model_up_to,
)

# int32 (batch, T) to float32 (batch, T, width).
LogitsFn = Callable[[np.ndarray], np.ndarray]
# Tolerance of the sum of probabilities; in bfloat16 it is up to 1% off.
_PROBABILITY_TOLERANCE = 2e-2
# Lower limit of probabilities before the logarithm, as log(0) is undefined.
_MIN_PROBABILITY = 1e-37
_BATCH_SIZE = 8


@dataclass(frozen=True)
class Exportable:
    """A model prepared for export. `cell`, `layers` and `context` are as in `GeneratorCard`.

    Attributes:
        network: The step function.
        weights_sha256: Hash of weights and model structure.
        logits: Reference logits of the original model, up to a constant per token; to verify the export.
        tops: Reference inputs of its last layer, likewise; None if unknown.
        gives_probabilities: Whether the original outputs are probabilities and not logits, as observed in a call.
        vectors: float32 (valid input ids, embedding), the embedding table; None if unknown.
        keras_model: The Keras model, to store beside the SavedModel; None if there is none.
    """

    network: StatefulNetwork | Window
    weights_sha256: str
    logits: LogitsFn
    gives_probabilities: bool
    tops: LogitsFn | None = None
    vectors: np.ndarray | None = None
    keras_model: keras.Model | None = None
    cell: str | None = None
    layers: int = 0
    context: int | None = None


def prepare(model: keras.Model, context: int | None = None) -> Exportable:
    """Prepare a Keras model from token ids: with carried state if its layers allow it, else as a sliding-window model.

    If a context is given, even a model that could carry state is served as a sliding-window model. The default is the
    model's fixed input length.

    Raises:
        UnsupportedModel: the model cannot carry state and its input length is unknown; or the input length differs from
            `context`; or its outputs have another shape.
    """
    length = fixed_length(model)
    if context is None:
        try:
            return _prepare_stateful(model, read_network(model))
        except NotFinite:
            raise
        except UnsupportedModel as error:
            context = length
            if context is None:
                raise UnsupportedModel(
                    f"{error}; so it carries no state and must be a sliding-window model: pass the length of its "
                    f"training sequences as context length"
                ) from error
    require_context(length, context)
    return _prepare_window(model, context)


def fixed_length(model: keras.Model) -> int | None:
    shape = getattr(model, "input_shape", None)
    return shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None


def require_context(length: int | None, context: int | None) -> None:
    """Raise UnsupportedModel if a model's input has a fixed length other than the context length."""
    if context is not None and length not in (None, context):
        raise UnsupportedModel(
            f"the model's input has a fixed length of {length} tokens, got a context length of {context}"
        )


def _prepare_stateful(model: keras.Model, network: Network) -> Exportable:
    whole = _rebuild(model, _UNFIXED) if _needs_rebuild(model) else model
    nodes = without_softmax(read_graph(whole))
    top_layer = nodes[nodes[-1].inputs[0]].layer
    top = None if is_shared(top_layer, nodes) else model_up_to(whole, lambda: keras.tree.flatten(top_layer.output)[0])

    def outputs(token_ids: np.ndarray) -> tf.Tensor:
        return whole(as_input(token_ids, whole), training=False)

    vectors = network.embedding.table
    are_probabilities = _are_probabilities(outputs(_random_ids(len(vectors), 1))[:, -1])
    return Exportable(
        StatefulNetwork(network),
        network.sha256(),
        lambda token_ids: np.asarray(_as_logits(outputs(token_ids), are_probabilities)),
        are_probabilities,
        tops=None if top is None else lambda token_ids: np.asarray(top(as_input(token_ids, whole), training=False)),
        vectors=vectors,
        keras_model=model,
        cell=network.cell,
        layers=len(network.recurrent),
    )


def _prepare_window(original: keras.Model, context: int) -> Exportable:
    can_be_rebuilt = isinstance(original, keras.Sequential) or hasattr(original, "input_shape")
    model = _rebuild(original, _PLAIN) if can_be_rebuilt and not _is_plain(original) else original
    layers = list(all_layers(model))
    kinds = {name for layer in layers for name, kind in CELLS.items() if type(layer) is kind}
    embedding = next((layer for layer in layers if isinstance(layer, keras.layers.Embedding)), None)
    vectors = None if embedding is None else np.asarray(embedding.embeddings, np.float32)
    num_ids = None if vectors is None else len(vectors)
    logits, are_probabilities = _logits_of(lambda token_ids: call(model, token_ids, model), context, num_ids)
    structure = json.dumps(_description(original), sort_keys=True, default=lambda value: type(value).__name__)
    return Exportable(
        keras_window(model, logits, context),
        # Not `variables`: these include dropout seeds, which are random at every load.
        _hash(f"{context} {structure}", [variable.value for variable in model.weights]),
        _by_windows(logits, context),
        are_probabilities,
        vectors=vectors,
        keras_model=original,
        cell=kinds.pop() if len(kinds) == 1 else None,
        context=context,
    )


def _description(model: keras.Model) -> Any:
    try:
        return model.get_config()
    except NotImplementedError:
        return type(model).__qualname__


def prepare_function(
    function: Function, context: int, variables: Sequence[tf.Variable], structure: bytes, keep: Any = None
) -> Exportable:
    """Prepare any function from token ids int32 (batch, T) to logits or probabilities as a sliding-window model.

    Args:
        function: Returns (batch, V) or (batch, T, V).
        context: Window length in tokens.
        variables: All variables that it uses.
        structure: Serialized function, so that functions with equal variables have different hashes.
        keep: Other resources that it uses, to be saved with it.

    Raises:
        UnsupportedModel: its outputs have another shape.
    """
    logits, are_probabilities = _logits_of(function, context, None)
    network = logits_window(logits, context, [*variables, *([] if keep is None else [keep])])
    digest = _hash(f"{context} {hashlib.sha256(structure).hexdigest()}", variables)
    return Exportable(network, digest, _by_windows(logits, context), are_probabilities, context=context)


def _hash(structure: str, variables: Sequence[tf.Variable]) -> str:
    digest = hashlib.sha256(structure.encode())
    for variable in variables:
        digest.update(str(variable.shape).encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def _logits_of(function: Function, context: int, num_ids: int | None) -> tuple[Function, bool]:
    """Return a function to the last token's logits, float32 (batch, V), and whether the outputs are probabilities.

    Raises:
        UnsupportedModel: the outputs have another shape, or are neither logits nor probabilities.
    """
    outputs = last_output(function(tf.zeros([_BATCH_SIZE, context], tf.int32)))
    if outputs.shape.rank != 2 or not outputs.dtype.is_floating:
        raise UnsupportedModel(
            f"the outputs must be floats of shape (batch, vocabulary) or (batch, tokens, vocabulary), got "
            f"{outputs.dtype.name} of shape {tuple(outputs.shape)}"
        )
    outputs = last_output(function(_random_ids(num_ids or int(outputs.shape[1]), context)))
    are_probabilities = _are_probabilities(outputs)
    rows = np.asarray(tf.cast(outputs, tf.float32))
    # As logits, outputs of sigmoids and the like would give nearly uniform samples. All zeros are the logits of a model
    # with an untrained last layer.
    if not are_probabilities and (rows >= 0).all() and (rows <= 1).all() and rows.any():
        raise UnsupportedModel(
            f"every output is between 0 and 1, but they add up to {rows.sum(axis=1).max():.3g} and not to 1: neither "
            f"probabilities nor logits"
        )
    return lambda token_ids: _as_logits(last_output(function(token_ids)), are_probabilities), are_probabilities


def _random_ids(num_ids: int, length: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).integers(0, num_ids, (_BATCH_SIZE, length)), tf.int32)


def _are_probabilities(outputs: tf.Tensor) -> bool:
    """Return whether outputs (batch, V) of a model are probabilities and not logits.

    Raises:
        NotFinite: an output is NaN or infinite.
    """
    rows = np.asarray(tf.cast(outputs, tf.float32))
    if not np.isfinite(rows).all():
        raise NotFinite("an output is NaN or infinite: the training did not converge")
    return bool((rows >= 0).all() and np.abs(rows.sum(axis=1) - 1).max() < _PROBABILITY_TOLERANCE)


def _as_logits(outputs: tf.Tensor, are_probabilities: bool) -> tf.Tensor:
    outputs = tf.cast(outputs, tf.float32)
    return tf.math.log(tf.maximum(outputs, _MIN_PROBABILITY)) if are_probabilities else outputs


def _by_windows(logits: Function, context: int) -> LogitsFn:
    """Return a function that calls the model for each token with the window that ends there, left-padded."""
    traced = tf.function(logits, input_signature=[tf.TensorSpec([None, context], tf.int32)])

    def outputs(token_ids: np.ndarray) -> np.ndarray:
        padded = np.pad(token_ids, ((0, 0), (context, 0)))
        ends = range(1, token_ids.shape[1] + 1)
        return np.stack([traced(tf.constant(padded[:, end : end + context])).numpy() for end in ends], axis=1)

    return outputs


def _needs_rebuild(model: keras.Model) -> bool:
    """Return whether a model has a fixed batch size or length, is stateful, or outputs only the last token."""
    recurrent = [layer for layer in model.layers if isinstance(layer, tuple(CELLS.values()))]
    fixed = any(size is not None for size in model.input_shape)
    return fixed or not _is_plain(model) or any(layer.stateful or not layer.return_sequences for layer in recurrent)


def _is_plain(model: keras.Model) -> bool:
    """Return whether a model computes in float32, takes any batch size and is stateless."""
    layers = list(all_layers(model))
    floats = all(layer.compute_dtype in ("float32", None) for layer in layers if layer.weights)
    fixed = isinstance(model.input_shape, tuple) and model.input_shape[0] is not None
    return floats and not fixed and not any(getattr(layer, "stateful", False) for layer in layers)


def _in_float32(dtype: Any) -> Any:
    """Replace a float dtype or dtype policy by float32; other dtypes, such as int32 inputs, are unchanged."""
    name = dtype["config"].get("name") if isinstance(dtype, dict) and "config" in dtype else dtype
    return "float32" if isinstance(name, str) and "float" in name else dtype


# Replacements of config entries in a rebuilt model, by name: a plain model; an unfixed one also takes any length and
# outputs every token.
Changes = dict[str, Callable[[Any], Any]]
_SHAPES = ("batch_shape", "build_input_shape")
_PLAIN: Changes = {
    "stateful": lambda _: False,
    "dtype": _in_float32,
    **dict.fromkeys(_SHAPES, lambda shape: [None, *shape[1:]]),
}
_UNFIXED: Changes = {**_PLAIN, **dict.fromkeys(_SHAPES, lambda _: [None, None]), "return_sequences": lambda _: True}


def _rebuild(model: keras.Model, changes: Changes) -> keras.Model:
    rebuilt = type(model).from_config(_apply_changes(model.get_config(), changes))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _apply_changes(config: Any, changes: Changes) -> Any:
    if isinstance(config, list | tuple):
        return type(config)(_apply_changes(item, changes) for item in config)
    if not isinstance(config, dict):
        return config
    kept = {name: value for name, value in config.items() if name != "build_config"}
    return {
        name: changes[name](value) if name in changes and value is not None else _apply_changes(value, changes)
        for name, value in kept.items()
    }
