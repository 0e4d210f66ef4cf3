"""A SavedModel in a TensorFlow session, loaded as TensorFlow Serving does."""

import copy
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from model_server.errors import ModelServerError, from_tensorflow

Session = tf.compat.v1.Session
SAVED_MODEL_FILE = "saved_model.pb"
_TAG = "serve"
_INIT_OP = "__saved_model_init_op"
# Returns the functions of a GraphDef.
functions_of = attrgetter("library.function")


def load(path: Path) -> tuple[Session, dict[str, SignatureDef]]:
    """Load the graph with the tag "serve" into a session of its own, with restored variables and initialized tables.

    Returns:
        The session, whose weights are deleted with it, and all signatures, including those that are not for requests.

    Raises:
        ModelServerError: TensorFlow's status, or DATA_LOSS or NOT_FOUND for an unusable file.
    """
    meta_graph = _read_meta_graph(path)
    # Copies, because a part of a message keeps the whole message in memory.
    definitions = {key: copy.deepcopy(definition) for key, definition in meta_graph.signature_def.items()}
    try:
        session = _open(meta_graph.graph_def)
        saver = meta_graph.saver_def
        if saver.restore_op_name:
            restore = make_callable(session, [saver.filename_tensor_name], operation=saver.restore_op_name)
            restore(np.array(str(path / "variables" / "variables").encode(), object))
        if _INIT_OP in definitions:
            make_callable(session, [], operation=definitions[_INIT_OP].outputs[_INIT_OP].name)()
    except tf.errors.OpError as error:
        raise from_tensorflow(error) from error
    except ValueError as error:
        raise ModelServerError(grpc.StatusCode.INVALID_ARGUMENT, f"Can't import {path}: {error}") from error
    return session, definitions


def make_callable(
    session: Session, inputs: Iterable[str], outputs: Iterable[str] = (), operation: str | None = None
) -> Any:
    """Return a function from the values of the inputs to those of the outputs, by the names of their tensors.

    Its errors have TensorFlow's own messages, to which `Session.run` would add Python stacks. It releases the GIL.
    """
    options = CallableOptions(feed=inputs, fetch=outputs, target=[operation] if operation else [])
    return session._make_callable_from_options(options)


def _read_meta_graph(path: Path) -> MetaGraphDef:
    try:
        saved_model = SavedModel.FromString((path / SAVED_MODEL_FILE).read_bytes())
    except DecodeError as error:
        message = f"Can't parse the SavedModel in {path}: {error}"
        raise ModelServerError(grpc.StatusCode.DATA_LOSS, message) from error
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {_TAG}:
            return meta_graph
    message = f"Could not find meta graph def matching supplied tags: {{ {_TAG} }} in {path}"
    raise ModelServerError(grpc.StatusCode.NOT_FOUND, message)


def _open(graph_def: tf.compat.v1.GraphDef) -> Session:
    """Return a session with a graph, which this changes. Sessions share TensorFlow's threads."""
    _drop_shapes(graph_def)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    # A second copy of all functions, for Python: 10 MB of 38 for a version.
    graph._functions.clear()
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=tf.config.threading.get_intra_op_parallelism_threads(),
        inter_op_parallelism_threads=tf.config.threading.get_inter_op_parallelism_threads(),
    )
    return Session(graph=graph, config=config)


def _drop_shapes(graph_def: tf.compat.v1.GraphDef) -> None:
    """Drop the shapes that Python has recorded beside the graph's functions; TensorFlow infers them itself.

    A session copies the graph's functions a few times, and for each signature that it optimizes. Without these shapes a
    version takes three quarters of the memory and of the time, and all outputs are bit-exact to those with them.
    """
    for function in functions_of(graph_def):
        for node in (*function.arg_attr.values(), *function.node_def):
            node.attr.pop("_output_shapes", None)
