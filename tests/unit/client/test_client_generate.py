"""`generate` and `models`, against a real server."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import ostinato
from ostinato import Client, InvalidArgument, NotFound
from ostinato._fields import COMPLETION_FIELDS, EMBEDDING_FIELDS, INSPECT_FIELDS
from tests.unit.client.scripted_responses import COMPLETION, answer_json, models, refusal
from tests.unit.client.scripted_server import Handler, ScriptedServer

ANSWER = answer_json(COMPLETION)


def test_only_what_was_passed_is_sent(client: Client, server: ScriptedServer) -> None:
    """None is left to the server's default; 0 and the empty prompt are values."""
    server.script = [ANSWER, ANSWER]
    client.generate(model="tiny")
    client.generate("Once", model="tiny", temperature=0, top_k=None, stop=["."], repetition_penalty=1.1, user=None)
    assert server.bodies == [
        {"model": "tiny", "prompt": ""},
        {"model": "tiny", "prompt": "Once", "temperature": 0, "stop": ["."], "repetition_penalty": 1.1},
    ]


def test_every_named_field_is_sent_under_its_name(client: Client, server: ScriptedServer) -> None:
    """No field is dropped or mixed up on its way."""
    fields: dict[str, Any] = {
        "max_tokens": 1,
        "temperature": 0.2,
        "top_p": 0.3,
        "top_k": 4,
        "min_p": 0.5,
        "seed": 6,
        "n": 8,
    }
    server.script = [ANSWER]
    client.generate("Once", model="tiny", suffix=["y"], stop="x", **fields)
    assert server.bodies == [{"model": "tiny", "prompt": "Once", "suffix": ["y"], "stop": "x", **fields}]


def test_the_client_has_no_bounds_of_its_own(client: Client, server: ScriptedServer) -> None:
    """Nonsense is sent, for the server to refuse."""
    server.script = [ANSWER]
    client.generate([[1, 2], [3]], model="", max_tokens=-5, temperature=99.0, n=0)
    assert server.bodies == [{"model": "", "prompt": [[1, 2], [3]], "max_tokens": -5, "temperature": 99.0, "n": 0}]


def test_generate_returns_the_generation(client: Client, server: ScriptedServer) -> None:
    """The answer comes back as a value."""
    server.script = [ANSWER]
    generation = client.generate("Once", model="tiny")
    assert (generation.text, generation.raw) == (" upon a time", COMPLETION)


def test_the_first_model_is_asked_for_once(client: Client, server: ScriptedServer) -> None:
    """Without a model, the client takes the server's first, and remembers it."""
    server.script = [models("first", "second"), ANSWER, ANSWER]
    client.generate()
    client.generate()
    assert [request.path for request in server.requests] == ["/v1/models", "/v1/completions", "/v1/completions"]
    assert [body["model"] for body in server.bodies[1:]] == ["first", "first"]


def test_a_model_that_is_gone_is_forgotten(client: Client, server: ScriptedServer) -> None:
    """After "no such model" the next request asks for the models again."""
    server.script = [models("old"), refusal(404, "no model 'old'", code="model_not_found"), models("new"), ANSWER]
    with pytest.raises(NotFound):
        client.generate()
    client.generate()
    assert server.bodies[-1]["model"] == "new"


def test_a_server_without_models_is_told_apart(client: Client, server: ScriptedServer) -> None:
    """An empty list is an error that says what to do, and is asked for again."""
    server.script = [models(), models("tiny"), ANSWER]
    with pytest.raises(ostinato.UnexpectedResponse, match="lists no model"):
        client.generate()
    assert client.generate().model == "tiny"


def test_models_are_listed(client: Client, server: ScriptedServer) -> None:
    """Every entry becomes a Model, in the server's order."""
    server.script = [models("b", "a")]
    assert [model.id for model in client.models()] == ["b", "a"]


def test_what_json_cannot_say_is_refused_unsent(client: Client, server: ScriptedServer) -> None:
    """NaN is no JSON: the error comes before the request."""
    with pytest.raises(InvalidArgument, match="cannot be sent"):
        client.generate("Once", model="tiny", temperature=float("nan"))
    assert server.requests == []


def test_a_misspelt_argument_is_refused(client: Client, server: ScriptedServer) -> None:
    """The server would read over it; what the API may yet get goes beside."""
    for call in (client.generate, client.stream, client.score, client.embed):
        with pytest.raises(InvalidArgument, match="there is no argument timeouts: did you mean timeout_s"):
            call("Once", model="tiny", timeouts=3)
    with pytest.raises(InvalidArgument, match="no argument xyzzy: what the API has no name for goes into extra_body"):
        client.resume("s1", xyzzy=3)
    assert server.requests == []
    server.script = [ANSWER]
    client.generate("Once", model="tiny", extra_body={"xyzzy": 3, "top_k": None})
    assert server.bodies == [{"model": "tiny", "prompt": "Once", "xyzzy": 3}]


def test_the_names_are_those_of_the_service() -> None:
    """All of them, but for the one that says which method is meant, and another name of one."""
    from service.api import unsupported
    from service.api.requests import CompletionRequest, EmbeddingsRequest, InspectRequest

    completion_fields = CompletionRequest.model_fields.keys() - unsupported.COMPLETION_FIELDS.keys()
    assert completion_fields - {"stream", "max_completion_tokens"} == COMPLETION_FIELDS
    assert EmbeddingsRequest.model_fields.keys() - unsupported.EMBEDDING_FIELDS.keys() == EMBEDDING_FIELDS
    assert InspectRequest.model_fields.keys() == INSPECT_FIELDS


@pytest.mark.parametrize("prompt", ["\ud800", ["a", "b\udfff"]])
def test_a_lone_surrogate_is_named(client: Client, server: ScriptedServer, prompt: Any) -> None:
    """It is no text in any encoding, and the error says where it is."""
    with pytest.raises(InvalidArgument, match=r"prompt has a lone surrogate, '\\ud"):
        client.generate(prompt, model="tiny")
    assert server.requests == []


@pytest.mark.parametrize("prompt", [b"Once", range(3), {1, 2}, object()])
def test_what_has_no_json_is_refused_unsent(client: Client, server: ScriptedServer, prompt: Any) -> None:
    """By an error of this package."""
    with pytest.raises(InvalidArgument, match="cannot be sent as JSON"):
        client.generate(prompt, model="tiny")
    assert server.requests == []


def test_text_of_any_script_goes_as_utf8(client: Client, server: ScriptedServer) -> None:
    """Not escaped: a prompt has the bytes that it has."""
    server.script = [ANSWER]
    client.generate("Жил-был 🐈", model="tiny")
    assert server.bodies[0]["prompt"] == "Жил-был 🐈"
    assert int(server.requests[0].headers["Content-Length"]) < 60
    assert server.requests[0].headers["Content-Type"] == "application/json"


def test_threads_that_start_together_ask_once_and_fail_together(server: ScriptedServer) -> None:
    """Who waits for the first model's name gets its failure, and does not ask again."""
    server.script = [refusal(403, "no")]
    errors: list[Exception] = []
    asked = threading.Event()

    def late(handler: Handler) -> None:
        assert asked.wait(5)
        refusal(403, "no")(handler)

    server.script = [late]

    def ask(client: Client) -> None:
        try:
            client.generate("a")
        except ostinato.Forbidden as error:
            errors.append(error)

    with Client(server.url) as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        asked.set()
        for thread in threads:
            thread.join(5)
        assert len(errors) == 8
        server.script = [models("tiny"), ANSWER]
        assert client.generate("a").text == " upon a time"


def test_generate_does_not_stream(client: Client) -> None:
    """`stream=True`, as other clients have it, points to the method that does."""
    with pytest.raises(InvalidArgument, match=r"client\.stream"):
        client.generate("Once", model="tiny", stream=True)


def test_a_base_url_with_a_path_is_kept(server: ScriptedServer) -> None:
    """A server behind a proxy's prefix is found."""
    server.script = [models("tiny")]
    with Client(f"{server.url}/texts/v1/") as client:
        client.models()
    assert server.requests[0].path == "/texts/v1/models"
