"""A client of TensorFlow Serving's gRPC API that passes statuses and messages on unchanged.

It converts tensors with the gateway's own code, so a tensor that the gateway cannot decode fails here, too.
"""

import time

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, model_management_pb2

from service.backends.messages import (
    get_model_status_pb2,
    model_server_config_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    to_array,
    to_proto,
)

# Long enough for a busy machine; no test measures it.
TIMEOUT_S = 60.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


class Client:
    """A client with one channel; but for `begin`, it repeats a call that the server has no thread for.

    TensorFlow Serving computes calls that were given up to their end, and meanwhile rejects others with
    RESOURCE_EXHAUSTED.
    """

    def __init__(self, address, credentials=None):
        self.address = address
        if credentials is None:
            self.channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self.channel = grpc.secure_channel(address, credentials, _OPTIONS)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, name, signature, inputs, **fields):
        """Call Predict and return its outputs as arrays; see `request`."""
        return to_arrays(self.answer(name, signature, inputs, **fields))

    def answer(self, name, signature, inputs, **fields):
        """Call Predict and return the response; see `request`."""
        return _complete(self.prediction.Predict, request(name, signature, inputs, **fields))

    def begin(self, name, signature, inputs, timeout_s=TIMEOUT_S, **fields):
        return self.prediction.Predict.future(request(name, signature, inputs, **fields), timeout=timeout_s)

    def states(self, name, version=None):
        """Return the state of each version, by number."""
        message = get_model_status_pb2.GetModelStatusRequest()
        _specify(message.model_spec, name, version)
        return states_of(_complete(self.model.GetModelStatus, message).model_version_status)

    def metadata(self, name, version=None, fields=("signature_def",)):
        """Return the model_spec and the signatures of a version."""
        message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        _specify(message.model_spec, name, version)
        answer = _complete(self.prediction.GetModelMetadata, message)
        found = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(found)
        return answer.model_spec, found.signature_def

    def reload(self, config):
        message = text_format.Parse(config, model_server_config_pb2.ModelServerConfig())
        request = model_management_pb2.ReloadConfigRequest(config=message)
        _complete(self.model.HandleReloadConfigRequest, request)


def _complete(rpc, message):
    """Make a call; wait and repeat it while the server is busy."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return rpc(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def request(name, signature, inputs, *, version=None, label=None, output_filter=()):
    """Build a PredictRequest; inputs are arrays, float32 or int32, or messages."""
    message = predict_pb2.PredictRequest(output_filter=output_filter)
    _specify(message.model_spec, name, version, label)
    message.model_spec.signature_name = signature
    for key, value in inputs.items():
        message.inputs[key].CopyFrom(value if isinstance(value, Message) else to_proto(value))
    return message


def refusal(attempt):
    with pytest.raises(grpc.RpcError) as caught:
        attempt()
    return caught.value.code(), caught.value.details()


def states_of(statuses):
    return {status.version: get_model_status_pb2.ModelVersionStatus.State.Name(status.state) for status in statuses}


def to_arrays(answer):
    return {name: to_array(proto, _shape(proto)) for name, proto in answer.outputs.items()}


def _shape(proto):
    return tuple(dim.size for dim in proto.tensor_shape.dim)


def _specify(spec, name, version, label=None):
    spec.name = name
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
