"""One loaded version of a model, and Predict on it, for requests and for warm-up.

Knows the messages of Predict. Does not know the SavedModel format or the lifecycle.
"""

from pathlib import Path

from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import tensors
from model_server.batching import Batching
from model_server.errors import SignatureNotFound
from model_server.saved_model import LoadedModel
from model_server.signature import Signature

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
        model = LoadedModel(path)
        self.definitions = model.definitions
        self._signatures = {
            key: Signature(key, self.definitions[key], batching.wrap(function) if batching else function)
            for key, function in model.functions.items()
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
