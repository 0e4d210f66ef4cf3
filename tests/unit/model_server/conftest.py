"""Tiny SavedModels, servers that serve them on loopback, and a client that speaks plain protos."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, GetModelMetadataResponse
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from model_server.flags import Flags
from model_server.server import ModelServer

TIMEOUT_S = 20.0
ECHOED = (
    tf.float32,
    tf.float64,
    tf.float16,
    tf.bfloat16,
    tf.int64,
    tf.int32,
    tf.int16,
    tf.int8,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.complex64,
    tf.string,
)


class TinyModel(tf.Module):
    """A weight, and one signature for each thing that a server can get wrong."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = tf.Variable(weight)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def scale(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scale x float32 (batch, 3): y = x · weight, and its sum per row."""
        return {"y": x * self.weight, "total": tf.reduce_sum(x * self.weight, axis=1)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32, name="token_id"),
            tf.TensorSpec([None, 4], tf.float32, name="state"),
        ]
    )
    def step(self, token_id: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Advance token_id int32 (batch) and state float32 (batch, 4)."""
        return {"token_id": token_id + 1, "state": state + self.weight}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")])
    def square(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Fold x int32 (4) to y int32 (2, 2); fails in the graph for any other size."""
        return {"y": tf.reshape(x, [2, 2])}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def read(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return what the file at path string () holds; fails in the graph where there is none."""
        return {"content": tf.io.read_file(path)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def gate(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the weight () once there is a file at path string (); "<path>.reached" is written first."""
        with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
            found = tf.while_loop(
                lambda found: tf.equal(found, 0), lambda _: tf.size(tf.io.matching_files(path)), [tf.constant(0)]
            )
        with tf.control_dependencies(found):
            return {"weight": self.weight.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def take(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return a value () once `give` has put one there, without keeping a thread; "<path>.reached" comes first."""
        with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
            (value,) = tf.raw_ops.QueueDequeueV2(handle=_queue(), component_types=[tf.float32])
        return {"value": value}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="values")])
    def give(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Put values float32 (n) where `take` gets them."""
        with tf.control_dependencies([tf.raw_ops.QueueEnqueueManyV2(handle=_queue(), components=[values])]):
            return {"num": tf.size(values)}

    def signatures(self) -> dict[str, Any]:
        """Return all signatures; `echo_<dtype>` takes x of any shape and returns it."""
        signatures = {name: getattr(self, name) for name in ("step", "square", "read", "gate", "take", "give")}
        for dtype in ECHOED:
            echo = tf.function(lambda x: {"x": tf.identity(x)})
            signatures[f"echo_{dtype.name}"] = echo.get_concrete_function(tf.TensorSpec(None, dtype, name="x"))
        return {"serving_default": self.scale, **signatures}


def _queue() -> tf.Tensor:
    """Return the handle of a queue that the signatures of one loaded model share."""
    return tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shapes=[[]], shared_name="given")


class Gate:
    """Holds up calls of the `gate` signature until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_reached(self) -> bool:
        """Whether a call is waiting at it."""
        return self.path.with_name(self.path.name + ".reached").exists()

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What a call has to be given."""
        return {"path": np.array(str(self.path))}

    def open(self) -> None:
        """Let the calls pass."""
        self.path.touch()


class Client:
    """One channel to a server. Arrays are sent as `tensor_content`, unless given as protos."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, name: str = "tiny", **fields: Any) -> PredictResponse:
        """Call Predict; see `request`."""
        return self.prediction.Predict(self.request(name, **fields), timeout=TIMEOUT_S)

    def begin(self, name: str = "tiny", **fields: Any) -> Future[PredictResponse]:
        """Call Predict without waiting for the answer; see `request`."""
        return self.prediction.Predict.future(self.request(name, **fields), timeout=TIMEOUT_S)

    def weight(self, name: str = "tiny", **fields: Any) -> float:
        """Return the weight of what answers."""
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
        """Return the state of each version."""
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
    """Return a TensorProto; arrays of more than one element travel as `tensor_content`."""
    return value if isinstance(value, TensorProto) else tf.make_tensor_proto(value)


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail when it does not in good time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds."""
    return until


class Models:
    """The folder that `/models` of the config stands for."""

    def __init__(self, root: Path, saved_model: Callable[[float], Path]) -> None:
        self.root = root
        self._saved_model = saved_model

    def draft(self, version: int | str, weight: float = 2.0, *, name: str = "tiny") -> Path:
        """Write a version beside its place, as an exporter does."""
        path = self.root / name / f".{version}.tmp"
        shutil.copytree(self._saved_model(weight), path)
        return path

    def finish(self, draft: Path) -> Path:
        """Rename a draft into its place."""
        return draft.rename(draft.with_name(draft.name.removeprefix(".").removesuffix(".tmp")))

    def publish(
        self, version: int | str, weight: float = 2.0, *, name: str = "tiny", warmup: Sequence[PredictRequest] = ()
    ) -> Path:
        """Put a version in its place."""
        draft = self.draft(version, weight, name=name)
        if warmup:
            write_warmup(draft, [PredictionLog(predict_log=PredictLog(request=request)) for request in warmup])
        return self.finish(draft)

    def configure(self, *entries: str) -> Path:
        """Write models.config beside the models, for `tiny` alone unless given otherwise."""
        path = self.root / "models.config"
        path.with_suffix(".new").write_text(self.config(*entries or [self.entry()]))
        return path.with_suffix(".new").rename(path)

    @staticmethod
    def config(*entries: str) -> str:
        """Return a config of these models."""
        return f"model_config_list {{ {' '.join(entries)} }}"

    @staticmethod
    def entry(name: str = "tiny", *, versions: Iterable[int] = (), extra: str = "", **labels: int) -> str:
        """Return one model of a config: the latest version or these, and version numbers of labels."""
        listed = " ".join(f"versions: {version}" for version in versions)
        policy = f"model_version_policy {{ specific {{ {listed} }} }}" if listed else ""
        named = " ".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items())
        fields = f'name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow"'
        return f"config {{ {fields} {policy} {named} {extra} }}"


def write_warmup(version_dir: Path, logs: Iterable[PredictionLog]) -> None:
    """Write a warm-up file."""
    (version_dir / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version_dir / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Return the folder of a SavedModel with this weight, written once."""
    root = tmp_path_factory.mktemp("saved_models")

    def write(weight: float) -> Path:
        path = root / str(weight)
        if not path.exists():
            model = TinyModel(weight)
            tf.saved_model.save(model, str(path), signatures=model.signatures())
        return path

    return write


@pytest.fixture
def models(tmp_path: Path, saved_model: Callable[[float], Path]) -> Models:
    """Return a folder for models, without any."""
    (tmp_path / "models").mkdir()
    return Models(tmp_path / "models", saved_model)


@pytest.fixture
def connect() -> Iterator[Callable[[str], Client]]:
    """Return a client of a server's address."""
    with ExitStack() as stack:

        def start(address: str) -> Client:
            client = Client(address)
            stack.callback(client.channel.close)
            return client

        yield start


@pytest.fixture
def serve(models: Models, connect: Callable[[str], Client]) -> Iterator[Callable[..., Client]]:
    """Start a server in this process, for the config file that is given or for `tiny`, and return a client."""
    with ExitStack() as stack:

        def start(config_file: Path | None = None, **flags: Any) -> Client:
            fast = {"port": 0, "file_system_poll_wait_seconds": 0.05, "max_num_load_retries": 0}
            path = config_file or models.configure()
            server = stack.enter_context(ModelServer(Flags(model_config_file=path, **(fast | flags))))
            return connect(server.address)

        yield start


@pytest.fixture
def gates(tmp_path: Path, serve: object) -> Iterator[Callable[[str], Gate]]:  # noqa: ARG001 - servers stop after gates open
    """Make gates; they are all opened in the end, so that a failed test leaves no thread behind."""
    made: list[Gate] = []

    def make(name: str) -> Gate:
        made.append(Gate(tmp_path / f"gate-{name}"))
        return made[-1]

    yield make
    for gate in made:
        gate.open()


@pytest.fixture
def refusal() -> Callable[[Callable[[], object]], tuple[grpc.StatusCode, str]]:
    """Return the status and the text of a call that fails."""

    def call(attempt: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            attempt()
        return caught.value.code(), caught.value.details()

    return call
