"""The program `sostenuto` against the real gateway: in pipes, in a terminal, and installed from its wheel."""

import json
import math
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import MODEL_NAMES
from tests.paths import ROOT
from tests.terminals import CTRL_C, CTRL_D, Terminal, environment, interruptible
from tests.waiting import until

PROMPT = "It was the best of"
SAMPLED = ("--model", "lstm", "--temperature", "0.9", "--seed", "3")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def address(gateway):
    """The environment variable with the gateway's URL."""
    return {"SOSTENUTO_BASE_URL": f"http://127.0.0.1:{gateway.port}"}


@pytest.fixture
def sostenuto(address):
    """Run the program in pipes; return its exit code, its output as bytes and its errors as text."""

    def run(*arguments, given=b"", program=(sys.executable, "-m", "sostenuto"), **variables):
        ended = subprocess.run(
            [*program, *arguments],
            input=given,
            capture_output=True,
            env=environment(**{**address, **variables}),
            timeout=PATIENCE_S,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr.decode()

    return run


@pytest.fixture
def terminal(address):
    """A factory that starts the program in a terminal."""
    started = []

    def start(*arguments, **how):
        started.append(Terminal(*arguments, **{**address, **how}))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def accepted(gateway):
    """Return the number of sequences that the gateway has accepted and not finished."""
    return gateway.get("/v1/status")[1]["sequences"]["accepted"]


def wait_until_idle(gateway):
    """Wait until the gateway has no sequences."""
    until(lambda: accepted(gateway) == 0)


def test_a_completion_matches_its_pattern(sostenuto):
    """A regular expression, one of several texts, or a JSON Schema; the server's error for another one names it."""
    for given, pattern in (
        (("--regex", "[a-z]{5} [a-z]{3}", "--banned", "e"), "[a-df-z]{5} [a-df-z]{3}"),
        (("--choice", "best", "--choice", "worst"), "best|worst"),
        (("--json-schema", '{"enum": [159, 185]}'), "159|185"),
    ):
        code, text, _ = sostenuto("generate", PROMPT, *SAMPLED, *given)
        assert (code, bool(re.fullmatch(pattern, text.decode()))) == (0, True), text
    code, _, error = sostenuto("generate", PROMPT, *SAMPLED, "--regex", "(")
    assert (code, "structured_outputs.regex is not a valid regular expression" in error) == (1, True)


def test_piped_output_is_byte_identical_to_the_apis_text(sostenuto, gateway):
    """Including non-ASCII characters; the prompt may be an argument, stdin or `-`."""
    text = gateway.text(model="lstm", prompt=PROMPT, temperature=0.9, seed=3, max_tokens=300)
    assert len(text.encode()) > len(text)
    wanted = (0, text.encode(), "")
    assert sostenuto("generate", PROMPT, *SAMPLED, "--max-tokens", "300") == wanted
    assert sostenuto("generate", *SAMPLED, "--max-tokens", "300", given=PROMPT.encode()) == wanted
    assert sostenuto("generate", "-", *SAMPLED, "--max-tokens", "300", "--no-stream", given=PROMPT.encode()) == wanted


# test_resume_tokens.py resumes every model.
@pytest.mark.parametrize(
    "model", ["lstm", "window", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "rnn", "words"))]
)
def test_resuming_from_a_state_file_is_byte_identical_to_one_run(sostenuto, tmp_path, model):
    """50 tokens and 50 more equal 100 tokens at once."""
    sampled, path = ("--temperature", "1.1", "--ignore-eos"), str(tmp_path / "state")
    first = ("generate", PROMPT, "--model", model, "--seed", "5", *sampled)
    _, whole, _ = sostenuto(*first, "--max-tokens", "100")
    _, half, _ = sostenuto(*first, "--max-tokens", "50", "--save-state", path)
    code, rest, error = sostenuto("generate", "--state", path, *sampled, "--max-tokens", "50")
    assert (code, error) == (0, "")
    assert half + rest == whole
    assert len(half) < len(whole)


def test_a_closed_pipe_ends_the_program_quietly_and_frees_the_slot(address, gateway):
    """With `| head` the exit code is 141, nothing is on stderr, and the gateway cancels the sequence."""
    command = f"{sys.executable} -m sostenuto generate It --model lstm --max-tokens 90000 | head -c 100"
    pipe = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment(**address),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (len(pipe.stdout), pipe.returncode, pipe.stderr) == (100, 141, b"")
    wait_until_idle(gateway)


def test_sigint_exits_with_130_and_frees_the_slot(address, gateway):
    """The shell sends SIGINT for Ctrl-C; there is no traceback."""
    command = [sys.executable, "-m", "sostenuto", "generate", "It", "--model", "lstm", "--max-tokens", "90000"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with interruptible():
        running = subprocess.Popen(command, env=environment(**address), **pipes)
    running.stdout.read(10)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error.strip()) == (130, b"")
    wait_until_idle(gateway)


def test_ctrl_c_saves_the_state_of_the_text_so_far(address, sostenuto, tmp_path):
    """Resumed from it, the text goes on as the uninterrupted one does."""
    path, sampled = tmp_path / "state", ("--temperature", "1.1", "--ignore-eos")
    first = ("generate", PROMPT, "--model", "lstm", "--seed", "5", *sampled)
    command = [sys.executable, "-m", "sostenuto", *first, "--max-tokens", "90000", "--save-state", str(path)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with interruptible():
        running = subprocess.Popen(command, env=environment(**address), bufsize=0, **pipes)
    begun = running.stdout.read(10)
    running.send_signal(signal.SIGINT)
    rest, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error.strip()) == (130, b"")
    half = begun + rest
    code, more, _ = sostenuto("generate", "--state", str(path), *sampled, "--max-tokens", "50")
    _, whole, _ = sostenuto(*first, "--max-tokens", str(len(half.decode()) + 50))
    assert (code, half + more) == (0, whole)


def test_https_to_the_plain_port_is_a_one_line_error(sostenuto, gateway):
    """It asks whether the scheme is http://."""
    code, _, error = sostenuto("models", "--base-url", f"https://127.0.0.1:{gateway.port}")
    assert (code, error.count("\n")) == (3, 1)
    assert "does not speak TLS: is it http://?" in error


def test_json_output_of_every_command_parses(sostenuto):
    """It is also consistent: chunks join to the text, token ids decode to it, inspected logprobs sum to its score."""
    code, answer, _ = sostenuto("generate", PROMPT, *SAMPLED, "--max-tokens", "9", "--json", "--logprobs", "2")
    assert (code, len(json.loads(answer)["choices"][0]["logprobs"]["tokens"])) == (0, 9)
    _, lines, _ = sostenuto("generate", PROMPT, *SAMPLED, "--max-tokens", "9", "--json", "--stream")
    *pieces, whole = [json.loads(line) for line in lines.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert whole["seed"] == 3
    models = [json.loads(line)["id"] for line in sostenuto("models", "--json")[1].splitlines()]
    assert models == MODEL_NAMES
    tokens = json.loads(sostenuto("tokens", "It was", "--model", "lstm", "--json")[1])
    assert sostenuto("tokens", "--decode", *map(str, tokens["ids"]), "--model", "lstm")[1] == b"It was"
    inspected = json.loads(sostenuto("inspect", "It was", "--model", "lstm", "--json")[1])
    scored = json.loads(sostenuto("score", "It was", "--model", "lstm", "--json")[1])
    assert math.isclose(sum(token["logprob"] or 0 for token in inspected["tokens"]), scored["logprob"], abs_tol=1e-6)


def test_token_ids_round_trip_through_a_pipe(sostenuto):
    """With tabs, line breaks and unknown characters; the subword tokenizer returns every character."""
    text = "It was\tthe \n“Größe” 大き!\n"
    for model in ("lstm", "window"):
        _, lines, _ = sostenuto("tokens", "--model", model, given=text.encode())
        ids = b"\n".join(line.split(b"\t")[0] for line in lines.splitlines())
        decoded = sostenuto("tokens", "--decode", "--model", model, given=ids)[1].decode()
        assert decoded == text if model == "window" else decoded.startswith("It was")


def test_score_works_for_forward_and_backward_models(sostenuto):
    """A backward model gets the text as `suffix`."""
    for model in ("lstm", "reverse"):
        code, answer, error = sostenuto("score", "It was the best", "--model", model, "--json")
        assert code == 0, error
        assert json.loads(answer)["tokens"] == 15


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "nope"), 1, "`sostenuto models` lists"),
        (("--model", "lstm", "--temperature", "9"), 1, "temperature must be"),
        (("--model", "lstm", "--max-tokens", "999999999"), 1, "max_tokens must be at most"),
        (("--model", "lstm", "--state", "ost1.a.b"), 1, "state must be a complete resume token"),
        (("--model", "lstm", "--temperature", "warm"), 2, "not a valid float"),
        (("--model", "lstm", "--base-url", "http://127.0.0.1:1", "--retries", "0"), 3, "Connection refused"),
    ],
    ids=["model", "field", "bound", "state", "usage", "server"],
)
def test_an_error_is_one_line_on_stderr_and_an_exit_code(sostenuto, arguments, code, words):
    """The code is 1 for a rejected request, 2 for wrong usage, 3 for an unreachable server."""
    ended, output, error = sostenuto("generate", PROMPT, *arguments)
    assert (ended, output) == (code, b"")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.parametrize("command", ["generate It", "models", "score It", "generate It --json"])
def test_a_full_disk_is_a_one_line_error(address, command):
    """There is no traceback, and the exit code is 2."""
    shell = (
        f"{sys.executable} -m sostenuto {command} --max-tokens 5 > /dev/full"
        if "generate" in command
        else (f"{sys.executable} -m sostenuto {command} > /dev/full")
    )
    ended = subprocess.run(
        shell, shell=True, stderr=subprocess.PIPE, env=environment(**address), timeout=PATIENCE_S, check=False
    )
    assert (ended.returncode, ended.stderr.decode()) == (2, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize(("closed", "code"), [("<&-", 2), (">&-", 0), ("2>&-", 0)])
def test_closed_standard_streams_cause_no_traceback(address, closed, code):
    """As under a daemon: closed stdin is wrong usage if no prompt is given; output to a closed stream is dropped."""
    prompt = "" if closed == "<&-" else "It"
    shell = f"{sys.executable} -m sostenuto generate {prompt} --model lstm --max-tokens 5 {closed}"
    ended = subprocess.run(
        shell,
        shell=True,
        capture_output=True,
        env=environment(**address),
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr


def test_a_prompt_over_the_servers_limit_is_a_one_line_error(sostenuto):
    """A prompt of 28 MB does not hang the program."""
    code, output, error = sostenuto("generate", "--model", "lstm", given=b"It was " * 4_000_000)
    assert (code, output) == (1, b"")
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_api_key_comes_from_a_file_or_the_environment(sostenuto, start_gateway, tmp_path):
    """Without a key, the error names both ways to set one."""
    made = subprocess.run(
        [sys.executable, "-m", "service", "keys", "add", "--file", tmp_path / "keys.json", "--tenant", "alice"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "key").write_bytes(made)
    port = start_gateway(keys_file=tmp_path / "keys.json").port
    where = {"SOSTENUTO_BASE_URL": f"http://127.0.0.1:{port}"}
    assert sostenuto("models", "--api-key-file", str(tmp_path / "key"), **where)[0] == 0
    assert sostenuto("models", **where, SOSTENUTO_API_KEY=made.decode())[0] == 0
    code, _, error = sostenuto("models", **where)
    assert code == 1
    assert "set SOSTENUTO_API_KEY, or pass --api-key-file" in error


def test_a_write_session_can_be_interrupted_saved_and_resumed(terminal, gateway, tmp_path):
    """Ctrl-C stops the completion and keeps its text, Ctrl-D exits, and the file has the text that was shown."""
    path = tmp_path / "story.json"
    arguments = ("write", "--file", str(path), "--model", "lstm", "--seed", "3", "--temperature", "0.9")
    begun = gateway.text(model="lstm", prompt=PROMPT, seed=3, temperature=0.9, max_tokens=5)
    session = terminal(*arguments, "--max-tokens", "90000")
    session.wait_for(b"> ")
    session.type(PROMPT.encode() + b"\n")
    session.wait_for(PROMPT.encode() + b"\r\n")
    session.wait_for(begun.replace("\n", "\r\n").encode())
    session.type(CTRL_C)
    session.wait_for(b"stopped")
    session.wait_for(b"> ")
    wait_until_idle(gateway)
    session.type(CTRL_D)
    assert session.end()[0] == 0
    (turn,) = json.loads(path.read_text())["turns"]
    wanted = gateway.text(model="lstm", prompt=PROMPT, seed=3, temperature=0.9, max_tokens=len(turn["text"]))
    assert turn["text"]
    assert wanted.startswith(turn["text"])
    again = terminal(*arguments, "--max-tokens", "5")
    again.wait_for(b"> ")
    again.type(b"\n")
    again.wait_for(b"\r\n> ")
    again.type(CTRL_D)
    assert again.end()[0] == 0
    assert [len(turn["text"]) for turn in json.loads(path.read_text())["turns"]][1] == 5


def test_turns_of_a_write_session_are_one_completion(sostenuto, gateway):
    """Piped lines: four turns of ten tokens equal one request of 40; /branch, /undo and /redo print no text."""
    whole = gateway.text(model="lstm", prompt=PROMPT, seed=3, temperature=0.9, max_tokens=40)
    given = f"{PROMPT}\n\n\n/branch\n\n/undo\n/redo\n".encode()
    code, text, error = sostenuto("write", *SAMPLED, "--max-tokens", "10", given=given)
    assert (code, error) == (0, "")
    assert text.decode() == whole


def test_a_write_session_continues_when_its_state_is_rejected(sostenuto, tmp_path, address, start_gateway):
    """A gateway with another state key cannot resume: the text is prefilled again, and one line says so."""
    path = str(tmp_path / "story.json")
    sostenuto("write", PROMPT, "--file", path, *SAMPLED, "--max-tokens", "10", given=b"\n")
    other = start_gateway()
    assert address["SOSTENUTO_BASE_URL"] != f"http://127.0.0.1:{other.port}"
    code, text, error = sostenuto(
        "write", "--file", path, given=b"\n", SOSTENUTO_BASE_URL=f"http://127.0.0.1:{other.port}"
    )
    assert code == 0, error
    assert text
    assert error.startswith("the whole text is processed again: ")
    assert error.count("\n") == 1
    assert len(json.loads(Path(path).read_text())["turns"]) == 2


def test_terminal_output_has_colours_and_adapts_to_a_narrow_width(terminal):
    """A table becomes lines where its columns do not fit."""
    code, shown = terminal("inspect", "It was the worst of times", "--model", "lstm").end()
    assert (code, "\x1b[30;48;5;" in shown) == (0, True)
    code, shown = terminal("models", columns=20).end()
    assert (code, "id: lstm" in shown) == (0, True)


def test_the_wheel_installs_the_program(sostenuto, tmp_path):
    """Built as it is published and installed into a new environment, it runs as `sostenuto`."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=ROOT / "client", check=True, capture_output=True)
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--find-links", str(wheels), "sostenuto"], check=True, capture_output=True)
    program = tmp_path / "venv" / "bin" / "sostenuto"
    # click, rich and requests come from the tests' own environment, as there may be no network.
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (site / "theirs.pth").write_text("\n".join(theirs))
    code, lines, error = sostenuto("models", program=(str(program),), PYTHONPATH="")
    assert (code, error) == (0, "")
    assert [line.split()[0].decode() for line in lines.splitlines()[1:]] == MODEL_NAMES
