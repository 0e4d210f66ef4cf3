"""`sostenuto serve`: the embedded model server, the gateway and a trainer as one foreground program.

Starts them as child processes, waits until a model is ready, and stops all when the gateway ends or a signal arrives.
"""

import contextlib
import fcntl
import json
import math
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import click
from google.protobuf import text_format

from contract.card import GeneratorCard
from contract.files import create_atomically, read_file
from contract.models_config import version_numbers
from contract.processes import terminate_with_parent
from contract.signatures import ASSETS, CARD_FILE, MODELS_CONFIG
from service.commands.health import is_ready
from service.generation.resume_tokens import make_key_file
from service.http_server.addresses import listen
from service.models.repository import parse_entries
from service.settings import Settings

# Measured from the time at which every version is loaded.
GATEWAY_TIMEOUT_S = 120.0
POLL_S = 0.05
MODEL_SERVER, GATEWAY = "model server", "gateway"
# Before a trainer that has ended is restarted.
TRAINER_PAUSE_S = 5.0
# How long sequences wait for the model server by default: it may have to load many versions again.
BACKEND_GRACE_S = 120.0
# After the gateway's drain, before a process that does not end is killed.
EXIT_TIMEOUT_S = 10.0
# In the working directory, like models and runs.
STATE_KEY_FILE, TRAINING_DIR = Path(".sostenuto-state-key"), Path("training")
# For a repository without models, until a job publishes the first one.
EMPTY_CONFIG = b"model_config_list {\n}\n"


class Ended(Exception):
    """A process ended on its own, or a signal arrived: a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LifetimePipe:
    """A pipe by which one process is signaled when the last of several others has ended.

    The processes with the write end are its holders: this process until it calls `drop`, those that it was passed to,
    and their children. However they end, the kernel closes their ends; the pipe is then cut.
    """

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self._is_dropped = False

    def terminate_when_cut(self) -> None:
        """Make the kernel send this process SIGTERM when the pipe is cut; for `preexec_fn`, with `read_fd` passed on.

        `fork` makes this process a holder until `exec`: if all other holders have ended before, `exec` cuts the pipe.
        """
        fcntl.fcntl(self.read_fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self.read_fd, fcntl.F_SETSIG, signal.SIGTERM)
        flags = fcntl.fcntl(self.read_fd, fcntl.F_GETFL)
        fcntl.fcntl(self.read_fd, fcntl.F_SETFL, flags | os.O_ASYNC)

    def drop(self) -> None:
        """Stop being a holder; may be repeated."""
        if not self._is_dropped:
            self._is_dropped = True
            os.close(self.write_fd)

    @property
    def is_cut(self) -> bool:
        """Whether no holder is left."""
        poll = select.poll()
        poll.register(self.read_fd, 0)  # POLLHUP is always reported
        return bool(poll.poll(0))

    def close(self) -> None:
        self.drop()
        with contextlib.suppress(OSError):
            os.close(self.read_fd)


class Supervisor:
    """Starts and stops the model server, the gateway and, if it `trains`, a trainer, and watches them.

    Whichever process is killed, the gateway drains, and the model server runs until the gateway's last process has
    ended: a pipe held by those signals the model server, and the end of this process signals the gateway. A trainer
    that ends is restarted; so is a model server, if it had loaded its versions: sequences wait for it.
    """

    def __init__(self, settings: Settings, *, trains: bool = False) -> None:
        self._settings, self._trains = settings, trains
        self._trainer: subprocess.Popen[bytes] | None = None
        self._trainer_at = 0.0
        self._is_loaded = False  # whether the model server has loaded its versions
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._gateway_life = LifetimePipe()
        self._num_signals = 0

    def run(self) -> int:
        """Run until a process ends or a signal arrives. Return the exit code; 0 after a signal."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._count_signal)
        try:
            self._start()
            while True:
                self._keep_model_server()
                self._check()
                if self._trains:
                    self._keep_trainer()
                time.sleep(POLL_S)
        except Ended as end:
            click.echo(str(end))
            return end.exit_code
        except OSError as error:  # TimeoutError, too
            click.echo(f"error: {error}")
            return 1
        finally:
            self._stop()

    def _count_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Only counted here and handled in `_check`: an exception could be raised anywhere, also while stopping.
        self._num_signals += 1

    def _check(self) -> None:
        if self._num_signals:
            raise Ended("stopping: draining accepted requests (signal again to stop at once)", 0)
        # The gateway first: if it has ended, the model server may have ended because of it.
        for name, process in reversed(self._children.items()):
            is_restarted = name == MODEL_SERVER and self._is_loaded
            if not is_restarted and (code := process.poll()) is not None:
                # A process that exits by itself is a failure, whatever its exit code; 128 + a signal as in shells.
                raise Ended(f"error: the {name} {_how(code)}; stopping", code or 1 if code >= 0 else 128 - code)

    def _keep_model_server(self) -> None:
        """Restart the model server if it has ended, unless because the gateway has."""
        code = self._children[MODEL_SERVER].poll()
        if code is None:
            self._is_loaded = self._is_loaded or _listens(self._backend_port)
        elif self._is_loaded and not self._num_signals and self._children[GATEWAY].poll() is None:
            click.echo(f"the model server {_how(code)}; restarting it")
            self._launch_model_server()

    def _keep_trainer(self) -> None:
        """Start the trainer, if it does not run."""
        if self._trainer is not None and (code := self._trainer.poll()) is not None:
            click.echo(f"the trainer {_how(code)}; restarting it in {TRAINER_PAUSE_S:g} s")
            self._trainer, self._trainer_at = None, time.monotonic() + TRAINER_PAUSE_S
        if self._trainer is None and time.monotonic() >= self._trainer_at:
            prepare = partial(terminate_with_parent, os.getpid())
            self._trainer = self._spawn("jobs", prepare=prepare, pass_fds=(), **self._training, **self._limits)

    @property
    def _training(self) -> dict[str, str]:
        """Variables of the gateway and the trainer."""
        directory = self._settings.training_dir or TRAINING_DIR
        return {"SOSTENUTO_TRAINING_DIR": str(directory.resolve())} if self._trains else {}

    @property
    def _limits(self) -> dict[str, str]:
        """Further variables of the trainer, which reads no file of settings."""
        limits = ("max_file_age_s", "max_job_age_s", "max_training_bytes")
        names = ("models_dir", "audit_file", "training_database", *limits)
        values = {name: getattr(self._settings, name) for name in names}
        return {f"SOSTENUTO_{name.upper()}": str(value) for name, value in values.items() if value is not None}

    def _start(self) -> None:
        settings, started = self._settings, time.monotonic()
        if settings.models_dir.exists() and not settings.models_dir.is_dir():
            raise Ended(f"error: {settings.models_dir} is not a directory: set SOSTENUTO_MODELS_DIR", 1)
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        create_atomically(settings.models_dir / MODELS_CONFIG, EMPTY_CONFIG)
        models = configured_models(settings.models_dir)
        port = _require_free(settings.host, settings.port)
        metrics_port = settings.metrics_port_beside(port)
        _require_free(settings.metrics_host, metrics_port)
        self._backend_port = _require_free("127.0.0.1", 0)
        self._launch_model_server()
        # No time-out: it loads versions one after another, and logs each.
        self._wait(lambda: _listens(self._backend_port))
        self._launch_gateway(port, metrics_port)
        # From now on only the gateway holds it.
        self._gateway_life.drop()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        self._wait(lambda: _listens(port, host) if models == [] else is_ready(host, port), GATEWAY_TIMEOUT_S)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._print_ready(f"http://{address}", models, time.monotonic() - started)

    def _launch_model_server(self) -> None:
        self._is_loaded = False
        self._children[MODEL_SERVER] = self._spawn(
            "model_server",
            f"--port={self._backend_port}",
            f"--model_config_file={self._settings.models_dir / MODELS_CONFIG}",
            "--model_config_file_poll_wait_seconds=1",
            "--max_num_load_retries=0",
            f"--tensorflow_inter_op_parallelism={self._settings.max_calls}",
            f"--portable={str(self._settings.portable).lower()}",
            prepare=self._gateway_life.terminate_when_cut,
            pass_fds=[self._gateway_life.read_fd],
        )

    def _launch_gateway(self, port: int, metrics_port: int) -> None:
        backends = f"127.0.0.1:{self._backend_port}"
        ports = {"SOSTENUTO_PORT": str(port), "SOSTENUTO_METRICS_PORT": str(metrics_port)}
        variables = self._training | {"SOSTENUTO_BACKENDS": backends} | ports
        if "log_format" not in self._settings.model_fields_set:
            # The output is for people: a terminal or a log file.
            variables["SOSTENUTO_LOG_FORMAT"] = "text"
        if "backend_grace_s" not in self._settings.model_fields_set:
            variables["SOSTENUTO_BACKEND_GRACE_S"] = str(BACKEND_GRACE_S)
        if self._settings.state_key_file is None:
            # So that resume tokens stay valid after a restart.
            make_key_file(STATE_KEY_FILE)
            variables["SOSTENUTO_STATE_KEY_FILE"] = str(STATE_KEY_FILE)
        prepare, fds = partial(terminate_with_parent, os.getpid()), [self._gateway_life.write_fd]
        # With SOSTENUTO_BACKENDS set, this `serve` runs the gateway alone.
        self._children[GATEWAY] = self._spawn("service", "serve", prepare=prepare, pass_fds=fds, **variables)

    def _spawn(
        self, module: str, *arguments: str, prepare: Callable[[], None], pass_fds: Sequence[int] = (), **variables: str
    ) -> "subprocess.Popen[bytes]":
        """Start a process; `prepare` is called in it before `exec`."""
        return subprocess.Popen(
            # Without the current directory, which may have a file of such a name.
            [sys.executable, "-P", "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": python_path(), **variables},
            # Ctrl-C reaches every process of the terminal's group; only this one should handle it.
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - there are no threads here
            pass_fds=pass_fds,
        )

    def _wait(self, is_ready: Callable[[], bool], timeout_s: float = math.inf) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no model is ready after {timeout_s:.0f} s")
            time.sleep(POLL_S)
        self._check()

    def _print_ready(self, url: str, models: list[str] | None, seconds: float) -> None:
        if models == []:
            click.echo(f"ready after {seconds:.1f} s: {url}  (no models yet; Ctrl-C stops)")
            click.echo(f"train one:\n  sostenuto train book.txt --server {url}")
            return
        models = models or ["MODEL"]
        click.echo(f"ready after {seconds:.1f} s: {url}  (models: {', '.join(models)}; Ctrl-C stops)")
        click.echo("try:")
        key = ' -H "Authorization: Bearer $KEY"' if self._settings.keys_file else ""
        click.echo(f"  curl -N {url}/v1/completions{key} -d {_example_request(self._settings.models_dir / models[0])}")

    def _stop(self) -> None:
        """Stop the gateway first, as it still needs the model server for accepted requests."""
        signals_before = self._num_signals
        self._gateway_life.drop()
        if self._trainer is not None:
            self._trainer.terminate()
        if gateway := self._children.get(GATEWAY):
            gateway.terminate()
            # A worker may outlive its master, and drains too.
            self._wait_until_ended(gateway, signals_before, lambda: self._gateway_life.is_cut)
        if model_server := self._children.get(MODEL_SERVER):
            # It got SIGTERM when the gateway's last process ended; a second one would kill it early.
            self._wait_until_ended(model_server, signals_before)
        if self._trainer is not None:
            self._wait_until_ended(self._trainer, signals_before)
        self._gateway_life.close()

    def _wait_until_ended(
        self, process: subprocess.Popen[bytes], signals_before: int, has_no_children: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait until a process and its children have ended; kill them after the time-out or on a further signal."""
        deadline = time.monotonic() + self._settings.drain_s + EXIT_TIMEOUT_S
        while process.poll() is None or not has_no_children():
            if self._num_signals > signals_before or time.monotonic() > deadline:
                # Also gunicorn's worker, which would keep draining without its master.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return
            time.sleep(POLL_S)


def python_path() -> str:
    """Return PYTHONPATH with the directory of this project's packages first."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


def _how(code: int) -> str:
    """Describe how a process with this return code has ended."""
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def _require_free(host: str, port: int) -> int:
    """Return the port, or a free one for 0; raise `OSError` if it is in use, before anything is started."""
    with listen(host, port) as listener:
        return int(listener.getsockname()[1])


def _listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _example_request(model_dir: Path) -> str:
    """Return the body of a request to a model, quoted for a shell, from its newest version's card."""
    fields = {"max_tokens": 300, "temperature": 0.5, "stream": True}
    with contextlib.suppress(OSError, ValueError):
        card = model_dir / str(max(version_numbers(model_dir))) / ASSETS / CARD_FILE
        return GeneratorCard.model_validate_json(card.read_bytes()).example_request(**fields)
    return shlex.quote(json.dumps({"model": model_dir.name, "prompt": "", **fields}))


def configured_models(models_dir: Path) -> list[str] | None:
    """Return the names of the models in `models.config`; [] if it does not exist, None if it cannot be read."""
    try:
        return [entry.name for entry in parse_entries(read_file(models_dir / MODELS_CONFIG).decode())]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        return None
