"""The instruments that speed is measured with count what there is to count."""

import pytest

from benchmarks import baselines
from benchmarks.load import LoadError, run_load

BODY = {"model": "lstm", "prompt": "It was", "max_tokens": 30, "temperature": 0.8}


def test_the_load_generator_counts_every_token(gateway):
    """All requests are answered, and their tokens are those that the server says."""
    load = run_load(gateway.port, BODY, concurrency=4, num_requests=10)
    assert load.tokens == 300
    assert len(load.first_s) == 10
    assert all(0 < first <= load.seconds for first in load.first_s)


def test_the_load_generator_does_not_count_refusals(gateway):
    """An answer that is no stream of text ends the measurement."""
    with pytest.raises(LoadError, match="refused"):
        run_load(gateway.port, {**BODY, "model": "nope"}, concurrency=1, num_requests=1)


def test_the_usual_way_is_really_asked_for_every_token(models_dir, model_server, monkeypatch):
    """The baseline makes one call per token, each with the whole text so far."""
    asked = []
    predict = baselines.GrpcBackend.predict

    def noting(backend, model, signature, inputs, shapes):
        asked.append((signature, inputs["token_ids"].shape[1]))
        return predict(backend, model, signature, inputs, shapes)

    monkeypatch.setattr(baselines.GrpcBackend, "predict", noting)
    monkeypatch.setattr(baselines, "NEW_TOKENS", 5)
    measure = baselines.whole_text_each_time(models_dir / "lstm" / "1", f"127.0.0.1:{model_server.port}")
    assert measure() > 0
    length = len(baselines.PROMPT)
    assert asked[-5:] == [("serving_default", length + i) for i in range(5)]
