"""Structured outputs: which field the arguments become, and which of them exclude each other."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from sostenuto import InvalidArgument
from tests.unit.client.scripted_responses import COMPLETION, DONE, answer_json, stream

ANSWER = answer_json(COMPLETION)
SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "string"}}}


class Person(BaseModel):
    """A pydantic model, of which the client knows only the method `model_json_schema`."""

    name: str


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        ({"choices": ["yes", "no"]}, {"structured_outputs": {"choice": ["yes", "no"]}}),
        ({"json_schema": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ({"json_schema": '{"type": "null"}'}, {"structured_outputs": {"json": '{"type": "null"}'}}),
        ({"json_schema": False}, {"structured_outputs": {"json": False}}),
        ({"json_schema": Person}, {"structured_outputs": {"json": Person.model_json_schema()}}),
        (
            {"regex": ".*", "allowed": "ab", "banned": "b"},
            {"structured_outputs": {"regex": ".*", "allowed_characters": "ab", "banned_characters": "b"}},
        ),
        ({"min_length": 0, "regex": None}, {"min_length": 0}),
        ({"structured_outputs": {"json_object": True}}, {"structured_outputs": {"json_object": True}}),
    ],
    ids=str,
)
def test_the_arguments_become_one_field(client, server, arguments, fields):
    calls = [
        lambda: client.generate("Once", model="tiny", **arguments),
        lambda: client.stream("Once", model="tiny", **arguments),
        lambda: client.resume("s1", **arguments),
        lambda: list(client.generate_many(["Once"], model="tiny", concurrency=1, **arguments)),
        lambda: client.conversation("Once", model="tiny", **arguments).generate(),
        lambda: client.conversation("Once", model="tiny").generate(**arguments),
    ]
    server.script = [ANSWER, stream([DONE]), ANSWER, ANSWER, ANSWER, ANSWER]
    for call in calls:
        call()
    own = {"model", "prompt", "stream", "stream_options", "state", "return_state", "seed"}
    assert [{name: body[name] for name in body.keys() - own} for body in server.bodies] == [fields] * len(calls)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regex": "a", "choices": ["b"]}, "regex and choices exclude each other, as a completion has one pattern"),
        ({"choices": [], "json_schema": True}, "choices and json_schema exclude each other"),
        ({"allowed": "a", "structured_outputs": {"regex": "a"}}, "allowed and structured_outputs exclude each other"),
        ({"regex": "a", "extra_body": {"structured_outputs": {}}}, "regex and structured_outputs exclude each other"),
        ({"choice": ["a"]}, "unknown argument choice: did you mean choices?"),
        ({"json": SCHEMA}, r"unknown argument json: did you mean json_schema\?"),
        ({"allowed_characters": "a"}, "unknown argument allowed_characters: did you mean allowed?"),
    ],
    ids=str,
)
def test_contradictions_are_rejected_before_sending(client, server, arguments, message):
    for call in (client.generate, client.stream, client.conversation(model="tiny").generate):
        with pytest.raises(InvalidArgument, match=message):
            call("Once", **arguments)
    assert server.requests == []


def test_a_saved_conversation_keeps_its_schema(client, server, tmp_path):
    client.conversation(model="tiny", json_schema=Person).save(tmp_path / "text.json")
    server.script = [ANSWER]
    client.load_conversation(tmp_path / "text.json").generate()
    assert server.bodies[0]["structured_outputs"] == {"json": Person.model_json_schema()}
