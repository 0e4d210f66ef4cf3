"""One loaded version of a model, and Predict on it, for requests and for warm-up."""

import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from model_server import saved_model, tensors
from model_server.batching import Batching
from model_server.errors import InvalidArgument, ModelServerError, from_tensorflow
from model_server.signature import Signature

log = logging.getLogger(__name__)
DEFAULT_SIGNATURE = "serving_default"
# TensorFlow Serving's: a TFRecord of PredictionLog.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_WARMUP_REQUESTS = 1000


class Servable:
    """A loaded SavedModel. Its weights stay in memory as long as anything refers to it or a signature of it.

    Attributes:
        definitions: All signatures of the SavedModel, including those that are not for requests.
    """

    def __init__(self, name: str, version: int, path: Path, batching: Batching | None = None) -> None:
        """Load a SavedModel; see `saved_model.load`. Batching rules hold for every call of every signature."""
        self.name, self.version = name, version
        session, self.definitions = saved_model.load(path)
        self._signatures = {
            key: Signature(key, definition, session, batching)
            for key, definition in self.definitions.items()
            if not key.startswith("__saved_model_")
        }

    def signature(self, name: str) -> Signature:
        """Return a signature, by default `serving_default`; raise FAILED_PRECONDITION if it does not exist."""
        key = name or DEFAULT_SIGNATURE
        if key not in self._signatures:
            raise ModelServerError(StatusCode.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
        return self._signatures[key]

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Run a signature and respond as TensorFlow Serving does: with typed fields and the concrete version.

        `output_filter` selects the outputs in the response. The request's model name and version are ignored.
        """
        signature = self.signature(request.model_spec.signature_name)
        arrays = signature.decode(request.inputs)
        output_names = signature.select(request.output_filter)
        outputs = signature(arrays)
        response = PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = signature.name
        for name in output_names:
            tensors.encode(outputs[name], signature.outputs[name].dtype, response.outputs[name])
        return response


def load(name: str, version: int, path: Path, batching: Batching | None = None) -> Servable:
    """Load a version and run its warm-up requests, so that no client pays for the first run of a shape."""
    servable = Servable(name, version, path, batching)
    file = path / WARMUP_FILE
    if file.is_file():
        num_requests = 0
        for request in read_requests(file):
            try:
                servable.predict(request)
            except ModelServerError as error:
                message = f"{file}: warm-up request {num_requests} failed: {error}"
                raise ModelServerError(error.code, message) from error
            num_requests += 1
        log.info("warmed up %s version %d with %d requests", name, version, num_requests)
    return servable


def read_requests(file: Path) -> Iterator[PredictRequest]:
    """Yield the Predict requests of a warm-up file, and skip other records, which TensorFlow Serving runs or refuses.

    Raises:
        ModelServerError: DATA_LOSS if the file is not a TFRecord; INVALID_ARGUMENT if a record is not a PredictionLog,
            or there are more than `MAX_WARMUP_REQUESTS`.
    """
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator()):
            if number >= MAX_WARMUP_REQUESTS:
                raise InvalidArgument(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_REQUESTS}) at {file}")
            try:
                entry = PredictionLog.FromString(record)
            except DecodeError as error:
                raise InvalidArgument(f"Failed to parse warmup record: {number} from {file}") from error
            if entry.WhichOneof("log_type") == "predict_log":
                yield entry.predict_log.request
    except tf.errors.OpError as error:
        status = from_tensorflow(error)
        message = f"{file}: {status}. Please verify your warmup data is in TFRecord format."
        raise ModelServerError(status.code, message) from error
