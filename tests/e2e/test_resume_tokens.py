"""Resume tokens over HTTP: on another gateway, after every finish reason, and only for their tenant."""

import json
import signal
import time

import pytest

from tests.conftest import MODEL_NAMES, TEXT
from tests.waiting import until

BODY = {"model": "lstm", "prompt": TEXT[:40], "seed": 3, "temperature": 0.9}


@pytest.fixture(scope="module")
def state_key(tmp_path_factory):
    """A file with the state key that gateways share."""
    path = tmp_path_factory.mktemp("keys") / "state.key"
    path.write_text("k" * 64 + "\n")
    return path


@pytest.fixture(scope="module")
def two_gateways(start_shared_gateway, models_dir, state_key):
    return [start_shared_gateway(repository=models_dir, state_key_file=state_key) for _ in range(2)]


def given(model, text):
    """Return model and input, in the field that the model reads."""
    return {"model": model, "suffix" if model == "reverse" else "prompt": text}


def completed(gateway, **fields):
    """Return the first choice of a response, with its resume token."""
    status, answer = gateway.post({"return_state": True, **fields})
    assert status == 200, answer
    return answer["choices"][0]


def joined(model, *texts):
    """Join texts in text order: a backward model generates the last one first."""
    return "".join(texts[::-1] if model == "reverse" else texts)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_completion_resumes_byte_identically_on_another_gateway(two_gateways, model):
    here, there = two_gateways
    for seed, more in enumerate(({}, {"frequency_penalty": 0.5, "repetition_penalty": 1.2}, {"top_k": 5})):
        fields = {"temperature": 1.1, "ignore_eos": True, **more}
        whole = completed(here, **given(model, TEXT[:30]), **fields, seed=seed, max_tokens=100)
        for cut in (50, 1, 99):
            first = completed(here, **given(model, TEXT[:30]), **fields, seed=seed, max_tokens=cut)
            second = completed(there, model=model, state=first["state"], **fields, max_tokens=100 - cut)
            assert joined(model, first["text"], second["text"]) == whole["text"]
            assert second["finish_reason"] == "length"


def test_a_resume_token_replaces_the_model_name(two_gateways, gateway):
    status, answer = gateway.post({**BODY, "model": None})
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "model is required, as several are served" in answer["error"]["message"]
    first = completed(gateway, **BODY, max_tokens=5)
    resumed = gateway.post({"state": first["state"], "max_tokens": 5})[1]
    assert (resumed["model"], resumed["seed"]) == ("lstm", 3)
    status, answer = two_gateways[0].post({"state": first["state"], "max_tokens": 5})
    assert (status, answer["error"]["code"]) == (400, "state_key_unknown")


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_completion_cut_off_by_shutdown_resumes_on_another_gateway(start_gateway, two_gateways, state_key, stream):
    """The error has text and resume token; the client is not asked to retry from the beginning."""
    # Not for longer than needed: each token is computed again.
    leaving, staying = start_gateway(state_key_file=state_key, drain_s=1), two_gateways[0]
    fields = {**BODY, "max_tokens": 1_000_000, "return_state": True, "stream": stream}
    connection = leaving.connect()
    connection.request("POST", "/v1/completions", json.dumps(fields))
    until(lambda: leaving.accepted == 1)
    time.sleep(0.2)
    leaving.send(signal.SIGTERM)
    response = connection.getresponse()
    content, retry = response.read(), response.headers["x-should-retry"]
    connection.close()
    assert leaving.process.wait(10) == 0
    if stream:
        events = [json.loads(line.removeprefix(b"data: ")) for line in content.split(b"\n\n") if line]
        error, pieces = events[-1], [choice["text"] for event in events[:-1] for choice in event["choices"]]
    else:
        error, pieces = json.loads(content), []
        assert (response.status, retry) == (503, "false")
    assert error["error"]["code"] == "shutting_down"
    text = "".join(pieces) + error["choices"][0]["text"]
    rest = completed(staying, model="lstm", state=error["choices"][0]["state"], temperature=0.9, max_tokens=50)
    assert text + rest["text"] == completed(staying, **BODY, max_tokens=len(text) + 50)["text"]
