"""`python -m model_server` as a supervisor sees it: output, signals and exit status."""

import re
import signal
import socket
import subprocess
import sys

import grpc
import pytest

from tests.paths import ROOT
from tests.servers import Process
from tests.waiting import until

TIMEOUT_S = 240.0


@pytest.fixture
def run(tmp_path, models):
    """Start model servers on a free port; none outlives the test."""
    started = []

    def start(*arguments):
        usual = [f"--model_config_file={models.config_file}", "--port=0"]
        command = [sys.executable, "-m", "model_server", *usual, *arguments]
        started.append(Process(command, tmp_path / f"log-{len(started)}"))
        return started[-1]

    yield start
    for server in started:
        server.end(signal.SIGKILL)


@pytest.fixture
def calling(models, run, connect, gates):
    """A server that computes a call until a gate opens, the gate, and the call."""
    models.publish(3)
    server, gate = run(), gates("a")
    server.wait_until(lambda: "serving at " in server.output, timeout=TIMEOUT_S)
    address = re.search(r"serving at (\S+)", server.output).group(1)
    call = connect(address).begin("tiny", "gate", gate.inputs)
    until(lambda: gate.is_reached)
    return server, gate, call


def test_sigterm_lets_the_running_call_finish_and_exits_with_status_0(calling):
    """The log names the loaded version, and says that this is a stand-in."""
    server, gate, call = calling
    assert re.search(r"loaded tiny version 3 in \d+\.\d s", server.output)
    assert "stand-in for TensorFlow Serving" in server.output
    server.send(signal.SIGTERM)
    until(lambda: "stopping after SIGTERM" in server.output)
    gate.open()
    assert call.result(20.0).outputs["weight"].float_val[0] == 2.0
    assert server.process.wait(TIMEOUT_S) == 0


def test_the_process_exits_although_a_call_outlasts_the_grace_period(calling):
    """A supervisor need not kill it."""
    server, _, call = calling
    assert server.end(signal.SIGTERM, TIMEOUT_S) == 0
    assert call.exception(20.0).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_sigint_while_a_model_loads_exits_with_status_0(models, run, gates):
    gate = gates("a")
    models.publish_gated(1, gate)
    server = run()
    until(lambda: gate.is_reached)
    assert server.end(signal.SIGINT, TIMEOUT_S) == 0
    assert "serving at" not in server.output


def test_a_port_in_use_logs_one_line_and_exits_with_status_1(run):
    """Before the config is read."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = run(f"--port={port}", "--model_config_file=/no/such/file")
        assert server.process.wait(TIMEOUT_S) == 1
    errors = re.findall(r"^\S+ \S+ ERROR (.*)$", server.output, re.MULTILINE)
    assert errors == [f"cannot listen on 127.0.0.1:{port}: Address already in use"]
    assert "Traceback" not in server.output


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
