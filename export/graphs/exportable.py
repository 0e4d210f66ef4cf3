"""Preparation of a Keras model or an imported function for export: its step function and its reference logits.

Knows the two ways to serve a model: with carried state, or with a sliding window. Does not know signatures or files.
"""

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
from export.graphs.graph import read_graph
from export.graphs.network import CELLS, Network, read_network, without_softmax
from export.graphs.rebuild import all_layers, is_plain, needs_rebuild, rebuild_plain, rebuild_unfixed
from export.graphs.window import (
    MIN_PROBABILITY,
    Function,
    Window,
    as_input,
    call,
    function_window,
    gives_probabilities,
    is_shared,
    keras_window,
    last_output,
    model_up_to,
)

# int32 (batch, T) to float32 (batch, T, width).
LogitsFn = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Facts:
    """Facts about a model's layers for the card; see `contract.card.GeneratorCard`."""

    cell: str | None = None
    layers: int = 0
    embedding: int = 0
    context: int | None = None


@dataclass(frozen=True)
class Exportable:
    """A model prepared for export.

    Attributes:
        network: The step function.
        weights_sha256: Hash of the weights and of the model structure.
        logits: Reference logits of the original model, up to a constant per token; to verify the export.
        tops: Reference inputs of its last layer, likewise; None if unknown.
        gives_probabilities: Whether the original outputs are probabilities and not logits, as observed in a call.
        num_embeddings: Rows of the embedding: number of valid input ids; None if unknown.
        vectors: float32 (ids, embedding), the embedding table; None if unknown.
        keras_model: The Keras model, to store beside the SavedModel; None if there is none.
    """

    network: StatefulNetwork | Window
    facts: Facts
    weights_sha256: str
    logits: LogitsFn
    gives_probabilities: bool
    tops: LogitsFn | None = None
    num_embeddings: int | None = None
    vectors: np.ndarray | None = None
    keras_model: keras.Model | None = None


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
    if length not in (None, context):
        raise UnsupportedModel(
            f"the model's input has a fixed length of {length} tokens, got a context length of {context}"
        )
    return _prepare_window(model, context)


def fixed_length(model: keras.Model) -> int | None:
    """Return the fixed input length of a model in tokens; None if it is variable."""
    shape = getattr(model, "input_shape", None)
    return shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None


def _prepare_stateful(model: keras.Model, network: Network) -> Exportable:
    whole = rebuild_unfixed(model) if needs_rebuild(model) else model
    nodes = without_softmax(read_graph(whole))
    top_layer = nodes[nodes[-1].inputs[0]].layer
    top = None if is_shared(top_layer, nodes) else model_up_to(whole, lambda: keras.tree.flatten(top_layer.output)[0])

    def outputs(token_ids: np.ndarray) -> np.ndarray:
        return np.asarray(whole(as_input(token_ids, whole), training=False))

    vectors = network.embedding.table
    num_embeddings, width = vectors.shape
    return Exportable(
        StatefulNetwork(network),
        Facts(network.cell, len(network.recurrent), width),
        network.sha256(),
        *_reference_logits(outputs, num_embeddings),
        tops=None if top is None else lambda token_ids: np.asarray(top(as_input(token_ids, whole), training=False)),
        num_embeddings=num_embeddings,
        vectors=vectors,
        keras_model=model,
    )


def _prepare_window(original: keras.Model, context: int) -> Exportable:
    can_be_rebuilt = isinstance(original, keras.Sequential) or hasattr(original, "input_shape")
    model = rebuild_plain(original) if can_be_rebuilt and not is_plain(original) else original

    layers = list(all_layers(model))
    kinds = {name for layer in layers for name, kind in CELLS.items() if type(layer) is kind}
    embedding = next((layer for layer in layers if isinstance(layer, keras.layers.Embedding)), None)
    num_embeddings = None if embedding is None else embedding.input_dim
    network = keras_window(model, context)
    structure = json.dumps(_description(original), sort_keys=True, default=lambda value: type(value).__name__)
    return Exportable(
        network,
        Facts(kinds.pop() if len(kinds) == 1 else None, 0, embedding.output_dim if embedding else 0, context),
        # Not `variables`: these include dropout seeds, which are random at every load.
        _hash(f"{context} {structure}", [variable.value for variable in model.weights]),
        *_reference_logits(
            _by_windows(lambda ids: call(model, ids, model), context), num_embeddings or network.vocab_size
        ),
        num_embeddings=num_embeddings,
        vectors=None if embedding is None else np.asarray(embedding.embeddings, np.float32),
        keras_model=original,
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
    network = function_window(function, context, [*variables, *([] if keep is None else [keep])])
    digest = _hash(f"{context} {hashlib.sha256(structure).hexdigest()}", variables)
    return Exportable(
        network, Facts(context=context), digest, *_reference_logits(_by_windows(function, context), network.vocab_size)
    )


def _hash(structure: str, variables: Sequence[tf.Variable]) -> str:
    digest = hashlib.sha256(structure.encode())
    for variable in variables:
        digest.update(str(variable.shape).encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def _by_windows(function: Function, context: int) -> LogitsFn:
    """Return a function that calls the model for each token with the window that ends there, left-padded."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None, context], tf.int32)])

    def outputs(token_ids: np.ndarray) -> np.ndarray:
        padded = np.pad(token_ids, ((0, 0), (context, 0)))
        ends = range(1, token_ids.shape[1] + 1)
        by_token = [np.asarray(last_output(traced(tf.constant(padded[:, end : end + context])))) for end in ends]
        return np.stack(by_token, axis=1)

    return outputs


def _reference_logits(outputs: LogitsFn, num_ids: int) -> tuple[LogitsFn, bool]:
    """Test in a call whether outputs are probabilities; return a function to logits, and the result of the test."""
    token_ids = np.random.default_rng(0).integers(0, num_ids, (8, 1)).astype(np.int32)
    are_probabilities = gives_probabilities(outputs(token_ids)[:, -1])

    def logits(token_ids: np.ndarray) -> np.ndarray:
        raw = np.asarray(outputs(token_ids), np.float32)
        return np.log(np.maximum(raw, MIN_PROBABILITY)) if are_probabilities else raw

    return logits, are_probabilities
