"""Predict on one loaded version, for requests and for warm-up.

Knows the request and response messages. Does not choose the version.
"""

from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import tensors
from model_server.servable import DEFAULT_SIGNATURE, Servable


def predict(servable: Servable, request: PredictRequest) -> PredictResponse:
    """Run a signature and respond as TensorFlow Serving does: with typed fields and the concrete version.

    Computes every output; `output_filter` selects those in the response.

    Args:
        servable: The loaded version; name and version in the request are ignored.
        request: For any signature.

    Raises:
        SignatureNotFound: the signature does not exist.
        InvalidRequest: an input does not match the signature, or an output does not exist.
        TensorFlowFailed: the graph failed.
    """
    signature = servable.signature(request.model_spec.signature_name)
    arrays = signature.decode(request.inputs)
    output_names = signature.select(request.output_filter)
    outputs = signature(arrays)
    response = PredictResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    for name in output_names:
        tensors.encode(outputs[name], signature.outputs[name].dtype, response.outputs[name])
    return response
