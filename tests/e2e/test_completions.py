"""The HTTP API of completions, on the real gateway and a real model server."""

import json

import numpy as np
import pytest

from contract.card import load_assets
from contract.signatures import BFLOAT16, DECODE, FLOAT32, PREFILL, in_precision
from service.scheduling.sampling_inputs import uniforms
from tests.conftest import MODEL_NAMES, TEXT

BASE = {"model": "lstm", "prompt": "It was", "max_tokens": 40, "seed": 5}


def test_the_chunks_of_a_stream_join_to_the_completion(gateway):
    events = list(gateway.stream(**BASE, stream_options={"include_usage": True}))
    assert events[-1] is None
    assert events[-2]["choices"] == []
    usage = events[-2]["usage"]
    # Another test may have sent a prompt with the same prefix.
    assert usage.pop("prompt_tokens_details")["cached_tokens"] in range(6)
    assert usage == {"prompt_tokens": 6, "completion_tokens": 40, "total_tokens": 46}
    pieces = [event["choices"][0] for event in events[:-2]]
    assert "".join(piece["text"] for piece in pieces) == gateway.text(**BASE)
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert len({event["id"] for event in events[:-1]}) == 1


@pytest.mark.parametrize("prompt", ["", "🙂", "Ж" * 50, "<start><end><pad>"], ids=ascii)
@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
def test_any_prompt_is_completed_without_special_tokens_in_the_text(gateway, model, prompt):
    answer = gateway.post({"model": model, "prompt": prompt, "max_tokens": 300, "temperature": 2, "seed": 1})[1]
    assert set(answer["choices"][0]["text"]) <= set(TEXT)
    assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_models_are_listed_and_described(gateway):
    status, answer = gateway.get("/v1/models")
    assert (status, answer["object"]) == (200, "list")
    assert [model["id"] for model in answer["data"]] == MODEL_NAMES
    status, detailed = gateway.get("/v1/models/gru")
    listed = answer["data"][0]
    assert (status, {name: detailed[name] for name in listed} | {"versions": listed["versions"]}) == (200, listed)
    assert [version["size_bytes"] > 0 for version in detailed["versions"]] == [True for _ in listed["versions"]]
    told = {model["id"]: (model["direction"], model["context"], model["unit"]) for model in answer["data"]}
    assert told["lstm"] == ("forward", None, "character")
    assert told["reverse"] == ("backward", None, "character")
    assert told["window"] == ("forward", 6, "subword")
    assert gateway.get("/v1/models/nope")[0] == 404


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [("GET", "/nope", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405), ("POST", "/healthz", 405)],
)
def test_unknown_paths_and_methods_get_errors_with_openais_fields(gateway, method, address, status):
    got, _, body = gateway.ask(method, address)
    assert got == status
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.fixture(scope="module", params=["gru", "reverse"])
def saved_model(request, models_dir):
    """Name, directory and signatures of a forward and of a backward SavedModel."""
    import tensorflow as tf

    model = tf.saved_model.load(str(models_dir / request.param / "1"))
    # The signatures are valid as long as the model exists.
    yield request.param, models_dir / request.param / "1", model.signatures
    del model


@pytest.mark.parametrize("length", [0, 1, 2, 17, 128, 129, 130, 1000])
def test_the_completion_equals_the_saved_models_own_output(gateway, saved_model, length):
    """Chunked prefill, multi-step decoding and joining text deltas change nothing.

    A backward model gets the suffix's token ids in reverse order, and the sampled ids are reversed again.
    """
    name, version, functions = saved_model
    step, precision = (-1, FLOAT32) if name == "reverse" else (1, BFLOAT16)
    card, tokenizer = load_assets(version)
    text = (TEXT * 20)[:length]
    ids = np.tile(np.array(tokenizer.encode(text)[::step] or [tokenizer.special.start], np.int32), (8, 1))
    state = np.zeros((8, card.state_size), np.float32)
    lengths = np.full(8, ids.shape[1] - 1, np.int32)
    sampled = functions[in_precision(DECODE, precision)](
        token_id=ids[:, -1],
        state=functions[in_precision(PREFILL, precision)](token_ids=ids[:, :-1], lengths=lengths, state=state)["state"],
        uniforms=np.tile(uniforms(3, 0, 0, 50), (8, 1)),
        steps=np.full(8, 50, np.int32),
        temperature=np.full(8, 0.9, np.float32),
        top_k=np.zeros(8, np.int32),
        top_p=np.ones(8, np.float32),
        min_p=np.zeros(8, np.float32),
    )["token_ids"]
    field = "suffix" if name == "reverse" else "prompt"
    fields = {"model": name, field: text, "max_tokens": 50, "seed": 3, "temperature": 0.9}
    assert gateway.text(**fields) == tokenizer.decode(sampled.numpy()[0].tolist()[::step])
