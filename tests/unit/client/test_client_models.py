"""Models by the SDK: their versions, and the requests that change and delete them."""

import pytest

import sostenuto
from tests.unit.client.scripted_responses import answer_json, hang_up, models

ROUTING = {"id": "book", "object": "model.routing", "version": 1, "labels": {"stable": 1, "canary": 2}, "unloaded": [3]}
VERSIONS = ((1, "stable", 0.9), (2, "canary", 0.1))
ROUTING["versions"] = [{"version": number, "labels": [label], "share": share} for number, label, share in VERSIONS]
ROUTING["shares"] = {"stable": 90.0, "canary": 10.0}
DETAILS = {"version": 1, "labels": [], "parameters": 7, "size_bytes": 100, "corpus": "a.txt", "created": 5}


def test_a_model_has_the_details_of_its_versions_and_an_entry_of_a_list_none(client, server):
    server.script = [answer_json({**ROUTING, "object": "model", "versions": [DETAILS]}), models("tiny")]
    model = client.model("book@canary")
    assert server.requests[0].path == "/v1/models/book%40canary"
    (version,) = model.versions
    assert (version.version, version.parameters, version.size_bytes, version.corpus) == (1, 7, 100, "a.txt")
    assert (version.validation_loss, version.labels, version.raw["created"]) == (None, (), 5)
    assert (model.labels, model.unloaded) == ({"stable": 1, "canary": 2}, (3,))
    (entry,) = client.models()
    assert (entry.versions, entry.labels, entry.shares, entry.unloaded) == ((), None, None, None)


def test_a_rollback_is_not_repeated_if_its_response_is_lost(client, server):
    """A second one would undo the first; a change of labels may be repeated."""
    server.script = [hang_up, answer_json(ROUTING)]
    with pytest.raises(sostenuto.ConnectionFailed):
        client.rollback("book")
    assert [each.path for each in server.requests] == ["/v1/models/book/rollback"]
    server.script = [hang_up, answer_json(ROUTING)]
    assert client.promote("book", 1).version == 1


def test_a_deleted_model_is_no_default_any_more(client, server):
    deleted = answer_json({"id": "old", "object": "model", "deleted": True})
    tokens = answer_json({"count": 0, "tokens": [], "token_strs": []})
    server.script = [models("old"), tokens, deleted, models("new"), tokens]
    client.tokenize("")
    client.delete_model("old:1")
    client.tokenize("")
    assert [body["model"] for body in server.bodies if body] == ["old", "new"]
    assert (server.requests[2].method, server.requests[2].path) == ("DELETE", "/v1/models/old%3A1")
