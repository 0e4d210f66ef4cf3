"""Lines of IN: valid ones become requests, invalid ones an error with field, limit and value."""

import json

import pytest

from sostenuto._batch import requests_file
from sostenuto._batch.errors import LineError, UsageError
from sostenuto._batch.requests_file import BatchRequest, Line, check_readable, parse, read_lines

SOUND = {"custom_id": "a", "method": "POST", "url": "/tokenize", "body": {"model": "m", "prompt": "大 0.1"}}


def test_a_valid_line_keeps_its_body():
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
        (b"[" * 300 + b"]" * 300, "invalid_line", "must be an object, got [[[", None),
        ({"body": {"prompt": json.loads("[" * 300 + "]" * 300)}}, "invalid_body", "body cannot be sent as JSON", "a"),
        ({"body": {"stream": True}}, "invalid_body", "body.stream must be false or absent in a batch, got true", "a"),
    ],
)
def test_an_invalid_line_is_an_error_with_field_limit_and_value(content, code, message, custom_id):
    line = Line(1, content if isinstance(content, bytes) else json.dumps({**SOUND, **content}).encode())
    with pytest.raises(LineError) as caught:
        parse(line)
    assert (caught.value.code, caught.value.custom_id) == (code, custom_id)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["method", "url", "body"])
def test_a_missing_field_is_reported_as_none(field):
    with pytest.raises(LineError, match=f"{field} must be .* got none"):
        parse(Line(1, json.dumps({name: value for name, value in SOUND.items() if name != field}).encode()))


def test_a_duplicate_custom_id_is_an_error_naming_its_first_line():
    with pytest.raises(LineError, match='must be unique, got "a" as in line 3'):
        parse(Line(9, json.dumps(SOUND).encode(), same_as=3))


def test_lines_are_numbered_from_1_empty_ones_included(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo")
    assert [(line.number, line.content) for line in read_lines(path)] == [(1, b"one"), (2, b""), (3, b""), (4, b"two")]


def test_a_line_above_the_limit_is_an_error_and_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(requests_file, "MAX_LINE_BYTES", 10)
    path = tmp_path / "in"
    path.write_bytes(b"x" * 1000 + b"\n" + b"y" * 9 + b"\n" + b"z" * 11)
    first, second, third = read_lines(path)
    assert [len(first.content), second.content, len(third.content)] == [11, b"y" * 9, 11]
    with pytest.raises(LineError, match="at most 10 bytes, got more"):
        parse(first)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_end_of_a_line_does_not_count(tmp_path, monkeypatch, end):
    monkeypatch.setattr(requests_file, "MAX_LINE_BYTES", 10)
    (tmp_path / "in").write_bytes(b"x" * 10 + end)
    assert [line.content for line in read_lines(tmp_path / "in")] == [b"x" * 10]


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "No such file"), ("/dev/null", "must be a regular file"), (".", "I")]
)
def test_in_must_be_a_readable_regular_file(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        check_readable(tmp_path / name)
