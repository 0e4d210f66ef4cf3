"""Waits until model servers have unloaded a model that was removed from `models.config`.

If TensorFlow Serving polls a base path that no longer exists, it loads no new version of *any* model. It polls the path
until it has reloaded `models.config`, so the directory of a model may change only after that.

Knows GetModelStatus and time. Does not know the repository. Imports TensorFlow and gRPC only if there is a server to
query.
"""

import math
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from export.errors import RepositoryError
from export.quiet import import_tensorflow_quietly

# Longer than the sum of --model_config_file_poll_wait_seconds and --file_system_poll_wait_seconds: 1 + 1 s in
# docker-compose.yml, 5 + 5 s in deploy/kubernetes.
DEFAULT_WAIT_S = 15.0
_POLL_S = 0.5
_CALL_TIMEOUT_S = 2.0
_END = 50
# Maps address and model to the state of each version, a number of `ModelVersionStatus.State`; None without a response.
GetStates = Callable[[str, str], dict[int, int] | None]


class ServerWatch:
    """Status of models on model servers, until the servers have unloaded them."""

    def __init__(self, servers: Sequence[str], names: Iterable[str], get_states: GetStates | None = None) -> None:
        """Query every server once, before the models are removed from `models.config`.

        Every IP address of a host is queried. `get_states` returns the states of a model's versions on the server at an
        address.

        Raises:
            RepositoryError: a host name cannot be resolved.
        """
        self._get_states = get_states or (_status_client() if servers else lambda *_: None)
        addresses = [address for server in servers for address in _addresses(server)]
        self._states: dict[tuple[str, str], dict[int, int] | None] = {(a, n): None for a in addresses for n in names}
        self._seen_in_use: set[tuple[str, str]] = set()
        self.query()

    def query(self) -> None:
        """Query every server for every model."""
        for key in self._states:
            self._states[key] = states = self._get_states(*key)
            if states and any(state != _END for state in states.values()):
                self._seen_in_use.add(key)

    def is_unloaded(self) -> bool:
        """Return whether every server has served every model before and now reports all its versions as END.

        END alone proves nothing: it may belong to earlier versions while the server is about to load the model again.
        """
        return bool(self._states) and all(
            key in self._seen_in_use and states and all(state == _END for state in states.values())
            for key, states in self._states.items()
        )

    def still_served(self) -> str:
        """Describe one server that still serves a model; empty if there is none."""
        for (address, name), states in self._states.items():
            versions = [str(number) for number, state in (states or {}).items() if state != _END]
            if versions:
                return f"{address} still serves {name} (version {', '.join(sorted(versions))})"
        return ""


def wait_until_unloaded(watch: ServerWatch, name: str, wait_s: float) -> None:
    """Wait until all servers have unloaded a model, or for `wait_s` if that cannot be determined.

    Raises:
        RepositoryError: a server still serves the model after `wait_s`.
        KeyboardInterrupt: Ctrl-C; a message says how to finish.
    """
    deadline = time.monotonic() + wait_s
    if wait_s and not watch.is_unloaded():
        print(f"{name} was removed from models.config; waiting up to {wait_s:g} s until model servers have unloaded it")
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            watch.query()
            if watch.is_unloaded():
                return
            _show(f"{math.ceil(remaining)} s left; Ctrl-C is safe")
            time.sleep(min(_POLL_S, remaining))
        watch.query()
    except KeyboardInterrupt:
        print(f"\n{name} is no longer served, but its files still exist: run the command again to finish")
        raise
    finally:
        _show("")
    if served := watch.still_served():
        raise RepositoryError(
            f"{served} {wait_s:g} s after it was removed from models.config, so its files were not deleted. A "
            "server without --model_config_file_poll_wait_seconds must be restarted; then run the command again"
        )


def _show(line: str) -> None:
    """Show a status line in place on a terminal; print nothing elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)


def _addresses(server: str) -> list[str]:
    host, _, port = server.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise RepositoryError(f"model server {server}: {error.strerror}") from error
    return sorted({f"[{name[0]}]:{port}" if ":" in str(name[0]) else f"{name[0]}:{port}" for *_, name in infos})


def _status_client() -> GetStates:
    """Return a function that calls GetModelStatus, without TLS, as the gateway does by default."""
    import_tensorflow_quietly(start=False)
    import grpc  # noqa: PLC0415 - as the next one
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc  # noqa: PLC0415 - seconds

    def get_states(address: str, name: str) -> dict[int, int] | None:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        with grpc.insecure_channel(address) as channel:
            try:
                reply = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
                    request, timeout=_CALL_TIMEOUT_S
                )
            except grpc.RpcError:
                return None
        return {status.version: status.state for status in reply.model_version_status}

    return get_states
