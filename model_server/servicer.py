"""The gRPC services: map requests to the manager or a version, and results to responses or statuses."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from grpc import ServicerContext, StatusCode
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceServicer

from model_server.config import from_proto
from model_server.errors import InvalidArgument, ModelServerError
from model_server.manager import Manager
from model_server.servable import Servable

log = logging.getLogger(__name__)
R = TypeVar("R")
# A status message is sent in a header, percent-encoded at up to 3 bytes per byte; clients refuse headers above 8 KiB.
_MAX_MESSAGE_BYTES = 2000
SIGNATURE_DEF = "signature_def"


class PredictionServicer(PredictionServiceServicer):
    """Predict and GetModelMetadata; all other methods return UNIMPLEMENTED."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def Predict(self, request: PredictRequest, context: ServicerContext) -> PredictResponse:
        """Run one signature of one version."""
        return _respond(context, lambda: _find(self._manager, request).predict(request))

    def GetModelMetadata(self, request: GetModelMetadataRequest, context: ServicerContext) -> GetModelMetadataResponse:
        """Return the signatures of one version: dtypes, shapes and names of tensors."""
        return _respond(context, lambda: self._metadata(request))

    def _metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        _require_spec(request)
        if not request.metadata_field:
            raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise InvalidArgument(f"Metadata field {field} is not supported")
        servable = _find(self._manager, request)
        response = GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata[SIGNATURE_DEF].Pack(SignatureDefMap(signature_def=servable.definitions))
        return response


class ModelServicer(ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest; `models_root` replaces `/models` in the config of a reload."""

    def __init__(self, manager: Manager, models_root: Path) -> None:
        self._manager, self._models_root = manager, models_root

    def GetModelStatus(self, request: GetModelStatusRequest, context: ServicerContext) -> GetModelStatusResponse:
        """Return the state of one version or of all; ignores labels, as TensorFlow Serving does."""
        return _respond(context, lambda: self._status(request))

    def HandleReloadConfigRequest(self, request: ReloadConfigRequest, context: ServicerContext) -> ReloadConfigResponse:
        """Replace the whole config, and wait for the models that it adds."""
        return _respond(context, lambda: self._reload(request, lambda: not context.is_active()))

    def _status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        spec = _require_spec(request)
        version = spec.version.value if spec.HasField("version") else None
        return GetModelStatusResponse(model_version_status=self._manager.statuses(spec.name, version))

    def _reload(self, request: ReloadConfigRequest, give_up: Callable[[], bool]) -> ReloadConfigResponse:
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidArgument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        config = from_proto(request.config, self._models_root)
        log.info("reload request, models: %s", ", ".join(config) or "none")
        self._manager.reload(config, give_up)
        return ReloadConfigResponse()


def _require_spec(request: PredictRequest | GetModelMetadataRequest | GetModelStatusRequest) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    return request.model_spec


def _find(manager: Manager, request: PredictRequest | GetModelMetadataRequest) -> Servable:
    spec = _require_spec(request)
    match spec.WhichOneof("version_choice"):
        case "version":
            return manager.find(spec.name, version=spec.version.value)
        case "version_label":
            return manager.find(spec.name, label=spec.version_label)
        case _:
            return manager.find(spec.name)


def _respond(context: ServicerContext, compute: Callable[[], R]) -> R:
    """Compute a response, unless the call has been cancelled or its deadline has passed; map errors to statuses."""
    if not context.is_active():
        context.abort(StatusCode.CANCELLED, "the call was cancelled before it was computed")
    if context.time_remaining() == 0:
        context.abort(StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call was computed")
    try:
        return compute()
    except ModelServerError as error:
        code, message = error.code, str(error)
    except Exception as error:  # the gRPC boundary: one failed call must not affect others
        log.exception("unexpected error in a call")
        code, message = StatusCode.INTERNAL, f"unexpected error: {type(error).__name__}: {error}"
    context.abort(code, message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore"))
    raise AssertionError("abort always raises")
