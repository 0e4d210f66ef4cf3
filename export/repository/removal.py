"""Removal of versions such that a model server never sees an incomplete one, and the command `remove`.

If TensorFlow Serving polls a base path that no longer exists, it loads no new version of *any* model. It polls the path
until it has reloaded `models.config`, so the directory of a model may change only after that: `remove` waits until
model servers have unloaded the model.
"""

import contextlib
import math
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from contract.audit import record_command
from contract.models_config import PREVIOUS
from contract.signatures import MODELS_CONFIG
from export.command import Command, import_tensorflow_quietly, models_dir_option
from export.errors import RepositoryError
from export.repository.models_config import ConfigEntry, drop_from_models_config, forget_versions, locked, read_entries
from export.repository.versions import Repository, Version, retire
from export.terminal import file_size

_PREFIX = ".removed-"
# Minimum age at which the empty directory of a removed model is deleted: far longer than servers may poll it.
_EMPTY_AGE_S = 3600.0
# Longer than the sum of --model_config_file_poll_wait_seconds and --file_system_poll_wait_seconds: 1 + 1 s in
# docker-compose.yml, 5 + 5 s in deploy/kubernetes.
DEFAULT_WAIT_S = 15.0
_POLL_S = 0.5
_CALL_TIMEOUT_S = 2.0
# `ModelVersionStatus.State.END`.
_END = 50
# Maps address and model to the state of each version, a number of `ModelVersionStatus.State`; None without a response.
GetStates = Callable[[str, str], dict[int, int] | None]


def finite(_context: click.Context, _param: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"must be a finite number, got {value}")
    return value


def _server_addresses(_context: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise click.BadParameter(f"must be HOST:PORT, got {value!r}")
    return values


@click.command(cls=Command)
@click.argument("reference", metavar="VERSION")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation; required without a terminal.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    callback=finite,
    default=DEFAULT_WAIT_S,
    metavar="SECONDS",
    help="When the last version is removed: time between removing the model from models.config and deleting its files; "
    "must exceed the sum of the model servers' two poll intervals; 0 if none is running.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    callback=_server_addresses,
    metavar="HOST:PORT",
    help="Model server to poll for the status, so that the wait ends when it has unloaded the model; repeatable.",
)
@models_dir_option()
def remove(models_dir: Path, reference: str, yes: bool, wait_s: float, servers: tuple[str, ...]) -> int:
    """Remove a version, or a model with all its versions. VERSION is NAME:VERSION, or NAME for all its versions."""
    repository = Repository(models_dir)
    removal = Removal(repository, repository.named(reference))
    removal.check()
    print(removal.plan())
    if not yes and not _is_confirmed():
        print("nothing was removed")
        return 1
    delete_renamed(models_dir)
    delete_empty_directories(models_dir)
    removal.stop_serving(wait_s, servers)
    removal.rename()
    record_command("remove", models=[version.label for version in removal.versions])
    print(f"removed {', '.join(version.label for version in removal.versions)}")
    undeleted = delete_renamed(models_dir)
    if undeleted:
        raise RepositoryError(f"{undeleted[0]}: removed from the repository, but its files cannot be deleted")
    return 0


class Removal:
    """The removal of versions of a model; each step reads the current state anew."""

    def __init__(self, repository: Repository, versions: Sequence[Version]) -> None:
        self.versions = versions
        self._repository, self._models_dir, self._home = repository, repository.path, versions[0].path.parent
        self._name, self._numbers = self._home.name, {version.number for version in versions}

    def check(self) -> None:
        """Raise RepositoryError if a label points at the versions, or if no version would be served afterwards."""
        # A link's target is outside the repository.
        if self._home.is_symlink():
            target = self._home.resolve()
            raise RepositoryError(
                f"{self._home}: a link to {target}; remove the link by hand, nothing behind it is touched"
            )
        self._require_unlabeled()
        existing = self._existing()
        kept = existing - self._numbers
        for entry in self._entries():
            # Otherwise a starting server would wait for a version.
            if kept and entry.policy.select(existing) and not entry.served_without(kept):
                raise RepositoryError(
                    f"{MODELS_CONFIG} would serve no version of {entry.name}, and a model server does not start then: "
                    f"its model_version_policy must choose one of {', '.join(map(str, sorted(kept)))} first"
                )

    def plan(self) -> str:
        """Describe the versions to remove, and those served before and after."""
        existing = self._existing()
        kept = existing - self._numbers
        lines = [f"to be removed: {version.label}, {file_size(version.num_bytes())}" for version in self.versions]
        for entry in self._entries():
            then = f"afterwards it is no longer in {MODELS_CONFIG}"
            if kept:
                then = f"{_versions_text(entry.served_without(kept))} afterwards"
            alias = "" if entry.name == self._name else f" as {entry.name}"
            now = _versions_text(entry.policy.select(existing))
            lines.append(f"served of {self._name}{alias}: {now} now; {then}")
        if not self._entries():
            lines.append(f"{self._name} is not in {MODELS_CONFIG}: no version of it is served")
        return "\n".join(lines)

    def stop_serving(self, wait_s: float, servers: Sequence[str]) -> None:
        """Make every server stop polling the model's directory, if no version of the model remains."""
        if not self._is_all():
            return
        watch = ServerWatch(servers, [entry.name for entry in self._entries()] or [self._name])
        if self.unlist():
            # Without the lock, so that other models can be published meanwhile.
            wait_until_unloaded(watch, self._name, wait_s)

    def unlist(self) -> bool:
        """Remove the model from `models.config` if no version of it remains; return whether none does."""
        with locked(self._models_dir):
            # A version published since the confirmation stays, with the entry.
            if not self._is_all():
                return False
            drop_from_models_config(self._models_dir, self._name)
        return True

    def rename(self) -> None:
        """Rename versions so that no server treats them as versions; the directory of a model without versions stays.

        Raises:
            RepositoryError: a version was promoted, or the model was listed again, in the meantime.
        """
        with locked(self._models_dir):
            self._require_unlabeled()
            if self._is_all() and self._entries():
                again = f"{self._name} was added to {MODELS_CONFIG} again meanwhile"
                raise RepositoryError(f"{again}: run the command again")
            retire(self._home, self._numbers, self._existing() - self._numbers)
            # The oldest first: a server that has not reloaded the config yet keeps serving the newest.
            for version in self.versions:
                with contextlib.suppress(FileNotFoundError):
                    version.path.rename(self._home / f"{_PREFIX}{version.path.name}-{secrets.token_hex(8)}")
            forget_versions(self._models_dir, self._name)

    def _require_unlabeled(self) -> None:
        """Check that no version to be removed has a label or a share of the traffic, unless all are removed."""
        for entry in [] if self._is_all() else self._entries():
            labels = [label for label, number in entry.labels.items() if number in self._numbers and label != PREVIOUS]
            if labels:
                raise RepositoryError(
                    f"{self.versions[0].label} is {' and '.join(sorted(labels))} of {entry.name}: promote another "
                    f"version first (sostenuto promote {entry.name}:VERSION --label {min(labels)})"
                )
            if shared := self._numbers & entry.shared(self._existing()):
                raise RepositoryError(f"{entry.name}:{min(shared)} has a share of the traffic: change the split first")

    def _existing(self) -> set[int]:
        return {version.number for version in self._repository.model(self._name).versions}

    def _is_all(self) -> bool:
        return self._existing() <= self._numbers

    def _entries(self) -> list[ConfigEntry]:
        return [entry for entry in read_entries(self._models_dir) if entry.folder == self._name]


def _versions_text(numbers: Iterable[int]) -> str:
    joined = ", ".join(map(str, sorted(numbers)))
    return f"version{'s' if ',' in joined else ''} {joined}" if joined else "no version"


def _is_confirmed() -> bool:
    if not sys.stdin.isatty():
        raise RepositoryError("nothing was removed: there is no terminal to confirm on; pass --yes")
    try:
        return input("remove? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def delete_renamed(models_dir: Path) -> list[Path]:
    """Delete renamed versions of this removal and of killed ones; return paths that cannot be deleted."""
    renamed = sorted(models_dir.glob(f"*/{_PREFIX}*"))
    for path in renamed:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    return [path for path in renamed if path.exists()]


def delete_empty_directories(models_dir: Path) -> None:
    """Delete the empty directories of earlier removals, once no server polls them any more."""
    with locked(models_dir):
        listed = {entry.folder for entry in read_entries(models_dir)}
        for home in models_dir.iterdir():
            if home.is_dir() and not home.is_symlink() and home.name not in listed:
                # `rmdir` fails if there are drafts or other files.
                with contextlib.suppress(OSError):
                    if time.time() - home.stat().st_mtime >= _EMPTY_AGE_S:
                        home.rmdir()


class ServerWatch:
    """Status of models on model servers, until the servers have unloaded them."""

    def __init__(self, servers: Sequence[str], names: Iterable[str], get_states: GetStates | None = None) -> None:
        """Query every server once, before the models are removed from `models.config`.

        Every IP address of a host is queried.

        Raises:
            RepositoryError: a host name cannot be resolved.
        """
        self._get_states = get_states or (_status_client() if servers else lambda *_: None)
        addresses = [address for server in servers for address in _addresses(server)]
        self._states: dict[tuple[str, str], dict[int, int] | None] = {(a, n): None for a in addresses for n in names}
        self._seen_in_use: set[tuple[str, str]] = set()
        self.query()

    def query(self) -> None:
        for key in self._states:
            self._states[key] = states = self._get_states(*key)
            if states and any(state != _END for state in states.values()):
                self._seen_in_use.add(key)

    def is_unloaded(self) -> bool:
        """Return whether every server served every model before and now reports all its versions as END.

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
    except (OSError, UnicodeError) as error:
        # The latter for a name such as a..b.
        raise RepositoryError(f"model server {server}: {getattr(error, 'strerror', None) or error}") from error
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
