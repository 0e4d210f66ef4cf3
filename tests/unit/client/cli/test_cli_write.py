"""`sostenuto write`: what each line of a session does to the text, and what remains when it ends."""

import json
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest

import sostenuto
from tests.terminals import CTRL_C, CTRL_D, interruptible
from tests.unit.client.scripted_responses import DONE, chunk, cut, hang_up, linger, refusal, stream, usage_chunk
from tests.unit.client.scripted_server import PATIENCE_S
from tests.waiting import until

TINY = ("--model", "tiny")


def turn(text, state="ost1.a.b"):
    return stream([chunk(text), chunk("", "length", state=state), usage_chunk(), DONE])


def exchange(session, *steps):
    """Wait for bytes of a terminal's output and type keys, in turn; either may be empty."""
    for number, step in enumerate(steps):
        (session.type if number % 2 else session.wait_for)(step)


@pytest.fixture
def write(sostenuto):
    """Run a session of these piped lines; `given` are the command's arguments."""

    def run(*lines, given=()):
        return sostenuto("write", *given, *TINY, given="".join(line + "\n" for line in lines))

    return run


def read(server):
    """Return each request's prompt, and whether it resumed from a state."""
    return [(body["prompt"], "state" in body) for body in server.bodies]


def test_an_empty_line_generates_and_a_text_line_is_appended_first(write, server):
    server.script = [turn(" upon"), turn(" a time"), turn(" there")]
    shown = write("", ",\\nlong ago \\\\n", "//was", given=("Once",))
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, " upon a time there", "")
    assert read(server) == [("Once", False), (",\nlong ago \\n", True), ("/was", True)]


def test_options_of_the_command_apply_to_every_turn(write, server):
    server.script = [turn("a"), turn("b")]
    write("", "", given=("--temperature", "0.5", "--stop", "x"))
    assert [(body["temperature"], body["stop"]) for body in server.bodies] == [(0.5, ["x"])] * 2


def test_a_saved_text_keeps_its_model_whatever_the_environment_says(write, sostenuto, server, tmp_path, monkeypatch):
    path = tmp_path / "story.json"
    server.script = [turn("1"), turn("2"), turn("3")]
    write("", given=("Once", "--file", str(path)))
    monkeypatch.setenv("SOSTENUTO_MODEL", "theirs")
    sostenuto("write", "--file", str(path), given="\n")
    assert read(server) == [("Once", False), ("", True)]
    assert json.loads(path.read_text())["model"] == "tiny"
    sostenuto("write", "--file", str(path), "--model", "mine", given="\n")
    assert server.bodies[2]["model"] == json.loads(path.read_text())["model"] == "mine"


def test_undone_turns_can_be_redone_until_another_is_generated(write, server):
    server.script = [turn("1"), turn("2"), turn("3", "ost1.c.d"), turn("4")]
    shown = write("", "", "/undo", "/undo", "/redo", "/redo", "/text", "/undo", "", "/text", "/redo")
    assert shown.stdout == "12" + "12" + "3" + "13"
    assert shown.exit_code == 2
    assert "no turn to redo" in shown.stderr
    assert server.bodies[2]["state"] == "ost1.a.b"


def test_after_a_change_of_model_a_redone_turn_has_no_state(write, server):
    server.script = [turn("1"), turn("2")]
    write("", "/undo", "/set model other", "/redo", "")
    assert read(server) == [("", False), ("1", False)]
    assert server.bodies[1]["model"] == "other"


@pytest.mark.parametrize("value", ['{"style": "elvish"}', ""], ids=["another", "none"])
def test_after_a_change_of_labels_the_whole_text_is_a_prompt_with_the_new_ones(write, server, value):
    """A resume token has the labels of its text, and requests with one have no labels."""
    server.script = [turn("1"), turn("2"), turn("3")]
    shown = write("", f"/set labels {value}", "", "", given=("--label", "style=orcish"))
    assert shown.exit_code == 0, shown.stderr
    assert read(server) == [("", False), ("1", False), ("", True)]
    labels = {"style": "elvish"} if value else None
    assert [body.get("labels") for body in server.bodies] == [{"style": "orcish"}, labels, None]


def test_retry_generates_the_last_turn_again_with_another_seed(write, server):
    server.script = [turn("1", "ost1.first.x"), turn("2"), turn("3")]
    assert write("", "and", "/retry", "/text").stdout == "1" + "2" + "3" + "1and3"
    assert read(server)[2] == ("and", True)
    assert server.bodies[2]["state"] == "ost1.first.x"
    assert "seed" not in server.bodies[1]
    assert server.bodies[2]["seed"] > 0


@pytest.mark.parametrize("failure", [refusal(400, "no"), cut(chunk("2"))])
def test_a_failed_retry_keeps_the_turn(write, server, tmp_path, failure):
    server.script = [turn("1"), failure]
    path = tmp_path / "s.json"
    assert write("", "/retry", given=("--file", str(path))).exit_code == 1
    assert [kept["text"] for kept in json.loads(path.read_text())["turns"]] == ["1"]


def test_branches_are_independent(write, server):
    server.script = [turn("1", "ost1.one.x"), turn("2"), turn("3"), turn("4")]
    shown = write("", "/branch", "", "/switch main", "/branch other", "", "/branches", "/switch branch-2", "", "/text")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("123  main: 1 turns, 1 characters\n  branch-2: 2 turns, 2 characters\n* other: 2 ")
    assert shown.stdout.endswith("4" + "124")
    assert [server.bodies[number]["state"] for number in (1, 2)] == ["ost1.one.x"] * 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/nope", "/help lists the commands"),
        ("/undo", "no turn to undo"),
        ("/redo", "no turn to redo"),
        ("/retry", "no turn to generate again"),
        ("/switch nope", "no branch 'nope'"),
        ("/branch main", "already"),
        ("/branch a/b", "is not a branch name"),
        ("/set tempirature 1", "unknown option 'tempirature'"),
        ("/set temperature warm", "pass a number"),
        ("/set choices yes, no", "pass JSON"),
        ("/set model", "a model is required"),
        ("/save", "a file is required"),
        ("/save /nope/x", "cannot write /nope/x"),
        ("/load /nope/x", "cannot read /nope/x"),
    ],
)
def test_an_invalid_line_ends_a_piped_session(write, server, line, words):
    shown = write(line, "more")
    assert (shown.exit_code, shown.stdout, server.requests) == (2, "", [])
    assert shown.stderr.startswith("error: ")
    assert words in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_set_lists_sets_and_resets_options(write, server):
    server.script = [turn("a"), turn("b")]
    set_and_list = ("/set temperature 0.7", "/set stop \\n", "/set")
    shown = write(*set_and_list, "", "/set temperature", "/set stop", "/set max-tokens 7", "")
    assert shown.stdout == 'model "tiny"\nmax_tokens 200\ntemperature 0.7\nstop "\\n"\na' + "b"
    first, second = server.bodies
    assert (first["max_tokens"], first["temperature"], first["stop"]) == (200, 0.7, "\n")
    assert (second["max_tokens"], {"temperature", "stop"} & set(second)) == (7, set())


def test_a_space_may_be_one_of_the_characters(write):
    assert write("/set allowed abc ", "/set banned  ", "/set").stdout.splitlines()[-2:] == [
        'allowed "abc "',
        'banned " "',
    ]


@pytest.mark.parametrize(("typed", "stop"), [("7", "7"), ("true", "true"), ("1.", "1."), ('["7", "b"]', ["7", "b"])])
def test_a_stop_string_may_look_like_a_number(write, server, typed, stop):
    server.script = [turn("a")]
    write(f"/set stop {typed}", "")
    assert server.bodies[0]["stop"] == stop


def test_set_replaces_one_pattern_by_another(write, server, tmp_path):
    server.script = [turn("a"), turn("b")]
    given = ("--regex", "x", "--file", str(tmp_path / "story.json"))
    write("/set regex [0-9]", "/set banned 7\\n", "/set min-length 3", "", given=given)
    write("", given=("--choice", "yes", *given[2:]))
    assert [body["structured_outputs"] for body in server.bodies] == [
        {"regex": "[0-9]", "banned_characters": "7\n"},
        {"choice": ["yes"], "banned_characters": "7\n"},
    ]
    assert server.bodies[0]["min_length"] == 3


def test_after_a_rejected_state_the_whole_text_is_sent(write, server):
    server.script = [turn("1"), refusal(400, "state is older than 7 days", code="state_expired"), turn("2")]
    shown = write("", "and", given=("Once",))
    assert (shown.exit_code, shown.stdout) == (0, "12")
    assert shown.stderr == "the whole text is processed again: state is older than 7 days\n"
    assert read(server) == [("Once", False), ("and", True), ("Once1and", False)]


def test_an_interrupted_turn_is_resumed(write, server):
    server.script = [stream([chunk(" upon")], then=hang_up), turn(" upon a time")]
    shown = write("")
    assert (shown.exit_code, shown.stdout) == (0, " upon a time")


def test_the_file_is_saved_after_every_turn(write, server, tmp_path):
    path = tmp_path / "story.json"
    server.script = [turn(" upon", "ost1.one.x"), refusal(400, "no"), turn(" a time")]
    assert write("", "", given=("Once", "--file", str(path))).exit_code == 1
    kept = sostenuto.Conversation.load(path, sostenuto.Client(server.url))
    assert (kept.text, kept.state) == ("Once upon", "ost1.one.x")
    assert write("", given=("--file", str(path), "--temperature", "0.1")).stdout == " a time"
    assert server.bodies[2]["state"] == "ost1.one.x"
    assert server.bodies[2]["temperature"] == 0.1
    assert kept.load(path, sostenuto.Client(server.url)).text == "Once upon a time"


def test_branches_are_saved_beside_the_file(write, server, tmp_path):
    path = tmp_path / "story[1].json"
    server.script = [turn("1"), turn("2"), turn("other"), turn("3")]
    assert write("", "/branch dark", "", given=("--file", str(path))).exit_code == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"story[1].json", "story[1].dark.json"}
    write("", given=("--file", str(tmp_path / "story[1].main.json")))
    for name, content in (("notes of mine", b"mine"), ("notes", b"[1]"), ("text", b"\xff")):
        (tmp_path / f"story[1].{name}.json").write_bytes(content)
    (tmp_path / "story[1].directory.json").mkdir()
    shown = write("/text", "/branches", "", "/switch dark", "/text", given=("--file", str(path)))
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == "1* main: 1 turns, 1 characters\n  dark: 2 turns, 2 characters\n312"
    assert [kept["text"] for kept in json.loads(path.read_text())["turns"]] == ["1", "3"]


@pytest.mark.parametrize(
    ("content", "prompt", "words"),
    [
        *((content, (), "s.json is not a file of") for content in ("", "{}", '{"sostenuto_conversation": 99}', "[1]")),
        ("{}", ("Once",), "s.json has a text already: omit PROMPT"),
    ],
)
def test_a_file_without_a_conversation_or_beside_a_prompt_is_rejected(write, tmp_path, content, prompt, words):
    path = tmp_path / "s.json"
    path.write_text(content)
    shown = write("", given=(*prompt, "--file", str(path)))
    assert (shown.exit_code, path.read_text()) == (2, content)
    assert words in shown.stderr


def test_a_branch_replaces_no_file_that_is_there(write, tmp_path):
    path = tmp_path / "story.json"
    (tmp_path / "story.notes.json").write_text("mine")
    (tmp_path / "story.branch-2.json").write_text("of the text before")
    shown = write("/branch", "/branches", "/branch notes", given=("Once", "--file", str(path)))
    assert (shown.exit_code, shown.stdout.splitlines()[1]) == (2, "* branch-3: 0 turns, 4 characters")
    assert f"file {tmp_path / 'story.notes.json'}, where 'notes' would be saved, already exists" in shown.stderr
    assert (tmp_path / "story.notes.json").read_text() == "mine"
    assert (tmp_path / "story.branch-2.json").read_text() == "of the text before"


def test_save_replaces_only_another_conversation(write, tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("name,age\n")
    shown = write(f"/save {table}")
    assert (shown.exit_code, table.read_text()) == (2, "name,age\n")
    assert "people.csv" in shown.stderr


def test_load_adds_a_branch_named_after_the_file(write, server, tmp_path):
    path = tmp_path / "my story.json"
    server.script = [turn("1"), turn("2")]
    shown = write("", f"/save {path}", "", f"/load {path}", "/text", "/branches")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == "12" + "1" + "  main: 2 turns, 2 characters\n* my-story: 1 turns, 1 characters\n"


def test_a_line_with_invalid_utf8_ends_a_piped_session(sostenuto, server):
    server.script = [turn("1")]
    shown = sostenuto("write", *TINY, given=b"ab\nc\xff\n")
    assert (shown.exit_code, shown.stdout) == (2, "1")
    assert "standard input, line 2 is not UTF-8 at byte 1" in shown.stderr


def test_quit_ends_the_session_and_help_lists_every_command(write, server):
    shown = write("/help", "/quit", "more")
    assert server.requests == []
    for command in ("/undo", "/redo", "/retry", "/branch", "/branches", "/switch", "/set", "/save", "/load", "/text"):
        assert command in shown.stdout


def test_ctrl_c_stops_the_turn_and_keeps_its_text(terminal, server, tmp_path):
    path = tmp_path / "story.json"
    server.script = [stream([chunk(" upon")], then=linger), turn(" a time")]
    session = terminal("write", "Once", "--file", str(path), *TINY)
    exchange(session, b"> ", b"\n", b" upon", CTRL_C, b"> ")
    assert server.left.wait(5)
    assert [kept["text"] for kept in json.loads(path.read_text())["turns"]] == [" upon"]
    exchange(session, b"", b"\n", b" a time", b"", b"> ", CTRL_D)
    code, shown = session.end()
    assert code == 0
    assert "Traceback" not in shown
    assert read(server) == [("Once", False), ("Once upon", False)]


def test_ctrl_c_stops_a_retry_and_keeps_its_text_or_the_turn_before(terminal, server, tmp_path):
    path = tmp_path / "story.json"
    server.script = [turn(" upon"), stream([chunk(" there")], then=linger), linger]
    session = terminal("write", "Once", "--file", str(path), *TINY)
    exchange(session, b"> ", b"\n", b" upon", b"", b"> ", b"/retry\n", b" there", CTRL_C, b"> ")
    assert [kept["text"] for kept in json.loads(path.read_text())["turns"]] == [" there"]
    exchange(session, b"", b"/retry\n")
    until(lambda: len(server.requests) == 3)
    time.sleep(0.1)
    exchange(session, b"", CTRL_C, b"stopped", b"", b"> ", CTRL_D)
    assert session.end()[0] == 0
    assert [kept["text"] for kept in json.loads(path.read_text())["turns"]] == [" there"]


def test_ctrl_c_ends_a_piped_session(process, server, tmp_path):
    path = tmp_path / "story.json"
    server.script = [stream([chunk(" upon")], then=linger)]
    with interruptible():
        running = process("write", "Once", "--file", str(path), *TINY, stdin=subprocess.PIPE)
    running.stdin.write(b"\nmore\n")
    running.stdin.close()
    running.stdin = None
    assert running.stdout.read(5) == b" upon"
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE_S) == 130
    assert server.left.wait(PATIENCE_S)
    assert [kept["text"] for kept in json.loads(path.read_text())["turns"]] == [" upon"]
    assert len(server.requests) == 1


def test_ctrl_c_before_the_first_delta_stops_the_turn(terminal, server):
    server.script = [linger]
    session = terminal("write", "Once", *TINY)
    exchange(session, b"> ", b"\n")
    until(lambda: server.requests)
    time.sleep(0.1)
    exchange(session, b"", CTRL_C, b"stopped", b"", b"> ", b"/text\n", b"Once", b"", b"> ", CTRL_D)
    assert session.end()[0] == 0


def test_in_a_terminal_the_session_continues_after_an_error(terminal, server):
    server.script = [refusal(400, "too hot"), turn(" upon")]
    session = terminal("write", *TINY)
    exchange(session, b"> ", b"\n", b"error: too hot", b"", b"> ", b"never mind", b"never mind")
    # Python's readline misses a signal while it still handles a key.
    for _ in range(20):
        session.type(CTRL_C)
        with suppress(AssertionError):
            session.wait_for(b"(Ctrl-D exits)", timeout=2)
            break
    else:
        pytest.fail("Ctrl-C had no effect")
    exchange(session, b"> ", b"\n", b" upon", b"/branch dark\n", b"dark> ", CTRL_D)
    assert session.end()[0] == 0
    assert read(server) == [("", False), ("", False)]


def test_the_prompt_of_the_session_is_not_written_to_a_file(terminal, server, tmp_path):
    server.script = [turn(" upon")]
    session = terminal("write", *TINY, output=tmp_path / "text")
    exchange(session, b"> ", b"\n", b"> ", CTRL_D)
    assert session.end()[0] == 0
    assert (tmp_path / "text").read_text() == " upon"


def test_a_session_survives_a_file_that_cannot_be_written(terminal, server, tmp_path):
    directory, elsewhere = tmp_path / "gone", tmp_path / "other.json"
    directory.mkdir()
    server.script = [turn(" upon"), turn(" a time")]
    session = terminal("write", "Once", "--file", str(directory / "story.json"), *TINY)
    exchange(session, b"> ", b"\n", b" upon", b"", b"> ")
    shutil.rmtree(directory)
    save = f"/save {elsewhere}\n".encode()
    exchange(session, b"", b"\n", b" a time", b"", b"No such file", b"", b"> ", save, b"> ", CTRL_D)
    session.end()
    assert [kept["text"] for kept in json.loads(elsewhere.read_text())["turns"]] == [" upon", " a time"]
