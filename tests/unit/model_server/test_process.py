"""`python -m model_server` as a supervisor sees it: output, signals and exit status."""

import re
import signal
import socket
import subprocess
import sys

import grpc
import pytest

from tests.paths import ROOT
from tests.waiting import until

TIMEOUT_S = 240.0


class Process:
    """A model server in a process of its own."""

    def __init__(self, log, *arguments):
        self._log = log
        with log.open("wb") as stderr:
            self.popen = subprocess.Popen([sys.executable, "-m", "model_server", *arguments], stderr=stderr)

    @property
    def log(self):
        """Everything that it has written to stderr."""
        return self._log.read_text()

    @property
    def errors(self):
        return re.findall(r"^\S+ \S+ ERROR (.*)$", self.log, re.MULTILINE)

    @property
    def address(self):
        until(lambda: "serving at " in self.log or self.popen.poll() is not None)
        return re.search(r"serving at (\S+)", self.log).group(1)

    def wait(self):
        return self.popen.wait(TIMEOUT_S)


@pytest.fixture
def run(tmp_path, models):
    """Start model servers on a free port; none outlives the test."""
    started = []

    def start(*arguments):
        usual = [f"--model_config_file={models.config_file}", "--port=0"]
        started.append(Process(tmp_path / f"log-{len(started)}", *usual, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.wait(TIMEOUT_S)


def test_sigterm_lets_the_running_call_finish_and_exits_with_status_0(models, run, connect, gates):
    """The log names the loaded version, and says that this is a stand-in."""
    models.publish(3)
    server = run()
    gate = gates("a")
    call = connect(server.address).begin("tiny", "gate", gate.inputs)
    assert re.search(r"loaded tiny version 3 in \d+\.\d s", server.log)
    assert "stand-in for TensorFlow Serving" in server.log
    until(lambda: gate.is_reached)
    server.popen.send_signal(signal.SIGTERM)
    until(lambda: "stopping after SIGTERM" in server.log)
    gate.open()
    assert call.result(20.0).outputs["weight"].float_val[0] == 2.0
    assert server.wait() == 0


def test_the_process_exits_although_a_call_outlasts_the_grace_period(models, run, connect, gates):
    """A supervisor need not kill it."""
    models.publish(1)
    server = run()
    gate = gates("a")
    call = connect(server.address).begin("tiny", "gate", gate.inputs)
    until(lambda: gate.is_reached)
    server.popen.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert call.exception(20.0).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_sigint_while_a_model_loads_exits_with_status_0(models, run, gates):
    gate = gates("a")
    models.publish_gated(1, gate)
    server = run()
    until(lambda: gate.is_reached)
    server.popen.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert "serving at" not in server.log


def test_a_port_in_use_logs_one_line_and_exits_with_status_1(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = run(f"--port={port}")
        assert server.wait() == 1
    assert server.errors == [f"cannot listen on 127.0.0.1:{port}: Address already in use"]
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
