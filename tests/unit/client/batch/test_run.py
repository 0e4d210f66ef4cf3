"""Whole runs against a scripted server: exit codes, OUT and messages."""

import csv
import itertools
import json
import threading

import pytest

from sostenuto._batch.errors import Stopped
from sostenuto._batch.formats import OutputLine
from sostenuto._batch.requests_file import Line
from sostenuto._batch.run import in_threads
from sostenuto._cli.program import program
from sostenuto._retries import LinkedEvent
from tests.paths import ROOT
from tests.ports import free_port
from tests.unit.client.scripted_responses import COMPLETION, GATEWAY, answer_bytes, answer_json, hang_up, refusal

STATUS, ANSWER = answer_json(GATEWAY), answer_json(COMPLETION)


def main(options):
    with pytest.raises(SystemExit) as ended:
        program.main(["batch", *options], prog_name="sostenuto")
    return ended.value.code


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Run with one request at a time; return the exit code and the lines of OUT by custom_id."""
    monkeypatch.setattr(LinkedEvent, "wait", lambda event, *_: event.is_set())

    def run(source, *options):
        out = tmp_path / "out.jsonl"
        code = main([str(source), str(out), "--base-url", server.url, "--concurrency", "1", *options])
        lines = [json.loads(line) for line in out.read_bytes().splitlines()] if out.exists() else []
        answers = {line["custom_id"]: line for line in lines}
        assert len(answers) == len(lines)
        return code, answers

    return run


def test_a_completed_run_sends_nothing_when_repeated(run, server, write_requests, capsys):
    source = write_requests("a", "b")
    server.script = [STATUS, ANSWER, ANSWER]
    code, lines = run(source)
    assert code == 0
    assert [lines[name]["response"]["body"] for name in "ab"] == [COMPLETION] * 2
    assert run(source) == (code, lines)
    assert len(server.requests) == 3
    assert "2 lines: none completed, 2 in earlier runs; errors: none" in capsys.readouterr().err


def test_out_that_was_removed_during_the_run_is_an_error(run, server, write_requests, tmp_path, capsys):

    def remove_and_answer(*arguments):
        (tmp_path / "out.jsonl").unlink()
        return ANSWER(*arguments)

    source = write_requests("a", "b")
    server.script = [STATUS, ANSWER, remove_and_answer, STATUS, ANSWER, ANSWER]
    assert run(source) == (3, {})
    assert "out.jsonl was removed, renamed or replaced during the run" in capsys.readouterr().err.splitlines()[-1]
    code, lines = run(source)
    assert (code, sorted(lines)) == (0, ["a", "b"])


def test_errors_are_lines_of_out_and_counted_by_code(run, server, write_requests, capsys):
    source = write_requests("a", b"nonsense\n", "b")
    server.script = [STATUS, refusal(404, "no", code="model_not_found"), STATUS, ANSWER]
    code, lines = run(source)
    assert code == 1
    assert lines["a"]["response"]["status_code"] == 404
    assert lines[None]["error"]["line"] == 2
    assert run(source)[0] == 1
    assert capsys.readouterr().err.count("errors: 1 model_not_found, 1 invalid_json\n") == 2


def test_escape_sequences_of_an_error_code_are_escaped(run, server, write_requests, capsys):
    server.script = [STATUS, refusal(404, "no", code="\x1b]0;mine\x07")]
    assert run(write_requests("a"))[0] == 1
    assert capsys.readouterr().err.endswith("errors: 1 \\u001b]0;mine\\u0007\n")


def test_retry_errors_sends_failed_lines_again(run, server, write_requests):
    source = write_requests("a", "b")
    server.script = [STATUS, refusal(404, "no"), ANSWER]
    assert run(source)[0] == 1
    server.script = [STATUS, ANSWER]
    code, lines = run(source, "--retry-errors")
    assert code == 0
    assert sorted(lines) == ["a", "b"]
    assert [body["prompt"] for body in server.bodies if body] == ["a", "b", "a"]


def test_a_run_stopped_by_an_unavailable_gateway_is_resumable(run, server, write_requests, capsys):
    source = write_requests("a", "b", "c")
    server.script = [STATUS, ANSWER, *[hang_up] * 5000]
    code, lines = run(source, "--give-up-after", "0.05")
    assert code == 3
    assert list(lines) == ["a"]
    assert "completed lines are kept, and the same command resumes" in capsys.readouterr().err
    server.script = [STATUS, ANSWER, ANSWER]
    code, lines = run(source)
    assert (code, sorted(lines)) == (0, ["a", "b", "c"])


@pytest.mark.parametrize(
    "script",
    [
        [refusal(401, "no key", code="invalid_api_key")],
        [STATUS, refusal(401, "no key", code="invalid_api_key")],
        [answer_bytes(b"<html>", "text/html")],
    ],
    ids=["not let in", "not let in any more", "no gateway"],
)
def test_an_error_that_every_line_would_get_stops_the_run(run, server, write_requests, capsys, script):
    server.script = script
    assert run(write_requests("a", "b")) == (3, {})
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1


def test_lines_of_out_that_are_not_in_in_are_kept_and_reported(run, server, write_requests, capsys):
    server.script = [STATUS, ANSWER]
    run(write_requests("a"))
    server.script = [STATUS, ANSWER]
    code, lines = run(write_requests("b"))
    assert (code, sorted(lines)) == (0, ["a", "b"])
    assert "1 lines of OUT have a custom_id that is not in IN; they are kept" in capsys.readouterr().err


def test_in_and_out_must_be_two_files(write_requests, tmp_path, capsys):
    source, link = write_requests("a"), tmp_path / "link"
    link.hardlink_to(source)
    before = source.read_bytes()
    assert main([str(source), str(link)]) == 2
    assert "IN and OUT must be two files" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_without_ray_installed_the_error_names_its_requirements(write_requests, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main([str(write_requests("a")), str(tmp_path / "out"), "--ray"]) == 2
    assert "pip install 'sostenuto[batch-ray]'" in capsys.readouterr().err


def test_an_address_without_a_ray_cluster_is_an_error_within_a_minute(process, server, write_requests, tmp_path):
    """Ray itself would wait for minutes. A process of its own, as Ray stays initialized in a process."""
    server.script = [STATUS]
    command = ["batch", str(write_requests("a")), str(tmp_path / "out"), "--ray", f"127.0.0.1:{free_port()}"]
    running = process(*command, PYTHONPATH=f"{ROOT}:{ROOT / 'client/src'}", PYTHONWARNINGS="")
    _, error = running.communicate(timeout=240)
    assert running.returncode == 3
    assert b"error: no Ray cluster at 127.0.0.1:" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-", "out"], "must be a file, as it is read twice"),
        (["in", "out", "--concurrency", "0"], "0 is not in the range 1<=x<=4096"),
        (["in", "out", "--timeout", "nan"], "must be above 0 and at most 1,000,000, got nan"),
        (["in", "out", "--base-url", "ftp://example"], "--base-url is 'ftp://example': it must start with http://"),
        (["in", "out", "--ray-workers", "2"], "--ray-workers requires --ray"),
        (["in", "out", "--format", "tsv"], "'tsv' is not one of 'openai', 'jsonl', 'csv'"),
        (["in", "out", "--escape-formulas"], "--escape-formulas requires --format csv, got openai"),
        (["in", "out", "--held-out", "rest"], "--held-out requires --training"),
        (
            ["in", "out", "--format", "csv", "--escape-formulas", "--training", "list"],
            "--escape-formulas and --training exclude each other",
        ),
        (["in", "out", "--training", "nowhere"], "cannot read nowhere: pass a file that exists and is readable"),
    ],
)
def test_an_invalid_option_is_refused(capsys, options, message):
    assert main(options) == 2
    assert message in capsys.readouterr().err


def test_a_report_on_nothing_leaves_the_exit_code_of_failed_lines(server, write_requests, tmp_path, capsys):
    server.script = [STATUS, refusal(404, "no", code="model_not_found")]
    (tmp_path / "list.txt").write_text("one\ntwo\n")
    command = [str(write_requests("a")), str(tmp_path / "out"), "--base-url", server.url]
    assert main([*command, "--training", str(tmp_path / "list.txt")]) == 1
    assert capsys.readouterr().err.endswith("out must have at least one record, got none\n")


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_dataset_has_a_record_per_choice_and_errors_apart(server, write_requests, tmp_path, capsys, name):
    embeddings = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}
    source = write_requests("a", b"nonsense\n", "b", json.dumps(embeddings).encode() + b"\n")
    out, errors = tmp_path / f"out.{name}", tmp_path / f"out.{name}.errors.jsonl"
    command = [str(source), str(out), "--format", name, "--base-url", server.url, "--concurrency", "1"]
    choices = [{"index": i, "text": f"{i}\n", "finish_reason": "stop"} for i in range(2)]
    server.script = [STATUS, answer_json({"choices": choices}), refusal(404, "no", code="model_not_found"), STATUS]
    assert main(command) == 1
    records = {(record["custom_id"], int(record["index"])): record["text"] for record in records_of(out)}
    assert records == {("a", 0): "0\n", ("a", 1): "1\n"}
    lines = [json.loads(line) for line in errors.read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == [None, "b", "e"]
    assert lines[2]["error"]["message"] == f"url must be /v1/completions with --format {name}, got /v1/embeddings"
    summary = f"errors: 1 invalid_json, 1 model_not_found, 1 invalid_url, in {errors}\n"
    assert capsys.readouterr().err.endswith(summary)
    assert main(command) == 1
    assert len([request for request in server.requests if request.method == "POST"]) == 2
    server.script = [STATUS, ANSWER]
    source.write_bytes(source.read_bytes().replace(b"nonsense\n", b"\n").partition(b'{"custom_id": "e"')[0])
    assert main([*command, "--retry-errors"]) == 0
    assert not errors.exists()
    found = sorted((record["custom_id"], int(record["index"])) for record in records_of(out))
    assert found == [("a", 0), ("a", 1), ("b", 0)]


def test_formulas_are_escaped_on_request_also_of_a_resumed_run(server, write_requests, tmp_path):
    out = tmp_path / "out.csv"
    command = [str(write_requests("=a", "b")), str(out), "--format", "csv", "--base-url", server.url]
    command += ["--concurrency", "1", "--escape-formulas"]
    formula = answer_json({"choices": [{"index": 0, "text": "=1+1", "finish_reason": "stop"}]})
    server.script = [STATUS, formula, refusal(401, "no", code="invalid_api_key"), STATUS, formula]
    assert main(command) == 3
    assert main(command) == 0
    assert [(record["custom_id"], record["text"]) for record in records_of(out)] == [("'=a", "'=1+1"), ("b", "'=1+1")]


def records_of(out):
    """Read OUT as other programs do."""
    if out.suffix == ".csv":
        with out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, strict=True))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_the_servers_options_are_those_of_the_other_commands(server, write_requests, tmp_path):
    (tmp_path / "key").write_text("secret\n")
    server.script = [STATUS, refusal(500, "no"), ANSWER]
    arguments = ["--base-url", server.url, "--retries", "0", "batch", str(write_requests("a")), str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        program.main([*arguments, "--api-key-file", str(tmp_path / "key")], prog_name="sostenuto")
    assert ended.value.code == 1  # the error is the response, as nothing is retried
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("missing", "advice"),
    [*((name, b"pip install 'sostenuto[batch]'") for name in ("numpy", "orjson")), ("fcntl", b"macOS or WSL2")],
)
def test_without_a_module_the_command_says_what_it_needs(process, tmp_path, missing, advice):
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(name={missing!r})\n")
    path = f"{tmp_path}:{ROOT / 'client/src'}"
    running = process("batch", "in", "out", PYTHONPATH=path)
    _, error = running.communicate(timeout=120)
    assert (running.returncode, error.count(b"\n")) == (2, 1)
    assert advice in error
    helping = process("--help", PYTHONPATH=path)
    helping.communicate(timeout=120)
    assert helping.returncode == 0


LINES = [Line(number, b"%d" % number) for number in range(100)]


def made(line):
    return OutputLine(line.content)


def test_lines_are_read_only_as_fast_as_they_are_processed():
    read = itertools.count()
    lines = (Line(number, b"") for number in read)
    answers = in_threads(lines, made, 4, lambda: None)
    for _ in range(50):
        next(answers)
    answers.close()
    # The lines taken, four in process, and eight that wait for a thread or to be taken.
    assert next(read) <= 50 + 4 + 8


def test_every_line_is_processed_once_and_as_many_at_once_as_requested():
    together = threading.Barrier(16)

    def wait(line):
        together.wait(10)
        return made(line)

    answers = in_threads(LINES[:32], wait, 16, lambda: None)
    assert sorted(int(answer.content) for answer in answers) == list(range(32))


def test_an_exception_in_a_thread_ends_the_run_and_wakes_the_others():
    woken = threading.Event()

    def fail(line):
        if line.number == 5:
            raise Stopped("gone")
        return made(line)

    with pytest.raises(Stopped, match="gone"):
        list(in_threads(LINES, fail, 1, woken.set))
    assert woken.is_set()


def test_an_interval_without_output_yields_none(monkeypatch):
    monkeypatch.setattr("sostenuto._batch.run.TICK_S", 0.01)
    go_on = threading.Event()

    def wait(line):
        assert go_on.wait(10)
        return made(line)

    answers = in_threads(LINES[:1], wait, 1, lambda: None)
    assert next(answers) is None
    go_on.set()
    assert [answer for answer in answers if answer] == [made(LINES[0])]
