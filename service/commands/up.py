"""`python -m service up`: the embedded model server and the gateway as one foreground program.

Starts both as child processes, waits until a model is ready, and stops both when one ends or a signal arrives.
"""

import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from contract.files import read_file
from contract.signatures import MODELS_CONFIG
from service.commands.health import get_readiness
from service.generation.resume_tokens import make_key_file
from service.process.lifeline import Lifeline, terminate_with_parent
from service.process.listening import listen
from service.settings import Settings

# Measured from when every version is loaded.
GATEWAY_TIMEOUT_S = 120.0
POLL_S = 0.05
# After the gateway's drain, before a process that does not end is killed.
EXIT_TIMEOUT_S = 10.0
# In the working directory, like models and runs.
STATE_KEY_FILE = Path(".sostenuto-state-key")
# Placeholder for a model whose name is unknown.
UNKNOWN_MODEL = "MODEL"
# Prompts of the example request, as JSON strings; a model of another name starts a new text.
EXAMPLE_PROMPTS = {"demo": r"HAMLET.\n"}

T = TypeVar("T")


@dataclass
class Child:
    """One of the two child processes."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill it with its children: gunicorn's worker would keep draining without its master."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class ChildExited(Exception):
    """A process ended on its own.

    Attributes:
        exit_code: Its exit code, or 128 + the signal that ended it.
    """

    def __init__(self, child: Child) -> None:
        code = child.process.returncode
        self.exit_code = code if code >= 0 else 128 - code
        how = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        super().__init__(f"the {child.name} {how}; stopping")


class Interrupted(Exception):
    """SIGINT or SIGTERM was received."""


class Service:
    """The lifecycle of both processes.

    Whichever process is killed, the gateway drains, and the model server runs until the gateway's last process has
    ended: a pipe held by those signals the model server, and the end of this process signals the gateway.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model_server: Child | None = None
        self._gateway: Child | None = None
        self._gateway_life = Lifeline()
        self._num_signals = 0

    def run(self) -> int:
        """Run until a process ends or a signal arrives. Return the exit code; 0 after a signal."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._count_signal)
        try:
            self._start()
            while True:
                self._check()
                time.sleep(POLL_S)
        except Interrupted:
            _print("stopping: draining accepted requests (signal again to stop at once)")
            return 0
        except ChildExited as error:
            _print(f"error: {error}")
            # A process that ends unasked is a failure, whatever its exit code.
            return error.exit_code or 1
        except (TimeoutError, OSError) as error:
            _print(f"error: {error}")
            return 1
        finally:
            self._stop()

    def _count_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Only counted here and handled in `_check`: an exception could be raised anywhere, also while stopping.
        self._num_signals += 1

    def _check(self) -> None:
        """Raise Interrupted if a signal was received, ChildExited if a process ended."""
        if self._num_signals:
            raise Interrupted
        # The gateway first: if it has ended, the model server may have ended because of it.
        for child in (self._gateway, self._model_server):
            if child is not None and child.process.poll() is not None:
                raise ChildExited(child)

    def _start(self) -> None:
        settings, started = self._settings, time.monotonic()
        if "backends" in settings.model_fields_set:
            instead = "`sostenuto serve` uses these backends"
            _print(f"SOSTENUTO_BACKENDS is ignored: up starts its own model server; {instead}")
        port = _require_free(settings.host, settings.port)
        backend_port = _require_free("127.0.0.1", 0)
        self._model_server = self._launch_model_server(backend_port)
        # No time-out: it loads versions one after another, logs each, and exits if one fails.
        self._wait(lambda: _listens(backend_port))
        self._gateway = self._launch_gateway(port, backend_port)
        # From now on only the gateway holds it.
        self._gateway_life.drop()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        models = self._wait(lambda: _models_ready(host, port), GATEWAY_TIMEOUT_S)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._print_ready(f"http://{address}", models, time.monotonic() - started)

    def _launch_model_server(self, port: int) -> Child:
        return self._launch(
            "model server",
            "model_server",
            f"--port={port}",
            f"--model_config_file={self._settings.models_dir / MODELS_CONFIG}",
            "--model_config_file_poll_wait_seconds=1",
            "--max_num_load_retries=0",
            f"--portable={str(self._settings.portable).lower()}",
            prepare=self._gateway_life.terminate_when_cut,
            fd=self._gateway_life.read_fd,
        )

    def _launch_gateway(self, port: int, backend_port: int) -> Child:
        variables = {"SOSTENUTO_BACKENDS": f"127.0.0.1:{backend_port}", "SOSTENUTO_PORT": str(port)}
        if "log_format" not in self._settings.model_fields_set:
            # The output is a terminal, or a file that a person reads.
            variables["SOSTENUTO_LOG_FORMAT"] = "text"
        if self._settings.state_key_file is None:
            # So that resume tokens stay valid after a restart.
            make_key_file(STATE_KEY_FILE)
            variables["SOSTENUTO_STATE_KEY_FILE"] = str(STATE_KEY_FILE)
        prepare, fd = partial(terminate_with_parent, os.getpid()), self._gateway_life.write_fd
        return self._launch("gateway", "service", "serve", prepare=prepare, fd=fd, **variables)

    def _launch(
        self, name: str, module: str, *arguments: str, prepare: Callable[[], None], fd: int, **variables: str
    ) -> Child:
        """Start a process, which inherits `fd`; `prepare` is called in it before `exec`."""
        process = subprocess.Popen(
            # Without the current directory, which may have a file of such a name.
            [sys.executable, "-P", "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": python_path(), **variables},
            # Ctrl-C reaches every process of the terminal's group; only this one should handle it.
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - there are no threads here
            pass_fds=[fd],
        )
        return Child(name, process)

    def _wait(self, ready: Callable[[], T | None], timeout_s: float = math.inf) -> T:
        """Poll until `ready` returns a value, and return it."""
        deadline = time.monotonic() + timeout_s
        while (value := ready()) is None:
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no model is ready after {timeout_s:.0f} s")
            time.sleep(POLL_S)
        self._check()
        return value

    def _print_ready(self, url: str, models: list[str], seconds: float) -> None:
        models = models or _configured_models(self._settings.models_dir) or [UNKNOWN_MODEL]
        prompt = EXAMPLE_PROMPTS.get(models[0], "")
        fields = '"max_tokens": 300, "temperature": 0.5, "stream": true'
        body = f'{{"model": "{models[0]}", "prompt": "{prompt}", {fields}}}'
        _print(f"ready after {seconds:.1f} s: {url}  (models: {', '.join(models)}; Ctrl-C stops)")
        _print("try:")
        key = ' -H "Authorization: Bearer $KEY"' if self._settings.keys_file else ""
        _print(f"  curl -N {url}/v1/completions{key} -d '{body}'")

    def _stop(self) -> None:
        """Stop the gateway first, as it still needs the model server for accepted requests."""
        signals_before = self._num_signals
        self._gateway_life.drop()
        if self._gateway is not None:
            self._gateway.process.terminate()
            # A worker may outlive its master, and drains too.
            self._wait_until_ended(self._gateway, signals_before, lambda: self._gateway_life.is_cut)
        if self._model_server is not None:
            # It got SIGTERM when the gateway's last process ended; a second one would kill it early.
            self._wait_until_ended(self._model_server, signals_before)
        self._gateway_life.close()

    def _wait_until_ended(
        self, child: Child, signals_before: int, has_no_children: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait until a process and its children have ended; kill them after the time-out or on a further signal."""
        deadline = time.monotonic() + self._settings.drain_s + EXIT_TIMEOUT_S
        while child.process.poll() is None or not has_no_children():
            if self._num_signals > signals_before or time.monotonic() > deadline:
                child.kill()
                return
            time.sleep(POLL_S)


def python_path() -> str:
    """Return PYTHONPATH with the directory of this project's packages first."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


def _require_free(host: str, port: int) -> int:
    """Return the port, or a free one for 0; raise `OSError` if it is in use, before anything is started."""
    with listen(host, port) as listener:
        return int(listener.getsockname()[1])


def _listens(port: int) -> bool | None:
    """Return True if a server listens on the port, else None."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return None
    return True


def _models_ready(host: str, port: int) -> list[str] | None:
    """Return the names of the ready models, [] if the gateway does not list them, None if it is not ready."""
    try:
        status, body = get_readiness(host, port)
    except (OSError, http.client.HTTPException):
        return None
    if status != http.client.OK:
        return None
    try:
        return [str(name) for name in json.loads(body)["models"]]
    except (ValueError, KeyError, TypeError):
        return []


def _configured_models(models_dir: Path) -> list[str]:
    """Return the names in `models.config`."""
    try:
        text = read_file(models_dir / MODELS_CONFIG).decode()
    except (OSError, UnicodeDecodeError):
        return []
    return re.findall(r"""\bname:\s*["']([^"']+)["']""", text)


def _print(line: str) -> None:
    print(line, flush=True)


def has_models(models_dir: Path) -> bool:
    """Return whether there is a `models.config`."""
    return (models_dir / MODELS_CONFIG).exists()
