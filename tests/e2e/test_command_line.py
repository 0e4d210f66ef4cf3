"""`ostinato` as a user has it: the real program, against the real gateway; in pipes, in a terminal, from its wheel."""

import json
import math
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tests.conftest import MODEL_NAMES
from tests.terminals import CTRL_C, CTRL_D, Terminal, environment, interruptible
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "It was the best of"
SAMPLED = ("--model", "lstm", "--temperature", "0.9", "--seed", "3")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def address(gateway):
    """Where the gateway is, as the environment says it."""
    return {"OSTINATO_BASE_URL": f"http://127.0.0.1:{gateway.port}"}


@pytest.fixture
def ostinato(address):
    """Run the program in pipes; return its exit code and its output as bytes, and its errors as a text."""

    def run(*arguments, given=b"", program=(sys.executable, "-m", "ostinato"), **variables):
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
    """Run the program in a terminal."""
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
    """Return how many texts the gateway has in the making."""
    return gateway.get("/v1/status")[1]["sequences"]["accepted"]


def wait_until_idle(gateway):
    """Wait until no text is in the making."""
    until(lambda: accepted(gateway) == 0)


def test_what_is_piped_is_the_text_to_the_byte(ostinato, gateway):
    """The text of the API, whatever characters it has, from a prompt in any place."""
    text = gateway.text(model="lstm", prompt=PROMPT, temperature=0.9, seed=3, max_tokens=300)
    assert len(text.encode()) > len(text)
    wanted = (0, text.encode(), "")
    assert ostinato("generate", PROMPT, *SAMPLED, "--max-tokens", "300") == wanted
    assert ostinato("generate", *SAMPLED, "--max-tokens", "300", given=PROMPT.encode()) == wanted
    assert ostinato("generate", "-", *SAMPLED, "--max-tokens", "300", "--no-stream", given=PROMPT.encode()) == wanted


# Every model's state is gone on from in test_state_tokens.
@pytest.mark.parametrize(
    "model", ["lstm", "window", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "rnn", "words"))]
)
def test_fifty_and_fifty_tokens_are_a_hundred(ostinato, tmp_path, model):
    """By a state in a file, and to the byte."""
    sampled, path = ("--temperature", "1.1", "--ignore-eos"), str(tmp_path / "state")
    first = ("generate", PROMPT, "--model", model, "--seed", "5", *sampled)
    _, whole, _ = ostinato(*first, "--max-tokens", "100")
    _, half, _ = ostinato(*first, "--max-tokens", "50", "--save-state", path)
    code, rest, error = ostinato("generate", "--state", path, *sampled, "--max-tokens", "50")
    assert (code, error) == (0, "")
    assert half + rest == whole
    assert len(half) < len(whole)


def test_head_ends_it_quietly_and_frees_the_row(address, gateway):
    """A reader that has enough leaves; the gateway notices."""
    command = f"{sys.executable} -m ostinato generate It --model lstm --max-tokens 90000 | head -c 100"
    pipe = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment(**address),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (len(pipe.stdout), pipe.returncode, pipe.stderr) == (100, 141, b"")
    wait_until_idle(gateway)


def test_an_interrupt_frees_the_row(address, gateway):
    """SIGINT, as a shell sends it for Ctrl-C, is exit code 130 without a trace."""
    command = [sys.executable, "-m", "ostinato", "generate", "It", "--model", "lstm", "--max-tokens", "90000"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with interruptible():
        running = subprocess.Popen(command, env=environment(**address), **pipes)
    running.stdout.read(10)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error.strip()) == (130, b"")
    wait_until_idle(gateway)


def test_json_parses(ostinato):
    """Of every command that has it."""
    code, answer, _ = ostinato("generate", PROMPT, *SAMPLED, "--max-tokens", "9", "--json", "--logprobs", "2")
    assert (code, len(json.loads(answer)["choices"][0]["logprobs"]["tokens"])) == (0, 9)
    _, lines, _ = ostinato("generate", PROMPT, *SAMPLED, "--max-tokens", "9", "--json", "--stream")
    *pieces, whole = [json.loads(line) for line in lines.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert whole["seed"] == 3
    models = [json.loads(line)["id"] for line in ostinato("models", "--json")[1].splitlines()]
    assert models == MODEL_NAMES
    tokens = json.loads(ostinato("tokens", "It was", "--model", "lstm", "--json")[1])
    assert ostinato("tokens", "--decode", *map(str, tokens["ids"]), "--model", "lstm")[1] == b"It was"
    inspected = json.loads(ostinato("inspect", "It was", "--model", "lstm", "--json")[1])
    scored = json.loads(ostinato("score", "It was", "--model", "lstm", "--json")[1])
    assert math.isclose(sum(token["logprob"] or 0 for token in inspected["tokens"]), scored["logprob"], abs_tol=1e-6)
    given = ("--concurrency", "1,2", "--requests", "2", "--rounds", "1", "--max-tokens", "5", "--json")
    levels = json.loads(ostinato("bench", "--model", "lstm", *given)[1])["levels"]
    assert [level["tokens_per_s"]["median"] > 0 for level in levels] == [True, True]


def test_tokens_go_through_a_pipe_and_back(ostinato):
    """Whatever the text is made of: ids that are cut out of the lines join to it."""
    text = "It was\tthe \n“Größe” 大き!\n"
    for model in ("lstm", "window"):
        _, lines, _ = ostinato("tokens", "--model", model, given=text.encode())
        ids = b"\n".join(line.split(b"\t")[0] for line in lines.splitlines())
        decoded = ostinato("tokens", "--decode", "--model", model, given=ids)[1].decode()
        assert decoded == text if model == "window" else decoded.startswith("It was")


def test_a_text_is_scored_the_way_its_model_reads(ostinato):
    """The one that reads backwards, too."""
    for model in ("lstm", "reverse"):
        code, answer, error = ostinato("score", "It was the best", "--model", model, "--json")
        assert code == 0, error
        assert json.loads(answer)["tokens"] == 15


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "nope"), 1, "`ostinato models` lists"),
        (("--model", "lstm", "--temperature", "9"), 1, "temperature must be"),
        (("--model", "lstm", "--max-tokens", "999999999"), 1, "max_tokens must be at most"),
        (("--model", "lstm", "--state", "ost1.a.b"), 1, "state must be a whole token"),
        (("--model", "lstm", "--temperature", "warm"), 2, "not a valid float"),
        (("--model", "lstm", "--base-url", "http://127.0.0.1:1", "--retries", "0"), 3, "Connection refused"),
    ],
    ids=["model", "field", "bound", "state", "usage", "server"],
)
def test_a_failure_is_one_line_and_an_exit_code(ostinato, arguments, code, words):
    """As the real gateway words it."""
    ended, output, error = ostinato("generate", PROMPT, *arguments)
    assert (ended, output) == (code, b"")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.parametrize("command", ["generate It", "models", "score It", "generate It --json"])
def test_a_full_disk_is_one_line(address, command):
    """What cannot be written is said, and not by a traceback."""
    shell = (
        f"{sys.executable} -m ostinato {command} --max-tokens 5 > /dev/full"
        if "generate" in command
        else (f"{sys.executable} -m ostinato {command} > /dev/full")
    )
    ended = subprocess.run(
        shell, shell=True, stderr=subprocess.PIPE, env=environment(**address), timeout=PATIENCE_S, check=False
    )
    assert (ended.returncode, ended.stderr.decode()) == (2, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize(("closed", "code"), [("<&-", 2), (">&-", 0), ("2>&-", 0)])
def test_a_daemon_has_no_streams(address, closed, code):
    """A prompt that cannot be read is an empty one; what nobody reads is written nowhere."""
    prompt = "" if closed == "<&-" else "It"
    shell = f"{sys.executable} -m ostinato generate {prompt} --model lstm --max-tokens 5 {closed}"
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


def test_a_prompt_over_the_servers_bound_is_refused(ostinato):
    """A file of many megabytes is told to be too much, and nothing hangs."""
    code, output, error = ostinato("generate", "--model", "lstm", given=b"It was " * 4_000_000)
    assert (code, output) == (1, b"")
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_key_is_read_from_a_file_or_the_environment(ostinato, start_gateway, tmp_path):
    """Without one the message says where it goes."""
    made = subprocess.run(
        [sys.executable, "-m", "service", "keys", "add", "--file", tmp_path / "keys.json", "--tenant", "alice"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "key").write_bytes(made)
    port = start_gateway(keys_file=tmp_path / "keys.json").port
    where = {"OSTINATO_BASE_URL": f"http://127.0.0.1:{port}"}
    assert ostinato("models", "--api-key-file", str(tmp_path / "key"), **where)[0] == 0
    assert ostinato("models", **where, OSTINATO_API_KEY=made.decode())[0] == 0
    code, _, error = ostinato("models", **where)
    assert code == 1
    assert "set OSTINATO_API_KEY, or pass --api-key-file" in error


def test_a_session_is_written_stopped_and_taken_up_again(terminal, gateway, tmp_path):
    """Ctrl-C keeps what came, Ctrl-D leaves, and the file has the text that was shown."""
    path = tmp_path / "story.json"
    arguments = ("write", "--file", str(path), "--model", "lstm", "--seed", "3", "--temperature", "0.9")
    session = terminal(*arguments, "--max-tokens", "90000")
    session.wait_for(b"> ")
    session.type(PROMPT.encode() + b"\n")
    session.wait_for(PROMPT.encode() + b"\r\n")
    until(lambda: accepted(gateway))
    time.sleep(0.3)
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


def test_turns_of_a_session_are_one_text(ostinato, gateway):
    """Piped lines: what is written in turns of ten tokens is what one request writes."""
    whole = gateway.text(model="lstm", prompt=PROMPT, seed=3, temperature=0.9, max_tokens=40)
    given = f"{PROMPT}\n\n\n/branch\n\n/undo\n/redo\n".encode()
    code, text, error = ostinato("write", *SAMPLED, "--max-tokens", "10", given=given)
    assert (code, error) == (0, "")
    assert text.decode() == whole


def test_a_session_goes_on_when_its_state_is_refused(ostinato, tmp_path, address, start_gateway):
    """Another gateway has another key: the text is read anew there, and one line says so."""
    path = str(tmp_path / "story.json")
    ostinato("write", PROMPT, "--file", path, *SAMPLED, "--max-tokens", "10", given=b"\n")
    other = start_gateway()
    assert address["OSTINATO_BASE_URL"] != f"http://127.0.0.1:{other.port}"
    code, text, error = ostinato(
        "write", "--file", path, given=b"\n", OSTINATO_BASE_URL=f"http://127.0.0.1:{other.port}"
    )
    assert code == 0, error
    assert text
    assert error.startswith("the text is read anew: ")
    assert error.count("\n") == 1
    assert len(json.loads(Path(path).read_text())["turns"]) == 2


def test_a_terminal_shows_colours_and_a_narrow_one_lines(terminal):
    """Both of the real answers."""
    code, shown = terminal("inspect", "It was the worst of times", "--model", "lstm").end()
    assert (code, "\x1b[30;48;5;" in shown) == (0, True)
    code, shown = terminal("models", columns=20).end()
    assert (code, "id: lstm" in shown) == (0, True)


def test_the_wheel_brings_the_program(ostinato, tmp_path):
    """Built as it is published, and installed into an environment of its own, it answers by its name."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=ROOT / "client", check=True, capture_output=True)
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--find-links", str(wheels), "ostinato-client[cli]"], check=True, capture_output=True)
    program = tmp_path / "venv" / "bin" / "ostinato"
    # click, rich and requests are those of the tests' own environment, as there may be no network.
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (site / "theirs.pth").write_text("\n".join(theirs))
    code, lines, error = ostinato("models", program=(str(program),), PYTHONPATH="")
    assert (code, error) == (0, "")
    assert [line.split()[0].decode() for line in lines.splitlines()[1:]] == MODEL_NAMES
