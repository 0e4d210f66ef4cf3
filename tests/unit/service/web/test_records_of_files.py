"""Records that the page of reports reads from files."""

import json
import subprocess

import pytest

from tests.node import node
from tests.paths import ROOT

PROGRAM = """
import { columnsOf, recordsOf } from "%s";
const [file, training] = process.argv.slice(2).map((text) => JSON.parse(text));
const columns = columnsOf(...training);
let found;
try {
  found = { records: recordsOf(...file, columns, file[1] === training[1]) };
} catch (error) {
  found = { error: error.message };
}
console.log(JSON.stringify(found));
"""
TABLE = ["name,age\nAnn,7\n", "table.csv"]
LIST = ["Ann\n", "list.txt"]


def read(content, name, training):
    """Return the records of a file, or the error, beside a training file."""
    program = PROGRAM % (ROOT / "service/web/static/records.js").as_uri()
    arguments = [json.dumps([content, name]), json.dumps(training)]
    command = [node() / "bin/node", "--input-type=module", "-", *arguments]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("content", "name", "training", "records"),
    [
        ("Ann\r\n\nBob", "new.txt", LIST, ["Ann", "Bob"]),
        ('"Ann"\n"Bob"\n', "new.jsonl", LIST, ["Ann", "Bob"]),
        ('{"text": "Ann"}\n', "new.ndjson", LIST, ["Ann"]),
        ('{"custom_id": "a", "response": {"body": {"choices": [{"text": "x"}]}}}\n', "o.jsonl", LIST, ["x"]),
        ('{"a": 1}\n{"a": 2}\n', "new.jsonl", LIST, [{"a": 1}, {"a": 2}]),
        # A line that is no row is sent as it is.
        ('{"a":1,"b":["x"]}\n{"a"\n', "new.jsonl", LIST, ['{"a": 1, "b": ["x"]}', '{"a"']),
        ("a,b\n1,2\n", "new.csv", LIST, [{"a": "1", "b": "2"}]),
        ("a,b\n1,2\n3\n", "new.csv", LIST, ['{"a": "1", "b": "2"}', "3"]),
        # Rows of a training table in CSV are lines in the order of its columns.
        (*TABLE, TABLE, ["Ann,7"]),
        ('age,name\n7,"Ann, B"\n8\n', "new.csv", TABLE, ['"Ann, B",7', "8"]),
        ("Ann,7\nBob\n", "new.csv", TABLE, ["Ann,7", "Bob"]),
        ("Ann,7\n", "new.txt", TABLE, ["Ann,7"]),
    ],
)
def test_the_records_of_a_file_are_those_of_the_command(content, name, training, records):
    assert read(content, name, training) == {"records": records}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"text": "x"}\n{"text"\n', "line 2 is not a JSON object"),
        ('{"text": "x"}\n{"other": 1}\n', "line 2 lacks them"),
        ('"x"\n7\n', "line 2 is neither a JSON object nor a string"),
        ('{"a": 1}\n{"a"\n', "line 2 is not a JSON object"),
    ],
)
def test_a_malformed_line_of_a_training_file_is_named(content, error):
    file = [content, "list.jsonl"]
    assert error in read(*file, file)["error"]
