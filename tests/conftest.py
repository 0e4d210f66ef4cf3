"""Fixtures that several parts of the tests share: a repository of small models, and Redis."""

import contextlib
import gc
import os
from functools import partial
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests import guard
from tests.built import built
from tests.documents import make_site
from tests.servers import RunningRedis

TEXT = "It was the best of times, it was the worst of times; 1859. “Größe” and 大きさ!\n"


def pytest_addoption(parser):
    """Add the options of tests/serving; options of a conftest.py further down come too late for `pytest` alone."""
    group = parser.getgroup("serving", "conformance of a model server (tests/serving)")
    group.addoption("--serving", metavar="HOST:PORT", help="a running server, in place of model_server")
    group.addoption("--serving-models", metavar="DIR", type=Path, help="the models that it serves")


_GUARD = pytest.StashKey()


def pytest_configure(config):
    """Start the guard, and validate --serving before the collection, so that a mistake is an error of one line."""
    # Worker processes of xdist inherit their controller's guard.
    if not hasattr(config, "workerinput"):
        config.stash[_GUARD] = guard.start()
    address, models_dir = config.getoption("--serving"), config.getoption("--serving-models")
    if address and not models_dir:
        raise pytest.UsageError("--serving needs --serving-models=DIR, the folder that the server serves")
    if address or models_dir:
        from tests.serving.given import check_given

        check_given(address, models_dir)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Assign each file of tests to one process, and all of tests/serving: each process would start its own server."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "tests/serving" if nodeid.startswith("tests/serving/") else super()._split_scope(nodeid)

    return Scheduling(config, log)


# Longer ids of parameters are cut: xdist sends the id of a test with each of its reports, and one has had 2 MB.
MAX_ID = 80


def pytest_make_parametrize_id(val):
    """Cut the id of a long string; pytest numbers those that become equal."""
    if isinstance(val, str | bytes) and len(val) > MAX_ID:
        return f"{val[:MAX_ID]!a}..."
    return None


def pytest_collection_finish():
    """Exempt imported objects from garbage collection, and collect seldom: it takes a tenth of tracing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure(config):
    """End processes that tests have left running."""
    if _GUARD in config.stash:
        guard.stop(config.stash[_GUARD])


@contextlib.contextmanager
def quick_to_load(*, bfloat16=False):
    """Publish unchecked models without unrolled loops and warm-up requests, which are probed at three batch sizes.

    Such a version is published and loaded in a fraction of the time. With `bfloat16` it has signatures in this
    precision, too.
    """
    from contract.card import GeneratorCard
    from export.graphs import cells
    from export.repository import publishing

    make_card = partial(GeneratorCard, batch_sizes=(8, 24, 64))
    with (
        mock.patch.object(cells.StatefulNetwork, "unroll", 1),
        mock.patch.object(cells, "MIN_BFLOAT16_UNITS", 1 if bfloat16 else 10_000),
        mock.patch.object(publishing, "GeneratorCard", make_card),
        mock.patch.object(publishing, "check_saved_model"),
        mock.patch.object(publishing, "_write_warmup"),
    ):
        yield


def publish_model(
    models_dir,
    name,
    cell="lstm",
    *,
    layers=1,
    units=24,
    tokenizer=None,
    context=None,
    seed=0,
    direction="forward",
    bfloat16=False,
):
    """Publish an untrained model, of the characters of TEXT if no tokenizer is given; its output is varied noise.

    With a context it is a sliding-window model of bidirectional layers, whose state is that many tokens. It is quick to
    load.
    """
    import keras
    import numpy as np

    from contract.tokenizers import CharacterTokenizer
    from export.graphs.network import CELLS
    from export.repository.publishing import publish

    tokenizer = tokenizer or CharacterTokenizer.train(TEXT)
    keras.utils.set_random_seed(seed)
    recurrent = [CELLS[cell](units, return_sequences=not context) for _ in range(layers)]
    if context:
        recurrent = [keras.layers.Bidirectional(layer) for layer in recurrent]
    embedding = keras.layers.Embedding(len(tokenizer.tokens), 8)
    dense = keras.layers.Dense(len(tokenizer.tokens))
    model = keras.Sequential([keras.layers.Input([context], dtype="int32"), embedding, *recurrent, dense])
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    with quick_to_load(bfloat16=bfloat16):
        return publish(model, tokenizer, name, models_dir, direction=direction)


# The models of the session's repository, in order of their names.
MODEL_NAMES = ["gru", "lstm", "reverse", "rnn", "window", "words"]
# Those of tests in which something happens to model servers: it affects one model after the other.
FOUR_MODELS = ("gru", "lstm", "rnn", "words")


@pytest.fixture(scope="session")
def models_dir():
    """A repository with one model of each kind, which no test may change.

    `gru` has two layers, and gateways of tests call it in bfloat16. `rnn` has an EOS token. `reverse` is a backward
    model, `window` is a sliding-window model of subword tokens, and `words` has word tokens.
    """
    return built("models", publish_models)


def publish_models(folder):
    from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer

    publish_model(folder, "lstm")
    publish_model(folder, "gru", "gru", layers=2, bfloat16=True)
    publish_model(folder, "rnn", "simple_rnn", tokenizer=CharacterTokenizer.train(TEXT, end_token=True))
    publish_model(folder, "reverse", seed=1, direction="backward")
    publish_model(folder, "window", "gru", units=8, context=6, tokenizer=SubwordTokenizer.train([TEXT * 2]))
    publish_model(folder, "words", tokenizer=ExactWordTokenizer.train([TEXT * 2]))


def publish_versions(folder):
    for seed in (1, 2, 3):
        publish_model(folder, "demo", seed=seed)


@pytest.fixture(scope="session")
def site():
    """The directory of the site, which is kept until a page, the SDK or the gateway changes."""
    return built("site", make_site, sources=("docs", "client/src", "service", "requirements/dev.txt")) / "site"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """A directory that all test processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """The URL of a Redis that all tests share: each test uses rate limit subjects of its own."""
    redis = RunningRedis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis.url
    redis.kill()


@pytest.fixture
def own_redis(tmp_path):
    """A running Redis that the test may kill and restart."""
    redis = RunningRedis(tmp_path)
    redis.start()
    yield redis
    redis.kill()
