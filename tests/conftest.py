"""What several parts of the tests share: a repository of small models."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests.servers import RunningRedis

TEXT = "It was the best of times, it was the worst of times; 1859. “Größe” and 大きさ!\n"


def publish_model(models_dir, name, cell="lstm", *, layers=1, units=24, end_mark=False, seed=0, direction="forward"):
    """Publish an untrained model over the characters of TEXT; its texts are noise, and lively noise."""
    import keras
    import numpy as np

    from contract.tokenizer import CharacterTokenizer
    from export.publishing import publish
    from export.weights import CELLS

    tokenizer = CharacterTokenizer.train(TEXT, end_mark=end_mark)
    keras.utils.set_random_seed(seed)
    recurrent = [CELLS[cell](units, return_sequences=True) for _ in range(layers)]
    embedding = keras.layers.Embedding(len(tokenizer), 8)
    parts = [keras.layers.Input([None], dtype="int32"), embedding, *recurrent, keras.layers.Dense(len(tokenizer))]
    model = keras.Sequential(parts)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    return publish(model, tokenizer, name, models_dir, direction=direction)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """A repository with one model of each cell; `gru` is a stack of two, and the texts of `rnn` have an end."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    publish_model(folder, "lstm")
    publish_model(folder, "gru", "gru", layers=2)
    publish_model(folder, "rnn", "simple_rnn", end_mark=True)
    return folder


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """Address of a Redis that all tests share: each takes subjects of its own."""
    redis = RunningRedis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis.url
    redis.kill()


@pytest.fixture
def own_redis(tmp_path):
    """A running Redis that the test may kill and start again."""
    redis = RunningRedis(tmp_path)
    redis.start()
    yield redis
    redis.kill()
