"""`sostenuto models`: what it shows of a server's models, and how it changes them."""

import pytest

from tests.unit.client.scripted_responses import answer_json
from tests.unit.client.test_client_models import ROUTING

VERSION = {"version": 2, "labels": ["stable", "canary"], "share": 0.9, "corpus": "book.txt", "parent": "english:1"}
VERSION |= {"validation_loss": 1.3529, "parameters": 1280587, "size_bytes": 3 * 2**20, "bits_per_character": 1.952}
TABLE = """\
version  labels  traffic
      1  stable      90%
      2  canary      10%
"""


def test_versions_are_shown_with_what_is_known_of_them(sostenuto, server):
    server.script = [answer_json({**ROUTING, "versions": [VERSION, {"version": 1, "share": 0.1}]})]
    shown = sostenuto("models", "show", "book")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == (
        "version  labels          traffic   loss  bits/char  parameters    size  corpus    from\n"
        "      2  stable, canary      90%  1.353      1.952   1,280,587  3.1 MB  book.txt  english:1\n"
        "      1  -                   10%      -          -           -       -  -         -\n"
        "not loaded: 3\n"
    )


@pytest.mark.parametrize(
    ("arguments", "request_", "body"),
    [
        (["promote", "book:2"], ("PATCH", "/v1/models/book"), {"labels": {"stable": 2}}),
        (["promote", "book:2", "--label", "canary"], ("PATCH", "/v1/models/book"), {"labels": {"canary": 2}}),
        (["unlabel", "book", "canary"], ("PATCH", "/v1/models/book"), {"labels": {"canary": None}}),
        (["split", "book", "stable=90", "2=10"], ("PATCH", "/v1/models/book"), {"shares": {"stable": 90, "2": 10}}),
        (["split", "book"], ("PATCH", "/v1/models/book"), {"shares": {}}),
        (["rollback", "book"], ("POST", "/v1/models/book/rollback"), {}),
    ],
)
def test_each_change_prints_the_traffic_afterwards(sostenuto, server, arguments, request_, body):
    server.script = [answer_json(ROUTING)]
    shown = sostenuto("models", *arguments)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, TABLE, "")
    (sent,) = server.requests
    assert ((sent.method, sent.path), sent.body) == (request_, body)


def test_a_version_that_is_still_being_loaded_is_named(sostenuto, server):
    server.script = [answer_json({**ROUTING, "labels": {"stable": 3}})]
    assert "book:3 is being loaded for stable\n" in sostenuto("models", "promote", "book:3").stdout


def test_delete_asks_on_a_terminal(terminal, server):
    server.script = [answer_json({"id": "book:1", "object": "model", "deleted": True})]
    running = terminal("models", "delete", "book:1")
    running.wait_for(b"delete book:1? This cannot be undone.")
    running.type(b"n\n")
    assert running.end()[0] == 130
    assert server.requests == []
    running = terminal("models", "delete", "book:1")
    running.wait_for(b"delete book:1? This cannot be undone.")
    running.type(b"y\n")
    assert running.end()[0] == 0
    assert [(each.method, each.path) for each in server.requests] == [("DELETE", "/v1/models/book%3A1")]
