"""Lines of OUT: serialized and parsed."""

import json

import pytest

from sostenuto._batch.errors import LineError
from sostenuto._batch.output_record import OutputRecord, error_line, parse_output_record, response_line
from sostenuto._batch.requests_file import DUPLICATE, Line

REFUSAL = b'{"error": {"message": "no", "code": "model_not_found"}}'


def test_a_response_line_keeps_the_bytes_of_its_body():
    """Numbers keep their digits; the fields around the body are OpenAI's."""
    made = response_line("ä", 200, "req-1", b'{"x": 1.10, "usage": {"completion_tokens": 7}}\n')
    assert b'"body":{"x": 1.10, "usage": {"completion_tokens": 7}}' in made.content
    line = json.loads(made.content)
    assert line.pop("id").startswith("batch_req_")
    body = {"x": 1.1, "usage": {"completion_tokens": 7}}
    response = {"status_code": 200, "request_id": "req-1", "body": body}
    assert line == {"custom_id": "ä", "response": response, "error": None}
    assert (made.code, made.tokens) == (None, 7)


@pytest.mark.parametrize("body", [b'{\n "x":\n 1}', b"<html>\n</html>", b"", b"\xff"])
def test_any_response_body_becomes_one_line_of_json(body):
    """Newlines of the body do not end the line, and a body without JSON is kept as well."""
    content = response_line("a", 413, None, body).content
    assert content.count(b"\n") == 1
    assert content.endswith(b"\n")
    assert json.loads(content)["response"]["request_id"] is None


@pytest.mark.parametrize(
    ("made", "written"),
    [
        (response_line("a", 200, "r", b"{}"), OutputRecord("a", None, None)),
        (response_line("a", 404, "r", REFUSAL), OutputRecord("a", None, "model_not_found")),
        (response_line("a", 500, "r", b"<html>"), OutputRecord("a", None, "http_500")),
        (error_line(Line(3, b""), LineError("timeout", "m", "a")), OutputRecord("a", None, "timeout")),
        (error_line(Line(3, b""), LineError("invalid_json", "m", None)), OutputRecord(None, 3, "invalid_json")),
        (error_line(Line(3, b""), LineError(DUPLICATE, "m", "a")), OutputRecord(None, 3, DUPLICATE)),
    ],
)
def test_an_output_record_has_custom_id_or_line_number(made, written):
    """The number stands for a line without a custom_id of its own; the parsed code is the written one."""
    assert parse_output_record(made.content) == written
    assert made.code == written.code


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[]", b"{}", b'{"custom_id": "a"}', b'{"response": {"status_code": 200}}', b'{"error": {}}']
)
def test_content_that_is_no_output_record_parses_to_none(content):
    """This is how a batch recognizes a file that is not its output."""
    assert parse_output_record(content) is None
