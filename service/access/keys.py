"""API keys and the key file: validate, create, revoke.

A key is `ost-<id>-<secret>`. The id names it in logs and lists. The file stores only the SHA-256 of the whole key. A
slow hash is for passwords, which can be guessed; 256 random bits cannot, however fast the hash, and a fast hash adds no
latency to a request.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import string
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from contract.files import atomic_write, read_file
from service.context import Role
from service.errors import ConfigurationError, Unauthorized
from service.reloading_file import ReloadingFile

log = logging.getLogger(__name__)

ID_PATTERN = "[a-z0-9]{8}"
# Safe in a log line, a table and a metric label; long enough for an e-mail address.
TENANT_PATTERN = "[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"

_KEY = re.compile(f"ost-({ID_PATTERN})-[0-9a-f]{{64}}")
_ID_CHARACTERS = string.ascii_lowercase + string.digits
# Compared with for an unknown id, so that it takes the same time; no known key has this hash.
_DUMMY_SHA256 = "0" * 64
_CHECK_EVERY_S = 0.5
_LOCK_TIMEOUT_S = 10.0


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range in UTC") from None


# A key only generates text unless its owner was given more.
DEFAULT_ROLES: tuple[Role, ...] = ("generate", "read")
_Count = Annotated[int, Field(ge=1)]
_Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class KeyLimits(_Frozen):
    """The limits of one key; None stands for the server's default."""

    max_sequences: _Count | None = Field(None, description="running and waiting sequences")
    max_queued_tokens: _Count | None = Field(
        None, description="prompt tokens and max_tokens of the running and waiting sequences"
    )
    requests_per_minute: _Count | None = Field(None, description="requests per minute")
    tokens_per_minute: _Count | None = Field(None, description="tokens per minute")


class Key(_Frozen):
    """A record of the key file."""

    id: str = Field(pattern=f"^{ID_PATTERN}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the whole key, `ost-<id>-<secret>`
    tenant: str = Field(pattern=f"^{TENANT_PATTERN}$")  # the owner; one may have several keys
    created: _Time
    expires: _Time | None  # None: never
    limits: KeyLimits = KeyLimits()
    roles: tuple[Role, ...] = DEFAULT_ROLES
    models: tuple[str, ...] = ("*",)  # patterns of the models that it may use

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now


class _KeyFile(_Frozen):
    keys: tuple[Key, ...]

    @field_validator("keys")
    @classmethod
    def _ids_differ(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        for key_id, count in Counter(key.id for key in keys).items():
            if count > 1:
                raise ValueError(f"{count} keys have the id {key_id!r}")
        return keys


class KeyRing:
    """The keys of a file, which is reloaded when it changes.

    Threads do not survive a fork: watch keys in the serving process alone.
    """

    def __init__(self, path: Path) -> None:
        self._file = ReloadingFile(
            path,
            lambda path: {key.id: key for key in read_keys(path)},
            lambda keys: f"{len(keys)} keys",
            _CHECK_EVERY_S,
        )
        # In use by running requests, with what to call when the key is revoked.
        self._watches: dict[object, tuple[Key, Callable[[], object]]] = {}
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()

    def find(self, presented: str) -> Key:
        """Return the record of the presented key, in the same time whether or not its id is known.

        Raises:
            Unauthorized: the key is invalid or expired; the message does not say which part is wrong.
        """
        match = _KEY.fullmatch(presented)
        key = self._file.content().get(match[1]) if match else None
        is_equal = match and hmac.compare_digest(_sha256(presented), key.sha256 if key else _DUMMY_SHA256)
        if key is None or not is_equal:
            raise Unauthorized("the API key is invalid")
        if key.expired(datetime.now(UTC)):
            raise Unauthorized("the API key has expired")
        return key

    @contextlib.contextmanager
    def watch(self, key: Key, on_revoked: Callable[[], object]) -> Iterator[None]:
        """Call `on_revoked` from another thread, at once or later, if the key is revoked before the block ends.

        A key that expires is not revoked. Exceptions of `on_revoked` are logged.
        """
        with self._lock:
            if self._watcher is None:
                watcher = threading.Thread(target=self._watch, name="revoked-keys", daemon=True)
                # Kept once it runs: there may be no thread left for it now, and one for the next request.
                watcher.start()
                self._watcher = watcher
        watch = object()
        self._watches[watch] = key, on_revoked
        try:
            yield
        finally:
            self._watches.pop(watch, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_CHECK_EVERY_S)
            keys = self._file.content()
            for watch, (key, on_revoked) in list(self._watches.items()):
                if key.id not in keys or keys[key.id].sha256 != key.sha256:
                    self._watches.pop(watch, None)
                    try:
                        on_revoked()
                    except Exception:
                        log.exception("a callback of the revoked key %s failed", key.id)


def warn_if_exposed(path: Path) -> None:
    """Log a warning if anyone but the owner may write a file of keys, or anyone outside its group may read it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH):
        log.warning("%s: mode %04o lets others read or change the keys; run chmod 600, or 640 for a group", path, mode)


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return all keys of a file, including expired ones; raise ConfigurationError, which names key id and field."""
    try:
        content = read_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    try:
        return _KeyFile.model_validate_json(content).keys
    except ValidationError as error:
        # Without its cause, which shows values: one may be a key pasted into the wrong field.
        raise ConfigurationError(f"{path}: {_first_problem(content, error)}") from None


def _first_problem(content: bytes, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    match first["loc"]:
        case ("keys", int(index), *field):
            where = f"key {_record_name(content, index)}, "
        case field:
            where = ""
    if field:
        where += f"field {'.'.join(map(str, field))!r}: "
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}{first['msg'].removeprefix('Value error, ')}{more}"


def _record_name(content: bytes, index: int) -> str:
    """Return a record's id, or its number if it has no valid id."""
    record = from_json(content)["keys"][index]
    key_id = record.get("id") if isinstance(record, dict) else None
    return repr(key_id) if isinstance(key_id, str) and re.fullmatch(ID_PATTERN, key_id) else f"number {index + 1}"


def add_key(
    path: Path,
    tenant: str,
    expires: datetime | None,
    limits: KeyLimits,
    roles: tuple[Role, ...] = DEFAULT_ROLES,
    models: tuple[str, ...] = ("*",),
) -> tuple[Key, str]:
    """Create a key and add it to the file; create the file, but not its directory, if it does not exist.

    Returns the record, and the key itself, which is not stored anywhere.

    Raises:
        ConfigurationError: the file cannot be changed.
    """
    with _locked_for_writing(path) as target:
        keys = read_keys(target) if target.exists() else ()
        ids = {key.id for key in keys}
        while (key_id := "".join(secrets.choice(_ID_CHARACTERS) for _ in range(8))) in ids:
            pass
        presented = f"ost-{key_id}-{secrets.token_hex(32)}"
        now = datetime.now(UTC).replace(microsecond=0)
        key = Key(
            id=key_id,
            sha256=_sha256(presented),
            tenant=tenant,
            created=now,
            expires=expires,
            limits=limits,
            roles=roles,
            models=models,
        )
        _write(target, (*keys, key))
    return key, presented


def revoke_keys(path: Path, key_ids: Collection[str]) -> None:
    """Remove keys from the file; raise ConfigurationError, and remove none, if it lacks one of them."""
    with _locked_for_writing(path) as target:
        keys = read_keys(target)
        unknown = sorted(set(key_ids) - {key.id for key in keys})
        if unknown:
            raise ConfigurationError(f"{path}: there is no key {', '.join(unknown)}; nothing was revoked")
        _write(target, tuple(key for key in keys if key.id not in key_ids))


def _sha256(presented: str) -> str:
    return hashlib.sha256(presented.encode()).hexdigest()


@contextlib.contextmanager
def _locked_for_writing(path: Path) -> Iterator[Path]:
    """Lock out other writers, and yield the path with symbolic links resolved.

    The lock is on the directory: a lock on the file would be lost when the file is replaced.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ConfigurationError(f"{path}: directory {target.parent} does not exist")
    try:
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            _lock(directory, path)
            yield target
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _lock(directory: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{path}: another process holds the lock of its directory") from None
            time.sleep(0.02)


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    with atomic_write(path, mode=0o600) as file:
        if path.exists():
            _copy_ownership(path, file.fileno())
        file.write(f"{_KeyFile(keys=keys).model_dump_json(indent=2)}\n".encode())


def _copy_ownership(path: Path, descriptor: int) -> None:
    """Copy the old file's owner, group and group read permission to the new file (mode 0600).

    Otherwise a key that root adds would make the file unreadable for the gateway's own user.
    """
    old, new = path.stat(), os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError:
            raise ConfigurationError(
                f"{path}: belongs to user {old.st_uid}, group {old.st_gid}; run this as that user or as root"
            ) from None
    os.fchmod(descriptor, 0o600 | (old.st_mode & 0o040))
