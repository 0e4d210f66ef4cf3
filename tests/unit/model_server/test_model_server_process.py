"""`python -m model_server` as a supervisor sees it: output, signals and exit status."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.paths import ROOT
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client
from tests.unit.model_server.tiny_model import Gate

Until = Callable[[Callable[[], object]], None]
Connect = Callable[[str], Client]
Gates = Callable[[str], Gate]
TIMEOUT_S = 240.0


class Process:
    """A model server in a process of its own."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.popen = subprocess.Popen([sys.executable, "-m", "model_server", *arguments], stderr=stderr)

    @property
    def log(self) -> str:
        """Everything that it has written to stderr."""
        return self._log.read_text()

    @property
    def errors(self) -> list[str]:
        """Its log messages of level ERROR."""
        return re.findall(r"^\S+ \S+ ERROR (.*)$", self.log, re.MULTILINE)

    def address(self, until: Until) -> str:
        """Wait until it serves and return its address."""
        until(lambda: "serving at " in self.log or self.popen.poll() is not None)
        return re.search(r"serving at (\S+)", self.log).group(1)

    def wait(self) -> int:
        """Wait until it ends and return its exit status."""
        return self.popen.wait(TIMEOUT_S)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start model servers; none outlives the test."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(tmp_path / f"log-{len(started)}", *arguments))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.wait(TIMEOUT_S)


def test_sigterm_lets_the_running_call_finish_and_exits_with_status_0(
    models: Models, run: Callable[..., Process], connect: Connect, gates: Gates, until: Until
):
    """The log names the loaded version and the address, and says that this is a stand-in."""
    models.publish(3)
    server = run(f"--model_config_file={models.configure()}", "--port=0")
    client = connect(server.address(until))
    assert client.weight() == 2.0
    assert re.search(r"loaded tiny version 3 in \d+\.\d s", server.log)
    assert "stand-in for TensorFlow Serving" in server.log
    gate = gates("a")
    call = client.begin(signature="gate", inputs=gate.inputs)
    until(lambda: gate.is_reached)
    server.popen.send_signal(signal.SIGTERM)
    until(lambda: "stopping after SIGTERM" in server.log)
    gate.open()
    assert call.result(20.0).outputs["weight"].float_val[0] == 2.0
    assert server.wait() == 0


def test_the_process_exits_although_a_call_outlasts_the_grace_period(
    models: Models, run: Callable[..., Process], connect: Connect, gates: Gates, until: Until
):
    """A supervisor need not kill it."""
    models.publish(1)
    server = run(f"--model_base_path={models.root / 'tiny'}", "--model_name=tiny", "--port=0")
    gate = gates("a")
    call = connect(server.address(until)).begin(signature="gate", inputs=gate.inputs)
    until(lambda: gate.is_reached)
    server.popen.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert call.exception(20.0).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_sigint_while_a_model_loads_exits_with_status_0(
    models: Models, run: Callable[..., Process], connect: Connect, gates: Gates, until: Until
):
    """Even if the load never ends."""
    gate = gates("a")
    models.publish(1, warmup=[connect("").request("", gate.inputs, signature="gate")])
    server = run(f"--model_config_file={models.configure()}", "--port=0")
    until(lambda: gate.is_reached)
    server.popen.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert "serving at" not in server.log


def test_a_port_in_use_logs_one_line_and_exits_with_status_1(models: Models, run: Callable[..., Process]):
    """The line names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = run(f"--model_config_file={models.configure('')}", f"--port={port}")
        assert server.wait() == 1
    assert server.errors == [f"cannot listen on 127.0.0.1:{port}: Address already in use"]
    assert "Traceback" not in server.log


def test_an_invalid_config_logs_one_line_and_exits_with_status_1(models: Models, run: Callable[..., Process]):
    """The line names the file and the position in it."""
    file = models.configure("oops")
    server = run(f"--model_config_file={file}", "--port=0")
    assert server.wait() == 1
    assert len(server.errors) == 1
    assert server.errors[0].startswith(f"{file}: invalid models.config (1:21")
    assert "Traceback" not in server.log


def test_an_unknown_flag_prints_one_line_and_exits_with_status_2(run: Callable[..., Process]):
    """TensorFlow Serving would start without it; here a misspelled flag is noticed."""
    server = run("--model_base_path=/models/tiny", "--model_nam=tiny")
    assert server.wait() == 2
    assert server.log == "model_server: unrecognized arguments: --model_nam=tiny (see --help)\n"


def test_invalid_batching_parameters_log_one_line_and_exit_with_status_2(
    models: Models, run: Callable[..., Process], tmp_path: Path
):
    """The status is that of an invalid flag."""
    parameters = tmp_path / "batching.config"
    parameters.write_text("max_batch_size { value: 0 }")
    batching = ["--enable_batching", f"--batching_parameters_file={parameters}"]
    server = run(f"--model_config_file={models.configure()}", "--port=0", *batching)
    assert server.wait() == 2
    assert server.errors == [f"{parameters}: invalid batching parameters (max_batch_size must be at least 1, got 0)"]
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_an_invalid_ssl_config_logs_one_line_and_exits_with_status_2(
    models: Models, run: Callable[..., Process], tmp_path: Path
):
    """The line names the file and the field."""
    path = tmp_path / "ssl.config"
    path.write_text('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"')
    server = run(f"--model_config_file={models.configure()}", "--port=0", f"--ssl_config_file={path}")
    assert server.wait() == 2
    assert server.errors == [
        f"{path}: invalid SSL config (server_key must be the contents of a PEM file, not its path)"
    ]
    assert "Traceback" not in server.log


def test_tensorflow_is_imported_without_keras():
    """No SavedModel needs Keras, which takes 180 MB; a later import of it still works."""
    code = """
import sys
from model_server.__main__ import _without_keras

with _without_keras():
    import tensorflow
assert not [name for name in sys.modules if name.partition(".")[0] == "keras"]
import keras
import keras.src.optimizers
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=TIMEOUT_S)
