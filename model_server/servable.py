"""One loaded version of a model: its signatures, and Predict on them, for requests and for warm-up."""

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from model_server import saved_model, tensors
from model_server.errors import InvalidArgument, ModelServerError, from_tensorflow
from model_server.saved_model import Session, make_callable

log = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]
DEFAULT_SIGNATURE = "serving_default"
# TensorFlow Serving's: a TFRecord of PredictionLog.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_WARMUP_REQUESTS = 1000


class TensorSpec(NamedTuple):
    """Dtype (a `DataType`) and shape of an input or output; -1 means any size, None any rank."""

    dtype: int
    shape: tuple[int, ...] | None

    @classmethod
    def of(cls, info: TensorInfo) -> "TensorSpec":
        shape = info.tensor_shape
        return cls(info.dtype, None if shape.unknown_rank else tuple(dim.size for dim in shape.dim))

    def takes(self, shape: tuple[int, ...]) -> bool:
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(expected in (-1, actual) for expected, actual in zip(self.shape, shape, strict=True))
        )


class Signature:
    """A thread-safe function from one array per input to one per output.

    It computes every output. TensorFlow Serving computes those of `output_filter`, and optimizes the graph again at the
    first call with each combination of outputs: 0.2 to 0.5 s of CPU time here, for calls that are no faster.
    """

    def __init__(self, name: str, definition: SignatureDef, session: Session) -> None:
        self.name = name
        self.inputs = {key: TensorSpec.of(info) for key, info in sorted(definition.inputs.items())}
        self.outputs = {key: TensorSpec.of(info) for key, info in sorted(definition.outputs.items())}
        self._definition, self._session = definition, session
        self._lock = threading.Lock()
        self._callable: Any = None

    def parse_inputs(self, protos: Mapping[str, TensorProto]) -> Arrays:
        """Return the request's inputs as arrays.

        Raise InvalidArgument, naming the input, if one is missing, unknown, or of the wrong dtype or shape.
        """
        if protos.keys() != self.inputs.keys():
            raise InvalidArgument(self._names_differ(protos.keys()))
        for number, (name, spec) in enumerate(self.inputs.items()):
            self._check(number, name, spec, protos[name])
        return {name: tensors.to_array(name, protos[name]) for name in self.inputs}

    def select(self, output_filter: Sequence[str]) -> Collection[str]:
        """Return the names of the requested outputs; an empty filter selects all."""
        for position, name in enumerate(output_filter):
            if name not in self.outputs:
                names = ",".join(self.outputs)
                raise InvalidArgument(
                    f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{names}}}."
                )
            if name in output_filter[:position]:
                raise InvalidArgument(f"duplicate output tensor alias: {name}")
        return output_filter or self.outputs.keys()

    def __call__(self, arrays: Arrays) -> Arrays:
        """Run the graph on inputs as `parse_inputs` returns them; the first call optimizes it."""
        try:
            with self._lock:
                if self._callable is None:
                    feed = [self._definition.inputs[name].name for name in self.inputs]
                    fetch = [self._definition.outputs[name].name for name in self.outputs]
                    self._callable = make_callable(self._session, feed, fetch)
            values = self._callable(*(arrays[name] for name in self.inputs))
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        # TensorFlow returns a scalar string as bytes, other scalars as NumPy's.
        return {
            name: np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
            for name, value in zip(self.outputs, values, strict=True)
        }

    def _names_differ(self, sent: Collection[str]) -> str:
        extra, missing = sorted(sent - self.inputs.keys()), sorted(self.inputs.keys() - sent)
        return (
            f"input size does not match signature: {len(sent)}!={len(self.inputs)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(self.inputs)}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )

    def _check(self, number: int, name: str, spec: TensorSpec, proto: TensorProto) -> None:
        if proto.dtype != spec.dtype:
            raise InvalidArgument(
                f"Expects arg[{number}] to be {tensors.dtype_name(spec.dtype)} but "
                f"{tensors.dtype_name(proto.dtype)} is provided (input {name!r} of signature {self.name!r})"
            )
        shape = tuple(dimension.size for dimension in proto.tensor_shape.dim)
        if not spec.takes(shape):
            raise InvalidArgument(
                f"input {name!r} of signature {self.name!r} must have shape {list(spec.shape or ())} "
                f"(-1: any size), got {list(shape)}"
            )


class Servable:
    """A loaded SavedModel. Its weights stay in memory as long as anything refers to it or a signature of it.

    Attributes:
        definitions: All signatures of the SavedModel, including those that are not for requests.
    """

    def __init__(self, name: str, version: int, path: Path) -> None:
        """Load a SavedModel; see `saved_model.load`."""
        self.name, self.version = name, version
        session, self.definitions = saved_model.load(path)
        self._signatures = {
            key: Signature(key, definition, session)
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
        arrays = signature.parse_inputs(request.inputs)
        output_names = signature.select(request.output_filter)
        outputs = signature(arrays)
        response = PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = signature.name
        for name in output_names:
            tensors.to_proto(outputs[name], signature.outputs[name].dtype, response.outputs[name])
        return response


def load(name: str, version: int, path: Path) -> Servable:
    """Load a version and run its warm-up requests, so that no client pays for the first run of a shape."""
    servable = Servable(name, version, path)
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
