"""The prefix cache: exact for every kind of model, and private to a tenant."""

import pytest

from tests.conftest import MODEL_NAMES, TEXT

LONG = TEXT * 12


def completed(gateway, **fields):
    status, answer = gateway.post({"max_tokens": 30, "seed": 5, **fields})
    assert status == 200, answer
    usage = answer["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] < max(1, usage["prompt_tokens"])
    return [choice["text"] for choice in answer["choices"]], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture(scope="module")
def caching(start_shared_gateway, models_dir):
    """A gateway whose cache has only what the tests of this module send."""
    return start_shared_gateway(repository=models_dir)


@pytest.fixture(scope="module")
def forgetful(start_shared_gateway, models_dir):
    return start_shared_gateway(repository=models_dir, prefix_cache_bytes=0)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_prefix_cache_hit_does_not_change_a_byte(caching, forgetful, model):
    field = "suffix" if model == "reverse" else "prompt"

    def beginning(length):
        return LONG[-length:] if model == "reverse" else LONG[:length]

    known = []
    for length in (500, 500, 800, 300, 800):
        (expected,), none = completed(forgetful, model=model, **{field: beginning(length)})
        (text,), cached = completed(caching, model=model, **{field: beginning(length)})
        assert (text, none) == (expected, 0)
        known.append(cached)
    joined = text + beginning(800) if model == "reverse" else beginning(800) + text
    assert (
        completed(caching, model=model, **{field: joined}, n=3)[0]
        == completed(forgetful, model=model, **{field: joined}, n=3)[0]
    )
    assert known[0] == 0
    assert 0 < known[1] < known[4]
    assert known[2] > 0
    if model in ("lstm", "gru", "rnn", "reverse"):
        # One token per character: a hit covers all but the last token, or ends where prefill cached a state.
        assert known == [0, 499, 499, 256, 799]


def test_the_usage_of_a_stream_has_cached_tokens(caching):
    fields = {"model": "lstm", "prompt": LONG[7:107], "max_tokens": 3, "seed": 1}
    for expected in (0, 99):
        events = list(caching.stream(**fields, stream_options={"include_usage": True}))
        assert events[-2]["usage"]["prompt_tokens_details"] == {"cached_tokens": expected}
