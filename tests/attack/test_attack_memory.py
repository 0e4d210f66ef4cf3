"""A gateway with its default settings, in docker-compose's memory limit: no request gets it killed.

And the memory of clients that disconnect is released.
"""

import concurrent.futures
import contextlib
import json
import random
import shutil
import time
from collections import Counter

import pytest

from tests.cgroups import MemoryCgroup, Unavailable
from tests.conftest import TEXT
from tests.e2e.conftest import served
from tests.processes import status
from tests.unit.deploy.test_memory_limits import compose_limit

BODY = 4 * 2**20
NUM_STREAMS = 32


@pytest.fixture(scope="module")
def wide_models_dir(tmp_path_factory):
    """A repository of one model with 256 units, whose traces fill a response."""
    import keras
    import numpy as np

    from contract.tokenizers import CharacterTokenizer
    from export.graphs.network import CELLS
    from export.repository.publishing import publish

    tokenizer, folder = CharacterTokenizer.train(TEXT), tmp_path_factory.mktemp("wide") / "models"
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Embedding(len(tokenizer.tokens), 8),
        CELLS["lstm"](256, return_sequences=True),
        keras.layers.Dense(len(tokenizer.tokens)),
    ]
    model, rng = keras.Sequential([keras.layers.Input([None], dtype="int32"), *layers]), np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.1, weight.shape))
    publish(model, tokenizer, "wide", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def limited(wide_models_dir, tmp_path):
    """A gateway in a memory cgroup, and the cgroup."""
    try:
        cgroup = MemoryCgroup(compose_limit())
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        with served(wide_models_dir, tmp_path, prefix=cgroup.prefix) as gateway:
            yield gateway, cgroup
    finally:
        cgroup.remove()


def filled(item):
    """Return a body of nearly the maximum size: a list that repeats one item."""
    return b'{"prompt":"a","max_tokens":1,"x":[%b]}' % b",".join([item] * ((BODY - 100) // (len(item) + 1)))


def as_json(**fields):
    return json.dumps(fields).encode()


ATTACKS = {
    "prompts that are too long": ("/v1/completions", as_json(prompt="t" * (BODY - 100)), 100),
    "inputs that are too long together": ("/v1/embeddings", as_json(input=["t" * 130_000] * 32), 30),
    "ids": ("/v1/completions", b'{"prompt":[%b]}' % b",".join([b"1"] * (BODY // 2 - 100)), 30),
    "lists of lists": ("/v1/completions", filled(b"[1]"), 50),
    "objects": ("/v1/completions", filled(b'{"a":1}'), 30),
    "letters of four bytes": ("/tokenize", as_json(prompt="t" * (BODY - 100), return_token_strs=True), 30),
    "values": ("/v1/inspect", as_json(input="t" * 10_000), 16),
    "all values in base64": ("/v1/inspect", as_json(input="t" * 10_000, encoding_format="base64"), 16),
    "log probabilities": ("/v1/completions", as_json(prompt="t" * 100_000, echo=True, logprobs=5, max_tokens=0), 12),
    "scores": ("/v1/score", as_json(input=["t" * 1000] * 128), 16),
    "scores of tokens": ("/v1/score", as_json(input="t" * 100_000, tokens=True), 12),
    "next words": ("/v1/next", as_json(prompt="It was", n=100, max_tokens=10_000), 16),
    "most probable texts": ("/v1/completions", as_json(prompt="It was", max_tokens=40, top_texts=1000), 12),
}


@pytest.mark.timeout(900)
def test_the_gateway_survives_large_requests_within_its_memory_limit(limited):
    gateway, cgroup = limited
    worker, expected = gateway.worker_pid, {200, 400, 429}
    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS + 128) as pool:
        streams = [
            pool.submit(gateway.streamed_text, prompt="It was", max_tokens=3000, seed=seed, timeout_s=600)
            for seed in range(NUM_STREAMS)
        ]
        sent = [(name, path, body) for name, (path, body, count) in ATTACKS.items() for _ in range(count)]
        # Shuffled, so that different attacks run at once.
        random.Random(0).shuffle(sent)
        statuses = list(pool.map(lambda attack: gateway.ask("POST", attack[1], attack[2], timeout=600)[0], sent))
        texts = [stream.result() for stream in streams]
    outcome = Counter(zip([name for name, _, _ in sent], statuses, strict=True))
    assert set(statuses) <= expected, outcome
    assert (cgroup.num_killed, gateway.worker_pid) == (0, worker)
    assert [len(text) > 0 for text in texts] == [True] * NUM_STREAMS
    assert cgroup.peak_bytes < compose_limit()
    print({"peak MiB": cgroup.peak_bytes // 2**20, **{f"{name}: {status}": n for (name, status), n in outcome.items()}})
    assert gateway.text(prompt="It was", max_tokens=20)


LEFT = [
    ("/v1/completions", as_json(prompt="It was", max_tokens=5000, stream=True)),
    ("/v1/completions", as_json(prompt="t" * 100_000, max_tokens=1000, stream=True)),
    ("/v1/completions", as_json(prompt=["t" * 130_000] * 2, max_tokens=500)),
    ("/v1/inspect", as_json(input="t" * 3000)),
]


def leave(gateway, number):
    """Send a request and disconnect a moment later."""
    connection = gateway.connect()
    with contextlib.suppress(OSError):
        connection.request("POST", *LEFT[number % len(LEFT)])
        time.sleep(0.3)
    connection.close()


@pytest.mark.timeout(900)
def test_the_memory_of_disconnected_clients_is_released(limited):
    gateway, cgroup = limited
    sizes = [status(gateway.worker_pid, "VmRSS") // 2**20]
    for _ in range(4):
        with concurrent.futures.ThreadPoolExecutor(400) as pool:
            list(pool.map(lambda number: leave(gateway, number), range(500)))
        deadline = time.monotonic() + 60
        while gateway.accepted:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sizes.append(status(gateway.worker_pid, "VmRSS") // 2**20)
    print({"resident MiB after each round": sizes})
    # The process, its threads, and a full prefix cache.
    assert max(sizes) < 400
    assert cgroup.num_killed == 0
