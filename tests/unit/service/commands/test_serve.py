"""`sostenuto serve`: its output, and its processes under SIGKILL and SIGTERM; tests/e2e has the real ones."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.card import GeneratorCard
from contract.processes import terminate_with_parent
from service.commands import serve as module
from service.commands.serve import Supervisor
from service.settings import Settings
from tests.paths import ROOT
from tests.ports import free_port, read_all
from tests.servers import Process, children, is_running
from tests.unit.contract.test_card import FIELDS
from tests.unit.service.commands.serve_programs import END_OF_STREAMS, THIS, TICK_S
from tests.waiting import until

LIMIT_S = 60.0
NUM_STREAMS = 4
# A stream calls the model server before each: enough to notice that it has stopped.
NUM_TICKS = 6

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")


class Serving(Process):
    """`serve` with its child processes, as `serve_programs` starts them."""

    def __init__(self, folder):
        self.end_of_streams = folder / END_OF_STREAMS
        self.port = free_port()
        super().__init__([sys.executable, "-m", THIS, "serve", str(self.port), str(folder)], folder / "log")
        self.pids = {"serve": self.process.pid}
        self.streams = contextlib.ExitStack()

    def wait_until_ready(self):
        self.wait_until(lambda: "ready after" in self.output)
        for pid in children(self.process.pid):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            self.pids["gateway" if "gunicorn" in command else "model server"] = pid
        # Without a model the service is ready once gunicorn listens, which it does before it starts a worker.
        (self.pids["worker"],) = until(lambda: children(self.pids["gateway"]))

    def find_model_server(self):
        """Wait until a new one listens; before `exec` it has the command of its parent."""
        (pid,) = until(lambda: {*children(self.process.pid)} - {self.pids["gateway"]})
        command = Path(f"/proc/{pid}/cmdline")
        port = until(lambda: re.search(r"--port=(\d+)", command.read_text()))
        until(lambda: module._listens(int(port[1])))
        self.pids["model server"] = pid

    def stream(self):
        sock = self.streams.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S))
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        while b"tick" not in sock.recv(4096):
            pass
        return sock

    def drain(self, streams):
        until(lambda: f"Draining {len(streams)}" in self.output)
        time.sleep(NUM_TICKS * TICK_S)
        self.end_of_streams.touch()
        return [read_all(stream) for stream in streams]

    @property
    def running(self):
        return [name for name, pid in self.pids.items() if is_running(pid)]

    def end_all(self):
        self.streams.close()
        for pid in self.pids.values():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serving(tmp_path):
    serving = Serving(tmp_path)
    try:
        serving.wait_until_ready()
        yield serving
    finally:
        serving.end_all()


@pytest.mark.parametrize("killed", ["serve", "gateway", "serve+gateway", "gateway+serve"])
def test_the_model_server_lives_until_the_gateway_has_drained(serving, killed):
    streams = [serving.stream() for _ in range(NUM_STREAMS)]
    for name in killed.split("+"):
        os.kill(serving.pids[name], signal.SIGKILL)
    assert all(b"the end" in rest for rest in serving.drain(streams))
    until(lambda: not serving.running)
    assert "the model server stopped" in serving.output


@pytest.mark.parametrize(
    "killed", ["serve+model server", "serve+gateway+worker", "worker+gateway+serve", "gateway+worker"]
)
def test_no_process_is_left_whichever_is_killed(serving, killed):
    streams = [serving.stream() for _ in range(NUM_STREAMS)]
    for name in killed.split("+"):
        os.kill(serving.pids[name], signal.SIGKILL)
    for stream in streams:
        read_all(stream)
    until(lambda: not serving.running)


def test_a_model_server_that_ends_is_started_again(serving):
    os.kill(serving.pids["model server"], signal.SIGKILL)
    until(lambda: "the model server was killed by SIGKILL; restarting it" in serving.output)
    serving.find_model_server()
    with serving.stream():
        serving.process.terminate()
        until(lambda: "Draining 1" in serving.output)
        serving.end_of_streams.touch()
        assert serving.process.wait(LIMIT_S) == 0
    assert serving.running == []
    assert serving.output.count("the model server stopped") == 1


def test_a_file_in_place_of_the_repository_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "models").touch()
    assert Supervisor(Settings(models_dir=tmp_path / "models")).run() == 1
    assert "models is not a directory" in capsys.readouterr().out


def test_a_taken_port_of_metrics_is_noticed_before_anything_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(Supervisor, "_spawn", lambda *_, **__: pytest.fail("started"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(models_dir=tmp_path, port=0, metrics_host="127.0.0.1", metrics_port=port)
        assert Supervisor(settings).run() == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().out


def test_a_model_server_that_ends_between_two_checks_is_restarted(tmp_path):
    supervisor = Supervisor(Settings(models_dir=tmp_path))
    supervisor._children[module.MODEL_SERVER] = SimpleNamespace(poll=lambda: -signal.SIGKILL)
    supervisor._is_loaded = True
    supervisor._check()
    supervisor._is_loaded = False
    with pytest.raises(module.Ended):
        supervisor._check()
    supervisor._gateway_life.close()


def test_an_empty_config_is_damaged_and_not_one_without_models(tmp_path):
    config = tmp_path / "models.config"
    assert module.configured_models(tmp_path) == []
    config.touch()
    assert module.configured_models(tmp_path) is None
    config.write_bytes(module.EMPTY_CONFIG)
    assert module.configured_models(tmp_path) == []


def test_how_a_trainer_ended_is_said(tmp_path, capsys):
    supervisor = Supervisor(Settings(models_dir=tmp_path), trains=True)
    supervisor._trainer = subprocess.Popen(["sleep", "60"])
    supervisor._trainer.kill()
    supervisor._trainer.wait()
    supervisor._keep_trainer()
    assert capsys.readouterr().out == "the trainer was killed by SIGKILL; restarting it in 5 s\n"
    supervisor._gateway_life.close()


def test_sigterm_drains_the_gateway_before_the_model_server_stops(serving):
    streams = [serving.stream() for _ in range(NUM_STREAMS)]
    serving.process.terminate()
    assert all(b"the end" in rest for rest in serving.drain(streams))
    assert serving.process.wait(LIMIT_S) == 0
    assert serving.running == []
    assert "the model server stopped" in serving.output


def test_a_second_sigterm_stops_everything_at_once(serving):
    """The drain, which is longer than this test waits, is cut short, and the exit code is 0 all the same."""
    with serving.stream():
        serving.process.terminate()
        until(lambda: "Draining 1" in serving.output)
        serving.process.terminate()
        assert serving.process.wait(LIMIT_S) == 0
        assert serving.running == []


SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_is_terminated_if_its_parent_is_killed_before_exec():
    """The last holder of the pipe may end between fork and exec."""
    code = f"""
import os, signal, subprocess
from service.commands.serve import LifetimePipe
pipe, parent = LifetimePipe(), os.getpid()
def prepare():
    os.write(1, b"%d\\n" % os.getpid())
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        pass
    pipe.terminate_when_cut()
subprocess.Popen({SLEEP!r}, preexec_fn=prepare, pass_fds=[pipe.read_fd])
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
    assert parent.returncode == -signal.SIGKILL
    until(lambda: not is_running(child))


def test_a_process_whose_parent_has_already_ended_does_not_start():
    """The signal would never be sent."""
    prepare = partial(terminate_with_parent, os.getppid())
    orphan = subprocess.Popen(SLEEP, preexec_fn=prepare)  # noqa: PLW1509 - it starts no thread
    assert orphan.wait(LIMIT_S) == 1


TWO = b"""model_config_list { config { name: "mine" } config { name: "other" }
  # config { name: "old" }
}"""


@pytest.mark.parametrize(
    ("config", "names", "name", "prompt"), [(TWO, "mine, other", "mine", "The "), (b"\xff", "MODEL", "MODEL", "")]
)
def test_once_the_gateway_is_ready_an_example_request_is_shown(
    tmp_path, monkeypatch, capsys, config, names, name, prompt
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.config").write_bytes(config)
    assets = tmp_path / "mine/10/assets.extra"
    assets.mkdir(parents=True)
    (assets / "generator.json").write_text(GeneratorCard(**{**FIELDS, "name": "mine"}).model_dump_json())
    (tmp_path / "mine/9").mkdir()
    answers = [False, True]
    monkeypatch.setattr(module, "is_ready", lambda *_: answers.pop(0))
    monkeypatch.setattr(module, "_require_free", lambda _, port: port or 1)
    monkeypatch.setattr(module, "_listens", lambda _: True)
    monkeypatch.setattr(Supervisor, "_spawn", lambda *_, **__: SimpleNamespace(poll=lambda: None))
    supervisor = Supervisor(Settings(models_dir=tmp_path, keys_file=tmp_path / "keys.json"))
    supervisor._start()
    supervisor._gateway_life.close()
    out = capsys.readouterr().out
    assert f"(models: {names}; Ctrl-C stops)" in out
    assert f'"model": "{name}", "prompt": "{prompt}"' in out
    assert "Authorization: Bearer $KEY" in out
