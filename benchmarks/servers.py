"""Child processes: model servers and gateways under test, their use of CPU and memory; and measurements of baselines.

A baseline has a process of its own: it shares no interpreter and no TensorFlow with others. Each request for a
measurement is a line of JSON, its arguments; each response is one, tokens per second or an object.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fixture_model import EMBEDDING, NAME, UNITS
from contract.signatures import MODELS_CONFIG

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def child(
    *arguments: str, checkout: Path | None = None, python: Path | None = None, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a Python module, of this checkout or another one, in a child process that ends with the block."""
    with program(str(python or sys.executable), "-m", *arguments, checkout=checkout, **variables) as process:
        yield process


@contextlib.contextmanager
def program(*command: str, checkout: Path | None = None, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a child process that ends with the block."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment, cwd=checkout,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class ModelServer:
    """A model server that is ready."""

    process: subprocess.Popen[str]
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Gateway:
    """A gateway that is ready."""

    process: subprocess.Popen[str]
    port: int
    start_s: float  # from the start of the program to the first response of /healthz

    @property
    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(worker) for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def resident_mb(self) -> float:
        """Return the resident memory of its largest worker."""
        return max(map(resident_mb, self.workers))


@dataclass(frozen=True)
class Servers:
    """Starts servers for one model repository."""

    models_dir: Path
    stack: contextlib.ExitStack  # ends them when it is closed

    def start(self, *, portable: bool = False, **settings: Any) -> tuple[ModelServer, Gateway]:
        """Start a model server and a gateway; `settings` are environment variables of the gateway."""
        backend = self.start_model_server(f"--portable={portable}")
        return backend, self.start_gateway([backend], **settings)

    def start_model_server(self, *flags: str) -> ModelServer:
        port = free_port()
        command = ["model_server", f"--port={port}", f"--model_config_file={self.models_dir / MODELS_CONFIG}", *flags]
        process = self.stack.enter_context(child(*command))
        wait_for(port, "", process)
        return ModelServer(process, port)

    def start_tensorflow_serving(self, executable: str) -> ModelServer:
        """Start TensorFlow Serving on the fixture model, with two threads for the operations of all calls."""
        port = free_port()
        flags = [f"--port={port}", f"--model_name={NAME}", f"--model_base_path={self.models_dir / NAME}"]
        # An executable that is a script finds this interpreter.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        threads = ("--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=2")
        command = [executable, *flags, *threads, "--enable_model_warmup=false"]
        process = self.stack.enter_context(program(*command, PATH=path))
        wait_for(port, "", process)
        return ModelServer(process, port)

    def start_gateway(
        self, backends: Sequence[ModelServer], *, checkout: Path | None = None, **settings: str
    ) -> Gateway:
        """Start a gateway, of this checkout or another one; without `backends` it starts a model server itself.

        The prefix cache is off unless `settings` enable it: a load repeats one prompt, and the baselines prefill it
        too.
        """
        port = free_port()
        variables: dict[str, Any] = {
            "SOSTENUTO_PORT": str(port),
            "SOSTENUTO_METRICS_PORT": "0",
            **({"SOSTENUTO_BACKENDS": ",".join(backend.address for backend in backends)} if backends else {}),
            "SOSTENUTO_MODELS_DIR": str(self.models_dir),
            "SOSTENUTO_PREFIX_CACHE_BYTES": "0",
            **settings,
        }
        started = time.perf_counter()
        flags = [] if backends else ["--no-trainer"]
        process = self.stack.enter_context(child("service", "serve", *flags, checkout=checkout, **variables))
        wait_for(port, "/healthz", process)
        gateway = Gateway(process, port, time.perf_counter() - started)
        wait_for(port, "/readyz", process)
        return gateway


@contextlib.contextmanager
def fixture_servers(
    units: int = UNITS, num_layers: int = 1, embedding: int = EMBEDDING, checkout: Path | None = None
) -> Iterator[Servers]:
    """Publish the fixture model to a temporary repository; its servers end with the block."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        publish_fixture_model(Path(directory), units, num_layers, embedding, checkout)
        yield Servers(Path(directory), stack)


def publish_fixture_model(
    directory: Path, units: int, num_layers: int, embedding: int = EMBEDDING, checkout: Path | None = None
) -> None:
    """Publish the fixture model to a repository, by this checkout or another one."""
    arguments = map(str, (directory, units, num_layers, embedding))
    with child("benchmarks.fixture_model", *arguments, checkout=checkout) as publisher:
        publisher.communicate()
    if publisher.returncode:
        raise SystemExit("error: the fixture model cannot be published")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started, and of theirs."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [*children, *(descendant for child in children for descendant in descendants(child))]


def wait_for(port: int, path: str, process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Wait until an endpoint returns 200, or the port is open if the path is empty."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.connect()
            if not path:
                return
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.01)
    raise SystemExit(f"error: port {port} does not respond")


def start_measurement(
    stack: contextlib.ExitStack, *arguments: str, checkout: Path | None = None, python: Path | None = None
) -> Callable[..., Any]:
    """Start a module that runs `serve_measurements`; return a function that requests a measurement."""
    process = stack.enter_context(child(*arguments, checkout=checkout, python=python))

    def request(**arguments: Any) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # reported below
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
        result = process.stdout.readline()
        if not result:
            raise SystemExit(f"error: the baseline {process.args!r} exited with code {process.wait()}")
        return json.loads(result)

    return request


def serve_measurements(measure: Callable[..., Any]) -> None:
    """Measure once per line of standard input, until it ends."""
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


def repeat_for(seconds: float, step: Callable[[], int]) -> float:
    """Run a step repeatedly for a time, after one warm-up step; return tokens per second."""
    step()
    started, tokens = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        tokens += step()
    return tokens / (time.perf_counter() - started)
