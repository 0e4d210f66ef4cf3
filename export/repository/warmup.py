"""Requests that a model server answers to itself before a version is served, so that no client pays for first runs.

Knows TensorFlow Serving's file of them: TFRecords of PredictionLog in `assets.extra/tf_serving_warmup_requests`
(https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

WARMUP_FILE = "tf_serving_warmup_requests"
# Of tokens to read and to draw. These are counts of a loop, for which nothing is prepared: any will do.
_LENGTH = 2


def write_warmup(path: Path, specs: Mapping[str, Mapping[str, tf.TensorSpec]], batch_sizes: Sequence[int]) -> None:
    """Write a request for each signature at each number of rows: by those a GPU's libraries choose their kernels.

    Args:
        path: The file.
        specs: By signature and name of the input: its dtype and shape, the rows first; see `input_specs`.
        batch_sizes: Those that the gateway may send.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in specs.items():
            for num_rows in batch_sizes:
                writer.write(_request(signature, inputs, num_rows).SerializeToString())


def _request(signature: str, inputs: Mapping[str, tf.TensorSpec], num_rows: int) -> PredictionLog:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for name, spec in inputs.items():
        # One value and a shape: TensorFlow fills the tensor with it, so the file has no more than a kilobyte a request.
        # As an id, a count, a length and a number of steps 1 is valid everywhere, and 0.5 wherever floats are taken.
        tensor = request.inputs[name]
        tensor.dtype = spec.dtype.as_datatype_enum
        for size in (num_rows, *spec.shape[1:]):
            tensor.tensor_shape.dim.add(size=size or _LENGTH)
        if spec.dtype.is_floating:
            tensor.float_val.append(0.5)
        else:
            tensor.int_val.append(1)
    return log
