"""gRPC to a model server: calls that are not waited for, and the few that are.

Knows TensorFlow Serving's protocol. Does not know sequences, texts or when to call.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from service.batch import Arrays, Call
from service.errors import BackendUnavailable, GatewayError, InternalError, ModelNotFound
from service.protos import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from service.sequence import ModelVersion
from service.tensors import to_array, to_proto

log = logging.getLogger(__name__)

_OPTIONS = (
    # grpcio receives 4 MB unless told otherwise; 64 rows of a large model's states are more.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A model server that comes back is to be found within a second, not after a minute of backing off.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
# Codes of calls that had no effect and may be answered the next time.
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}


@dataclass(frozen=True)
class VersionStatus:
    """One line of GetModelStatus."""

    version: int
    available: bool
    error: str


class GrpcBackend:
    """The model server at one address."""

    def __init__(self, address: str, timeout_s: float) -> None:
        """Open a channel; it connects when it is first used, and again whenever it must.

        Args:
            address: `host:port`.
            timeout_s: Deadline of each call.
        """
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel; calls in flight end with an error."""
        self._channel.close()

    def call(self, call: Call, done: Callable[[Arrays | GatewayError], None]) -> None:
        """Send a call; see `service.scheduler.Backend`."""
        try:
            request = _predict_request(call.model, call.signature, call.inputs(), call.outputs())
            future = self._prediction.Predict.future(request, timeout=self._timeout_s)
        except ValueError as error:
            done(BackendUnavailable(f"the channel to {self.address} is closed: {error}"))
            return
        future.add_done_callback(lambda future: done(self._outcome(future, call)))

    def predict(self, model: ModelVersion, signature: str, inputs: Arrays, outputs: tuple[str, ...]) -> Arrays:
        """Make a call and wait for its outputs.

        Raises:
            GatewayError: as `call` would report it.
        """
        future = self._prediction.Predict.future(
            _predict_request(model, signature, inputs, outputs), timeout=self._timeout_s
        )
        outcome = self._read(future, dict.fromkeys(outputs))
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    def versions(self, name: str) -> list[VersionStatus]:
        """Ask which versions of a model there are.

        Raises:
            ModelNotFound: none.
            BackendUnavailable: no answer.
        """
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        try:
            response = self._status.GetModelStatus(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._explain(error) from error
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return [
            VersionStatus(status.version, status.state == available, status.status.error_message)
            for status in response.model_version_status
        ]

    def _outcome(self, future: Any, call: Call) -> Arrays | GatewayError:
        rows, size = call.num_rows, call.size
        state_size = call.sequences[0].state.size
        return self._read(future, {"state": (rows, state_size), "token_ids": (rows, size)}, call.outputs())

    def _read(
        self, future: Any, shapes: dict[str, tuple[int, ...] | None], names: tuple[str, ...] | None = None
    ) -> Arrays | GatewayError:
        """Turn an answer into arrays; whatever is wrong with it becomes an error, never an exception."""
        try:
            response = future.result()
            arrays = {name: to_array(response.outputs[name]) for name in names or tuple(shapes)}
        except grpc.FutureCancelledError:
            return BackendUnavailable(f"the call to {self.address} was cancelled")
        except grpc.RpcError as error:
            return self._explain(error)
        except (ValueError, KeyError) as error:
            return BackendUnavailable(f"{self.address} answered something else: {error}")
        for name, array in arrays.items():
            expected = shapes[name]
            if expected is not None and array.shape != expected:
                return BackendUnavailable(f"{self.address} answered {name} of shape {array.shape}, not {expected}")
            if array.dtype == np.float32 and not np.isfinite(array).all():
                return InternalError(f"{self.address} answered {name} with NaN or infinity")
        return arrays

    def _explain(self, error: Any) -> GatewayError:
        code, details = error.code(), error.details()
        if code in _TRANSIENT:
            return BackendUnavailable(f"model server {self.address}: {code.name}: {details}")
        if code == grpc.StatusCode.NOT_FOUND:
            return ModelNotFound(f"model server {self.address}: {details}", param="model")
        log.error("model server %s: %s: %s", self.address, code.name, details)
        return InternalError(f"the model server refused a call: {code.name}")


def _predict_request(model: ModelVersion, signature: str, inputs: Arrays, outputs: tuple[str, ...]) -> Any:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model.name
    request.model_spec.version.value = model.version
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_proto(array))
    return request
