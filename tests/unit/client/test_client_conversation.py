"""Texts that grow by turns: each goes on from where the one before stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import ostinato
from ostinato import Client, Turn
from tests.unit.client.scripted_responses import DONE, answer_json, chunk, hang_up, linger, models, refusal, stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.client.scripted_server import Answer, ScriptedServer


def said(text: str, state: str | None, finish_reason: str = "length") -> Answer:
    """Answer a text with its state."""
    return answer_json({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason, "state": state}]})


def test_each_turn_goes_on_from_the_one_before(client: Client, server: ScriptedServer) -> None:
    """The first reads the beginning, the others what is new; the state goes along, and names its model by itself."""
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
    assert (
        repr(client.conversation("x" * 99, model="tiny")) == f"Conversation({'…' + 'x' * 59!r}, model='tiny', turns=0)"
    )


def test_a_turn_can_be_taken_back_and_a_text_can_branch(client: Client, server: ScriptedServer) -> None:
    """A branch stands where its origin stood; neither changes the other."""
    server.script = [said("a", "s1"), said("b", "s2"), said("c", "s3")]
    growing = client.conversation(model="tiny")
    growing.generate()
    branch = growing.branch()
    branch.options["temperature"] = 0.1
    growing.generate()
    branch.generate()
    assert (growing.text, branch.text) == ("ab", "ac")
    assert [body.get("state") for body in server.bodies] == [None, "s1", "s1"]
    assert [body.get("temperature") for body in server.bodies] == [None, None, 0.1]
    assert growing.undo() == Turn("", "b", "length", "s2")
    assert (growing.text, growing.state) == ("a", "s1")


def test_a_turn_that_fails_changes_nothing(client: Client, server: ScriptedServer) -> None:
    """After a state that is refused, the text can be read anew."""
    server.script = [said("a", "s1"), refusal(400, "old", code="state_expired"), said("c", "s3")]
    growing = client.conversation("x", model="tiny")
    growing.generate()
    with pytest.raises(ostinato.StateExpired):
        growing.generate("b")
    assert growing.text == "xa"
    growing.reread()
    growing.generate("b")
    assert server.bodies[2]["prompt"] == "xab"
    assert server.bodies[2]["model"] == "tiny"
    assert (growing.text, growing.state) == ("xabc", "s3")


def test_a_turn_can_be_streamed(client: Client, server: ScriptedServer) -> None:
    """It counts once it has ended."""
    server.script = [stream([chunk("a"), chunk("b", "stop", state="s1"), DONE])]
    growing = client.conversation("x", model="tiny")
    pieces = growing.stream(" y")
    next(pieces)
    assert growing.turns == ()
    assert list(pieces) == ["b"]
    assert growing.turns == (Turn(" y", "ab", "stop", "s1"),)


def test_a_turn_that_is_left_keeps_what_came(client: Client, server: ScriptedServer) -> None:
    """Closed or broken off, its text stays, and is read anew by the next turn."""
    server.script = [
        stream([chunk("a")], then=linger),
        stream([chunk("b")], then=hang_up),
        stream([{"error": {"message": "late", "code": "deadline_exceeded"}, **chunk("c", state="s3")}]),
        said("d", "s4"),
    ]
    growing = client.conversation("x", model="tiny")
    with growing.stream() as pieces:
        next(pieces)
    assert growing.turns == (Turn("", "a", None, None),)
    for error in (ostinato.StreamInterrupted, ostinato.DeadlineExceeded):
        with pytest.raises(error):
            list(growing.stream())
    growing.generate()
    assert [body.get("state") or body["prompt"] for body in server.bodies] == ["x", "xa", "xab", "s3"]
    assert growing.text == "xabcd"


def test_a_conversation_that_changes_meanwhile_reads_anew(client: Client, server: ScriptedServer) -> None:
    """The state of a turn is of the turns that there were when it was asked for."""
    server.script = [said("a", "s1"), stream([chunk("b"), chunk("c", "stop", state="s2"), DONE]), said("d", "s3")]
    growing = client.conversation("x", model="tiny")
    growing.generate()
    pieces = growing.stream()
    next(pieces)
    growing.undo()
    list(pieces)
    assert (growing.text, growing.state) == ("xbc", None)
    growing.generate()
    assert server.bodies[-1]["prompt"] == "xbc"


def test_another_model_reads_the_text_anew(client: Client, server: ScriptedServer) -> None:
    """And no state of the one before is ever sent to it, whatever is undone."""
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
def test_what_would_not_grow_by_one_text_is_refused(client: Client, server: ScriptedServer, name: str) -> None:
    """For all turns or for one."""
    for options, once in (({name: 1}, {}), ({}, {name: 1})):
        with pytest.raises(ostinato.InvalidArgument, match=f"{name} is no option"):
            client.conversation("x", model="tiny", **options).generate(**once)
    assert server.requests == []


def test_a_file_keeps_its_permissions_and_links(client: Client, tmp_path: Path) -> None:
    """A new one is its owner's alone, as who reads it can go on with the text."""
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
def test_what_no_file_can_hold_is_refused(client: Client, tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(ostinato.InvalidArgument, match="cannot be written"):
        client.conversation(text, model="tiny", **options).save(tmp_path / "text.json")
    assert list(tmp_path.iterdir()) == []


def test_what_a_later_version_adds_to_a_turn_is_read_over(client: Client, tmp_path: Path) -> None:
    """And what is of another type is refused."""
    turn: dict[str, Any] = {"prompt": "a", "text": "b", "finish_reason": None, "state": None, "more": 1}
    document = {"ostinato_conversation": 1, "model": "m", "prompt": "x", "options": {}, "turns": [turn]}
    path = tmp_path / "text.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert client.load_conversation(path).text == "xab"
    turn["text"] = 2
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ostinato.InvalidArgument, match="holds no conversation"):
        client.load_conversation(path)


def test_a_turn_that_brought_nothing_is_none(client: Client, server: ScriptedServer) -> None:
    """A stream that breaks off before its first event leaves the conversation as it was."""
    server.script = [stream([], then=hang_up)]
    growing = client.conversation("x", model="tiny")
    with pytest.raises(ostinato.StreamInterrupted):
        list(growing.stream())
    assert growing.turns == ()


def test_it_can_be_saved_and_taken_up(client: Client, server: ScriptedServer, tmp_path: Path) -> None:
    """With every turn, its states and options, and no key; a file is whole or as it was."""
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


def test_a_file_that_cannot_be_written_leaves_nothing_behind(client: Client, tmp_path: Path) -> None:
    """Neither a draft nor half a file."""
    (tmp_path / "text.json").mkdir()
    with pytest.raises(OSError, match="text"):
        client.conversation("x", model="tiny").save(tmp_path / "text.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"ostinato_conversation": 1, "turns": 5}'])
def test_what_is_no_conversation_is_refused(client: Client, tmp_path: Path, content: bytes) -> None:
    """One line names the file."""
    path = tmp_path / "text.json"
    path.write_bytes(content)
    with pytest.raises(ostinato.InvalidArgument, match=r"text\.json: holds no conversation"):
        client.load_conversation(path)


def test_a_file_of_a_later_format_is_refused(client: Client, tmp_path: Path) -> None:
    """What to do about it stands in the line."""
    path = tmp_path / "text.json"
    document: dict[str, Any] = {"ostinato_conversation": 2}
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ostinato.InvalidArgument, match="of format 2: update ostinato-client"):
        client.load_conversation(path)
