"""Conversations: each turn resumes from the state of the previous one."""

import pytest

import sostenuto
from sostenuto import Turn
from tests.unit.client.scripted_responses import DONE, answer_json, chunk, cut, linger, models, refusal, stream


def said(text, state, finish_reason="length"):
    """Respond with a completion and its state."""
    return answer_json({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason, "state": state}]})


def test_each_turn_resumes_from_the_state_of_the_previous_one(client, server):
    server.script = [said(" two", "s1"), said(" four", "s2", "stop")]
    growing = client.conversation("One", model="tiny", max_tokens=5, temperature=0.5)
    assert (growing.text, growing.state, growing.undo()) == ("One", None, None)
    assert growing.generate().text == " two"
    assert growing.generate(" three", temperature=0.9).text == " four"
    fields = {"max_tokens": 5, "return_state": True}
    assert server.bodies == [
        {"model": "tiny", "prompt": "One", "temperature": 0.5, **fields},
        {"prompt": " three", "state": "s1", "temperature": 0.9, **fields},
    ]
    assert growing.turns == (Turn("", " two", "length", "s1"), Turn(" three", " four", "stop", "s2"))
    assert growing.text == "One two three four"
    assert repr(growing) == "Conversation('One two three four', model='tiny', turns=2)"
    long = client.conversation("x" * 99, model="tiny")
    assert repr(long) == f"Conversation({'…' + 'x' * 59!r}, model='tiny', turns=0)"


def test_labels_are_sent_with_the_whole_text_alone(client, server):
    """A resume token has those of its text; the server refuses others beside it."""
    server.script = [said("a", "s1"), said("b", "s2"), said("c", "s3")]
    growing, labels = client.conversation("x", model="tiny", labels={"style": "elvish"}), {"style": "elvish"}
    growing.generate()
    growing.generate()
    growing.reread()
    growing.generate()
    assert [body.get("labels") for body in server.bodies] == [labels, None, labels]


def test_turns_can_be_undone_and_conversations_branched(client, server):
    server.script = [said("a", "s1"), said("b", "s2"), said("c", "s3")]
    growing = client.conversation(model="tiny", stop=["."])
    growing.generate()
    branch = growing.branch()
    branch.options["temperature"] = 0.1
    branch.options["stop"].append("!")
    growing.generate()
    branch.generate()
    assert (growing.text, branch.text) == ("ab", "ac")
    assert [body.get("state") for body in server.bodies] == [None, "s1", "s1"]
    assert [body.get("temperature") for body in server.bodies] == [None, None, 0.1]
    assert [body["stop"] for body in server.bodies] == [["."], ["."], [".", "!"]]
    assert growing.undo() == Turn("", "b", "length", "s2")
    assert (growing.text, growing.state) == ("a", "s1")


def test_a_failed_turn_changes_nothing(client, server):
    server.script = [said("a", "s1"), refusal(400, "old", code="state_expired"), said("c", "s3")]
    growing = client.conversation("x", model="tiny")
    growing.generate()
    with pytest.raises(sostenuto.StateRefused):
        growing.generate("b")
    assert growing.text == "xa"
    growing.reread()
    growing.generate("b")
    assert server.bodies[2]["prompt"] == "xab"
    assert server.bodies[2]["model"] == "tiny"
    assert (growing.text, growing.state) == ("xabc", "s3")


def test_an_unfinished_streamed_turn_keeps_its_text(client, server):
    server.script = [
        stream([chunk("a")], then=linger),
        cut(),
        cut(chunk("b")),
        stream([{"error": {"message": "late", "code": "deadline_exceeded"}, **chunk("c", state="s3")}]),
        said("d", "s4"),
    ]
    growing = client.conversation("x", model="tiny")
    with growing.stream() as pieces:
        next(pieces)
    assert growing.turns == (Turn("", "a", None, None),)
    for error in (sostenuto.StreamInterrupted, sostenuto.StreamInterrupted, sostenuto.DeadlineExceeded):
        with pytest.raises(error):
            list(growing.stream())
    growing.generate()
    assert [body.get("state") or body["prompt"] for body in server.bodies] == ["x", "xa", "xa", "xab", "s3"]
    assert [turn.text for turn in growing.turns] == ["a", "b", "c", "d"]


def test_a_streamed_turn_is_added_when_its_stream_ends(client, server):
    last = stream([chunk("d"), chunk("e", "stop", state="s3"), DONE])
    server.script = [said("a", "s1"), stream([chunk("b"), chunk("c", "stop", state="s2"), DONE]), last, said("f", "s4")]
    growing = client.conversation("x", model="tiny")
    growing.generate()
    pieces = growing.stream(" y")
    next(pieces)
    assert growing.undo() == Turn("", "a", "length", "s1")
    assert growing.turns == ()
    assert list(pieces) == ["c"]
    assert growing.turns == (Turn(" y", "bc", "stop", None),)
    list(growing.stream())
    assert (server.bodies[-1]["prompt"], growing.state) == ("x ybc", "s3")
    growing.generate()
    assert server.bodies[-1]["state"] == "s3"


def test_after_a_change_of_model_the_whole_text_is_sent(client, server):
    server.script = [said("a", "s1"), said("b", "s2"), said("c", "s3"), said("d", "s4")]
    growing = client.conversation("x", model="tiny")
    growing.generate()
    growing.generate()
    growing.model = "tiny"
    assert growing.state == "s2"
    growing.model = "other"
    growing.undo()
    growing.generate()
    assert (server.bodies[-1]["model"], server.bodies[-1]["prompt"]) == ("other", "xa")


@pytest.mark.parametrize("name", ["n", "best_of", "echo", "suffix", "state", "return_state"])
def test_options_that_break_the_single_text_of_a_turn_are_rejected(client, server, name):
    for options, once in (({name: 1}, {}), ({}, {name: 1})):
        with pytest.raises(sostenuto.InvalidArgument, match=f"{name} is not an option"):
            client.conversation("x", model="tiny", **options).generate(**once)
    assert server.requests == []


def test_saving_keeps_permissions_and_symbolic_links(client, tmp_path):
    """A new file has mode 600, as its states let any reader resume the text."""
    growing, path, link = client.conversation("x", model="tiny"), tmp_path / "text.json", tmp_path / "link.json"
    growing.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    link.symlink_to(path)
    growing.save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="nowhere"):
        growing.save(tmp_path / "nowhere" / "text.json")


@pytest.mark.parametrize(("text", "options"), [("\ud800", {}), ("x", {"stop": object()})])
def test_a_conversation_that_json_cannot_represent_is_not_saved(client, tmp_path, text, options):
    with pytest.raises(sostenuto.InvalidArgument, match="cannot be written"):
        client.conversation(text, model="tiny", **options).save(tmp_path / "text.json")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_conversation_can_be_loaded_and_resumed(client, server, tmp_path):
    server.script = [models("first"), said("é", "s1"), said("c", "s2")]
    growing = client.conversation("x", max_tokens=5)
    growing.generate(" y")
    path = tmp_path / "text.json"
    path.write_text("before", encoding="utf-8")
    growing.save(path)
    again = client.load_conversation(path)
    assert (again.text, again.turns, again.options, again.model) == ("x yé", growing.turns, {"max_tokens": 5}, "first")
    again.generate()
    assert server.bodies[-1] == {"prompt": "", "state": "s1", "max_tokens": 5, "return_state": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.json"]


def test_a_failed_save_leaves_no_temporary_file(client, tmp_path):
    (tmp_path / "text.json").mkdir()
    with pytest.raises(OSError, match="text"):
        client.conversation("x", model="tiny").save(tmp_path / "text.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.json"]


TURN = b'{"prompt": "a", "text": %b, "more": 1}'
DOCUMENT = b'{"sostenuto_conversation": 1, "model": "m", "prompt": "x", "options": {}, "turns": [%b]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, r"text\.json is not a file of") for content in (b"", b"{}", b"[]", b"\xff", b"[" * 100_000)),
        (b'{"sostenuto_conversation": 1, "turns": 5}', "is not a file of"),
        (DOCUMENT % (TURN % b"2"), "is not a file of"),
        (b'{"sostenuto_conversation": 2}', "of format 2: update sostenuto"),
    ],
)
def test_loading_a_file_that_is_no_conversation_is_rejected(client, tmp_path, content, message):
    path = tmp_path / "text.json"
    path.write_bytes(content)
    with pytest.raises(sostenuto.InvalidArgument, match=message):
        client.load_conversation(path)


def test_unknown_fields_of_a_saved_turn_are_ignored(client, tmp_path):
    """A later version may have written them."""
    (tmp_path / "text.json").write_bytes(DOCUMENT % (TURN % b'"b"'))
    assert client.load_conversation(tmp_path / "text.json").text == "xab"
