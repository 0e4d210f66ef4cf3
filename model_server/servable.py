"""One loaded version of a model, and Predict on it, for requests and for warm-up.

Knows the SavedModel format and the messages of Predict. Does not know the lifecycle.
"""

from collections.abc import Mapping
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import tensors
from model_server.batching import Batching
from model_server.errors import SignatureNotFound, TensorFlowFailed, status_code
from model_server.signature import Signature, plain_message
from model_server.versions import SAVED_MODEL_FILES

TAG = "serve"
DEFAULT_SIGNATURE = "serving_default"


class Servable:
    """A loaded SavedModel. Its weights stay in memory as long as anything refers to it.

    Attributes:
        definitions: All signatures of the SavedModel, including those that are not for requests.
    """

    def __init__(self, name: str, version: int, path: Path, batching: Batching | None = None) -> None:
        """Load a SavedModel with the tag "serve"; batching rules hold for every call of every signature.

        Raises:
            TensorFlowFailed: with TensorFlow's code, or DATA_LOSS or NOT_FOUND for an unusable file.
        """
        self.name = name
        self.version = version
        self.definitions: Mapping[str, SignatureDef] = dict(_read_meta_graph(path).signature_def)
        try:
            # The functions alone do not keep the variables alive.
            self._root = tf.saved_model.load(str(path), tags=[TAG])
        except tf.errors.OpError as error:
            raise TensorFlowFailed(status_code(error.error_code), plain_message(error)) from error
        self._signatures = {
            key: Signature(key, self.definitions[key], batching.wrap(function) if batching else function)
            for key, function in self._root.signatures.items()
        }

    def signature(self, name: str) -> Signature:
        """Return a signature; an empty name means `serving_default`. Raise SignatureNotFound if it does not exist."""
        key = name or DEFAULT_SIGNATURE
        if key not in self._signatures:
            raise SignatureNotFound(f'Serving signature key "{key}" not found.')
        return self._signatures[key]

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Run a signature and respond as TensorFlow Serving does: with typed fields and the concrete version.

        Computes every output; `output_filter` selects those in the response. The request's model name and version are
        ignored.

        Raises:
            SignatureNotFound: the signature does not exist.
            InvalidRequest: an input does not match the signature, or an output does not exist.
            TensorFlowFailed: the graph failed.
        """
        signature = self.signature(request.model_spec.signature_name)
        arrays = signature.decode(request.inputs)
        output_names = signature.select(request.output_filter)
        outputs = signature(arrays)
        response = PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        for name in output_names:
            tensors.encode(outputs[name], signature.outputs[name].dtype, response.outputs[name])
        return response


def _read_meta_graph(path: Path) -> MetaGraphDef:
    """Read what `tf.saved_model.load` does not expose: the signatures with their tensor names.

    Raises:
        TensorFlowFailed: DATA_LOSS if the file is damaged, NOT_FOUND if it contains no graph with the tag "serve".
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
