"""A client of TensorFlow Serving's gRPC API that speaks plain protos."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, GetModelMetadataResponse
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from model_server.server import ModelServer

TIMEOUT_S = 20.0


class Client:
    """A client with one channel. Arrays are sent as `tensor_content`, unless given as protos.

    Attributes:
        server: The server, if it is in this process.
    """

    server: ModelServer

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, name: str = "tiny", **fields: Any) -> PredictResponse:
        """Call Predict; see `request`."""
        return self.prediction.Predict(self.request(name, **fields), timeout=TIMEOUT_S)

    def begin(self, name: str = "tiny", **fields: Any) -> Future[PredictResponse]:
        """Call Predict and return a future; see `request`."""
        return self.prediction.Predict.future(self.request(name, **fields), timeout=TIMEOUT_S)

    def weight(self, name: str = "tiny", **fields: Any) -> float:
        """Return the weight of the version that responds; it tells versions apart."""
        return self.predict(name, output_filter=["total"], **fields).outputs["total"].float_val[0] / 6.0

    @staticmethod
    def request(
        name: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        output_filter: Iterable[str] = (),
    ) -> PredictRequest:
        """Build a request, for x = [[1, 2, 3]] if no inputs are given."""
        request = PredictRequest(output_filter=output_filter)
        spec(request.model_spec, name, version, label)
        request.model_spec.signature_name = signature
        for key, value in ({"x": np.array([[1, 2, 3]], np.float32)} if inputs is None else inputs).items():
            request.inputs[key].CopyFrom(as_proto(value))
        return request

    def states(self, name: str = "tiny", version: int | None = None) -> dict[int, str]:
        """Return the states of the versions, by number."""
        return {v.version: ModelVersionStatus.State.Name(v.state) for v in self.statuses(name, version)}

    def statuses(
        self, name: str = "tiny", version: int | None = None, label: str | None = None
    ) -> Sequence[ModelVersionStatus]:
        """Call GetModelStatus."""
        request = GetModelStatusRequest()
        spec(request.model_spec, name, version, label)
        return self.model.GetModelStatus(request, timeout=TIMEOUT_S).model_version_status

    def metadata(
        self, name: str = "tiny", fields: Iterable[str] = ("signature_def",), version: int | None = None
    ) -> GetModelMetadataResponse:
        """Call GetModelMetadata."""
        request = GetModelMetadataRequest(metadata_field=fields)
        spec(request.model_spec, name, version, None)
        return self.prediction.GetModelMetadata(request, timeout=TIMEOUT_S)

    def reload(self, config: str) -> None:
        """Call HandleReloadConfigRequest with a text proto."""
        request = ReloadConfigRequest(config=text_format.Parse(config, ModelServerConfig()))
        self.model.HandleReloadConfigRequest(request, timeout=TIMEOUT_S)


def spec(message: Any, name: str, version: int | None, label: str | None) -> None:
    """Fill in a ModelSpec."""
    message.name = name
    if version is not None:
        message.version.value = version
    if label is not None:
        message.version_label = label


def as_proto(value: Any) -> TensorProto:
    """Convert to a TensorProto; arrays of more than one element are sent as `tensor_content`."""
    return value if isinstance(value, TensorProto) else tf.make_tensor_proto(value)
