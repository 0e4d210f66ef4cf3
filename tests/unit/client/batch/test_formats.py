"""The formats of OUT: what a response becomes, and what is read again, whole and incomplete."""

import csv
import io
import json

import pytest

from sostenuto._batch.errors import ForeignContent, LineError
from sostenuto._batch.formats import (
    CSV,
    ESCAPED_CSV,
    FORMATS,
    JSONL,
    OPENAI,
    OutputRecord,
    error_line,
    parse_line,
    response_line,
)
from sostenuto._batch.requests_file import DUPLICATE, Line

# Quotes, delimiters, line breaks of every kind, and text that is not ASCII.
TEXTS = ["I am", "", 'say "no",\n', "a\r\nb\rc\n\nd", '"', '""', ',"\n"', "é𝄞\u2028 \x00\x1f", " space ", "\n", "=1+1"]


def response(texts, reason="length"):
    choices = [{"index": i, "text": text, "logprobs": None, "finish_reason": reason} for i, text in enumerate(texts)]
    return json.dumps({"choices": choices, "usage": {"completion_tokens": 9}}).encode()


def written(output_format, *responses):
    """Return OUT without its header, with a response for each (custom_id, texts)."""
    return [output_format.serialize(name, 200, "r", response(texts)).content for name, texts in responses]


FOREIGN = b'|x|[]|{}|{"id": 1}|{"custom_id": "a"}|{"response": {"status_code": 200}}|{"error": {}}'.split(b"|")


def read(output_format, content):
    """Return the custom_ids of the whole responses, and their length in bytes."""
    found = list(output_format.read(io.BytesIO(content)))
    return [record.custom_id for _, record in found], sum(len(part) for part, _ in found)


def test_a_completion_becomes_a_line_of_json_per_choice():
    made = JSONL.serialize("ä", 200, "r", response(["one", "two\n"]))
    lines = made.content.decode().splitlines()
    assert lines[0] == '{"custom_id":"ä","index":1,"text":"two\\n","finish_reason":"length"}'
    assert json.loads(lines[1]) == {"custom_id": "ä", "index": 0, "text": "one", "finish_reason": "length"}
    assert (made.code, made.tokens, len(lines)) == (None, 9, 2)


def test_csv_is_that_of_rfc_4180_with_a_header():
    assert CSV.header == b"custom_id,index,text,finish_reason\r\n" != ESCAPED_CSV.header
    rows = csv.reader(io.StringIO((CSV.header + ESCAPED_CSV.header).decode(), newline=""), strict=True)
    assert next(rows) == next(rows)
    made = CSV.serialize("a,b", 200, "r", response(['say "no"\nor, yes', "plain"]))
    assert made.content == b'"a,b",1,plain,length\r\n"a,b",0,"say ""no""\nor, yes",length\r\n'


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-1"]
PLAIN = ["a=1", "'a", "'", "", " =1", "1-1"]


@pytest.mark.parametrize("text", FORMULAS + PLAIN)
def test_escaped_csv_has_an_apostrophe_before_formulas_alone(text):
    content = written(ESCAPED_CSV, (text, [text]))[0]
    (row,) = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    expected = f"'{text}" if text in FORMULAS else text
    assert row == [expected, "0", expected, "length"]
    assert read(ESCAPED_CSV, content) == ([text], len(content))


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_survives_csv_and_json(text):
    made = CSV.header + CSV.serialize(text, 200, "r", response([text], None)).content
    rows = list(csv.DictReader(io.StringIO(made.decode(), newline=""), strict=True))
    assert rows == [{"custom_id": text, "index": "0", "text": text, "finish_reason": ""}]
    made = JSONL.serialize(text, 200, "r", response([text], None)).content
    assert json.loads(made) == {"custom_id": text, "index": 0, "text": text, "finish_reason": None}


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_again(name):
    contents = written(FORMATS[name], *((text, [text, *TEXTS]) for text in TEXTS), ("n", ["x"]))
    found = list(FORMATS[name].read(io.BytesIO(b"".join(contents))))
    assert [part for part, _ in found] == contents
    assert [record for _, record in found] == [OutputRecord(name, None, None) for name in (*TEXTS, "n")]


@pytest.mark.parametrize(
    ("output_format", "content", "line"),
    [
        (JSONL, b"notes\n", 1),
        (JSONL, b"notes", 1),
        (JSONL, b'{"text": "a dataset"}\n', 1),
        (JSONL, b'{"custom_id":"a","index":-1,"text":"","finish_reason":null}\n', 1),
        (JSONL, b'{"custom_id":7,"index":0,"text":"","finish_reason":null}\n', 1),
        (CSV, b'a,0,"two\nlines",stop\r\na,b\r\n', 4),
        (CSV, b"a,0,x,stop\n", 2),
        (CSV, b"a,zero,x,stop\r\n", 2),
        (CSV, b'a,0,x"y",stop\r\n', 2),
        (CSV, b"\xff,0,x,stop\r\n", 2),
        (OPENAI, b'{"custom_id":"a","index":0,"text":"","finish_reason":null}\n', 1),
        (OPENAI, b"notes", 1),
        pytest.param(OPENAI, response_line("a", 200, "r", b"{}").content + b"notes", 2, id="notes after a response"),
        *((OPENAI, content + b"\n", 1) for content in FOREIGN),
    ],
)
def test_content_of_another_kind_is_foreign(output_format, content, line):
    with pytest.raises(ForeignContent) as caught:
        read(output_format, content)
    assert caught.value.line == line


@pytest.mark.parametrize("output_format", [JSONL, CSV], ids=["jsonl", "csv"])
def test_indices_may_be_missing_between_choices(output_format):
    """A prompt of several has fewer choices than `n` if duplicates were rejected."""
    choices = [{"index": i, "text": str(i), "finish_reason": "stop"} for i in (0, 1, 4)]
    content = output_format.serialize("a", 200, "r", json.dumps({"choices": choices}).encode()).content
    assert read(output_format, content) == (["a"], len(content))


@pytest.mark.parametrize("output_format", [JSONL, CSV], ids=["jsonl", "csv"])
def test_records_whose_order_was_changed_are_foreign(output_format):
    """Sorted by index, the last choice of a response would be taken for the beginning of another."""
    records = written(output_format, ("a", ["x", "y", "z"]))[0].splitlines(keepends=True)
    for order in ([2, 1, 0], [0, 2, 1], [1, 2, 0], [2, 2]):
        with pytest.raises(ForeignContent):
            read(output_format, b"".join(records[position] for position in order))


@pytest.mark.parametrize("output_format", [JSONL, CSV], ids=["jsonl", "csv"])
def test_an_error_is_a_line_of_openais_format_in_every_format(output_format):
    made = output_format.serialize("a", 404, "r", b'{"error": {"code": "model_not_found"}}')
    assert made.code == "model_not_found"
    assert [record for _, record in OPENAI.read([made.content])] == [OutputRecord("a", None, "model_not_found")]


@pytest.mark.parametrize("output_format", [JSONL, CSV], ids=["jsonl", "csv"])
@pytest.mark.parametrize(
    "choices",
    [None, [], ["a"], [{"index": 0}], [{"index": 1, "text": ""}], [{"index": 0, "text": ""}, {"index": 0, "text": ""}]],
)
def test_a_success_that_is_no_completion_is_an_error_of_its_line(output_format, choices):
    with pytest.raises(LineError) as caught:
        output_format.serialize("a", 200, "r", json.dumps({"choices": choices}).encode())
    assert (caught.value.code, caught.value.custom_id) == ("not_a_completion", "a")


REFUSAL = b'{"error": {"message": "no", "code": "model_not_found"}}'


def test_a_response_line_keeps_the_bytes_of_its_body():
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
    assert parse_line(made.content) == written
    assert made.code == written.code
