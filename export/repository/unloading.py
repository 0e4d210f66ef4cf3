"""Waiting until model servers have unloaded a model that has left `models.config`.

TensorFlow Serving that looks for a base path that is gone loads no new version of *any* model. It looks there until it
has read `models.config` again, so the directory of a model may change only after that.

Knows GetModelStatus and time. Does not know the repository. Imports TensorFlow and gRPC only where there is a server to
ask.
"""

import math
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from export.errors import RepositoryError
from export.quiet import import_tensorflow_quietly

# Longer than --model_config_file_poll_wait_seconds and --file_system_poll_wait_seconds together: 1 + 1 s in
# docker-compose.yml, 5 + 5 s in deploy/kubernetes.
DEFAULT_WAIT_S = 15.0
_POLL_S = 0.5
_CALL_TIMEOUT_S = 2.0
_END = 50
# For each version of a model its state, a number of `ModelVersionStatus.State`; None: the server did not answer.
GetStates = Callable[[str, str], dict[int, int] | None]


class ServerWatch:
    """What model servers say of models that are to be unloaded."""

    def __init__(self, servers: Sequence[str], names: Iterable[str], get_states: GetStates | None = None) -> None:
        """Ask for the first time, before the models leave `models.config`.

        Args:
            servers: HOST:PORT of each; every address of a host is asked.
            names: What requests call the models.
            get_states: Returns the states of a model's versions on the server of an address.

        Raises:
            RepositoryError: a host has no address.
        """
        self._get_states = get_states or (_status_client() if servers else lambda *_: None)
        addresses = [address for server in servers for address in _addresses(server)]
        self._states: dict[tuple[str, str], dict[int, int] | None] = {(a, n): None for a in addresses for n in names}
        self._seen_in_use: set[tuple[str, str]] = set()
        self.look()

    def look(self) -> None:
        """Ask every server for every model."""
        for key in self._states:
            self._states[key] = states = self._get_states(*key)
            if states and any(state != _END for state in states.values()):
                self._seen_in_use.add(key)

    def is_unloaded(self) -> bool:
        """Return whether every server was seen to serve every model, and says now that all versions have ended.

        END alone proves nothing: it may be of versions before, while the server is about to load the model again.
        """
        return bool(self._states) and all(
            key in self._seen_in_use and states and all(state == _END for state in states.values())
            for key, states in self._states.items()
        )

    def still_served(self) -> str:
        """Return a server and a model that it serves."""
        for (address, name), states in self._states.items():
            versions = [str(number) for number, state in (states or {}).items() if state != _END]
            if versions:
                return f"{address} still serves {name} (version {', '.join(sorted(versions))})"
        return ""


def wait_until_unloaded(watch: ServerWatch, name: str, wait_s: float) -> None:
    """Wait until no server uses a model: until that is certain, or for all of the time.

    Args:
        watch: Of servers, or of none.
        name: Of the model, for messages.
        wait_s: Seconds after which a server must have read `models.config` again.

    Raises:
        RepositoryError: a server still serves the model after all of the time.
        KeyboardInterrupt: Ctrl-C, after a line that says how to finish.
    """
    deadline = time.monotonic() + wait_s
    if wait_s and not watch.is_unloaded():
        print(f"{name} is out of models.config; waiting up to {wait_s:g} s until model servers have unloaded it")
    try:
        while (left := deadline - time.monotonic()) > 0:
            watch.look()
            if watch.is_unloaded():
                return
            _show(f"{math.ceil(left)} s left; Ctrl-C is safe")
            time.sleep(min(_POLL_S, left))
        watch.look()
    except KeyboardInterrupt:
        print(f"\n{name} is no longer served, its files are still there: run the command again to finish")
        raise
    finally:
        _show("")
    if served := watch.still_served():
        raise RepositoryError(
            f"{served} {wait_s:g} s after it left models.config, so no file of it is removed. A server without "
            "--model_config_file_poll_wait_seconds must be restarted; then run the command again"
        )


def _show(line: str) -> None:
    """Show one line in place on a terminal, and nothing elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)


def _addresses(server: str) -> list[str]:
    host, _, port = server.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise RepositoryError(f"model server {server}: {error.strerror}") from error
    return sorted({f"[{where[0]}]:{port}" if ":" in str(where[0]) else f"{where[0]}:{port}" for *_, where in found})


def _status_client() -> GetStates:
    """Return what calls GetModelStatus; without TLS, as the gateway does by default."""
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
