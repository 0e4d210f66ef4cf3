"""`sostenuto generate`: what it requests, and what it writes where."""

import contextlib
import json
import os
import signal
import threading

import pytest

from sostenuto._cli.terminal import read_until_ctrl_c
from tests.terminals import interruptible
from tests.unit.client.scripted_responses import (
    COMPLETION,
    DONE,
    WHOLE,
    answer_json,
    as_event,
    chunk,
    cut,
    linger,
    models,
    stream,
    usage_chunk,
)
from tests.unit.client.scripted_server import PATIENCE_S

STATE = "ost1.aa.bb"
GENERATE = ("generate", "Once", "--model", "tiny")
WITH_STATE = [chunk(" upon"), chunk(" a time", "length", state=STATE), usage_chunk(), DONE]


def asked(server):
    """Return the last request's fields, without those that every streamed request has."""
    ours = {"model", "stream", "stream_options"}
    return {name: value for name, value in server.bodies[-1].items() if name not in ours}


def test_options_are_sent_as_the_apis_fields(sostenuto, server):
    server.script = [stream(WHOLE)]
    given = "--max-tokens 9 --temperature 0.5 --top-p 0.9 --top-k 5 --min-p 0.1 --seed 7 --presence-penalty 1 "
    given += "--frequency-penalty 2 --repetition-penalty 3 --ignore-eos --echo --no-resume --stop x --stop y"
    given += " --label style=elvish --label a=b=c"
    shown = sostenuto(*GENERATE, *given.split(), "--field", 'logit_bias={"5": -100}')
    assert shown.exit_code == 0, shown.stderr
    sent = {"prompt": "Once", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 7}
    sent |= {"presence_penalty": 1.0, "frequency_penalty": 2.0, "repetition_penalty": 3.0, "ignore_eos": True}
    sent |= {"echo": True, "labels": {"style": "elvish", "a": "b=c"}, "stop": ["x", "y"], "logit_bias": {"5": -100}}
    assert asked(server) == sent


def test_options_of_structured_outputs_are_sent_as_one_field(sostenuto, server, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"z": {}, "a": {}}}')
    for given, outputs in (
        (("--regex", r"[a-z]+\n"), {"regex": r"[a-z]+\n"}),
        (("--choice", "yes", "--choice", "no, \n"), {"choice": ["yes", "no, \n"]}),
        (("--json-schema", ' {"type": "null"}'), {"json": {"type": "null"}}),
        (("--json-schema", str(schema)), {"json": {"type": "object", "properties": {"z": {}, "a": {}}}}),
        (("--allowed", "ab", "--banned", "b"), {"allowed_characters": "ab", "banned_characters": "b"}),
    ):
        server.script = [stream(WHOLE)]
        shown = sostenuto(*GENERATE, *given, "--min-length", "5")
        assert shown.exit_code == 0, shown.stderr
        assert asked(server) == {"prompt": "Once", "structured_outputs": outputs, "min_length": 5}
        assert json.dumps(asked(server)["structured_outputs"]) == json.dumps(outputs)


def test_the_model_can_come_from_the_environment(sostenuto, server, monkeypatch):
    monkeypatch.setenv("SOSTENUTO_MODEL", "theirs")
    server.script = [stream(WHOLE), stream(WHOLE), models("first"), stream(WHOLE)]
    sostenuto("generate", "Once")
    sostenuto("generate", "Once", "--model", "mine")
    monkeypatch.delenv("SOSTENUTO_MODEL")
    sostenuto("generate", "Once")
    assert [body["model"] for body in server.bodies if body] == ["theirs", "mine", "first"]


def test_a_resume_token_has_its_own_model_whatever_the_environment_says(sostenuto, server, monkeypatch):
    monkeypatch.setenv("SOSTENUTO_MODEL", "theirs")
    server.script = [stream(WHOLE), stream(WHOLE)]
    sostenuto("generate", "--state", STATE)
    sostenuto("generate", "--state", STATE, "--model", "mine")
    assert [body.get("model") for body in server.bodies] == [None, "mine"]


@pytest.mark.parametrize("argument", [(), ("-",)], ids=["none", "dash"])
def test_a_prompt_is_read_from_standard_input_unchanged(sostenuto, server, argument):
    server.script = [stream(WHOLE)]
    shown = sostenuto("generate", *argument, "--model", "tiny", given="Größe \n\n 大\r\n".encode())
    assert shown.exit_code == 0, shown.stderr
    assert asked(server)["prompt"] == "Größe \n\n 大\r\n"


def test_an_empty_standard_input_is_rejected_but_an_empty_argument_is_not(sostenuto, server):
    server.script = [stream(WHOLE)]
    shown = sostenuto("generate", "--model", "tiny")
    assert (shown.exit_code, server.requests) == (2, [])
    assert "standard input is empty" in shown.stderr
    assert sostenuto("generate", "", "--model", "tiny").exit_code == 0
    assert asked(server)["prompt"] == ""


def test_invalid_utf8_on_standard_input_is_rejected_with_its_offset(sostenuto, server):
    shown = sostenuto("generate", given="Grö".encode() + b"\xdfe and \xff")
    assert (shown.exit_code, server.requests) == (2, [])
    assert "byte 0xdf at offset 4" in shown.stderr


def test_an_argument_with_invalid_utf8_is_rejected(process, server):
    """A shell passes any bytes."""
    running = process("generate", b"ab\xff")
    _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, server.requests) == (2, [])
    assert b"not UTF-8 at character 2" in error


def test_json_is_the_whole_response_on_one_line(sostenuto, server):
    server.script = [answer_json(COMPLETION)]
    shown = sostenuto(*GENERATE, "--json", "--logprobs", "2")
    assert shown.stdout.count("\n") == 1
    assert json.loads(shown.stdout) == COMPLETION
    assert "stream" not in server.bodies[0]
    assert server.bodies[0]["logprobs"] == 2


def test_streamed_json_has_a_line_per_delta_and_one_for_the_generation(sostenuto, server):
    events = [chunk("a"), chunk("b", index=1), chunk("", "stop"), chunk("c", "length", index=1), usage_chunk(), DONE]
    server.script = [stream(events)]
    lines = [json.loads(line) for line in sostenuto(*GENERATE, "-n", "2", "--json", "--stream").stdout.splitlines()]
    assert lines[0] == {"index": 0, "text": "a", "finish_reason": None}
    deltas = [(line["index"], line["text"], line["finish_reason"]) for line in lines[:4]]
    assert deltas == [(0, "a", None), (1, "b", None), (0, "", "stop"), (1, "c", "length")]
    assert [choice["text"] for choice in lines[4]["choices"]] == ["a", "bc"]
    assert lines[4]["usage"]["completion_tokens"] == 3


def test_suffix_is_sent_without_a_prompt(sostenuto, server):
    server.script = [stream(WHOLE), stream(WHOLE)]
    sostenuto("generate", "--suffix", "the end.", "--model", "tiny")
    assert asked(server) == {"prompt": "", "suffix": "the end."}
    sostenuto("generate", "--suffix", "-", "--model", "tiny", given="it ends")
    assert asked(server)["suffix"] == "it ends"


def test_a_saved_state_can_be_resumed(sostenuto, server, tmp_path):
    server.script = [stream(WITH_STATE), stream(WHOLE), stream(WHOLE)]
    path = tmp_path / "story.state"
    assert sostenuto(*GENERATE, "--save-state", str(path)).stdout == " upon a time"
    assert path.read_text() == STATE + "\n"
    assert server.bodies[0]["return_state"] is True
    for state in (str(path), STATE):
        assert sostenuto("generate", "--state", state).exit_code == 0
        assert asked(server) == {"state": STATE, "prompt": ""}
        assert "model" not in server.bodies[-1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["story.state"]


LATE = {"error": {"message": "too late", "code": "deadline_exceeded"}}
STATED = {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "state": STATE}]}


@pytest.mark.parametrize(
    ("option", "answer", "code"),
    [
        ("--json", answer_json(STATED), 0),
        ("--no-resume", stream([{**LATE, **chunk(" upon", state=STATE)}]), 1),
        ("--no-stream", answer_json({**STATED, **LATE}, 504, {"x-should-retry": "false"}), 1),
    ],
)
def test_a_state_is_saved_also_of_json_and_of_an_error(sostenuto, server, tmp_path, option, answer, code):
    server.script = [answer]
    shown = sostenuto(*GENERATE, option, "--save-state", str(tmp_path / "state"))
    assert shown.exit_code == code
    assert (tmp_path / "state").read_text() == STATE + "\n"
    # The text before it is not lost.
    assert " upon" in shown.stdout


def test_ctrl_c_before_a_state_says_that_none_is_saved(process, server, tmp_path):
    """The text so far may be the echoed prompt alone."""
    server.script = [stream([chunk("Once")], then=linger)]
    with interruptible():
        running = process(*GENERATE, "--echo", "--save-state", str(tmp_path / "state"))
    assert running.stdout.read(4) == b"Once"
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130
    assert b"state was not written: there was no resume token yet" in b"".join(error.split(b"\n"))
    assert not (tmp_path / "state").exists()
    assert server.bodies[0]["stream_options"]["state_interval"] == 1


def test_a_prompt_is_read_after_the_state(sostenuto, server):
    for arguments, given in ((("and then",), ""), ((), "and then"), ((), "")):
        server.script = [stream([chunk(" upon", "stop"), DONE])]
        assert sostenuto("generate", *arguments, "--state", STATE, given=given).stdout == " upon"
    sent = [(body["state"], body["prompt"]) for body in server.bodies]
    assert sent == [(STATE, "and then"), (STATE, "and then"), (STATE, "")]
    told = " ".join(sostenuto("generate", "--help").stdout.split())
    assert "PROMPT, if given, is appended" in told
    assert "With --state the prompt may be empty" in told


@pytest.mark.parametrize("content", ["", "no state", "\x00\xff"])
def test_a_file_without_a_state_is_rejected_before_sending(sostenuto, server, tmp_path, content):
    path = tmp_path / "state"
    path.write_text(content)
    shown = sostenuto("generate", "--state", str(path))
    assert (shown.exit_code, server.requests) == (2, [])
    assert str(path) in shown.stderr


def test_an_interrupted_stream_is_resumed_unless_no_resume_is_passed(sostenuto, server):
    server.script = [cut(chunk(" upon")), stream(WHOLE), cut(chunk(" upon"))]
    assert sostenuto(*GENERATE).stdout == " upon a time"
    assert server.bodies[1]["seed"] == 7
    shown = sostenuto(*GENERATE, "--no-resume")
    assert (shown.exit_code, shown.stdout) == (3, " upon")


@pytest.mark.parametrize("option", ["--no-stream", "--json"])
def test_what_is_printed_at_its_end_is_resumed_if_resume_is_passed(sostenuto, server, option):
    server.script = [cut(chunk(" upon")), stream(WHOLE)]
    shown = sostenuto(*GENERATE, option, "--resume").stdout
    assert (json.loads(shown)["choices"][0]["text"] if option == "--json" else shown) == " upon a time"
    assert server.bodies[1]["seed"] == 7


@pytest.mark.parametrize("option", ["-n2", "--top-texts=2", "--beam-search"])
def test_several_completions_cannot_be_resumed(sostenuto, server, option):
    shown = sostenuto(*GENERATE, option, "--resume")
    assert (shown.exit_code, server.requests) == (2, [])
    assert "--resume" in shown.stderr


def test_generate_searches_for_the_most_probable_texts(sostenuto, server):
    choices = [
        {"index": i, "text": f"t{i}", "finish_reason": "stop", "logprobs": None, "cumulative_logprob": -1.5 - i}
        for i in range(2)
    ]
    server.script = [answer_json({**COMPLETION, "choices": choices})] * 2
    for given, fields in (
        ("--top-texts 2", {"top_texts": 2}),
        ("--beam-search --length-penalty 0.5 -n 4", {"use_beam_search": True, "length_penalty": 0.5, "n": 4}),
    ):
        shown = sostenuto("generate", "a", *given.split(), "--model", "tiny")
        assert shown.stdout == "==> 1 of 2 <==\nt0\n==> 2 of 2 <==\nt1\n"
        assert server.bodies[-1] == {"model": "tiny", "prompt": "a", **fields}


def test_a_closed_output_pipe_ends_the_command_and_its_stream(process, server):
    def go_on(handler):
        with contextlib.suppress(OSError):
            while True:
                handler.write_chunk(as_event(chunk("more")))
        server.left.set()

    server.script = [stream([chunk("first")], then=go_on)]
    running = process(*GENERATE)
    assert running.stdout.read(5) == b"first"
    running.stdout.close()
    assert running.wait(PATIENCE_S) == 141
    assert running.stderr.read() == b""
    assert server.left.wait(PATIENCE_S)


def test_control_characters_are_not_escaped_in_a_pipe(sostenuto, server):
    server.script = [stream([chunk("\x1b[31m\r\n\x9b"), DONE])]
    assert sostenuto(*GENERATE).stdout_bytes == "\x1b[31m\r\n\x9b".encode()


def test_a_second_ctrl_c_interrupts_at_once(client, server):
    """The reader of the output may block it for ever; the first one has closed the stream."""
    server.script = [stream([chunk("a")], then=linger)]
    blocked, ended = threading.Event(), []

    def press_twice():
        os.kill(os.getpid(), signal.SIGINT)
        assert server.left.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pieces = client.stream("Once", model="tiny")
        threading.Timer(0.1, press_twice).start()
        with pytest.raises(KeyboardInterrupt):
            read_until_ctrl_c(pieces, lambda _: ended.append(blocked.wait(PATIENCE_S)), pieces.close)
        assert ended == []
    finally:
        signal.signal(signal.SIGINT, previous)
        blocked.set()
