"""Sessions, threads and headers: who sends, and over which connection."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import requests

import ostinato
from ostinato import Client
from tests.unit.client.scripted_responses import COMPLETION, answer_json, models
from tests.unit.client.scripted_server import Handler, ScriptedServer

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = answer_json(COMPLETION)


def test_threads_that_start_together_ask_for_the_model_once(client: Client, server: ScriptedServer) -> None:
    """Eight threads without a model send one question and eight requests, over connections of their own."""
    together = threading.Barrier(8)

    def generate(_: int) -> str:
        together.wait()
        return client.generate().text

    server.script = [models("first"), *[ANSWER] * 8]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(generate, range(8))) == [" upon a time"] * 8
    posts = [request for request in server.requests if request.method == "POST"]
    assert (len(server.requests), len(posts)) == (9, 8)
    assert len({request.client_port for request in posts}) == 8


def test_each_thread_has_connections_of_its_own(client: Client, server: ScriptedServer) -> None:
    """One thread after another sends over another connection, and each keeps its own."""
    server.script = [ANSWER] * 4
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for pool in (first, second, first, second):
            pool.submit(client.generate, model="tiny").result()
    ports = [request.client_port for request in server.requests]
    assert ports[:2] == ports[2:]
    assert ports[0] != ports[1]


def test_requests_say_who_sends_them_and_use_one_connection(client: Client, server: ScriptedServer) -> None:
    """The client names itself, sends no key if it has none, and keeps its connection."""
    server.script = [models("tiny"), ANSWER]
    client.generate()
    get, post = server.requests
    assert post.headers["User-Agent"].startswith(f"ostinato-client/{ostinato.__version__} ")
    assert "Authorization" not in post.headers
    assert get.client_port == post.client_port


def test_the_key_is_sent_even_where_netrc_has_another(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was passed is the one that is sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.script = [models("tiny")]
    with Client(server.url, api_key="mine") as client:
        client.models()
    assert server.requests[0].headers["Authorization"] == "Bearer mine"


def test_a_session_that_was_passed_in_is_used_and_left_open(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's session carries its own headers, and closing it is up to the caller."""
    session = requests.Session()
    session.headers["X-Mine"] = "yes"
    closed: list[bool] = []
    monkeypatch.setattr(session, "close", lambda: closed.append(True))
    server.script = [models("tiny")]
    with Client(server.url, session=session) as client:
        client.models()
    assert server.requests[0].headers["X-Mine"] == "yes"
    assert closed == []


def test_closing_a_client_closes_the_sessions_of_all_its_threads(server: ScriptedServer) -> None:
    """After `close` no connection is left open, and further requests are refused."""

    def answer_and_watch(handler: Handler) -> None:
        models("tiny")(handler)
        handler.wait_until_client_leaves()

    server.script = [answer_and_watch]
    client = Client(server.url)
    asked, may_end = threading.Event(), threading.Event()

    def ask_and_linger() -> None:
        client.models()
        asked.set()
        may_end.wait()

    thread = threading.Thread(target=ask_and_linger, daemon=True)
    thread.start()
    asked.wait()
    client.close()
    assert server.left.wait(5)
    may_end.set()
    thread.join()
    with pytest.raises(ostinato.ClientClosed, match="closed"):
        client.models()


def test_a_forked_process_has_connections_of_its_own(client: Client, server: ScriptedServer) -> None:
    """On those of its parent each would read answers to the other."""
    server.script = [models("tiny")] * 3
    client.models()
    child = multiprocessing.get_context("fork").Process(target=client.models)
    child.start()
    child.join(10)
    client.models()
    ports = [request.client_port for request in server.requests]
    assert (child.exitcode, len(ports)) == (0, 3)
    assert ports[0] == ports[2] != ports[1]
