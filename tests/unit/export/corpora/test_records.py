"""Records of JSON Lines and CSV as documents."""

import re

import pytest

from export.corpora.corpus import read_corpus
from export.errors import CorpusError


def documents(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    corpus = read_corpus(str(path), "records")
    return corpus.spool.read(corpus.start, corpus.stop).decode().split("\0")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one\\ntwo"}\n\n{"prompt": "th", "completion": "ree"}\n{"text": "f\u2028our", "x": 1}'),
        ("a.csv", 'text,x\r\n"one\ntwo",1\r\nthree\r\n"f\u2028our",\r\n'),
        ("a.csv", 'prompt,x,completion\n"one\n",,two\nth,"a,b",ree\n,,f\u2028our\n'),
    ],
    ids=["json-lines", "csv", "csv-of-two-fields"],
)
def test_each_record_is_a_document(tmp_path, name, content):
    assert documents(tmp_path, name, content) == ["one\ntwo", "three", "f\u2028our"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": ', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"text": 1}', "a.jsonl, line 1: .* must be a string, got 1"),
        ("a.jsonl", '{"prompt": "a"}', "line 1: the field text, or prompt and completion is required, got 'prompt'"),
        ("a.jsonl", '["a"]', "line 1: a JSON object .* got '\\[\"a\"\\]'"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.csv", "name,age\na,1\n", "line 2: .* got 'name', 'age'; --documents none reads any text"),
        ("a.csv", 'text,x\n"a\nb",1\n"c,2\nd,3\n', "a.csv, the record at line 4: .* quotation marks"),
        ("a.csv", 'text,x\n"a,1\n"b",2\n', "a.csv, the record at line 2: .* quotation marks"),
        ("a.csv", 'text,"x\na,1\n', "a.csv, the record at line 1: .* quotation marks"),
        ("a.csv", "text\na\nb, c\n", "a.csv, line 3: it has more fields .* in quotation marks"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b\\ud800"}\n', r"line 2: \\ud800 is half of a surrogate pair"),
    ],
    ids=[
        *("truncated", "number", "half", "list", "deep", "columns", "unclosed", "closed later", "header", "comma"),
        "surrogate",
    ],
)
def test_a_malformed_record_is_an_error_with_its_line(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        documents(tmp_path, name, content)


def test_a_line_has_a_maximum_length(tmp_path, monkeypatch):
    monkeypatch.setattr("export.corpora.documents.MAX_RECORD_CHARACTERS", 100)
    with pytest.raises(CorpusError, match=re.escape("at most 100 characters")):
        documents(tmp_path, "a.jsonl", "x" * 101)
