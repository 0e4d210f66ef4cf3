"""One model server and one gateway for the tests that do not break them."""

import pytest

from tests.servers import Gateway, ModelServer


@pytest.fixture(scope="session")
def model_server(models_dir, tmp_path_factory):
    """A model server for the whole session."""
    server = ModelServer(models_dir, tmp_path_factory.mktemp("logs") / "model_server.log")
    yield server
    server.end()


@pytest.fixture(scope="session")
def gateway(models_dir, model_server, tmp_path_factory):
    """A gateway with its default settings."""
    gateway = Gateway(models_dir, model_server.port, tmp_path_factory.mktemp("logs") / "gateway.log")
    yield gateway
    gateway.end()


@pytest.fixture
def own_model_server(tmp_path):
    """Start further model servers, for other repositories."""
    running = []

    def start(models_dir, *flags, **variables):
        log = tmp_path / f"model_server{len(running)}.log"
        running.append(ModelServer(models_dir, log, flags=flags, **variables))
        return running[-1]

    yield start
    for server in running:
        server.end()


@pytest.fixture
def start_gateway(models_dir, model_server, tmp_path):
    """Start further gateways with other settings."""
    running = []

    def start(**settings):
        log = tmp_path / f"gateway{len(running)}.log"
        repository = settings.pop("repository", models_dir)
        # Texts that are longer than any test waits.
        for name in ("max_tokens", "max_request_tokens"):
            settings.setdefault(name, 10_000_000)
        settings.setdefault("max_queued_tokens", 10**9)
        running.append(Gateway(repository, settings.pop("backend", model_server.port), log, **settings))
        return running[-1]

    yield start
    for gateway in running:
        gateway.end()
