"""Files of records in each format."""

import json

import pytest

from sostenuto import InvalidArgument
from sostenuto._report.files import read_records


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


CHOICES = [{"index": 0, "text": "x"}, {"index": 1, "text": "y"}]
RESPONSE = {"status_code": 200, "body": {"choices": CHOICES}}
BATCH = json.dumps({"id": "batch_req_1", "custom_id": "a", "response": RESPONSE, "error": None}) + "\n"
FAILED = (
    '{"id": "batch_req_2", "custom_id": "b", "response": {"status_code": 404, "body": {"error": {}}}, "error": null}\n'
)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\r\n\ntwo \nthr\u2028ee", ["one", "two ", "thr\u2028ee"]),
        ("a.txt", "\ufeffone\n", ["one"]),
        ("a.csv", 'custom_id,index,text,finish_reason\r\na,0,"x, ""y""\nz",stop\r\n', ['x, "y"\nz']),
        ("a.csv", "prompt,completion\na,b\n", ["ab"]),
        ("a.jsonl", '{"text": "x"}\n\n{"text": "y"}\n', ["x", "y"]),
        ("a.jsonl", '"x"\n"y"\n', ["x", "y"]),
        ("a.jsonl", '{"text": "x\\r\\ny"}\n', ["x\ny"]),
        ("a.jsonl", BATCH + FAILED, ["x", "y"]),
        ("a.jsonl", FAILED + BATCH, ["x", "y"]),
    ],
)
def test_the_texts_of_a_file_are_read_by_its_format(write, name, content, texts):
    records = read_records(write(name, content))
    assert (records.texts, records.columns) == (texts, ())


def test_rows_without_a_text_are_records_with_columns(write):
    records = read_records(write("a.csv", 'name,age\n"Eve, Ann",7\nBob,\nCy\n'))
    assert records.columns == ("name", "age")
    assert records.rows == [["Eve, Ann", "7"], ["Bob", None], None]
    assert records.texts == ['"Eve, Ann",7', "Bob,", "Cy"]
    assert read_records(write("b.csv", 'name,age\n"Eve\nAnn",7\n')).texts == ['"Eve\nAnn",7']
    records = read_records(write("a.jsonl", '{"a": 1.50, "b": [2]}\nno JSON\n{"b": true}\n'))
    assert records.rows == [["1.5", "[2]"], None, [None, "true"]]


def test_a_field_and_a_format_can_be_given(write):
    path = write("a.dat", "name,age\nAnn,7\n")
    assert read_records(path, file_format="csv", field="name").texts == ["Ann"]
    assert read_records(path, columns=("x", "y")).rows == [["name", "age"], ["Ann", "7"]]


def test_columns_name_those_of_a_csv_file_without_a_header(write):
    columns = ("name", "age")
    plain = read_records(write("a.csv", "Ann,7\nBob,8\n"), columns=columns)
    assert (plain.columns, plain.rows) == (columns, [["Ann", "7"], ["Bob", "8"]])
    assert read_records(write("b.csv", "age,name\n7,Ann\n"), columns=columns).columns == ("age", "name")
    texts = read_records(write("c.csv", 'index,text\n0,"Ann,7"\n'), columns=columns)
    assert (texts.columns, texts.rows) == (columns, [["Ann", "7"]])
    assert read_records(write("a.csv", "Ann,7\nBob,8\n"), columns=columns, field="age").texts == ["7", "8"]


@pytest.mark.parametrize(
    ("content", "required"),
    [
        ('{"text": "x"}\n\n{"text": "y"', "a JSON object with text"),
        ('{"text": "x"}\n\n{"other": "y"}', "a JSON object with text"),
        ('{"prompt": "x", "completion": "y"}\n\n7', "a JSON object with prompt and completion"),
        ('"x"\n\n"y', "a JSON string"),
        (BATCH + "\n{", "a JSON object with response"),
    ],
)
def test_a_malformed_line_of_texts_is_named(write, content, required):
    with pytest.raises(InvalidArgument, match=rf"a\.jsonl, line 3: {required} is required, got"):
        read_records(write("a.jsonl", content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff", "must be UTF-8, got byte 0xff"),
        ("a.txt", "\n", "must have at least one record, got none"),
        ("a.csv", 'a,b\n"1\n1",2\n"3,4\n5,6\n', "the record at line 4: .* quotation marks"),
        ("a.csv", "a,a\n1,2\n", "must have different names of columns, got a, a"),
    ],
)
def test_an_unusable_file_is_named(write, name, content, message):
    with pytest.raises(InvalidArgument, match=f"{name},? {message}"):
        read_records(write(name, content))


def test_a_missing_file_and_a_missing_field_are_named(write, tmp_path):
    with pytest.raises(InvalidArgument, match=r"cannot read .*none\.txt: No such file"):
        read_records(tmp_path / "none.txt")
    with pytest.raises(InvalidArgument, match="must have the field 'c', got a, b"):
        read_records(write("a.csv", "a,b\n1,2\n"), field="c")
