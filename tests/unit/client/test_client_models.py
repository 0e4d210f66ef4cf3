"""Models by the SDK: their versions, and the requests that change and delete them."""

import pytest

import sostenuto
from tests.unit.client.scripted_responses import answer_json, hang_up, models, refusal

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


@pytest.mark.parametrize("lost", [hang_up, refusal(502, "bad gateway")], ids=["cut", "502"])
def test_a_deletion_whose_response_was_lost_succeeds_at_the_retry(client, server, lost):
    """The server has nothing more to delete then."""
    missing = refusal(404, "there is no model book", code="model_not_found")
    server.script = [lost, missing, lost, lost, missing]
    client.delete_model("book")
    client.delete_file("file-1")
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "first",
    [refusal(409, "conflict"), refusal(429, "too many requests"), refusal(503, "shutting down", code="shutting_down")],
)
def test_what_was_not_there_is_not_deleted_at_the_retry(client, server, first):
    """The server has refused the first request before it did anything."""
    server.script = [first, refusal(404, "there is no model book", code="model_not_found")]
    with pytest.raises(sostenuto.ModelNotFound):
        client.delete_model("book")


def test_a_server_that_does_not_train_has_deleted_nothing(client, server):
    server.script = [hang_up, refusal(404, "this server has no trainer", code="training_disabled")]
    with pytest.raises(sostenuto.TrainingDisabled):
        client.delete_file("file-1")


def test_a_deleted_model_is_no_default_any_more(client, server):
    deleted = answer_json({"id": "old", "object": "model", "deleted": True})
    tokens = answer_json({"count": 0, "tokens": [], "token_strs": []})
    server.script = [models("old"), tokens, deleted, models("new"), tokens]
    client.tokenize("")
    client.delete_model("old:1")
    client.tokenize("")
    assert [body["model"] for body in server.bodies if body] == ["old", "new"]
    assert (server.requests[2].method, server.requests[2].path) == ("DELETE", "/v1/models/old%3A1")


@pytest.mark.parametrize("id", ["", ".", "..", 3, "a\ud800"], ids=repr)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("id", lambda client, id: client.delete_model(id)),
        ("id", lambda client, id: client.rollback(id)),
        ("id", lambda client, id: client.job(id)),
        ("id", lambda client, id: client.delete_file(id)),
        ("model", lambda client, id: client.embedding_map(model=id)),
    ],
    ids=["model", "rollback", "job", "file", "map"],
)
def test_an_id_that_would_name_another_path_is_rejected_before_sending(client, server, name, call, id):
    """HTTP clients remove "." and ".." from paths, also in percent-encoding."""
    with pytest.raises(sostenuto.InvalidArgument, match=rf"^{name} (is|has)"):
        call(client, id)
    assert server.requests == []


def test_a_value_that_a_query_cannot_encode_is_named(client, server):
    with pytest.raises(sostenuto.InvalidArgument, match=r"token has a lone surrogate, '\\ud800'"):
        client.neighbors("\ud800", model="book")
    with pytest.raises(sostenuto.InvalidArgument, match=r"model has a lone surrogate, '\\ud800'"):
        client.vocabulary(model="\ud800")
    assert server.requests == []
