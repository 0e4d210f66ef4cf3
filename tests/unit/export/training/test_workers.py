"""Distributed training gives the result of a single process, with the batch split over replicas."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.paths import ROOT

TIMEOUT_S = 200

pytestmark = pytest.mark.slow


def launch(*arguments, **variables):
    command, environment = [sys.executable, "-m", *map(str, arguments)], {**os.environ, **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=environment)


def start(folder, kind, **variables):
    """Start a training run that prints its result."""
    return launch("tests.unit.export.training.train_along", folder, kind, **variables)


def outcome(process):
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, err[-2000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The result of a single process with the whole batch."""
    return outcome(start(tmp_path_factory.mktemp("alone") / "run", "alone"))


def tf_config(count):
    """Return the `TF_CONFIG` of each worker of a cluster on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cluster = {"worker": addresses}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}) for i in range(count)]


def command_line(folder, tf_config):
    """Start one worker by the command line, with more epochs than a test has time for."""
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat and the dog ran to the hill. " * 40, encoding="utf-8")
    settings = [text, "--name", "m", "--units", 8, "--embedding", 4, "--epochs", 100_000]
    folders = ["--models-dir", folder / "models", "--runs-dir", folder / "runs"]
    return launch("export", "train", *settings, *folders, TF_CONFIG=tf_config)


def assert_same_training(got, alone):
    """Compare losses and weights with those of one process, to rounding."""
    np.testing.assert_allclose(got["losses"], alone["losses"], rtol=1e-4)
    np.testing.assert_allclose(got["sums"], alone["sums"], rtol=1e-3)


def test_two_workers_train_one_model(tmp_path, alone):
    processes = [start(tmp_path / "run", "worker", TF_CONFIG=config) for config in tf_config(2)]
    try:
        first, second = map(outcome, processes)
    finally:
        for process in processes:
            process.kill()
    assert (first["replicas"], first["chief"], second["chief"]) == (2, True, False)
    assert first["sha256"] == second["sha256"]
    assert first["losses"] == second["losses"]
    assert_same_training(first, alone)


def test_the_devices_of_one_machine_train_one_model(tmp_path, alone):
    got = outcome(start(tmp_path / "run", "mirrored"))
    assert got["replicas"] == 2
    assert_same_training(got, alone)


@pytest.mark.parametrize("lost", [0, 1])
def test_losing_a_worker_ends_the_other_with_an_error(tmp_path, lost):
    """The chief prints how to resume; a worker ends too, so that all can be started again."""
    processes = [command_line(tmp_path, config) for config in tf_config(2)]
    try:
        for line in processes[0].stdout:
            if line.startswith("epoch 2:"):
                break
        processes[lost].kill()
        out, err = processes[1 - lost].communicate(timeout=TIMEOUT_S)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1 - lost].returncode == 1
    assert err.splitlines()[-1].startswith("error: another process of TF_CONFIG is unreachable")
    assert "Traceback" not in err
    if lost == 1:
        assert f"resume with:  sostenuto resume {tmp_path / 'runs' / 'm'}" in out
