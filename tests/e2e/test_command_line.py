"""The program `sostenuto` against the real gateway: in pipes, and in a terminal."""

import signal
import subprocess
import sys

import pytest

from tests.terminals import environment, interruptible
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


def test_piped_output_is_byte_identical_to_the_apis_text(sostenuto, gateway):
    text = gateway.text(model="lstm", prompt=PROMPT, temperature=0.9, seed=3, max_tokens=300)
    assert len(text.encode()) > len(text)
    wanted = (0, text.encode(), "")
    assert sostenuto("generate", PROMPT, *SAMPLED, "--max-tokens", "300") == wanted
    assert sostenuto("generate", *SAMPLED, "--max-tokens", "300", given=PROMPT.encode()) == wanted
    assert sostenuto("generate", "-", *SAMPLED, "--max-tokens", "300", "--no-stream", given=PROMPT.encode()) == wanted


def test_ctrl_c_saves_the_state_of_the_text_so_far_and_frees_the_slot(address, sostenuto, gateway, tmp_path):
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
    until(lambda: gateway.accepted == 0)
    half = begun + rest
    code, more, _ = sostenuto("generate", "--state", str(path), *sampled, "--max-tokens", "50")
    _, whole, _ = sostenuto(*first, "--max-tokens", str(len(half.decode()) + 50))
    assert (code, half + more) == (0, whole)


@pytest.mark.parametrize("command", ["generate It --max-tokens 5", "models"])
def test_a_full_disk_is_a_one_line_error(address, command):
    shell = f"{sys.executable} -m sostenuto {command} > /dev/full"
    ended = subprocess.run(
        shell, shell=True, stderr=subprocess.PIPE, env=environment(**address), timeout=PATIENCE_S, check=False
    )
    assert (ended.returncode, ended.stderr.decode()) == (2, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize(("closed", "code"), [("<&-", 2), (">&-", 0), ("2>&-", 0)])
def test_closed_standard_streams_cause_no_traceback(address, closed, code):
    prompt = "" if closed == "<&-" else "It"
    shell = f"{sys.executable} -m sostenuto generate {prompt} --model lstm --max-tokens 5 {closed}"
    ended = subprocess.run(
        shell, shell=True, capture_output=True, env=environment(**address), timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr


def test_a_prompt_over_the_servers_limit_is_a_one_line_error(sostenuto):
    code, output, error = sostenuto("generate", "--model", "lstm", given=b"It was " * 4_000_000)
    assert (code, output) == (1, b"")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
