"""`generate` and `models`, against a real HTTP server."""

import pytest

import sostenuto
from sostenuto import InvalidArgument, NotFound
from sostenuto._fields import COMPLETION_FIELDS, EMBEDDING_FIELDS, INSPECT_FIELDS, SCORE_FIELDS
from tests.unit.client.scripted_responses import COMPLETION, answer_json, models, refusal

ANSWER = answer_json(COMPLETION)


def test_only_arguments_that_were_passed_are_sent(client, server):
    server.script = [ANSWER, ANSWER]
    client.generate(model="tiny")
    client.generate("Once", model="tiny", temperature=0, top_k=None, stop=["."], repetition_penalty=1.1, user=None)
    assert server.bodies == [
        {"model": "tiny", "prompt": ""},
        {"model": "tiny", "prompt": "Once", "temperature": 0, "stop": ["."], "repetition_penalty": 1.1},
    ]


def test_model_not_found_clears_the_cached_default_model(client, server):
    server.script = [models("old"), refusal(404, "no model 'old'", code="model_not_found"), models("new"), ANSWER]
    with pytest.raises(NotFound):
        client.generate()
    client.generate()
    assert server.bodies[-1]["model"] == "new"


def test_an_empty_list_of_models_is_an_error_and_not_cached(client, server):
    server.script = [models(), models("tiny"), ANSWER]
    with pytest.raises(sostenuto.UnexpectedResponse, match="serves no model"):
        client.generate()
    assert client.generate().model == "tiny"


def test_an_unknown_argument_is_rejected(client, server):
    for call in (client.generate, client.stream, client.score, client.embed):
        with pytest.raises(InvalidArgument, match="unknown argument timeouts: did you mean timeout_s"):
            call("Once", model="tiny", timeouts=3)
    for call in (client.embed, client.inspect):
        with pytest.raises(InvalidArgument, match="unknown argument encoding_format"):
            call("Once", model="tiny", encoding_format="float")
    message = "unknown argument xyzzy: pass fields that are not arguments in extra_body"
    with pytest.raises(InvalidArgument, match=message):
        client.resume("s1", xyzzy=3)
    assert server.requests == []
    server.script = [ANSWER]
    client.generate("Once", model="tiny", extra_body={"xyzzy": 3, "top_k": None})
    assert server.bodies == [{"model": "tiny", "prompt": "Once", "xyzzy": 3}]


def test_the_clients_fields_are_those_of_the_service():
    from service.api import compatibility
    from service.api.requests import CompletionRequest, EmbeddingsRequest, InspectRequest, ScoreRequest

    completion_fields = CompletionRequest.model_fields.keys() - compatibility.COMPLETION_FIELDS.keys()
    assert completion_fields - {"stream", "max_completion_tokens"} == COMPLETION_FIELDS
    embedding_fields = EmbeddingsRequest.model_fields.keys() - compatibility.EMBEDDING_FIELDS.keys()
    assert embedding_fields - {"encoding_format"} == EMBEDDING_FIELDS
    assert InspectRequest.model_fields.keys() - {"encoding_format"} == INSPECT_FIELDS
    assert ScoreRequest.model_fields.keys() == SCORE_FIELDS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": float("nan")}, "cannot be sent as JSON"),
        *(({"prompt": prompt}, "cannot be sent as JSON") for prompt in (b"Once", range(3), {1, 2}, object())),
        *(({"prompt": prompt}, r"prompt has a lone surrogate, '\\ud") for prompt in ("\ud800", ["a", "b\udfff"])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_without_a_form_in_json_and_utf8_are_rejected_before_sending(client, server, fields, message):
    with pytest.raises(InvalidArgument, match=message):
        client.generate(**{"prompt": "Once", "model": "tiny", **fields})
    assert server.requests == []


def test_non_ascii_text_is_sent_as_utf8(client, server):
    """JSON escapes would make the body longer."""
    server.script = [ANSWER]
    client.generate("Жил-был 🐈", model="tiny")
    assert server.bodies[0]["prompt"] == "Жил-был 🐈"
    assert int(server.requests[0].headers["Content-Length"]) < 60
    assert server.requests[0].headers["Content-Type"] == "application/json"


def test_generate_rejects_stream_true(client):
    with pytest.raises(InvalidArgument, match=r"client\.stream"):
        client.generate("Once", model="tiny", stream=True)
