"""Sessions, threads and headers: which connection a request uses, what identifies its sender, and `post`."""

import multiprocessing
import socket
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import requests
import urllib3

import sostenuto
from sostenuto import Client, RawResponse
from tests.unit.client.scripted_responses import COMPLETION, answer_bytes, answer_json, linger, models, refusal

ANSWER = answer_json(COMPLETION)


def test_concurrent_threads_request_the_default_model_once(client, server):
    together = threading.Barrier(8)

    def generate(_):
        together.wait()
        return client.generate().text

    server.script = [models("first"), *[ANSWER] * 8]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(generate, range(8))) == [" upon a time"] * 8
    posts = [request for request in server.requests if request.method == "POST"]
    assert (len(server.requests), len(posts)) == (9, 8)
    assert len({request.client_port for request in posts}) == 8


def test_requests_have_a_user_agent_and_reuse_one_connection(client, server):
    server.script = [models("tiny"), ANSWER]
    client.generate()
    get, post = server.requests
    assert post.headers["User-Agent"].startswith(f"sostenuto/{sostenuto.__version__} ")
    assert "Authorization" not in post.headers
    assert get.client_port == post.client_port


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
def test_a_connection_notices_within_15_seconds_that_its_host_is_lost(server, monkeypatch):
    opened, connect = [], urllib3.connection.HTTPConnection._new_conn

    def note(connection):
        opened.append(connect(connection))
        return opened[-1]

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "_new_conn", note)
    server.script = [models("tiny")]
    with Client(server.url) as client:
        client.models()
        (connection,) = opened
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


def test_a_passed_session_is_used_and_not_closed(server, monkeypatch):
    session = requests.Session()
    session.headers["X-Mine"] = "yes"
    closed = []
    monkeypatch.setattr(session, "close", lambda: closed.append(True))
    server.script = [models("tiny")]
    with Client(server.url, session=session) as client:
        client.models()
    assert server.requests[0].headers["X-Mine"] == "yes"
    assert closed == []


def test_closing_a_client_closes_the_sessions_of_all_its_threads(server):
    server.script = [lambda handler: (models("tiny")(handler), linger(handler))]
    client = Client(server.url)
    with ThreadPoolExecutor(1) as pool:  # its thread remains until then
        pool.submit(client.models).result()
        client.close()
        assert server.left.wait(5)
    with pytest.raises(sostenuto.ClientClosed, match="closed"):
        client.models()


def test_a_forked_process_opens_its_own_connection(client, server):
    server.script = [models("tiny")] * 3
    client.models()
    child = multiprocessing.get_context("fork").Process(target=client.models)
    child.start()
    child.join(60)
    client.models()
    ports = [request.client_port for request in server.requests]
    assert (child.exitcode, len(ports)) == (0, 3)
    assert ports[0] == ports[2] != ports[1]


@pytest.mark.parametrize("body", [b'{"n":1}', {"n": 1}])
def test_post_sends_the_body_unchanged(client, server, body):
    server.script = [answer_json({})]
    client.post("/new/endpoint", body)
    (received,) = server.requests
    assert (received.method, received.path, received.body) == ("POST", "/new/endpoint", {"n": 1})
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["Content-Length"] == str(len(b'{"n":1}') if isinstance(body, bytes) else len('{"n": 1}'))


def test_post_refuses_a_path_that_would_change_the_host(client):
    with pytest.raises(sostenuto.InvalidArgument, match=r"begins with /, such as"):
        client.post(".example/v1/completions", {})


def test_post_sends_a_str_as_utf8(client, server):
    server.script = [answer_json({})]
    client.post("/a", '{"prompt": "é"}')
    assert server.bodies == [{"prompt": "é"}]
    with pytest.raises(sostenuto.InvalidArgument, match=r"body has a lone surrogate, '\\ud800', at character 1,"):
        client.post("/a", '"\ud800"')


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


@pytest.mark.parametrize("encode", [str, quote], ids=["as it is", "percent-encoded"])
def test_user_name_and_password_of_the_url_are_sent_in_utf8(server, encode):
    server.script = [answer_json({})]
    with Client(server.url.replace("://", f"://{encode('é')}:{encode('p€:')}@")) as client:
        client.post("/a", b"{}")
    scheme, _, credentials = server.requests[0].headers["Authorization"].partition(" ")
    assert (scheme, b64decode(credentials).decode()) == ("Basic", "é:p€:")


@pytest.mark.parametrize(("api_key", "authorization"), [(None, "Basic "), ("mine", "Bearer mine")])
def test_an_api_key_takes_precedence_over_netrc(server, tmp_path, monkeypatch, api_key, authorization):
    """`requests` would replace the header with the credentials from netrc, which it uses without a key."""
    (tmp_path / "netrc").write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script = [answer_json({})]
    with Client(server.url, api_key=api_key) as client:
        client.post("/a", b"{}")
    assert server.requests[0].headers["Authorization"].startswith(authorization)
