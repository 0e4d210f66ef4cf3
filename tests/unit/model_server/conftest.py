"""Model servers on loopback with tiny models."""

import gc
from contextlib import ExitStack

import pytest

from model_server.flags import Flags
from model_server.server import ModelServer
from tests.serving.client import Client
from tests.unit.model_server.tiny_model import Gate, Models


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Exempt what earlier tests left from garbage collection, which takes seconds then, after each unloaded version."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory):
    """Where SavedModels of `Models` are kept, each written once."""
    return tmp_path_factory.mktemp("saved_models")


@pytest.fixture
def models(tmp_path, saved_models):
    (tmp_path / "models").mkdir()
    return Models(tmp_path / "models", saved_models)


@pytest.fixture
def connect():
    """Connect clients to servers by their address."""
    with ExitStack() as stack:

        def start(address, credentials=None):
            client = Client(address, credentials)
            stack.callback(client.channel.close)
            return client

        yield start


@pytest.fixture
def serve(models, connect):
    """Start a server in this process, by default on models.config as it is, and return it and a client."""
    with ExitStack() as stack:

        def start(**flags):
            fast = {"port": 0, "file_system_poll_wait_seconds": 0.05, "max_num_load_retries": 0}
            flags = {"model_config_file": models.config_file, **fast, **flags}
            server = ModelServer(Flags(**flags))
            server.start()
            stack.callback(server.stop)
            return server, connect(server.address)

        yield start


@pytest.fixture
def gates(tmp_path, serve):  # noqa: ARG001 - servers stop last
    """Make gates, and open all at the end, so that a failed test leaves no thread blocked."""
    made = []

    def make(name):
        made.append(Gate(tmp_path / f"gate-{name}"))
        return made[-1]

    yield make
    for gate in made:
        gate.open()
