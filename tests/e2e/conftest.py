"""Session-wide fixtures: a model server, a gateway, a browser, and factories for further servers."""

import contextlib
import shutil

import pytest

from tests.access import keys
from tests.built import built
from tests.conftest import FOUR_MODELS
from tests.pages import Tab, launch
from tests.servers import Gateway, ModelServer
from tests.shared import shared

# These two run for the whole session.
SLOW_POLLS = ("--poll_interval_ms=1000",)
# Limits that no test's sequence reaches.
AMPLE = {
    "max_tokens": 10_000_000,
    "max_request_tokens": 10_000_000,
    "max_queued_tokens": 10**9,
    "request_memory_bytes": 10**12,
}


def pytest_collection_modifyitems(items):
    """Run test_lesson.py first: it takes longest, and needs no fixture models, which another process builds then."""
    items.sort(key=lambda item: item.path.name != "test_lesson.py")


@pytest.fixture(scope="session")
def model_server(models_dir, run_dir):
    """A model server for the session; tests use only its `port`."""
    with shared(run_dir / "model_server", lambda log: ModelServer(models_dir, log, flags=SLOW_POLLS)) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(models_dir, model_server, tmp_path_factory):
    """A gateway with the default settings, for the session."""
    gateway = Gateway(models_dir, model_server.port, tmp_path_factory.mktemp("logs") / "gateway.log", poll_s=1)
    yield gateway
    gateway.kill()


@contextlib.contextmanager
def gateways(folder, models_dir, port):
    """Yield a factory of gateways with other settings, which end with the block.

    They serve `models_dir` from the model server at a port unless they are given a `repository` or a `backend`.
    """
    running = []

    def start(**settings):
        log = folder / f"gateway{len(running)}.log"
        repository, backend = settings.pop("repository", models_dir), settings.pop("backend", port)
        running.append(Gateway(repository, backend, log, **{**AMPLE, **settings}))
        return running[-1]

    yield start
    for gateway in running:
        gateway.kill()


@contextlib.contextmanager
def served(models_dir, logs, **settings):
    """Yield a gateway in front of a model server of its own, for another repository."""
    with contextlib.ExitStack() as stack:
        server = ModelServer(models_dir, logs / "model_server.log")
        stack.callback(server.end)
        gateway = Gateway(models_dir, server.port, logs / "gateway.log", **settings)
        stack.callback(gateway.kill)
        yield gateway


@pytest.fixture
def start_gateway(two_models_dir, model_server, tmp_path):
    """A factory of gateways that serve `lstm` and `words`, for one test; see `gateways`."""
    with gateways(tmp_path, two_models_dir, model_server.port) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_gateway(two_models_dir, model_server, tmp_path_factory):
    """The same for the tests of a module."""
    with gateways(tmp_path_factory.mktemp("gateways"), two_models_dir, model_server.port) as start:
        yield start


@pytest.fixture(scope="session")
def two_models_dir(models_dir):
    """A model repository with only `lstm` and `words`, for tests that start many model servers; read-only."""
    return built("two_models", lambda folder: copy_models(models_dir, ("lstm", "words"), folder))


@pytest.fixture(scope="session")
def four_models_dir(models_dir):
    """A model repository with `FOUR_MODELS`, for tests in which something happens to model servers; read-only."""
    return built("four_models", lambda folder: copy_models(models_dir, FOUR_MODELS, folder))


def copy_models(models_dir, names, folder):
    from export.repository.models_config import add_to_models_config

    for name in names:
        shutil.copytree(models_dir / name, folder / name)
        add_to_models_config(folder, name)


@pytest.fixture
def own_model_server(tmp_path):
    """A factory of further model servers, for other model repositories."""
    running = []

    def start(models_dir, *flags, kind=ModelServer, **variables):
        log = tmp_path / f"model_server{len(running)}.log"
        running.append(kind(models_dir, log, flags=flags, **variables))
        return running[-1]

    yield start
    for server in running:
        server.end()


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys.json"
    keys(path, "add", "--tenant", "operator")
    return path


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = launch(started)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_tab(browser):
    """The browser tab of all tests that need no context of their own."""
    return Tab(browser)


@pytest.fixture
def open_page(browser, shared_tab):
    """A factory of pages; at teardown no page may have complaints, except those that the test excused."""
    opened, tab = [], shared_tab.take()

    def start(kind, gateway, hash_="", **how):
        # Other display settings, and a second page beside the first, need a context of their own.
        own = browser.new_context(**how).new_page() if how or opened else tab
        opened.append(kind(own, gateway, hash_))
        return opened[-1]

    yield start
    complaints = [complaint for page in opened for complaint in page.complaints]
    for page in opened:
        page.leave()
        if page.page is not tab:
            page.page.context.close()
    shared_tab.give_back(tab)
    assert complaints == []
