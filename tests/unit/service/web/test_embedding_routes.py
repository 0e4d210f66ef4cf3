"""The embedding endpoints: what they charge and when, and draining."""

import numpy as np
import pytest

from service.access.keys import KeyLimits
from service.access.ratelimits import RateLimiter
from service.models.embedding_vectors import VectorFiles
from tests.registries import write_vectors
from tests.unit.service.engines import CHARACTERS

NUM_TOKENS = len(CHARACTERS.tokens)


@pytest.fixture
def get(make_site, tmp_path):
    """A function that requests an embedding's endpoint; it has the site, whose limit is 10,000 tokens per minute."""
    write_vectors(tmp_path, np.random.default_rng(0).normal(size=(NUM_TOKENS, 4)), "characters")

    def get(rest):
        response = get.site.client.get(f"/v1/models/characters/embedding/{rest}")
        return response.status_code, response.json

    get.site = make_site(KeyLimits(tokens_per_minute=10_000), models_dir=tmp_path)
    return get


@pytest.fixture
def charged(monkeypatch):
    charged, charge = [], RateLimiter.charge

    def record(self, key, kind, limit, num, **more):
        charged.extend([num] if kind == "tokens" else [])
        return charge(self, key, kind, limit, num, **more)

    monkeypatch.setattr(RateLimiter, "charge", record)
    return charged


@pytest.mark.parametrize(
    ("rest", "num_tokens"),
    [("map?count=3", 3), ("map", NUM_TOKENS), ("neighbors?token=a", 10), ("neighbors?token=a&count=2", 2)],
)
def test_an_embedding_is_charged_by_the_tokens_of_the_response(get, charged, rest, num_tokens):
    for _ in range(2):
        assert get(rest)[0] == 200
    assert charged == [num_tokens, num_tokens]


def test_vectors_are_not_read_before_the_charge(get, make_site, monkeypatch):
    """A request that is refused costs no work; the error names `count`, the field that the request has."""
    monkeypatch.setattr(VectorFiles, "_read", lambda *_: pytest.fail("read"))
    get.site = make_site(KeyLimits(tokens_per_minute=2))
    status, answer = get("map?count=3")
    assert (status, answer["error"]["param"]) == (400, "count")


def test_an_invalid_query_is_not_charged(get, charged):
    assert get("map?count=x")[0] == 400
    assert charged == []


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("", "token_id", f"token_id must be a number from 0 to {NUM_TOKENS - 1}, got None"),
        (f"token_id={NUM_TOKENS}", "token_id", f"from 0 to {NUM_TOKENS - 1}, got {NUM_TOKENS}"),
        ("token=abc", "token", "token must be one token of the model, got 'abc', which is 3"),
    ],
)
def test_a_token_is_required_and_must_have_a_vector(get, query, param, message):
    status, answer = get(f"neighbors?{query}")
    assert (status, answer["error"]["param"]) == (400, param)
    assert message in answer["error"]["message"]
    assert get("neighbors?token_id=3")[1]["token"] == "a"


@pytest.mark.parametrize("rest", ["map", "neighbors?token=a"])
def test_a_draining_server_computes_no_embeddings(get, charged, rest):
    get.site.parts.is_draining = True
    status, answer = get(rest)
    assert (status, answer["error"]["code"]) == (503, "shutting_down")
    assert charged == []
