"""A SavedModel in a TensorFlow session, loaded and run as TensorFlow Serving does.

Knows the SavedModel format. Does not know versions, requests or the names of models.
"""

import copy
import threading
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from model_server.errors import TensorFlowFailed, status_code
from model_server.versions import SAVED_MODEL_FILES

TAG = "serve"
_INIT_OP = "__saved_model_init_op"
# Collections with the initialization op of a SavedModel that TensorFlow 1 has written.
_OLD_INIT_OPS = ("saved_model_main_op", "legacy_init_op")
_SHAPES = "_output_shapes"
# The functions of a graph.
_functions = attrgetter("library.function")


class LoadedModel:
    """The graph with the tag "serve" in a session of its own, with restored variables and initialized tables.

    The session, and with it the weights, is deleted when nothing refers to this object or to a `Function` of it.

    Attributes:
        definitions: All signatures, including those that are not for requests.
        functions: A function for each signature that is for requests.
    """

    def __init__(self, path: Path) -> None:
        """Load a SavedModel.

        Raises:
            TensorFlowFailed: with TensorFlow's code, or DATA_LOSS or NOT_FOUND for an unusable file.
        """
        meta_graph = _read_meta_graph(path)
        # Copies, because a part of a message keeps the whole message in memory.
        self.definitions = {key: copy.deepcopy(definition) for key, definition in meta_graph.signature_def.items()}
        try:
            session = _open(meta_graph.graph_def)
            _initialize(session, meta_graph, path)
        except tf.errors.OpError as error:
            raise failed(error) from error
        except ValueError as error:
            raise TensorFlowFailed(grpc.StatusCode.INVALID_ARGUMENT, f"Can't import {path}: {error}") from error
        self.functions = {
            key: Function(session, definition)
            for key, definition in self.definitions.items()
            if not key.startswith("__saved_model_")
        }


class Function:
    """A signature as a thread-safe function from arrays to arrays, by name. Releases the GIL while it computes.

    It computes every output. TensorFlow Serving computes those of `output_filter`, and optimizes the graph again at the
    first call with each combination of outputs: 0.2 to 0.5 s of CPU time here, for calls that are no faster.
    """

    def __init__(self, session: tf.compat.v1.Session, definition: SignatureDef) -> None:
        self._session = session
        self._inputs = {name: info.name for name, info in definition.inputs.items()}
        self._outputs = {name: info.name for name, info in definition.outputs.items()}
        self._lock = threading.Lock()
        self._callable: Any = None

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Compute all outputs. The first call optimizes the graph.

        Raises:
            tf.errors.OpError: the graph failed.
        """
        if self._callable is None:
            with self._lock:
                if self._callable is None:
                    self._callable = _callable(self._session, self._inputs.values(), self._outputs.values())
        values = self._callable(*(arrays[name] for name in self._inputs))
        return {name: _to_array(value) for name, value in zip(self._outputs, values, strict=True)}


def failed(error: tf.errors.OpError) -> TensorFlowFailed:
    """Convert an error of TensorFlow."""
    return TensorFlowFailed(status_code(error.error_code), str(error.message).strip())


def _read_meta_graph(path: Path) -> MetaGraphDef:
    """Read the graph with the tag "serve".

    Raises:
        TensorFlowFailed: DATA_LOSS if the file is damaged, NOT_FOUND if it contains no such graph.
    """
    binary, text = (path / name for name in SAVED_MODEL_FILES)
    try:
        if binary.is_file():
            saved_model = SavedModel.FromString(binary.read_bytes())
        else:
            saved_model = text_format.Parse(text.read_bytes(), SavedModel())
    except (DecodeError, text_format.ParseError) as error:
        raise TensorFlowFailed(grpc.StatusCode.DATA_LOSS, f"Can't parse the SavedModel in {path}: {error}") from error
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {TAG}:
            return meta_graph
    raise TensorFlowFailed(
        grpc.StatusCode.NOT_FOUND, f"Could not find meta graph def matching supplied tags: {{ {TAG} }} in {path}"
    )


def _open(graph_def: tf.compat.v1.GraphDef) -> tf.compat.v1.Session:
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
    return tf.compat.v1.Session(graph=graph, config=config)


def _drop_shapes(graph_def: tf.compat.v1.GraphDef) -> None:
    """Drop the shapes that Python has recorded beside the graph's functions; TensorFlow infers them itself.

    A session copies the graph's functions a few times, and for each signature that it optimizes. Without these shapes a
    version takes three quarters of the memory and of the time, and all outputs are bit-exact to those with them.
    """
    for function in _functions(graph_def):
        for argument in function.arg_attr.values():
            argument.attr.pop(_SHAPES, None)
        for node in function.node_def:
            node.attr.pop(_SHAPES, None)


def _initialize(session: tf.compat.v1.Session, meta_graph: MetaGraphDef, path: Path) -> None:
    """Restore the variables and run the initialization op, which fills tables from the assets."""
    files = {asset.tensor_info.name: path / "assets" / asset.filename for asset in meta_graph.asset_file_def}
    saver = meta_graph.saver_def
    if saver.restore_op_name:
        _run(session, saver.restore_op_name, {**files, saver.filename_tensor_name: path / "variables" / "variables"})
    init_ops = [name for key in _OLD_INIT_OPS for name in meta_graph.collection_def[key].node_list.value]
    if _INIT_OP in meta_graph.signature_def:
        init_ops = [meta_graph.signature_def[_INIT_OP].outputs[_INIT_OP].name]
    if init_ops:
        _run(session, init_ops[0], files)


def _run(session: tf.compat.v1.Session, operation: str, files: Mapping[str, Path]) -> None:
    """Run an operation; the inputs are paths."""
    run = _callable(session, files, operation=operation)
    run(*(np.array(str(file).encode(), object) for file in files.values()))


def _callable(
    session: tf.compat.v1.Session, inputs: Iterable[str], outputs: Iterable[str] = (), operation: str | None = None
) -> Any:
    """Return a function from the values of the inputs to those of the outputs, by the names of their tensors.

    Its errors have TensorFlow's own messages, to which `Session.run` would add Python stacks.
    """
    options = CallableOptions(feed=inputs, fetch=outputs, target=[operation] if operation else [])
    return session._make_callable_from_options(options)


def _to_array(value: Any) -> np.ndarray:
    """Return an array; TensorFlow returns scalars as such, and a scalar string as bytes."""
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
