"""Warm-up requests: run before a version is served, so that no client pays for the first run of a shape.

Knows TensorFlow Serving's warm-up file: `assets.extra/tf_serving_warmup_requests`, a TFRecord of PredictionLog.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from model_server.batching import Batching
from model_server.errors import ModelServerError, TensorFlowFailed, status_code
from model_server.servable import Servable

log = logging.getLogger(__name__)
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000


def load(name: str, version: int, path: Path, batching: Batching | None = None) -> Servable:
    """Load a version and run its warm-up requests; see `Servable`.

    Raises:
        TensorFlowFailed: the version cannot be loaded, the file is damaged or too long, or a request failed.
    """
    servable = Servable(name, version, path, batching)
    file = path / WARMUP_FILE
    if file.is_file():
        num_requests = 0
        for request in read_requests(file):
            try:
                servable.predict(request)
            except ModelServerError as error:
                raise TensorFlowFailed(error.code, f"{file}: warm-up request {num_requests} failed: {error}") from error
            num_requests += 1
        log.info("warmed up %s version %d with %d requests", name, version, num_requests)
    return servable


def read_requests(file: Path) -> Iterator[PredictRequest]:
    """Yield the Predict requests of a warm-up file, and skip other records, which TensorFlow Serving runs or refuses.

    Raises:
        TensorFlowFailed: DATA_LOSS if the file is not a TFRecord; INVALID_ARGUMENT if a record is not a PredictionLog,
            or there are more than `MAX_RECORDS`.
    """
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator()):
            if number >= MAX_RECORDS:
                message = f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
                raise TensorFlowFailed(grpc.StatusCode.INVALID_ARGUMENT, message)
            try:
                entry = PredictionLog.FromString(record)
            except DecodeError as error:
                message = f"Failed to parse warmup record: {number} from {file}"
                raise TensorFlowFailed(grpc.StatusCode.INVALID_ARGUMENT, message) from error
            if entry.WhichOneof("log_type") == "predict_log":
                yield entry.predict_log.request
    except tf.errors.OpError as error:
        message = f"{file}: {error}. Please verify your warmup data is in TFRecord format."
        raise TensorFlowFailed(status_code(error.error_code), message) from error
