"""`sostenuto score`: rows for the lines of a file, thresholds, and output files that are continued."""

import csv
import fcntl
import io
import json

import pytest

from tests.unit.client.scripted_responses import answer_json, refusal, scores

TINY = ("--model", "tiny")
HEADER = "text,nats,nats_per_token,nats_per_character,num_tokens,percentile,model\n"
OF_DOCUMENTS, OF_RUNNING_TEXT = scores(1.0, num_tokens=1), scores(0.0, num_tokens=0)


def lines_of(tmp_path, *lines, name="lines.txt"):
    path = tmp_path / name
    path.write_bytes("\n".join([*lines, ""]).encode())
    return path


def test_each_line_gets_a_row_of_csv(sostenuto, server, tmp_path):
    server.script = [OF_DOCUMENTS, scores(1.0, 2.0, 3.0)]
    shown = sostenuto("score", str(lines_of(tmp_path, 'a,"b\rc', "", "\ufeffc\r")), "--csv", *TINY)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith(HEADER)
    rows = list(csv.reader(io.StringIO(shown.stdout, newline="")))[1:]
    assert [row[0] for row in rows] == ['a,"b\rc', "", "\ufeffc"]
    assert rows[1][1:] == ["2.0", "0.5", "0.5", "4", "12.5", "tiny:3"]
    assert [body["input"] for body in server.bodies] == ["", ['a,"b\rc', "", "\ufeffc"]]
    assert [body["model"] for body in server.bodies] == ["tiny", "tiny:3"]


def test_json_lines_have_null_for_what_is_not_scored(sostenuto, server):
    server.script = [OF_DOCUMENTS, scores(0.0, nats_per_token=None, nats_per_character=None, ratio=-1.5)]
    options = ("--ratio-to", "other", "--label", "style=elvish", "--label", "age=3")
    shown = sostenuto("score", "--json", *options, *TINY, given="é\n")
    (row,) = map(json.loads, shown.stdout.splitlines())
    assert (row["text"], row["nats_per_token"], row["ratio"], row["model"]) == ("é", None, -1.5, "tiny:3")
    sent = [(body["ratio_to"], body["labels"]) for body in server.bodies]
    assert sent == [("other", {"style": "elvish", "age": "3"})] * 2


def test_a_table_is_for_people(sostenuto, server):
    server.script = [OF_DOCUMENTS, scores(1.0)]
    heading, row = sostenuto("score", "--text", "a\tb", *TINY).stdout.splitlines()
    assert heading.split()[:2] == ["text", "nats"]
    assert row.split() == ["a\\tb", "1.000", "0.250", "0.250", "4", "12.500"]


@pytest.mark.parametrize(("first", "end"), [(OF_RUNNING_TEXT, "\n"), (OF_DOCUMENTS, "")])
def test_carried_state_includes_line_breaks_of_a_running_text(sostenuto, server, first, end):
    server.script = [first, scores(1.0, 2.0)]
    shown = sostenuto("score", "--csv", "--carry-state", *TINY, given="a\nb\n")
    assert server.bodies[1]["input"] == [f"a{end}", f"b{end}"]
    assert server.bodies[1]["carry_state"] is True
    assert [row["text"] for row in csv.DictReader(io.StringIO(shown.stdout))] == ["a", "b"]


@pytest.mark.parametrize("way", ["per character", "ratio"])
def test_lines_beyond_what_held_out_lines_reach_are_flagged(sostenuto, server, tmp_path, way):
    sign, field, more = (1, "nats_per_character", []) if way == "per character" else (-1, "ratio", ["--ratio-to", "b"])

    def of(*values):
        entries = [{"nats": 1.0, "num_tokens": 1, "nats_per_character": 0.0, field: value} for value in values]
        return answer_json({"data": entries, "model": "tiny", "version": 3})

    held_out = lines_of(tmp_path, *map(str, range(10)), name="normal.txt")
    last = None if way == "per character" else 0.0
    server.script = [OF_DOCUMENTS, of(*[sign * value for value in (3, 9, 1, 2, 8, 4, 5, 6, 7, 0)])]
    server.script += [of(sign * 8, sign * 8.5, last)]
    options = ("--held-out", str(held_out), "--false-positive-rate", "0.1", *more)
    shown = sostenuto("score", "--csv", *options, *TINY, given="a\nb\nc\n")
    assert [row["flagged"] for row in csv.DictReader(io.StringIO(shown.stdout))] == ["false", "true", "false"]
    assert "threshold 8.0000: 1 of 3 lines flagged" in shown.stderr


def test_a_line_without_a_score_is_not_flagged(sostenuto, server, tmp_path):
    """As an empty one of a running text, whose ratio is 0; that of other lines may be negative on both sides."""

    def of(*ratios):
        entries = [{"nats": 1.0, "num_tokens": int(ratio > 0), "ratio": ratio} for ratio in ratios]
        return answer_json({"data": entries, "model": "tiny", "version": 3})

    held_out = lines_of(tmp_path, "a", "b", name="normal.txt")
    server.script = [OF_DOCUMENTS, of(8.0, 9.0), of(0.0, 7.0)]
    options = ("--held-out", str(held_out), "--false-positive-rate", "0.5", "--ratio-to", "b")
    shown = sostenuto("score", "--csv", *options, *TINY, given="\na\n")
    assert [row["flagged"] for row in csv.DictReader(io.StringIO(shown.stdout))] == ["false", "true"]


@pytest.mark.parametrize("row_format", ["csv", "json"])
def test_lines_that_were_flagged_before_an_interruption_count(sostenuto, server, tmp_path, row_format):
    source, held_out, output = (
        lines_of(tmp_path, *"abcd"),
        lines_of(tmp_path, *"xy", name="normal.txt"),
        tmp_path / "out",
    )
    command = ("score", str(source), f"--{row_format}", "-o", str(output), "--held-out", str(held_out), *TINY)
    command += ("--false-positive-rate", "0.5")
    server.script = [OF_DOCUMENTS, scores(1.0, 9.0), scores(5.0, 0.5, 5.0, 5.0)]
    assert "3 of 4 lines flagged" in sostenuto(*command).stderr
    rows = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(rows[:-1]))
    server.script = [OF_DOCUMENTS, scores(1.0, 9.0), scores(5.0), scores(5.0)]
    assert "3 of 4 lines flagged" in sostenuto(*command).stderr


@pytest.mark.parametrize("row_format", ["csv", "json"])
def test_rows_by_another_threshold_are_not_continued(sostenuto, server, tmp_path, row_format):
    """The last row may have the same flag by chance."""
    output = tmp_path / "out"
    held_out = lines_of(tmp_path, *"wxyz", name="normal.txt")
    command = ("score", str(lines_of(tmp_path, *"abc")), f"--{row_format}", "-o", str(output), *TINY)
    command += ("--held-out", str(held_out), "--false-positive-rate")
    server.script = [OF_DOCUMENTS, scores(1.0, 2.0, 3.0, 9.0), scores(2.5, 0.5, 10.0)]
    assert "2 of 3 lines flagged" in sostenuto(*command, "0.5").stderr
    whole = output.read_bytes()
    server.script = [OF_DOCUMENTS, scores(1.0, 2.0, 3.0, 9.0)]
    shown = sostenuto(*command, "0.25")
    assert (shown.exit_code, output.read_bytes()) == (2, whole)
    assert "has rows by another threshold" in shown.stderr


def test_too_few_held_out_lines_are_refused(sostenuto, server, tmp_path):
    server.script = [OF_DOCUMENTS, scores(1.0, 2.0)]
    held_out = lines_of(tmp_path, "a", "b", name="normal.txt")
    options = ("--held-out", str(held_out), "--false-positive-rate", "0.3")
    shown = sostenuto("score", "--csv", *options, *TINY, given="a\n")
    assert shown.exit_code == 2
    assert f"--false-positive-rate 0.3 needs at least 4 lines in {held_out}, got 2" in shown.stderr


@pytest.mark.parametrize("second", ["b", "50%\r100%"], ids=["plain", "with a carriage return"])
@pytest.mark.parametrize("row_format", ["csv", "json"])
def test_an_interrupted_output_is_continued(sostenuto, server, tmp_path, row_format, second):
    source, output = lines_of(tmp_path, "a", second, "c"), tmp_path / "out"
    command = ("score", str(source), f"--{row_format}", "-o", str(output), *TINY)
    server.script = [OF_DOCUMENTS, scores(1.0, 2.0, 3.0)]
    assert sostenuto(*command).exit_code == 0
    whole = output.read_bytes()
    for kept in (1, 2):
        rows = [row + b"\n" for row in whole.split(b"\n")][: kept + (row_format == "csv")]
        output.write_bytes(b"".join(rows) + b'{"text": "x')
        server.script = [OF_DOCUMENTS, scores([1.0, 2.0][kept - 1]), scores(*[1.0, 2.0, 3.0][kept:])]
        shown = sostenuto(*command)
        assert (shown.exit_code, output.read_bytes()) == (0, whole), shown.stderr
        assert server.bodies[-1]["input"] == ["a", second, "c"][kept:]
        assert f"continuing after {kept} rows" in shown.stderr


@pytest.mark.parametrize("row_format", ["csv", "json"])
def test_a_run_whose_threshold_differs_in_its_last_digits_is_continued(sostenuto, server, tmp_path, row_format):
    """As after a restart on another machine; a line that equals a held-out one lies on the threshold."""
    output = tmp_path / "out"
    held_out = lines_of(tmp_path, "x", "y", name="normal.txt")
    command = ("score", str(lines_of(tmp_path, "a", "b" * 140_000)), f"--{row_format}", "-o", str(output), *TINY)
    command += ("--held-out", str(held_out), "--false-positive-rate", "0.5", "--concurrency", "1")
    server.script = [OF_DOCUMENTS, scores(4.0, 9.0), scores(4.0), scores(8.0)]
    assert "1 of 2 lines flagged" in sostenuto(*command).stderr
    server.script = [OF_DOCUMENTS, scores(4.0 - 4e-9, 9.0), scores(8.0)]
    shown = sostenuto(*command)
    assert (shown.exit_code, "1 of 2 lines flagged" in shown.stderr) == (0, True), shown.stderr


def test_rows_of_other_options_are_not_continued(sostenuto, server, tmp_path):
    """Such as those by another --ratio-to, or of whole documents: the numbers of the last row differ."""
    output = tmp_path / "out"
    command = ("score", str(lines_of(tmp_path, "a", "b")), "--csv", "-o", str(output), *TINY, "--ratio-to")
    server.script = [OF_DOCUMENTS, scores(1.0, 1.0, ratio=0.5)]
    sostenuto(*command, "first")
    rows = output.read_bytes()
    server.script = [OF_DOCUMENTS, scores(1.0, ratio=0.7)]
    shown = sostenuto(*command, "second")
    assert (shown.exit_code, output.read_bytes()) == (2, rows)
    assert "is not that of the same line by tiny:3 with these options" in shown.stderr
    assert server.bodies[-1]["ratio_to"] == "second"


def test_only_standard_input_cannot_continue_an_output(sostenuto, server, tmp_path):
    """It cannot be read again; a text of the command line is there again."""
    command = ("score", "--csv", "-o", str(tmp_path / "out"), *TINY)
    server.script = [OF_DOCUMENTS, scores(1.0), OF_DOCUMENTS, scores(1.0), OF_DOCUMENTS]
    assert sostenuto(*command, "--text", "a").exit_code == 0
    whole = (tmp_path / "out").read_bytes()
    assert sostenuto(*command, "--text", "a").exit_code == 0
    shown = sostenuto(*command, given=b"a\n")
    assert shown.exit_code == 2
    assert "has rows, and standard input cannot be read again" in shown.stderr
    assert (tmp_path / "out").read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("my notes", (), "has other columns"),
        ("my notes\nmore\n", (), "has other columns"),
        ('{"text": "my only note"}', ("--json",), "has other columns"),
        (f"{HEADER}x,1,1,1,1,1,tiny:3\n", (), "is not that of the same line by tiny:3"),
        (f"{HEADER}a,1,1,1,1,1,tiny:2\n", (), "is not that of the same line by tiny:3"),
        (f"{HEADER}a,1,1,1,1,1,tiny:3\n", ("--carry-state",), "--carry-state begins with the first line"),
    ],
)
def test_a_file_with_other_rows_is_left_as_it_is(sostenuto, server, tmp_path, content, options, message):
    source, output = lines_of(tmp_path, "a", "b"), tmp_path / "out.csv"
    output.write_text(content)
    server.script = [OF_DOCUMENTS]
    shown = sostenuto("score", str(source), "--csv", "-o", str(output), *options, *TINY)
    assert (shown.exit_code, output.read_text()) == (2, content)
    assert message in shown.stderr


def test_an_output_that_another_run_writes_is_left_as_it_is(sostenuto, server, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text(HEADER)
    server.script = [OF_DOCUMENTS]
    with output.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        shown = sostenuto("score", "--text", "a", "--csv", "-o", str(output), *TINY)
    assert (shown.exit_code, output.read_text()) == (2, HEADER)
    assert f"another run is writing {output}" in shown.stderr


def test_after_an_error_the_rows_so_far_are_kept(sostenuto, server, tmp_path):
    source, output = lines_of(tmp_path, *map(str, range(130))), tmp_path / "out.csv"
    server.script = [OF_DOCUMENTS, scores(*map(float, range(128))), refusal(400, "input is wrong", param="input")]
    shown = sostenuto("score", str(source), "--csv", "-o", str(output), "--concurrency", "1", *TINY)
    assert shown.exit_code == 1
    assert "input is wrong" in shown.stderr
    assert "has the rows so far; the same command continues" in shown.stderr
    assert output.read_text().count("\n") == 129


def test_a_line_that_is_not_utf8_and_a_missing_file_are_named(sostenuto, server, tmp_path):
    source = tmp_path / "lines.txt"
    source.write_bytes(b"a\nb\xff\n")
    server.script = [OF_DOCUMENTS] * 2
    for name, message in (
        (str(source), f"{source}, line 2 is not UTF-8 at byte 1"),
        ("no-such-file", "cannot read no-such-file: No such file or directory"),
    ):
        shown = sostenuto("score", name, "--csv", *TINY)
        assert shown.exit_code == 2
        assert message in shown.stderr
