"""What a line of IN must be, and what it says when it is not."""

import json

import pytest

from service.batch import requests_file
from service.batch.errors import LineError, UsageError
from service.batch.requests_file import BatchRequest, Line, check_readable, parse, read_lines

SOUND = {"custom_id": "a", "method": "POST", "url": "/tokenize", "body": {"model": "m", "prompt": "大 0.1"}}


def test_a_sound_line_is_sent_as_it_is():
    """The body's fields go to the gateway in their order, with their values."""
    request = parse(Line(1, json.dumps(SOUND).encode()))
    assert request == BatchRequest("a", "/tokenize", '{"model":"m","prompt":"大 0.1"}'.encode())


@pytest.mark.parametrize(
    ("content", "code", "message", "custom_id"),
    [
        (b"nonsense", "invalid_json", "must be JSON in UTF-8, got nonsense", None),
        (b'"\xff"', "invalid_json", "must be JSON in UTF-8", None),
        (b"[1]", "invalid_line", "must be an object, got [1]", None),
        (b"{}", "invalid_custom_id", "custom_id must be a string, got none", None),
        (b'{"custom_id": null}', "invalid_custom_id", "custom_id must be a string, got null", None),
        (b'{"custom_id": 7}', "invalid_custom_id", "custom_id must be a string, got 7", None),
        ({"method": "GET"}, "invalid_method", 'method must be POST, got "GET"', "a"),
        ({"url": "/v1/chat/completions"}, "invalid_url", '/detokenize, got "/v1/chat/completions"', "a"),
        ({"url": ["/tokenize"]}, "invalid_url", 'got ["/tokenize"]', "a"),
        ({"body": "x" * 200}, "invalid_body", f'body must be an object, got "{"x" * 79}…', "a"),
        ({"body": {"stream": True}}, "invalid_body", "body.stream must be false or absent in a batch, got true", "a"),
    ],
)
def test_a_wrong_line_says_field_bound_and_value(content, code, message, custom_id):
    """Each fault has its code, and keeps the custom_id if there is one."""
    line = Line(1, content if isinstance(content, bytes) else json.dumps({**SOUND, **content}).encode())
    with pytest.raises(LineError) as caught:
        parse(line)
    assert (caught.value.code, caught.value.custom_id) == (code, custom_id)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["method", "url", "body"])
def test_a_missing_field_is_told_from_null(field):
    """What is not there is called none."""
    with pytest.raises(LineError, match=f"{field} must be .* got none"):
        parse(Line(1, json.dumps({name: value for name, value in SOUND.items() if name != field}).encode()))


def test_a_repeated_custom_id_names_the_line_that_has_it():
    """The second one is wrong."""
    with pytest.raises(LineError, match='must be unique, got "a" as in line 3'):
        parse(Line(9, json.dumps(SOUND).encode(), same_as=3))


def test_lines_are_numbered_with_empty_ones_and_without_their_ends(tmp_path):
    """A byte order mark, carriage returns and a last line without an end are no part of lines."""
    path = tmp_path / "in"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo")
    assert [(line.number, line.content) for line in read_lines(path)] == [(1, b"one"), (2, b""), (3, b""), (4, b"two")]


def test_a_line_that_is_too_long_is_wrong_and_not_held_in_memory(tmp_path, monkeypatch):
    """No more than the bound is read of it; the next line is whole, and one of just the bound is sound."""
    monkeypatch.setattr(requests_file, "MAX_LINE_BYTES", 10)
    path = tmp_path / "in"
    path.write_bytes(b"x" * 1000 + b"\n" + b"y" * 9 + b"\n" + b"z" * 11)
    first, second, third = read_lines(path)
    assert [len(first.content), second.content, len(third.content)] == [11, b"y" * 9, 11]
    with pytest.raises(LineError, match="at most 10 bytes, got more"):
        parse(first)


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "No such file"), ("/dev/null", "must be a regular file"), (".", "I")]
)
def test_what_cannot_be_read_twice_is_refused(tmp_path, name, message):
    """Pipes and devices, folders and files that are not there."""
    with pytest.raises(UsageError, match=message):
        check_readable(tmp_path / name)
