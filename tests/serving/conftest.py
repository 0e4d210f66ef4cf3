"""Servers under test, and what the same models compute in this process."""

import pytest

from tests.built import built
from tests.servers import ModelServer, TensorFlowServing
from tests.serving.client import Client
from tests.serving.given import Server
from tests.serving.repository import make_repository

_why_not = TensorFlowServing.why_not()
needs_tensorflow_serving = pytest.mark.skipif(_why_not is not None, reason=_why_not or "")
PROGRAMS = (
    pytest.param(ModelServer, id="model_server"),
    pytest.param(TensorFlowServing, marks=needs_tensorflow_serving, id="tensorflow-serving"),
)


def pytest_generate_tests(metafunc):
    if "server" in metafunc.fixturenames:
        programs = ["given"] if metafunc.config.getoption("--serving") else PROGRAMS
        metafunc.parametrize("server", programs, indirect=True, scope="session")


@pytest.fixture(scope="session")
def serving_models(pytestconfig):
    """The directory of the suite's models."""
    return pytestconfig.getoption("--serving-models") or built("serving", make_repository)


@pytest.fixture(scope="session")
def started(serving_models, tmp_path_factory):
    """Start a program, once: a process of xdist returns to each program with every file of tests."""
    running = {}

    def start(program):
        if program not in running:
            # A polled file would undo the reloads of the tests.
            flags = ["--model_config_file_poll_wait_seconds=0", "--allow_version_labels_for_unavailable_models=true"]
            log = tmp_path_factory.mktemp("logs") / f"{program.__name__}.log"
            running[program] = program(serving_models, log, flags=flags)
        return f"127.0.0.1:{running[program].port}"

    yield start
    for process in running.values():
        process.end()


@pytest.fixture(scope="session")
def server(request, started, serving_models):
    return Server(request.config.getoption("--serving") or started(request.param), serving_models)


@pytest.fixture
def client(server):
    client = Client(server.address)
    yield client
    client.channel.close()


@pytest.fixture(scope="session")
def compute():
    import tensorflow as tf

    loaded = {}

    def run(version_dir, signature, inputs):
        if version_dir not in loaded:
            loaded[version_dir] = tf.saved_model.load(str(version_dir))
        function = loaded[version_dir].signatures[signature]
        outputs = function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run
