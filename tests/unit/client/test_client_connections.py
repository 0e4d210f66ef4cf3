"""Sessions, threads and headers: which connection a request uses, and what identifies its sender."""

import multiprocessing
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import urllib3

import sostenuto
from sostenuto import Client
from tests.unit.client.scripted_responses import COMPLETION, answer_json, linger, models

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
