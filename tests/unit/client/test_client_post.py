"""`post`: bodies are sent unchanged, and responses returned unchanged."""

import pytest
import requests

import sostenuto
from sostenuto import Client, RawResponse
from tests.unit.client.scripted_responses import answer_bytes, answer_json, refusal


@pytest.mark.parametrize("body", [b'{"n":1}', {"n": 1}])
def test_post_sends_the_body_unchanged(client, server, body):
    server.script = [answer_json({})]
    client.post("/new/endpoint", body)
    (received,) = server.requests
    assert (received.method, received.path, received.body) == ("POST", "/new/endpoint", {"n": 1})
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["Content-Length"] == str(len(b'{"n":1}') if isinstance(body, bytes) else len('{"n": 1}'))


def test_post_returns_the_response_unchanged_also_that_of_an_error(client, server):
    server.script = [
        answer_bytes(b'{"x": 1.10}\n', "application/json; charset=utf-8", 201, {"X-Request-Id": "req-1"}),
        answer_bytes(b"[]", "application/json"),
        refusal(400, "no", param="seed"),
    ]
    assert client.post("/a", b"{}") == RawResponse(201, "req-1", b'{"x": 1.10}\n')
    assert client.post("/a", b"{}") == RawResponse(200, None, b"[]")
    with pytest.raises(sostenuto.BadRequest) as caught:
        client.post("/a", b"{}")
    assert caught.value.content == b'{"error": {"message": "no", "param": "seed"}}'


def test_proxies_are_read_from_the_environment_once(client, server, monkeypatch):
    """`requests` reads them for each request, which takes a third of a call."""
    server.script = [answer_json({})] * 3
    client.post("/a", b"{}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setattr(requests.sessions, "get_environ_proxies", lambda *_, **__: pytest.fail("looked up again"))
    client.post("/a", b"{}")
    assert len({request.client_port for request in server.requests}) == 1


def test_successive_requests_keep_their_own_path_and_body(client, server):
    server.script = [*[answer_json({})] * 2, answer_json({}, headers={"Set-Cookie": "route=1"}), answer_json({})]
    for path in ("/a", "/b", "/a", "/b"):
        client.post(path, {"path": path})
    assert [(request.path, request.body) for request in server.requests] == [
        (path, {"path": path}) for path in ("/a", "/b", "/a", "/b")
    ]
    assert [request.headers["Cookie"] for request in server.requests] == [None, None, None, "route=1"]


@pytest.mark.parametrize(("api_key", "authorization"), [(None, "Basic "), ("mine", "Bearer mine")])
def test_an_api_key_takes_precedence_over_netrc(server, tmp_path, monkeypatch, api_key, authorization):
    """`requests` would replace the header with the credentials from netrc, which it uses without a key."""
    (tmp_path / "netrc").write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script = [answer_json({})]
    with Client(server.url, api_key=api_key) as client:
        client.post("/a", b"{}")
    assert server.requests[0].headers["Authorization"].startswith(authorization)
