"""`generate` and `models`, against a real HTTP server."""

import pytest

import sostenuto
from sostenuto import InvalidArgument, NotFound
from sostenuto._fields import CompletionArguments
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


def test_fields_that_the_client_does_not_know_are_sent(client, server):
    """The server refuses what it does not know either, and suggests a name."""
    server.script = [ANSWER, refusal(400, "unknown field 'timeouts': did you mean timeout_s?", param="timeouts")]
    client.generate("Once", model="tiny", echo=None, extra_body={"xyzzy": 3, "top_k": None})
    with pytest.raises(sostenuto.BadRequest, match="did you mean timeout_s"):
        client.generate("Once", model="tiny", timeouts=3)
    assert server.bodies[0] == {"model": "tiny", "prompt": "Once", "xyzzy": 3}
    assert server.bodies[1] == {"model": "tiny", "prompt": "Once", "timeouts": 3}


def test_the_arguments_of_a_completion_are_its_fields():
    from service.api import compatibility
    from service.api.requests import CompletionRequest

    fields = CompletionRequest.model_fields.keys() - compatibility.COMPLETION_FIELDS.keys()
    structured_outputs = {"regex", "choices", "json_schema", "allowed", "banned"}
    arguments = CompletionArguments.__optional_keys__ - structured_outputs - {"extra_body"}
    assert fields - {"prompt", "stream", "max_completion_tokens"} == arguments


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": float("nan")}, "cannot be sent as JSON"),
        *(({"prompt": prompt}, "cannot be sent as JSON") for prompt in (b"Once", range(3), {1, 2}, object())),
        *(({"prompt": prompt}, r"prompt has a lone surrogate, '\\ud") for prompt in ("\ud800", ["a", "b\udfff"])),
        ({"extra_body": {"\ud800": 1}}, r"a field's name has a lone surrogate, '\\ud800', at character 0"),
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
