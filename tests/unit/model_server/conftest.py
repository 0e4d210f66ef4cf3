"""Model servers on loopback with tiny models, and helpers to wait for them."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf

from model_server.flags import Flags
from model_server.server import ModelServer
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client
from tests.unit.model_server.tiny_model import Gate, TinyModel
from tests.waiting import until


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Exempt what earlier tests left from garbage collection, which takes seconds then, after each unloaded version."""
    gc.collect()
    gc.freeze()


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds."""
    return until


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the directory of a SavedModel with this weight, written once; `echo_<dtype>` makes it slow to load."""
    root = tmp_path_factory.mktemp("saved_models")

    def write(weight: float, *, echoes: bool = False) -> Path:
        path = root / f"{weight} {echoes}"
        if not path.exists():
            model = TinyModel(weight)
            tf.saved_model.save(model, str(path), signatures=model.signatures(echoes=echoes))
        return path

    return write


@pytest.fixture
def models(tmp_path: Path, saved_model: Callable[..., Path]) -> Models:
    """An empty directory of models."""
    (tmp_path / "models").mkdir()
    return Models(tmp_path / "models", saved_model)


@pytest.fixture
def connect() -> Iterator[Callable[[str], Client]]:
    """Connect clients to servers by their address."""
    with ExitStack() as stack:

        def start(address: str) -> Client:
            client = Client(address)
            stack.callback(client.channel.close)
            return client

        yield start


@pytest.fixture
def serve(models: Models, connect: Callable[[str], Client]) -> Iterator[Callable[..., Client]]:
    """Start a server in this process, with a config file or for `tiny`, and return its client."""
    with ExitStack() as stack:

        def start(config_file: Path | None = None, **flags: Any) -> Client:
            fast = {"port": 0, "file_system_poll_wait_seconds": 0.05, "max_num_load_retries": 0}
            path = config_file or models.configure()
            server = stack.enter_context(ModelServer(Flags(model_config_file=path, **(fast | flags))))
            client = connect(server.address)
            client.server = server
            return client

        yield start


@pytest.fixture
def gates(tmp_path: Path, serve: object) -> Iterator[Callable[[str], Gate]]:  # noqa: ARG001 - servers stop last
    """Make gates, and open all at the end, so that a failed test leaves no thread blocked."""
    made: list[Gate] = []

    def make(name: str) -> Gate:
        made.append(Gate(tmp_path / f"gate-{name}"))
        return made[-1]

    yield make
    for gate in made:
        gate.open()


@pytest.fixture
def refusal() -> Callable[[Callable[[], object]], tuple[grpc.StatusCode, str]]:
    """Return the status and the message of a call that fails."""

    def call(attempt: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            attempt()
        return caught.value.code(), caught.value.details()

    return call
