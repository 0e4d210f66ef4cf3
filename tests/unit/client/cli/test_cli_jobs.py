"""`sostenuto train --server` and `sostenuto jobs`: progress, the next command, and what Ctrl-C leaves."""

import json
import shlex
import socket
from pathlib import Path

import pytest

from sostenuto._cli.program import program
from sostenuto._concurrency import clock
from tests.paths import ROOT
from tests.terminals import CTRL_C
from tests.unit.client.scripted_jobs import EPOCH, EVENTS, JOB, SAMPLE, SUCCEEDED, job_event, uploaded
from tests.unit.client.scripted_responses import DONE, answer_json, linger, refusal, stream

BOTH = pytest.mark.parametrize("with_server", [False, True], ids=["SDK alone", "with the server's distribution"])
FINISHED = [answer_json(JOB), stream([*EVENTS, DONE]), answer_json(SUCCEEDED)]
SHOWN = """\
the job is queued
training
epoch 1: training loss 2.000, validation loss 1.900, best so far
    [It was
    the]best
published book:2
try it:
"""


@pytest.fixture
def train(sostenuto, server, with_server, monkeypatch):
    """Run `train` on the scripted server, with one of the two commands of this name."""

    def run(*arguments, **how):
        return sostenuto("train", *arguments, "--server", server.url, **how)

    if with_server:
        from sostenuto_server.training import train as command
    else:
        from sostenuto._cli.train import train as command
    monkeypatch.setitem(program.commands, "train", command)
    return run


@BOTH
def test_train_shows_losses_a_sample_and_the_next_command(train, server, book):
    server.script = [uploaded(), *FINISHED]
    shown = train(book, "--units", "16", "--no-training-filter", "--name", "dickens", "--validation", "0.2")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == f"{SHOWN}  sostenuto generate --model book the --base-url {server.url}\n"
    assert b'filename="book.txt"' in server.bodies[0]
    sent = {"model": "characters-3-minutes", "training_file": "file-1", "suffix": "dickens", "seed": 0}
    assert server.bodies[1] == {**sent, "settings": {"units": 16, "training_filter": False, "validation": 0.2}}


@BOTH
def test_detach_prints_the_id_and_does_not_wait(train, server, book):
    server.script = [uploaded(), answer_json(JOB)]
    assert train(book, "--detach").stdout == "ftjob-1\n"


def test_a_job_that_has_not_ended_is_listed_with_the_name_of_its_model(sostenuto, server):
    server.script = [answer_json({"object": "list", "data": [{**JOB, "user_provided_suffix": "mine"}]})]
    assert "mine" in sostenuto("jobs").stdout


@BOTH
def test_train_continues_from_a_model_of_the_server(train, server, book):
    server.script = [uploaded(1), uploaded(2), answer_json(JOB)]
    train(book, "--from", "demo:2", "--validation-corpus", book, "--detach")
    assert (server.bodies[2]["model"], server.bodies[2]["validation_file"]) == ("demo:2", "file-2")
    assert train(book, "--from", "demo", "--config", "words").exit_code == 2


@BOTH
def test_a_model_that_is_named_like_a_recipe_is_not_taken_for_one(train, server, book):
    server.script = [answer_json({"id": "words", "version": 4}), uploaded(), answer_json(JOB)]
    train(book, "--from", "words", "--detach")
    assert server.requests[0].path == "/v1/models/words"
    assert server.bodies[-1]["model"] == "words:4"


@BOTH
@pytest.mark.parametrize("arguments", [[""], ["book.txt", "--validation-corpus", ""]])
def test_an_empty_path_is_not_the_current_directory(train, server, book, arguments):  # noqa: ARG001
    shown = train(*arguments)
    assert (shown.exit_code, server.requests) == (2, [])
    assert "a path is empty" in shown.stderr


@BOTH
def test_a_fraction_to_validate_with_excludes_a_text(train, server, book):
    shown = train(book, "--validation", "0.2", "--validation-corpus", book)
    assert (shown.exit_code, server.requests) == (2, [])
    assert "--validation and --validation-corpus exclude each other" in shown.stderr


@BOTH
def test_a_text_to_validate_with_that_cannot_be_read_is_named(train, server, book):
    """It exists, but is no file."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("held")
        shown = train(book, "--validation-corpus", "held")
    assert (shown.exit_code, server.requests) == (2, [])
    assert shown.stderr == "error: cannot read held: No such device or address\n"


@BOTH
def test_a_corpus_from_standard_input_needs_a_name(train, server):
    assert "pass --name" in train("-", given=b"It was\n").stderr
    server.script = [uploaded(), answer_json(JOB)]
    assert train("-", "--name", "dickens", "--detach", given=b"It was\n").exit_code == 0
    assert b"It was\n" in server.bodies[0]


@BOTH
def test_an_error_of_the_server_is_one_line(train, server, book):
    server.script = [uploaded(), refusal(400, "units must be at most 1024, got 4096"), answer_json({})]
    shown = train(book, "--units", "4096")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.startswith("error: units must be at most 1024, got 4096 (HTTP 400")
    missing = train("no.txt")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "there is no file 'no.txt'" in missing.stderr


@pytest.mark.parametrize("with_server", [True])
@pytest.mark.parametrize("option", ["--runs-dir=x", "--models-dir=x", "--if-new", "--progress-file=x", "--tensorboard"])
def test_options_for_this_process_are_refused_with_a_server(train, server, book, option):
    shown = train(book, option)
    assert shown.exit_code == 2
    assert f"{option.partition('=')[0]} is for training in this process" in shown.stderr
    assert server.requests == []


@pytest.mark.parametrize("with_server", [True])
def test_a_file_of_settings_is_sent_whole(train, server, book):
    Path("mine.toml").write_text("units = 16\nepochs = 3\n")
    server.script = [uploaded(), answer_json(JOB)]
    train(book, "--config", "mine.toml", "--layers", "2", "--detach")
    settings = server.bodies[1]["settings"]
    assert (settings["units"], settings["layers"], settings["epochs"]) == (16, 2, 3)
    assert (settings["dropout"], settings["max_minutes"]) == (0.1, None)


@pytest.mark.usefixtures("book")
@pytest.mark.parametrize("with_server", [True])
def test_with_a_file_of_settings_a_table_has_records_too(train, server):
    """As without one, and as in this process."""
    Path("table.csv").write_text("text\nIt was.\n")
    Path("mine.toml").write_text("units = 16\n")
    server.script = [uploaded(), answer_json(JOB)]
    train("table.csv", "--config", "mine.toml", "--detach")
    assert server.bodies[1]["settings"]["documents"] == "records"


@pytest.mark.parametrize("with_server", [True])
def test_the_validation_corpus_of_a_file_of_settings_is_sent(train, server, book):
    Path("held.txt").write_text("It was held out.\n")
    Path("mine.toml").write_text('validation_corpus = "held.txt"\n')
    server.script = [uploaded(1), uploaded(2), answer_json(JOB)]
    train(book, "--config", "mine.toml", "--detach")
    assert b"It was held out." in server.bodies[1]
    assert (server.bodies[2]["validation_file"], server.bodies[2]["settings"].get("validation")) == ("file-2", None)
    server.script = [uploaded(1), answer_json(JOB)]
    train(book, "--config", "mine.toml", "--validation", "0.2", "--detach")
    assert ("validation_file" in server.bodies[4], server.bodies[4]["settings"]["validation"]) == (False, 0.2)


@pytest.mark.parametrize("with_server", [True])
@pytest.mark.parametrize("setting", ["mix", "from", "embedding_init"])
def test_a_file_of_settings_with_one_for_this_process_is_refused(train, server, book, setting):
    Path("mine.toml").write_text(f'{setting} = "old"\n')
    shown = train(book, "--config", "mine.toml")
    assert (shown.exit_code, server.requests) == (2, [])
    assert f"mine.toml: {setting} is for training in this process" in shown.stderr


@pytest.mark.parametrize("with_server", [True])
@pytest.mark.parametrize("option", ["--detach", "--base-url=http://127.0.0.1:1"])
@pytest.mark.usefixtures("train")
def test_options_for_a_server_are_refused_without_one(sostenuto, book, option):
    shown = sostenuto("train", book, option)
    assert (shown.exit_code, f"{option.partition('=')[0]} is for training on a server" in shown.stderr) == (2, True)


@pytest.mark.parametrize("with_server", [False])
@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--max-minutes=0.5", "--bidirectional"], {"max_minutes": 0.5, "bidirectional": True}),
        (["--documents", "lines", "--no-bidirectional"], {"documents": "lines", "bidirectional": False}),
        (["--epochs", "2", "--seed", "7"], {"epochs": 2}),
        (["--label-column", "a", "--label-column=b", "--label-column", "c"], {"label_column": ["a", "b", "c"]}),
    ],
)
def test_without_the_servers_distribution_any_option_is_a_setting(train, server, book, words, settings):
    server.script = [uploaded(), answer_json(JOB)]
    train(book, *words, "--detach")
    assert server.bodies[1]["settings"] == settings
    assert server.bodies[1]["seed"] == (7 if "--seed" in words else 0)


@pytest.mark.parametrize("with_server", [False])
@pytest.mark.parametrize("words", [["--model", "demo"], ["--minutes=3"], ["another.txt"]])
def test_what_is_no_setting_is_wrong_usage(train, server, book, words):
    assert train(book, *words).exit_code == 2
    assert server.requests == []


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_failed_job_is_an_error(sostenuto, server, options):
    failed = answer_json({**JOB, "status": "failed", "error": {"message": "the text has 7 characters"}})
    server.script = [answer_json(JOB), stream([DONE]), failed]
    shown = sostenuto("jobs", "events", "ftjob-1", *options)
    assert (shown.exit_code, shown.stderr) == (1, "error: the job ftjob-1 failed: the text has 7 characters\n")


def test_a_terminal_shows_one_bar_with_epoch_time_left_and_losses(terminal, server):
    job = {**JOB, "settings": {"epochs": 12}}
    server.script = [answer_json(job), stream(EVENTS[:3], then=linger)]
    shown = terminal("jobs", "events", "ftjob-1")
    shown.wait_for(b"epoch 1 of 12")
    shown.wait_for(b"1:3")  # below 1:40
    shown.wait_for(b"left loss 2.500")
    shown.type(CTRL_C)
    code, text = shown.end()
    assert code == 130
    last = text.rpartition("\x1b[2K")[2]
    assert "follow it:\n  sostenuto jobs events ftjob-1\nor cancel it:\n  sostenuto jobs cancel ftjob-1" in last
    assert server.left.wait(20)


def test_brackets_in_a_message_are_no_markup(terminal, server):
    event = job_event(2, "waits for [/node] of [draft] queue")
    server.script = [answer_json(JOB), stream([event], then=linger)]
    shown = terminal("jobs", "events", "ftjob-1")
    shown.wait_for(b"waits for [/node] of [draft] queue")  # the line above the bar
    shown.wait_for(b"waits for [/node] of [draft] queue \x1b")  # the bar
    shown.type(CTRL_C)
    assert shown.end()[0] == 130


def test_escape_sequences_of_a_message_do_not_reach_the_terminal(terminal, server):
    event = job_event(2, "a\x1b]0;mine\x07b")
    server.script = [answer_json(JOB), stream([event], then=linger)]
    shown = terminal("jobs", "events", "ftjob-1")
    shown.wait_for(b"a\\u001b]0;mine\\u0007b")  # the line above the bar
    shown.wait_for(b"a\\u001b]0;mine\\u0007b \x1b")  # the bar
    shown.type(CTRL_C)
    code, text = shown.end()
    assert (code, "\x1b]" in text) == (130, False)


def test_lines_stand_above_the_bar(terminal, server):
    """The terminal may be as narrow as their indentation."""
    server.script = FINISHED * 2
    code, text = terminal("jobs", "events", "ftjob-1").end()
    assert code == 0
    assert "    the]best\n" in text
    assert text.endswith("try it:\n  sostenuto generate --model book the\n")
    assert terminal("jobs", "events", "ftjob-1", columns=4).end()[0] == 0


def test_a_model_with_labels_is_tried_with_one_of_them(sostenuto, server):
    labeled = [{**SAMPLE, "given": "", "labels": {"age group": "young"}}, {**SAMPLE, "labels": {"age group": "old"}}]
    event = job_event(6, "epoch 2", **{**EPOCH, "samples": labeled}, epoch=2)
    server.script = [answer_json(JOB), stream([event, DONE]), answer_json(SUCCEEDED)]
    shown = sostenuto("jobs", "events", "ftjob-1").stdout
    assert "    [age group=young]best\n    [age group=old][It was\n" in shown
    assert shown.endswith("sostenuto generate --model book '' --label 'age group=young'\n")


@pytest.mark.parametrize(
    ("settings", "given", "command"),
    [
        ({"direction": "backward"}, "the end.\nFINIS", "--suffix 'the end.'"),
        ({}, "It was\n--no doubt", "''"),
        ({}, "-", "''"),
    ],
    ids=["backward", "option", "standard input"],
)
def test_the_command_to_try_a_model_is_one_that_works(sostenuto, server, settings, given, command):
    event = job_event(6, "epoch 1", **{**EPOCH, "samples": [{**SAMPLE, "given": given}]}, epoch=1)
    job, ended = ({**each, "settings": settings} for each in (JOB, SUCCEEDED))
    server.script = [answer_json(job), stream([event, DONE]), answer_json(ended)]
    assert sostenuto("jobs", "events", "ftjob-1").stdout.endswith(f"sostenuto generate --model book {command}\n")


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(process, server, book):
    server.script = [uploaded(), answer_json(JOB), stream(EVENTS[:2], then=linger)]
    path = f"{ROOT / 'client/src'}:{ROOT}"
    running = process("train", book, "--server", server.url, PYTHONPATH=path)
    assert [running.stdout.readline() for _ in range(2)] == [b"the job is queued\n", b"training\n"]
    running.send_signal(2)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert f"sostenuto jobs cancel ftjob-1 --base-url {server.url}\n" in errors.decode()


def test_jobs_are_a_table(sostenuto, server):
    running = {**JOB, "status": "running", "estimated_finish": 4_000_000_000}
    server.script = [answer_json({"data": [running, SUCCEEDED], "has_more": False})] * 2
    heading, first, second = sostenuto("jobs").stdout.splitlines()
    assert heading.split() == ["id", "status", "from", "model", "created", "time", "left"]
    assert first.split()[:4] == ["ftjob-1", "running", "characters-3-minutes", "-"]
    assert second.split()[3] == "book:2"
    entries = [json.loads(line) for line in sostenuto("jobs", "--json").stdout.splitlines()]
    assert [entry["status"] for entry in entries] == ["running", "succeeded"]


def test_show_has_the_facts_and_settings_of_a_job(sostenuto, server):
    server.script = [answer_json({**SUCCEEDED, "settings": {"units": 16}})] * 2
    lines = dict(line.split(maxsplit=1) for line in sostenuto("jobs", "show", "ftjob-1").stdout.splitlines())
    assert (lines["status"], lines["model"], lines["units"]) == ("succeeded", "book:2", "16")
    assert json.loads(sostenuto("jobs", "show", "ftjob-1", "--json").stdout)["version"] == 2


def test_events_as_json_are_those_of_the_api(sostenuto, server):
    server.script = [answer_json(JOB), stream([*EVENTS, DONE]), answer_json(SUCCEEDED)]
    shown = sostenuto("jobs", "events", "ftjob-1", "--json")
    assert (shown.exit_code, [json.loads(line) for line in shown.stdout.splitlines()]) == (0, EVENTS)


@pytest.mark.parametrize(
    ("action", "before", "after", "line"),
    [
        ("cancel", "running", "running", "ftjob-1: stops after its current step"),
        ("cancel", "queued", "cancelled", "ftjob-1: cancelled"),
        ("pause", "queued", "paused", "ftjob-1: paused"),
        ("resume", "paused", "queued", "ftjob-1: queued"),
        ("resume", "paused", "running", "ftjob-1: running"),
    ],
)
def test_an_action_says_what_becomes_of_the_job(sostenuto, server, action, before, after, line):
    server.script = [answer_json({**JOB, "status": before}), answer_json({**JOB, "status": after})]
    shown = sostenuto("jobs", action, "ftjob-1")
    assert shown.stdout.splitlines()[0] == line
    assert ("sostenuto jobs resume ftjob-1" in shown.stdout) == (action == "pause")
    assert server.requests[-1].path == f"/v1/fine_tuning/jobs/ftjob-1/{action}"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (99.6, "1:40"), (3700, "1:01:40")])
def test_durations_are_clock_times(seconds, text):
    assert clock(seconds) == text


def test_the_command_that_follows_has_the_same_key(sostenuto, server, tmp_path):
    (tmp_path / "my key").write_text("secret")
    server.script = [answer_json(JOB), answer_json({**JOB, "status": "paused"})]
    options = ("--base-url", server.url, "--api-key-file", str(tmp_path / "my key"))
    shown = sostenuto("jobs", "pause", "ftjob-1", *options)
    assert shown.stdout.endswith(f"\n  {shlex.join(['sostenuto', 'jobs', 'resume', 'ftjob-1', *options])}\n")
