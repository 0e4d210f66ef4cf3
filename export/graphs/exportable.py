"""A Keras model, or a function from elsewhere, made ready to be published: what computes its steps, and what it says.

Knows the two ways to serve a model: with a state that is carried, and with a window of its last tokens. Does not know
signatures or files.
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
from export.graphs.rebuild import all_layers, is_plain, made_plain, needs_rebuild, rebuild_unfixed
from export.graphs.window import (
    LEAST,
    Function,
    Window,
    as_input,
    call,
    function_window,
    gives_probabilities,
    is_shared,
    keras_window,
    model_up_to,
    newest,
)

# int32 (batch, T) to float32 (batch, T, width).
LogitsFn = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Facts:
    """What the card says of a model's layers; see `contract.card.GeneratorCard`."""

    cell: str | None = None
    layers: int = 0
    embedding: int = 0
    context: int | None = None


@dataclass(frozen=True)
class Exportable:
    """What is published.

    Attributes:
        network: What computes a step.
        weights_sha256: Hash of the weights, and of how they are used.
        logits: The model's own answer, to hold what is published against: logits up to a constant in each row.
        tops: What its last layer takes, likewise; None where that is not known.
        gives_probabilities: Whether its outputs are these and not logits, found by calling it.
        num_embeddings: Ids that it can read; None where that is not known.
        vectors: float32 (ids, embedding), its embedding; None where that is not known.
        model: The Keras model, to be kept beside; None where there is none.
    """

    network: StatefulNetwork | Window
    facts: Facts
    weights_sha256: str
    logits: LogitsFn
    gives_probabilities: bool
    tops: LogitsFn | None = None
    num_embeddings: int | None = None
    vectors: np.ndarray | None = None
    model: keras.Model | None = None


def prepare(model: keras.Model, context: int | None = None) -> Exportable:
    """Make a Keras model ready: with a carried state where its layers allow it, else with a window.

    Args:
        model: From token ids to logits or probabilities, of every token or of the last one.
        context: Tokens of a window; given, it is served as a window model even if it could carry a state. Without it a
            model of a fixed length has that one.

    Raises:
        UnsupportedModel: it cannot carry a state, and how many tokens it takes is not known, or is not `context`; or
            its outputs have another shape.
    """
    length = fixed_length(model)
    if context is None:
        try:
            return _carried(model, read_network(model))
        except NotFinite:
            raise
        except UnsupportedModel as error:
            context = length
            if context is None:
                raise UnsupportedModel(
                    f"{error}; so no state can be carried, and the model needs a window of its last tokens: give its "
                    f"length, the one that the texts of its training had"
                ) from error
    if length not in (None, context):
        raise UnsupportedModel(f"the model takes texts of {length} tokens, and a window of {context} was asked for")
    return _windowed(model, context)


def fixed_length(model: keras.Model) -> int | None:
    """Return how many tokens a model takes at once; None where that is open."""
    shape = getattr(model, "input_shape", None)
    return shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None


def _carried(model: keras.Model, network: Network) -> Exportable:
    whole = rebuild_unfixed(model) if needs_rebuild(model) else model
    nodes = without_softmax(read_graph(whole))
    highest = nodes[nodes[-1].inputs[0]].layer
    top = None if is_shared(highest, nodes) else model_up_to(whole, lambda: highest.output)

    def outputs(token_ids: np.ndarray) -> np.ndarray:
        return np.asarray(whole(as_input(token_ids, whole), training=False))

    vectors = network.embedding.table
    num_embeddings, width = vectors.shape
    return Exportable(
        StatefulNetwork(network),
        Facts(network.cell, len(network.recurrent), width),
        network.sha256(),
        *_judged(outputs, num_embeddings),
        tops=None if top is None else lambda token_ids: np.asarray(top(as_input(token_ids, whole), training=False)),
        num_embeddings=num_embeddings,
        vectors=vectors,
        model=model,
    )


def _windowed(given: keras.Model, context: int) -> Exportable:
    can_be_rebuilt = isinstance(given, keras.Sequential) or hasattr(given, "input_shape")
    model = made_plain(given) if can_be_rebuilt and not is_plain(given) else given

    layers = list(all_layers(model))
    kinds = {name for layer in layers for name, kind in CELLS.items() if type(layer) is kind}
    embedding = next((layer for layer in layers if isinstance(layer, keras.layers.Embedding)), None)
    num_embeddings = None if embedding is None else embedding.input_dim
    network = keras_window(model, context)
    structure = json.dumps(_description(given), sort_keys=True, default=lambda value: type(value).__name__)
    return Exportable(
        network,
        Facts(kinds.pop() if len(kinds) == 1 else None, 0, embedding.output_dim if embedding else 0, context),
        # Not `variables`: among these are the seeds of dropout, drawn anew whenever the model is loaded.
        _hash(f"{context} {structure}", [variable.value for variable in model.weights]),
        *_judged(_by_windows(lambda ids: call(model, ids, model), context), num_embeddings or network.vocab_size),
        num_embeddings=num_embeddings,
        vectors=None if embedding is None else np.asarray(embedding.embeddings, np.float32),
        model=given,
    )


def _description(model: keras.Model) -> Any:
    try:
        return model.get_config()
    except NotImplementedError:
        return type(model).__qualname__


def prepare_function(
    function: Function, context: int, variables: Sequence[tf.Variable], structure: bytes, keep: Any = None
) -> Exportable:
    """Make any function from token ids int32 (batch, T) to logits or probabilities ready, as a window model.

    Args:
        function: To (batch, V) or (batch, T, V).
        context: Tokens of its window.
        variables: All that it uses.
        structure: What tells it from another function of equal variables.
        keep: What else it uses, to be saved with it.

    Raises:
        UnsupportedModel: its outputs have another shape.
    """
    network = function_window(function, context, [*variables, *([] if keep is None else [keep])])
    digest = _hash(f"{context} {hashlib.sha256(structure).hexdigest()}", variables)
    judged = _judged(_by_windows(function, context), network.vocab_size)
    return Exportable(network, Facts(context=context), digest, *judged)


def _hash(structure: str, variables: Sequence[tf.Variable]) -> str:
    digest = hashlib.sha256(structure.encode())
    for variable in variables:
        digest.update(str(variable.shape).encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def _by_windows(function: Function, context: int) -> LogitsFn:
    """Return what a model says of each token when it is given the window that ends there, padded in front."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None, context], tf.int32)])

    def outputs(token_ids: np.ndarray) -> np.ndarray:
        padded = np.pad(token_ids, ((0, 0), (context, 0)))
        ends = range(1, token_ids.shape[1] + 1)
        every = [np.asarray(newest(traced(tf.constant(padded[:, end : end + context])))) for end in ends]
        return np.stack(every, axis=1)

    return outputs


def _judged(outputs: LogitsFn, num_ids: int) -> tuple[LogitsFn, bool]:
    """Find out by a call whether outputs are probabilities; return an oracle of logits, and what was found."""
    some = np.random.default_rng(0).integers(0, num_ids, (8, 1)).astype(np.int32)
    soft = gives_probabilities(outputs(some)[:, -1])

    def logits(token_ids: np.ndarray) -> np.ndarray:
        raw = np.asarray(outputs(token_ids), np.float32)
        return np.log(np.maximum(raw, LEAST)) if soft else raw

    return logits, soft
