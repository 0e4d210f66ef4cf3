"""A whole report on small lists and tables."""

import csv
import json
import math
from datetime import date

import pytest

from sostenuto import InvalidArgument, Report

TRAINING = ["anna", "berta", "carla", "dora"]
GENERATED = ["anna", "anna", "bertha", "bertha", "x1", "emma"]


def test_counts_are_those_of_moses_definitions():
    """Valid of all, unique of the valid, novel of the distinct; a copy counts each time that it was generated."""
    found = Report.compute(GENERATED, TRAINING, pattern="[a-z]+").data["generated"]
    assert (found["records"], found["valid"], found["distinct"], found["novel"]) == (6, 5, 3, 2)
    assert (found["valid_share"], found["unique_share"], found["novel_share"]) == (5 / 6, 3 / 5, 2 / 3)
    assert found["copied_share"] == 2 / 5
    assert found["copies"] == [{"record": "anna", "count": 2}]
    assert found["most_repeated"] == [{"record": "anna", "count": 2}, {"record": "bertha", "count": 2}]
    assert found["invalid_reasons"] == {"does not match the pattern": 1}
    assert found["invalid_examples"] == [{"record": "x1", "reason": "does not match the pattern"}]


def test_the_nearest_pairs_have_no_copies():
    found = Report.compute(GENERATED, TRAINING).data["generated"]["nearest"]
    first = found["pairs"][0]
    assert (first["record"], first["training"], first["edits"]) == ("bertha", "berta", 1)
    assert found["novel"] == 3
    assert "anna" not in [pair["record"] for pair in found["pairs"]]


def test_uniqueness_of_the_first_thousand_is_that_of_valid_records():
    generated = ["!"] * 5 + [f"a{i}" for i in range(999)] + ["a0", "a1"]
    found = Report.compute(generated, TRAINING, pattern="a[0-9]+", smiles=True).data["generated"]
    assert found["unique_at"] == {"1000": 0.999, "10000": None, "100000": None}
    assert found["moses"] == {"valid": None, "unique@1k": 0.999, "unique@10k": None, "novelty": 1.0}


def test_moses_validity_is_that_of_a_validator_and_fcd_is_named_as_missing():
    """Not that of a pattern, as a molecule is more than its characters; without a validator it is unknown."""
    validator = "tests.unit.client.report.checks:lower"
    data = Report.compute(["C", "7"], TRAINING, validator=validator, smiles=True).data
    assert data["generated"]["moses"]["valid"] == 0.5
    data = Report.compute(GENERATED, TRAINING, smiles=True).data
    assert data["generated"]["moses"]["valid"] is None
    assert any("FCD is omitted" in note for note in data["notes"])


def test_a_number_whose_square_exceeds_a_float_is_none():
    """A model may generate a row of digits that does not end; JSON has no infinity."""
    table = [{"a": i % 7, "b": i % 5} for i in range(70)]
    data = Report.compute([*table[:49], {"a": 10**200, "b": 1}], table).data
    json.dumps(data, allow_nan=False)
    assert data["generated"]["columns"][0]["not_numbers_share"] == 1 / 50
    assert data["generated"]["columns"][0]["moments"]["max"] == 6


def test_held_out_records_get_the_same_report():
    data = Report.compute(GENERATED, TRAINING, held_out=["fanny", "gerta"]).data
    assert data["held_out"].keys() == data["generated"].keys()
    assert data["compared_records"] == 2
    assert data["held_out"]["novel_share"] == 1


def test_distributions_are_compared_on_equal_numbers_of_records():
    """Otherwise the smaller set would have the larger divergence by its size alone."""
    many = [f"{i:06}" for i in range(3000)]
    data = Report.compute(many, many, held_out=many[:100]).data
    assert data["compared_records"] == 100
    assert sum(data["generated"]["lengths"]["counts"]) == sum(data["held_out"]["lengths"]["counts"]) == 100


def test_a_report_is_reproducible():
    first, second = (Report.compute(GENERATED * 10, TRAINING * 10, seed=5).data for _ in range(2))
    assert {**first, "created_at": ""} == {**second, "created_at": ""}


TABLE = [{"age": i, "city": "Rom" if i % 2 else "Ulm", "note": None} for i in range(40)]


def test_a_table_has_its_columns_and_correlations():
    own = [{"age": 5, "city": "Rom", "note": None}, {"age": 6, "city": "Bad", "note": "n"}]
    data = Report.compute(own * 20, TABLE).data["generated"]
    age, city, note = data["columns"]
    assert (age["kind"], city["kind"], note["kind"]) == ("number", "category", "category")
    assert age["moments"]["mean"] == 5.5
    assert age["training_moments"]["mean"] == 19.5
    assert city["values"][0] == {"value": "Rom", "share": 0.5, "training_share": 0.5}
    assert city["unseen_share"] == 0.5
    assert (note["missing_share"], note["training_missing_share"]) == (0.5, 1.0)
    (pair,) = [pair for pair in data["correlations"]["pairs"] if pair["columns"] == ["age", "city"]]
    assert pair["measure"] == "correlation_ratio"
    assert pair["value"] == pytest.approx(1)
    assert pair["training_value"] < 0.1


def test_kinds_and_unseen_values_of_columns_are_those_of_all_training_records():
    """However few are generated; distributions are compared with a sample of equal size."""
    table = [{"name": f"n{number}", "score": number / 7, "rare": number if number % 9 else "x"} for number in range(99)]
    data = Report.compute(table[:3], table).data["generated"]
    assert [column["kind"] for column in data["columns"]] == ["text", "number", "text"]
    assert [column["unseen_share"] for column in data["columns"]] == [0, 0, 0]


def test_a_number_column_whose_sample_has_no_number_is_reported():
    table = [{"a": 1.5 if number else "x", "b": "y"} for number in range(40)]
    for seed in range(99):
        json.dumps(Report.compute(table[:1], table, seed=seed).data, allow_nan=False)


def test_lines_are_rows_of_the_training_tables_columns():
    training = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}] * 10
    json_lines = ['{"a": 1, "b": "x"}', '{"a": 1, "b"', "7"]
    assert Report.compute(json_lines, training).data["generated"]["invalid_reasons"] == {"not a row of the table": 2}
    rows = ['1,"x, y"', "1", "2,z"]
    found = Report.compute(rows, ["1,x", "2,y"], columns=["a", "b"]).data
    assert found["generated"]["valid"] == 2
    assert found["checks"] == ["columns"]


def test_a_field_of_a_line_may_exceed_the_limit_of_pythons_csv_reader():
    csv.field_size_limit(131_072)  # Python's default, which reading a file has raised
    long = "x" * 200_000
    assert Report.compute([f"1,{long}"], [f"2,{long}"], columns=["a", "b"]).data["generated"]["valid"] == 1


ROWS = [(f"name{number}", number % 7) for number in range(40)]
IN_OTHER_ORDER = [{"age": age, "name": name} for name, age in ROWS]


@pytest.mark.parametrize("training_format", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "age,id,name\n" + "".join(f"{age},{age + 1},{name}\n" for name, age in ROWS)),
        ("a.csv", "name,age\n" + "".join(f'"{name}","{age}"\n' for name, age in ROWS)),
        ("a.jsonl", "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in IN_OTHER_ORDER)),
        (None, IN_OTHER_ORDER),
    ],
)
def test_equal_rows_are_copies_in_any_format_and_order_of_columns(tmp_path, training_format, name, content):
    training = tmp_path / f"t.{training_format}"
    if training_format == "csv":
        training.write_text("name,age\n" + "".join(f"{name},{age}\n" for name, age in ROWS))
    else:
        training.write_text("".join(json.dumps({"name": name, "age": age}) + "\n" for name, age in ROWS))
    if name is not None:
        (tmp_path / name).write_text(content)
    found = Report.compute(content if name is None else tmp_path / name, training).data["generated"]
    assert (found["novel"], found["copied_share"], found["ngrams"][1]["js_bits"]) == (0, 1.0, 0.0)


def test_a_row_is_checked_as_it_was_given():
    schema = {"properties": {"age": {"type": "integer"}}}
    generated = ['{"age": 5, "name": "a"}', '{"age": "5", "name": "a"}']
    found = Report.compute(generated, [{"name": "a", "age": 5}], json_schema=schema).data["generated"]
    assert (found["valid"], found["copied_share"]) == (1, 1.0)
    assert found["invalid_examples"][0]["record"] == generated[1]


def test_a_first_row_that_begins_with_a_brace_is_csv(tmp_path):
    training = tmp_path / "t.csv"
    training.write_text("phrase,n\n{name} went,1\nb,2\n")
    assert Report.compute(["{name} went,1", "c,2"], training).data["generated"]["valid"] == 2


def test_a_data_frame_may_have_numbered_columns_and_missing_values():
    rows = [{0: "a", 1: math.nan if number % 2 else number} for number in range(40)]
    first, second = Report.compute(rows, rows).data["generated"]["columns"]
    assert (first["name"], first["missing_share"]) == ("0", 0.0)
    assert (second["kind"], second["missing_share"], second["training_missing_share"]) == ("number", 0.5, 0.5)


@pytest.mark.parametrize("generated", ["1e400", "NaN", "-Infinity", "1"])
def test_a_number_that_is_none_in_json_ends_no_report(generated):
    found = Report.compute([generated], ["1"], json_schema={"multipleOf": 0.5}).data["generated"]
    assert found["valid"] == (generated == "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generated": []}, "generated must have at least one record, got none"),
        ({"generated": ["a", {"b": 1}]}, "generated must be a list of str or a list of dict"),
        (
            {"generated": [{"a": 1}], "training": [{"a": 1, "b": 2}]},
            "must have the column 'b' of the training file, got a",
        ),
        ({"training": "names.txt"}, "training must be a list of records or a Path, got the str 'names.txt'"),
        ({"pattern": "("}, "pattern must be a regular expression in Python's syntax, got '\\('"),
        ({"json_schema": {"type": "nothing"}}, "json_schema must be a JSON Schema"),
        ({"json_schema": {"$schema": ["x"]}}, "json_schema must be a JSON Schema"),
        ({"json_schema": {"$ref": "#/$defs/x"}}, "json_schema must have no references to what is not in it"),
        ({"generated": [{"a": date(2026, 12, 2)}]}, "generated must have values that JSON has"),
        ({"json_schema": 5}, "json_schema must be an object or a boolean, got 5"),
        ({"json_schema": {"$ref": "http://127.0.0.1:1/other"}}, "json_schema must have no references"),
        ({"validator": "no.such:f"}, "validator must be module:function, got 'no.such:f': ModuleNotFound"),
    ],
)
def test_an_invalid_argument_is_named(arguments, message):
    given = {"generated": ["1"], "training": ["1"], **arguments}
    with pytest.raises(InvalidArgument, match=message):
        Report.compute(**given)


def test_a_json_schema_decides_which_records_are_valid():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    generated = ['{"a": 1}', '{"a": "1"}', "{}", "{"]
    found = Report.compute(generated, ["x"], json_schema=schema).data["generated"]
    assert found["valid"] == 1
    assert found["invalid_reasons"] == {"schema: type at $.a": 1, "schema: required at $": 1, "not JSON": 1}
    (reason,) = Report.compute(["1"], ["x"], json_schema={"$ref": "#"}).data["generated"]["invalid_reasons"]
    assert reason.startswith("schema: it refers to itself without end")


def test_progress_grows_to_its_end():
    parts = []
    Report.compute(GENERATED * 20, TRAINING * 20, held_out=TRAINING * 20, observe=lambda part, _: parts.append(part))
    assert parts == sorted(parts)
    assert parts[0] == 0
    assert parts[-1] == pytest.approx(1)


def test_the_report_is_json():
    data = Report.compute(["a"], ["b"], held_out=["c"]).data
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_summary_has_a_line_for_each_metric_in_aligned_columns():
    text = str(Report.compute(GENERATED, TRAINING, held_out=["fanny", "gerta"], pattern="[a-z]+"))
    lines = text.splitlines()
    assert lines[0].split() == ["generated", "held-out"]
    assert [line.split()[0] for line in lines[1:5]] == ["records", "valid", "unique", "novel"]
    assert "83.3%" in lines[2]
    assert "100.0%" in lines[2]
    assert len(lines) < 20
