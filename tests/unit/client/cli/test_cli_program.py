"""The program as a whole: help, completion, server options, and the message and exit code of each failure."""

import os
import signal

import click
import pytest

from sostenuto import __version__
from sostenuto._cli.program import program
from tests.terminals import interruptible
from tests.unit.client.scripted_responses import answer_bytes, chunk, hang_up, linger, models, refusal, stream
from tests.unit.client.scripted_server import PATIENCE_S
from tests.waiting import until

GENERATE = ("generate", "Once", "--model", "tiny")
HTML = answer_bytes(b"<html><body>\x1b]0;mine\x07 It works!</body></html>", "text/html")


@pytest.mark.parametrize("name", sorted(program.commands))
def test_the_help_of_every_command_has_an_example_and_all_options(sostenuto, name):
    shown = sostenuto(name, "-h")
    assert shown.exit_code == 0
    assert f"sostenuto {name}" in shown.stdout
    assert "Example" in shown.stdout
    options = [option for option in program.commands[name].params if isinstance(option, click.Option)]
    assert all(option.help for option in options)
    # The others need no server.
    assert name in {"completion", "report"} or {"base_url", "api_key_file", "timeout", "retries"} <= {
        o.name for o in options
    }


def test_without_a_command_the_commands_are_listed_on_standard_error(sostenuto):
    shown = sostenuto()
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Text:" in shown.stderr


def test_version_prints_the_version_of_the_package(sostenuto):
    assert sostenuto("--version").stdout == f"sostenuto {__version__}\n"


@pytest.mark.parametrize("before", [(), ("--base-url", "http://127.0.0.1:1"), None])
def test_server_options_can_precede_or_follow_the_command(sostenuto, server, tmp_path, before):
    key = tmp_path / "key"
    key.write_text("secret\n")
    given = ("--base-url", f"{server.url}/texts/v1", "--api-key-file", str(key))
    server.script = [models("tiny")]
    shown = sostenuto(*given, "models") if before is None else sostenuto(*before, "models", *given)
    assert shown.exit_code == 0, shown.stderr
    assert server.requests[0].path == "/texts/v1/models"
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"], ids=["missing", "empty", "blank", "binary"])
def test_a_key_file_without_a_key_is_rejected(sostenuto, server, tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    shown = sostenuto("models", "--api-key-file", str(path))
    assert (shown.exit_code, server.requests) == (2, [])
    assert str(path) in shown.stderr


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (refusal(401, "who are you?", type="authentication_error"), 1, "set SOSTENUTO_API_KEY, or pass --api-key-file"),
        (refusal(404, "no 'tiny'", code="model_not_found"), 1, "`sostenuto models` lists"),
        (refusal(404, "no such address"), 1, "check --base-url"),
        (refusal(400, "temperature must be at most 2", headers={"x-request-id": "req-7"}), 1, "request req-7"),
        (refusal(400, "prompt has \x1b]0;mine\x07"), 1, "\\u001b]0;mine\\u0007"),
        (refusal(413, "the body has 9,000,000 bytes"), 1, "send less at once"),
        (refusal(500, "boom"), 1, "HTTP 500"),
        (HTML, 3, "--base-url"),
        (hang_up, 3, "check --base-url"),
        (stream([chunk(" upon")], then=hang_up), 3, "without --no-resume"),
    ],
    ids=["key", "model", "address", "field", "escape", "size", "failed", "html", "lost", "cut"],
)
def test_each_failure_is_one_line_and_an_exit_code(sostenuto, server, answer, code, words):
    server.script = [answer]
    shown = sostenuto(*GENERATE, "--retries", "0", "--no-resume")
    assert shown.exit_code == code
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1
    assert words in shown.stderr
    assert "\x1b" not in shown.stderr
    assert "client." not in shown.stderr


def test_timeout_bounds_the_wait_for_a_silent_server(sostenuto, server):
    server.script = [linger]
    shown = sostenuto(*GENERATE, "--timeout", "0.2")
    assert shown.exit_code == 3
    assert "0.2 s" in shown.stderr
    assert "--timeout" in shown.stderr


# With words of the message, if it has to say more than that something is wrong.
WRONG_USAGE = {
    "--nope": "",
    "--api-key secret models": "",
    "nope": "",
    "generate a b": "",
    "generate a --temperature x": "",
    "generate a --timeout 0": "",
    "generate a --timeout nan": "",
    "generate a --field x": "",
    "generate a --field min_length=3": "has its own option",
    "generate a --field top_texts=3": "has its own option",
    "generate a --field use_beam_search=true": "has its own option",
    "generate a --logprobs 2": "",
    "generate a -n 0": "",
    "generate a -n 2 --stream": "",
    "generate a -n 2 --save-state x": "",
    "generate a --suffix b": "",
    "generate a --save-state /nope/x": "",
    "generate a --state nope": "",
    "generate a --regex b --choice c": "--regex and --choice exclude each other: a completion has one pattern",
    "generate a --regex b --field structured_outputs={}": "regex and structured_outputs exclude each other",
    "generate a --choice b --json-schema {}": "--choice and --json-schema exclude each other",
    "generate a --json-schema {'type':1}": "--json-schema is not JSON: Expecting property name",
    f"generate a --json-schema {{'a':{'[' * 10_000}": "--json-schema is not JSON",
    f"tokens --decode {'7' * 5000}": "is not a token id",
    "generate a --json-schema /nope/x": "cannot read /nope/x: No such file",
    "generate a --json-schema /dev/null": "/dev/null is not JSON",
    "generate a --top-texts 2 --save-state x": "--save-state is for a single completion: omit -n, --top-texts and",
    "score a --text b": "FILE and --text exclude each other",
    "score --held-out x": "--held-out and --false-positive-rate need each other",
    "score -o x": "--output needs --csv or --json",
    "tokens a b": "",
    "tokens --decode a": "",
    "inspect a --top 6": "",
    "write --file /nope/x": "",
    "write --file /nope/a\nb": "",
    "completion nope": "",
    "models --base-url 127.0.0.1": "",
    "models promote book": "VERSION must be NAME:VERSION, such as book:2, got 'book'",
    "models promote book:x": "VERSION must be NAME:VERSION",
    "models split book stable": "a share must be TARGET=NUMBER, such as canary=10, got 'stable'",
    "models split book canary=10 canary=20": "each TARGET can have only one share",
    "models delete book": "nothing was deleted: there is no terminal to confirm on; pass --yes",
}


@pytest.mark.parametrize(("arguments", "words"), WRONG_USAGE.items())
def test_wrong_usage_is_one_line_and_sends_nothing(sostenuto, server, arguments, words):
    shown = sostenuto(*arguments.split(" "))
    assert (shown.exit_code, shown.stdout, server.requests) == (2, "", [])
    assert shown.stderr.startswith("error: ")
    assert words in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize("imported", ["requests", "click", "rich"])
def test_ctrl_c_while_modules_are_imported_exits_with_130(process, tmp_path, imported):
    started = tmp_path / "started"
    # In short steps: a signal that arrives just before `sleep` does not end it.
    waiting = f"for _ in range({round(100 * PATIENCE_S)}): time.sleep(0.01)"
    (tmp_path / f"{imported}.py").write_text(f"import os, time\nos.mkdir({str(started)!r})\n{waiting}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with interruptible():
        running = process(*GENERATE, PYTHONPATH=path)
    until(started.exists)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=PATIENCE_S) == (b"", b"")
    assert running.returncode == 130


@pytest.mark.parametrize("arguments", [("models",), ("models", "--json"), ("--help",)], ids=" ".join)
def test_a_closed_output_pipe_prints_no_message(process, server, arguments):
    server.script = [models("tiny")]
    running = process(*arguments)
    running.stdout.close()
    assert (running.wait(PATIENCE_S), running.stderr.read()) == (141, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_says_where_to_install_it(sostenuto, monkeypatch, shell):
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    shown = sostenuto("completion", shell)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert (lines[0] == "#compdef sostenuto") == (shell == "zsh")
    assert any(line.startswith("# Save as ~/") for line in lines[:2])
    assert "_SOSTENUTO_COMPLETE" in shown.stdout
    assert sostenuto("completion").stdout == shown.stdout


def test_an_unsupported_shell_is_wrong_usage(sostenuto, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    shown = sostenuto("completion")
    assert shown.exit_code == 2
    assert "bash, fish, zsh" in shown.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sostenuto ge", "plain,generate\n"),
        ("sostenuto generate --max", "plain,--max-tokens\n"),
        ("sostenuto score --base", "plain,--base-url\n"),
    ],
)
def test_commands_and_options_are_completed(process, words, found):
    place = str(len(words.split()) - 1)
    running = process(_SOSTENUTO_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    output, error = running.communicate(timeout=PATIENCE_S)
    assert (output.decode(), error) == (found, b"")
