"""Processes for end-to-end tests: started on free ports, awaited, and ended by their own process ids."""

import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.paths import ROOT
from tests.ports import free_port
from tests.programs import program
from tests.terminals import interruptible


def is_running(pid):
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Process:
    """A program under test, with its output in a file."""

    def __init__(self, arguments, log, cwd=ROOT, pass_fds=(), **variables):
        """Start it in a process group of its own."""
        self.log = Path(log)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
        with self.log.open("ab") as output, interruptible():
            self.process = subprocess.Popen(
                arguments,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def output(self):
        return self.log.read_text(errors="replace")

    def wait_until(self, ready, timeout=120):
        """Wait for a condition; if the process ends or the time is over, fail with its output and leave no process."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"not ready after {timeout} s:\n{self.output}")
            time.sleep(0.02)

    def send(self, number):
        self.process.send_signal(number)

    def end(self, number=signal.SIGTERM, timeout=30):
        """Signal it and return its exit code; kill it if it does not end in time."""
        if self.process.poll() is None:
            self.send(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class ModelServer(Process):
    """`python -m model_server` on a repository."""

    def __init__(self, models_dir, log, port=None, flags=(), **variables):
        self.port = port or free_port()
        usual = [f"--port={self.port}", f"--model_config_file={models_dir}/models.config", "--max_num_load_retries=0"]
        usual += ["--model_config_file_poll_wait_seconds=1", "--poll_interval_ms=250"]
        super().__init__([sys.executable, "-m", "model_server", *usual, *flags], log, **variables)
        # Warm-up runs each signature at each batch size before the port opens; beside other tests that takes a while.
        self.wait_until(self._listens, timeout=240)

    def _listens(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


# Names an executable of TensorFlow Serving, such as scripts/build-tensorflow-serving makes.
TENSORFLOW_MODEL_SERVER = "TENSORFLOW_MODEL_SERVER"


def mounted(source, target):
    """Return the arguments before a command that sees `source` at `target`, in a mount namespace of its own."""
    return ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {target} && exec "$@"', str(source)]


@functools.cache
def why_no_mounts():
    """Return why nothing can be mounted here, or None."""
    attempt = subprocess.run([*mounted("/tmp", "/mnt"), "true"], capture_output=True, text=True, check=False)
    return f"nothing can be mounted: {attempt.stderr.strip()}" if attempt.returncode else None


class TensorFlowServing(ModelServer):
    """TensorFlow Serving itself, with a repository mounted at /models as in its image."""

    # Warm-up takes longer than the tests.
    FLAGS = (
        "--file_system_poll_wait_seconds=1",
        "--model_config_file_poll_wait_seconds=1",
        "--max_num_load_retries=0",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=2",
        "--enable_model_warmup=false",
    )

    def __init__(self, models_dir, log, port=None, flags=(), **variables):
        self.port = port or free_port()
        os.makedirs("/models", exist_ok=True)
        command = [*mounted(models_dir, "/models"), os.environ[TENSORFLOW_MODEL_SERVER]]
        usual = [f"--port={self.port}", "--model_config_file=/models/models.config", *self.FLAGS]
        # An executable that is a script finds this interpreter.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        Process.__init__(self, [*command, *usual, *flags], log, PATH=path, **variables)
        self.wait_until(self._listens, timeout=240)

    @staticmethod
    def why_not():
        """Return why it cannot run here, or None."""
        if TENSORFLOW_MODEL_SERVER not in os.environ:
            return f"{TENSORFLOW_MODEL_SERVER} names no executable of TensorFlow Serving: see CONTRIBUTING.md"
        return why_no_mounts()


def server_kinds():
    """Return the parameters of a fixture or test: `ModelServer` and, where it can run, `TensorFlowServing`."""
    why_not = TensorFlowServing.why_not()
    marks = [pytest.mark.slow, pytest.mark.skipif(why_not is not None, reason=why_not or "")]
    return [
        pytest.param(ModelServer, id="model_server"),
        pytest.param(TensorFlowServing, id="tensorflow-serving", marks=marks),
    ]


def joined(events):
    events = [event for event in events if event]
    assert not any("error" in event for event in events), events
    return "".join(choice["text"] for event in events for choice in event["choices"] if choice["index"] == 0)


class Client:
    """An HTTP client of a gateway on this machine, by its port."""

    def __init__(self, port):
        self.port = port

    def connect(self, timeout=240):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, address, body=None, timeout=240, headers=None):
        """Send a request on a new connection; return status, headers and body bytes, status 0 for no response."""
        connection = self.connect(timeout)
        try:
            connection.request(method, address, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()

    def get(self, address):
        status, _, body = self.ask("GET", address)
        return status, json.loads(body) if body else None

    @property
    def accepted(self):
        """The number of sequences that the gateway has accepted and not finished."""
        return self.get("/v1/status")[1]["sequences"]["accepted"]

    def post(self, body, address="/v1/completions", timeout=240):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.ask("POST", address, content, timeout)
        return status, json.loads(answer) if answer else None

    def stream(self, **fields):
        """Yield the events of a stream, `[DONE]` as None."""
        connection = self.connect()
        try:
            connection.request("POST", "/v1/completions", json.dumps({**fields, "stream": True}))
            response = connection.getresponse()
            assert response.status == 200, response.read()
            for line in response:
                if line.startswith(b"data: "):
                    content = line.removeprefix(b"data: ").strip()
                    yield None if content == b"[DONE]" else json.loads(content)
        finally:
            connection.close()

    def streamed_text(self, **fields):
        return joined(self.stream(**fields))

    def text(self, **fields):
        """Return the text of choice 0 of a response that is not streamed."""
        status, answer = self.post(fields)
        assert status == 200, answer
        return answer["choices"][0]["text"]


class Gateway(Process, Client):
    """`python -m service serve` in front of a model server."""

    def __init__(self, models_dir, backend_port, log, ready=True, port=None, prefix=(), **settings):
        self.port = port or free_port()
        variables = {
            "SOSTENUTO_PORT": str(self.port),
            "SOSTENUTO_METRICS_PORT": "0",
            "SOSTENUTO_BACKENDS": f"127.0.0.1:{backend_port}",
            "SOSTENUTO_MODELS_DIR": str(models_dir),
            # At 0.1 s an idle gateway and its server use 8% of a core.
            "SOSTENUTO_POLL_S": "0.25",
            "SOSTENUTO_PRECISION": "gru=bfloat16",
            **{f"SOSTENUTO_{name.upper()}": str(value) for name, value in settings.items()},
        }
        Process.__init__(self, [*prefix, sys.executable, "-m", "service", "serve"], log, **variables)
        address = "/readyz" if ready else "/healthz"
        self.wait_until(lambda: self.get(address)[0] == 200, timeout=120)

    def metrics(self):
        (address,) = re.findall(r"metrics at (\S+/metrics)", self.output)
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}

    def kill(self):
        """Kill it and its worker at once: a graceful shutdown takes a second."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def worker_pid(self):
        """Process id of gunicorn's only worker."""
        return children(self.process.pid)[0]


class Serving(Process, Client):
    """`sostenuto serve`, with its processes; `folder` is for its log and its key of resume tokens."""

    _MODULES: ClassVar = {"gateway": "service", "model server": "model_server", "trainer": "jobs"}

    def __init__(self, models_dir, folder, port=None, **settings):
        self.port = port or free_port()
        variables = {
            "SOSTENUTO_PORT": str(self.port),
            "SOSTENUTO_METRICS_PORT": "0",
            "SOSTENUTO_BACKEND_GRACE_S": "2",
            "SOSTENUTO_MODELS_DIR": str(models_dir),
            "SOSTENUTO_TRAINING_DIR": str(folder / "training"),
            "SOSTENUTO_STATE_KEY_FILE": str(folder / "state-key"),
            **{f"SOSTENUTO_{name.upper()}": str(value) for name, value in settings.items()},
        }
        (folder / "state-key").write_text("x" * 64 + "\n")
        log, started = folder / "serving.log", "ready after"
        before = log.read_text().count(started) if log.exists() else 0
        Process.__init__(self, [sys.executable, "-m", "service", "serve"], log, **variables)
        self.wait_until(lambda: self.output.count(started) > before, timeout=200)
        self.pids = {"serve": self.process.pid}
        self.pids |= {name: pid for name in ("gateway", "model server", "worker") if (pid := self.pid(name))}

    def pid(self, name):
        """Return the id of a process that runs now, or None; the exporter is the trainer's child."""
        if name in ("worker", "exporter"):
            parent = self.pid("gateway" if name == "worker" else "trainer")
            return next(iter(children(parent)), None) if parent is not None and is_running(parent) else None
        module = self._MODULES[name]
        found = [pid for pid in children(self.process.pid) if ["-m", module] == command_line(pid)[2:4]]
        return next(iter(found), None)

    def end_all(self):
        """Kill the processes that a test left running."""
        for pid in self.pids.values():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def command_line(pid):
    """Return the arguments of a process; none if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


class RunningRedis:
    """A Redis of the tests' own on a free port of the loopback interface; it saves nothing to disk."""

    def __init__(self, folder):
        self._folder = folder
        self.port = free_port()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        command = [program("redis-server"), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no"]
        self._process = Process(command, self._folder / "redis.log")
        self._process.wait_until(self._answers, timeout=10)

    def kill(self):
        self._process.end(signal.SIGKILL)

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
