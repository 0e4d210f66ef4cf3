"""A PredictRequest answered by one loaded version; requests and warm-up go the same way.

Knows the messages. Does not choose the version.
"""

from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import tensors
from model_server.servable import DEFAULT_SIGNATURE, Servable


def predict(servable: Servable, request: PredictRequest) -> PredictResponse:
    """Run a signature and answer as TensorFlow Serving does: typed fields, and the concrete version.

    Every output is computed; `output_filter` chooses which ones are sent.

    Args:
        servable: What answers; name and version in the request are not looked at.
        request: Of any signature.

    Raises:
        SignatureNotFound: there is no such signature.
        InvalidRequest: an input does not fit, or there is no such output.
        TensorFlowFailed: the graph failed.
    """
    signature = servable.signature(request.model_spec.signature_name)
    arrays = signature.decode(request.inputs)
    wanted = signature.select(request.output_filter)
    outputs = signature(arrays)
    response = PredictResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    for name in wanted:
        tensors.encode(outputs[name], signature.outputs[name].dtype, response.outputs[name])
    return response
