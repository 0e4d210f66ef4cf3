"""`sostenuto report`, and the report of `sostenuto batch`."""

import json

import pytest

from tests.paths import ROOT
from tests.unit.client.batch.conftest import request
from tests.unit.client.scripted_responses import COMPLETION, GATEWAY, answer_json


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files of generated, training and held-out records, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.txt").write_text("anna\nanna\nbertha\nx1\n")
    (tmp_path / "list.txt").write_text("anna\nberta\n")
    (tmp_path / "rest.txt").write_text("carla\ndora\n")
    return tmp_path


def test_the_summary_goes_to_standard_output_and_the_report_to_files(sostenuto, files):
    options = ["--training", "list.txt", "--held-out", "rest.txt", "--pattern", "[a-z]+"]
    done = sostenuto("report", "new.txt", *options, "--html", "r.html", "--json", "r.json")
    assert done.exit_code == 0
    assert ["valid", "75.0%", "100.0%", "by", "pattern"] in [line.split() for line in done.stdout.splitlines()]
    assert "nearest to training: 'bertha' ← 'berta' (1 edit" in done.stdout
    assert json.loads((files / "r.json").read_text())["generated"]["valid"] == 3
    assert (files / "r.html").read_text().startswith("<!doctype html>")


def test_the_option_decides_the_format_of_a_file_not_its_name(sostenuto, files):
    options = ("--training", "list.txt", "--html", "page", "--json", "numbers.html")
    assert sostenuto("report", "new.txt", *options).exit_code == 0
    assert (files / "page").read_text().startswith("<!doctype html>")
    assert json.loads((files / "numbers.html").read_text())["generated"]["records"] == 4


def test_json_is_printed_in_place_of_the_summary(sostenuto, files):  # noqa: ARG001 - the files are read
    done = sostenuto("report", "new.txt", "--training", "list.txt", "--json", "-")
    assert json.loads(done.stdout)["training"]["records"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Missing option '--training'"),
        (["--training", "none.txt"], "cannot read none.txt: No such file or directory"),
        (["--training", "list.txt", "--pattern", "("], "pattern must be a regular expression in Python's syntax"),
        (["--training", "list.txt", "--near", "2"], "2.0 is not in the range 0<=x<=1"),
        (["--training", "list.txt", "--field", "a"], "a field needs CSV or JSON Lines"),
        (["--training", "list.txt", "--html", "no/r.html"], "cannot write no/r.html: there is no directory no"),
        (["--training", "list.txt", "--html", "new.txt"], "cannot write the report to new.txt: another argument"),
        (["--training", "list.txt", "--json", "./list.txt"], "another argument names the same file"),
        (["--training", "list.txt", "--html", "both", "--json", "both"], "cannot write the report to both"),
        (["--training", "list.txt", "--columns", "a,a"], "columns must have different names, got a, a"),
        (["--training", "list.txt", "--columns", "a,b"], "must have rows of 2 columns, a, b, got none"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(sostenuto, files, options, message):  # noqa: ARG001 - as above
    done = sostenuto("report", "new.txt", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_validator_is_found_in_the_current_directory(process, files):
    (files / "mine.py").write_text("def short(record):\n    return len(record) < 5\n")
    running = process("report", "new.txt", "--training", "list.txt", "--json", "-", "--validator", "mine:short")
    assert json.loads(running.communicate(timeout=120)[0])["generated"]["valid"] == 3


@pytest.mark.parametrize("command", [["report", "new.txt"], ["batch", "in.jsonl", "out"]], ids=["report", "batch"])
def test_without_the_extra_the_command_says_what_to_install(process, server, files, command):
    """A batch says so before it sends anything."""
    (files / "in.jsonl").write_bytes(request("a"))
    (files / "rapidfuzz.py").write_text("raise ModuleNotFoundError(name='rapidfuzz')\n")
    running = process(*command, "--training", "list.txt", PYTHONPATH=f"{files}:{ROOT / 'client/src'}")
    _, error = running.communicate(timeout=120)
    assert (running.returncode, error.count(b"\n")) == (2, 1)
    assert b"pip install 'sostenuto[report]'" in error
    assert server.requests == []


@pytest.mark.parametrize("output_format", ["openai", "csv", "jsonl"])
def test_a_batch_reports_on_its_texts(sostenuto, server, files, output_format):
    (files / "in.jsonl").write_bytes(request("a"))
    server.script = [answer_json(GATEWAY), answer_json(COMPLETION)]
    done = sostenuto("batch", "in.jsonl", "out", "--format", output_format, "--training", "list.txt")
    assert done.exit_code == 0
    assert "novel" in done.stderr
    report = json.loads((files / "out.report.json").read_text())
    assert report["generated"]["records"] == len(COMPLETION["choices"])
    assert (files / "out.report.html").exists()


def test_the_help_of_batch_has_its_own_defaults(sostenuto):
    shown = " ".join(sostenuto("batch", "--help").stdout.split())
    assert "wait for the next bytes. [default: 660]" in shown
    assert "retrying is safe. [default: 3]" in shown
