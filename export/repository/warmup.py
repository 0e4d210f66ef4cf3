"""Warmup requests that a model server replays before it serves a version, so that no client waits for first runs.

Knows TensorFlow Serving's warmup file: TFRecords of PredictionLog in `assets.extra/tf_serving_warmup_requests`
(https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

WARMUP_FILE = "tf_serving_warmup_requests"
# Tokens to prefill and decode steps. Both only count loop iterations, which need no warmup, so any number will do.
_LENGTH = 2


def write_warmup(path: Path, specs: Mapping[str, Mapping[str, tf.TensorSpec]], batch_sizes: Sequence[int]) -> None:
    """Write a request for each signature and batch size: a GPU's libraries choose their kernels by batch size.

    `specs` has dtype and shape, batch first, by signature and name of the input; see `input_specs`.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in specs.items():
            for batch_size in batch_sizes:
                writer.write(_request(signature, inputs, batch_size).SerializeToString())


def _request(signature: str, inputs: Mapping[str, tf.TensorSpec], batch_size: int) -> PredictionLog:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for name, spec in inputs.items():
        # One value and a shape: TensorFlow fills the tensor with the value, so a request has at most a kilobyte.
        # 1 is valid as every token id, count, length and number of steps, and 0.5 as every float.
        tensor = request.inputs[name]
        tensor.dtype = spec.dtype.as_datatype_enum
        for size in (batch_size, *spec.shape[1:]):
            tensor.tensor_shape.dim.add(size=size or _LENGTH)
        if spec.dtype.is_floating:
            tensor.float_val.append(0.5)
        else:
            tensor.int_val.append(1)
    return log
