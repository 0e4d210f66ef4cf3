"""A small SavedModel whose signatures cover what a server can get wrong, and a directory of such models."""

import shutil

import tensorflow as tf
from tensorflow import TensorSpec as Spec
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from model_server.servable import WARMUP_FILE
from tests.serving.client import request

ECHOED = (tf.float32, tf.bfloat16, tf.int64, tf.uint8, tf.bool, tf.complex64, tf.string)


class TinyModel(tf.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = tf.Variable(weight)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def scale(self, x):
        return {"y": x * self.weight, "total": tf.reduce_sum(x * self.weight, axis=1)}

    @tf.function(input_signature=[Spec([None], tf.int32, name="token_id"), Spec([None, 4], tf.float32, name="state")])
    def step(self, token_id, state):
        """Advance token_id int32 (batch) and state float32 (batch, 4)."""
        return {"token_id": token_id + 1, "state": state + self.weight}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")])
    def square(self, x):
        """Reshape x int32 (4) to y int32 (2, 2); fails in the graph for any other size."""
        return {"y": tf.reshape(x, [2, 2])}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def read(self, path):
        """Return the contents of the file at path string (); fails in the graph if it is missing."""
        return {"content": tf.io.read_file(path)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def gate(self, path):
        """Return the weight () once a file exists at path string (); "<path>.reached" is written first."""
        with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
            found = tf.while_loop(
                lambda found: tf.equal(found, 0), lambda _: tf.size(tf.io.matching_files(path)), [tf.constant(0)]
            )
        with tf.control_dependencies(found):
            return {"weight": self.weight.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def take(self, path):
        """Return a value () once `give` enqueues one, without blocking a thread; "<path>.reached" is written first."""
        with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
            (value,) = tf.raw_ops.QueueDequeueV2(handle=_queue(), component_types=[tf.float32])
        return {"value": value}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="values")])
    def give(self, values):
        """Enqueue values float32 (n) for `take`."""
        with tf.control_dependencies([tf.raw_ops.QueueEnqueueManyV2(handle=_queue(), components=[values])]):
            return {"num": tf.size(values)}

    def signatures(self):
        """Return all signatures, with `echo_<dtype>`, which returns its input x of any shape."""
        signatures = {name: getattr(self, name) for name in ("step", "square", "read", "gate", "take", "give")}
        for dtype in ECHOED:
            echo = tf.function(lambda x: {"x": tf.identity(x)})
            signatures[f"echo_{dtype.name}"] = echo.get_concrete_function(tf.TensorSpec(None, dtype, name="x"))
        return {"serving_default": self.scale, **signatures}


def _queue():
    """Return the handle of a queue that the signatures of one loaded model share."""
    return tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shapes=[[]], shared_name="given")


class Gate:
    """A file that calls of the `gate` signature wait for."""

    def __init__(self, path):
        self.path = path
        self.inputs = {"path": tf.make_tensor_proto(str(path))}

    @property
    def is_reached(self):
        """Whether a call has reached it."""
        return self.path.with_name(self.path.name + ".reached").exists()

    def open(self):
        """Create the file, so that the calls return."""
        self.path.touch()


class Models:
    """The directory that `/models` of the config stands for, filled as an exporter fills it."""

    def __init__(self, root, saved_models):
        self.root, self._saved_models = root, saved_models
        self.config_file = root / "models.config"
        self.configure("tiny")

    def saved_model(self, weight=2.0):
        """Return the directory of a SavedModel with this weight, which no test may change."""
        path = self._saved_models / str(weight)
        if not path.exists():
            model = TinyModel(weight)
            tf.saved_model.save(model, str(path), signatures=model.signatures())
        return path

    def publish(self, version, weight=2.0, name="tiny", warmup=()):
        """Publish a version by an atomic rename, with these requests for its warm-up."""
        draft = self.root / name / f".{version}.tmp"
        shutil.copytree(self.saved_model(weight), draft)
        if warmup:
            write_warmup(draft, [PredictionLog(predict_log=PredictLog(request=request)) for request in warmup])
        return draft.rename(draft.with_name(str(version)))

    def publish_gated(self, version, gate):
        """Publish a version whose warm-up waits for a gate."""
        return self.publish(version, warmup=[request("", "gate", gate.inputs)])

    def configure(self, *names, extra=""):
        """Replace models.config atomically: by these models, the first one with extra fields."""
        entries = [f'name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow"' for name in names]
        entries[:1] = [f"{entry} {extra}" for entry in entries[:1]]
        draft = self.config_file.with_suffix(".new")
        draft.write_text(f"model_config_list {{ {' '.join(f'config {{ {entry} }}' for entry in entries)} }}")
        return draft.rename(self.config_file)


def write_warmup(version_dir, logs):
    """Write a warm-up file of these records."""
    (version_dir / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(version_dir / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
