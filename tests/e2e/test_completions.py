"""The HTTP API of completions, on the real gateway and a real model server."""

import json

import numpy as np
import pytest

from tests.conftest import MODEL_NAMES, TEXT

BASE = {"model": "lstm", "prompt": "It was", "max_tokens": 40, "seed": 5}


def test_a_completion_has_openais_fields(gateway):
    status, answer = gateway.post(BASE)
    assert status == 200
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"], answer["seed"]) == ("text_completion", "lstm", 5)
    assert answer["system_fingerprint"].startswith("fp_")
    (choice,) = answer["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert (choice["index"], choice["finish_reason"], len(choice["text"])) == (0, "length", 40)
    # Another test may have sent a prompt with the same prefix.
    assert answer["usage"].pop("prompt_tokens_details")["cached_tokens"] in range(6)
    assert answer["usage"] == {"prompt_tokens": 6, "completion_tokens": 40, "total_tokens": 46}


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_prompt_logprobs_are_those_of_an_echo(gateway, model):
    """Of every kind of model, by token id; the most probable tokens are in order of their ranks."""
    field = "suffix" if model == "reverse" else "prompt"
    body = {"model": model, field: "It was the best of times", "max_tokens": 0}
    (choice,) = gateway.post({**body, "prompt_logprobs": 5})[1]["choices"]
    echoed = gateway.post({**body, "logprobs": 5, "echo": True})[1]["choices"][0]["logprobs"]
    ids = gateway.post({"model": model, "prompt": body[field]}, "/tokenize")[1]["tokens"]
    entries = choice["prompt_logprobs"]
    assert len(entries) == len(ids)
    for entry, token_id, token, logprob, top in zip(
        entries, ids, echoed["tokens"], echoed["token_logprobs"], echoed["top_logprobs"], strict=True
    ):
        if logprob is None:
            assert entry is None
            continue
        own = entry[str(token_id)]
        assert next(iter(entry)) == str(token_id)
        assert (own["logprob"], own["decoded_token"]) == (logprob, token)
        assert {each["decoded_token"]: each["logprob"] for each in entry.values()} == top
        ranked = sorted((each for each in entry.values() if each["rank"]), key=lambda each: each["rank"])
        # The token itself has a rank also beyond those that are requested.
        assert [each["rank"] for each in ranked if each is not own or each["rank"] <= 5] == [1, 2, 3, 4, 5]
        assert [each["logprob"] for each in ranked] == sorted((each["logprob"] for each in ranked), reverse=True)


def test_the_chunks_of_a_stream_join_to_the_completion(gateway):
    """The last chunk has the finish reason; the usage and [DONE] follow."""
    events = list(gateway.stream(**BASE, stream_options={"include_usage": True}))
    assert events[-1] is None
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 40
    pieces = [event["choices"][0] for event in events[:-2]]
    assert "".join(piece["text"] for piece in pieces) == gateway.text(**BASE)
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert len({event["id"] for event in events[:-1]}) == 1


def test_n_choices_have_indexes_and_different_texts(gateway):
    answer = gateway.post({**BASE, "n": 4})[1]
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert texts[0] == gateway.text(**BASE)
    assert answer["usage"]["completion_tokens"] == 160
    streamed = [""] * 4
    for event in gateway.stream(**BASE, n=4):
        for choice in event["choices"] if event else []:
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts


def test_a_completion_ends_before_its_stop_string(gateway):
    """The text is the unstopped one up to there, streamed or not; the usage counts the stop string's tokens."""
    whole = gateway.text(**BASE)
    stop = whole[17:20]
    expected = whole[: whole.index(stop)]
    answer = gateway.post({**BASE, "stop": [stop, "not there"]})[1]
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (expected, "stop")
    assert answer["usage"]["completion_tokens"] == len(expected) + 3
    assert gateway.streamed_text(**BASE, stop=stop) == expected


@pytest.mark.parametrize("prompt", ["", "🙂", "Ж" * 50, "<start><end><pad>"], ids=ascii)
@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
def test_any_prompt_is_completed_without_special_tokens_in_the_text(gateway, model, prompt):
    """An empty prompt begins a document; unknown characters and names of special tokens are ordinary text."""
    answer = gateway.post({"model": model, "prompt": prompt, "max_tokens": 300, "temperature": 2, "seed": 1})[1]
    assert set(answer["choices"][0]["text"]) <= set(TEXT)
    assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_models_are_listed_and_described(gateway):
    """The list has every model with direction, context and unit; each can be retrieved alone."""
    status, answer = gateway.get("/v1/models")
    assert (status, answer["object"]) == (200, "list")
    assert [model["id"] for model in answer["data"]] == MODEL_NAMES
    assert gateway.get("/v1/models/gru") == (200, answer["data"][0])
    told = {model["id"]: (model["direction"], model["context"], model["unit"]) for model in answer["data"]}
    assert told["lstm"] == ("forward", None, "character")
    assert told["reverse"] == ("backward", None, "character")
    assert told["window"] == ("forward", 6, "subword")
    assert gateway.get("/v1/models/nope")[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"not json", 400, None),
        (b"", 400, None),
        (b'{"model": "lstm", "temperature": NaN}', 400, "temperature"),
        (b'{"model": "lstm", "prompt": "\\ud800"}', 400, None),
        ({"model": "lstm", "max_tokens": -1}, 400, "max_tokens"),
        ({"model": "lstm", "max_tokens": 10**9}, 400, "max_tokens"),
        ({"model": "lstm", "prompt": 7}, 400, "prompt"),
        ({"model": "lstm", "prompt": "x" * 200_000}, 400, "prompt"),
        ({"model": "lstm", "prompt": "x" * 5_000_000}, 413, None),
        ({"model": "nope"}, 404, "model"),
        ({}, 400, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_request_gets_an_error_with_openais_fields(gateway, body, status, param):
    """`param` names the field, the message is short, and the gateway stays ready."""
    got, answer = gateway.post(body)
    assert got == status, answer
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["param"], answer["error"]["type"]) == (param, "invalid_request_error")
    assert len(answer["error"]["message"]) < 300
    assert gateway.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [("GET", "/nope", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405), ("POST", "/healthz", 405)],
)
def test_unknown_paths_and_methods_get_errors_with_openais_fields(gateway, method, address, status):
    got, _, body = gateway.ask(method, address)
    assert got == status
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("length", [1, 2, 17, 128, 129, 130, 1000])
def test_the_completion_equals_the_saved_models_own_output(gateway, models_dir, length):
    """Chunked prefill, multi-step decoding and joining text deltas change nothing."""
    import tensorflow as tf

    from contract.card import load_assets
    from service.scheduling.sampling import uniforms

    version = models_dir / "gru" / "1"
    functions = tf.saved_model.load(str(version)).signatures
    card, tokenizer = load_assets(version)
    prompt = (TEXT * 20)[:length]
    ids = np.tile(np.array(tokenizer.encode(prompt), np.int32), (8, 1))
    state = np.zeros((8, card.state_size), np.float32)
    lengths = np.full(8, length - 1, np.int32)
    read = functions["prefill"](token_ids=ids[:, :-1], lengths=lengths, state=state)["state"]
    drawn = functions["decode"](
        token_id=ids[:, -1],
        state=read,
        uniforms=np.tile(uniforms(3, 0, 0, 50), (8, 1)),
        steps=np.full(8, 50, np.int32),
        temperature=np.full(8, 0.9, np.float32),
        top_k=np.zeros(8, np.int32),
        top_p=np.ones(8, np.float32),
        min_p=np.zeros(8, np.float32),
    )["token_ids"]
    fields = {"model": "gru", "prompt": prompt, "max_tokens": 50, "seed": 3, "temperature": 0.9}
    assert gateway.text(**fields) == tokenizer.decode(drawn.numpy()[0].tolist())
