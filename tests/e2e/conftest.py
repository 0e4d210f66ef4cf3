"""One model server and one gateway for the tests that do not break them."""

import shutil

import pytest

from tests.built import built
from tests.conftest import publish_model
from tests.pages import launch
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


@pytest.fixture(scope="session")
def two_models_dir(models_dir):
    """A repository with `lstm` and `words` alone, for tests that start many model servers; no test may change it."""
    from export.repository.models_config import add_to_models_config

    def copy(folder):
        for name in ("lstm", "words"):
            shutil.copytree(models_dir / name, folder / name)
            add_to_models_config(folder, name)

    return built("two_models", copy)


@pytest.fixture
def versions_dir(tmp_path):
    """A repository with three versions of the model `demo`, each with other weights, which the test may change."""

    def publish(folder):
        for seed in (1, 2, 3):
            publish_model(folder, "demo", seed=seed)

    return shutil.copytree(built("versions", publish), tmp_path / "models")


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
        settings.setdefault("request_memory_bytes", 10**12)
        running.append(Gateway(repository, settings.pop("backend", model_server.port), log, **settings))
        return running[-1]

    yield start
    for gateway in running:
        gateway.end()


@pytest.fixture(scope="session")
def browser():
    """A browser for the whole session."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = launch(started)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open pages; at the end none may have complained, but for what a test took out."""
    opened = []

    def start(kind, gateway, hash_="", **how):
        opened.append(kind(browser, gateway, hash_, **how))
        return opened[-1]

    yield start
    complaints = [complaint for page in opened for complaint in page.complaints]
    for page in opened:
        page.context.close()
    assert complaints == []
