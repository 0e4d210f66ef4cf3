"""The audit log: an append-only file of JSON Lines that says who changed what is served, and who may use it."""

import errno
import getpass
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from contract.files import create_atomically, private_mode

VARIABLE = "SOSTENUTO_AUDIT_FILE"


def record(path: Path | None, action: str, actor: str, **details: object) -> None:
    """Append a line, written at once, so that lines of several processes do not mix; nothing without a path.

    Args:
        path: The file; it is created with mode 0600, or 0660 in a directory that is shared with a group.
        action: What was done: publish, promote, route (labels and traffic split, by the API), rollback, remove, erase
            (its files), add_key, revoke_key, upload, delete_file, train, cancel, pause or resume.
        actor: Who did it: `user:NAME` of this machine, or `key:ID` and its tenant.
        details: What it was done to.

    Raises:
        OSError: the line was not written.
    """
    if path is None:
        return
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": time, "action": action, "actor": actor, **details}, ensure_ascii=False)
    content = f"{line}\n".encode()
    descriptor = _open(path)
    try:
        num_written = os.write(descriptor, content)
        if num_written < len(content):
            # The disk has become full within the line: the next one must not continue it.
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            if os.fstat(descriptor).st_size == end:
                os.ftruncate(descriptor, end - num_written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        create_atomically(path, b"", mode=private_mode(path.parent))
        # It may be a link to a file that does not exist, or be moved at this moment.
        return os.open(path, flags | os.O_CREAT, 0o600)


def record_action(action: str, actor: str, **details: object) -> None:
    """Append what someone did to the file that the environment names, if it names one; see `record`."""
    path = os.environ.get(VARIABLE)
    record(Path(path) if path else None, action, actor, **details)


def record_command(action: str, **details: object) -> None:
    """Append what a command of this machine's user did, as `record_action`; print an error if that cannot be written.

    The action is done: after a failed command its user would repeat it, and publish twice or undo a rollback.
    """
    try:
        record_action(action, current_user(), **details)
    except OSError as error:
        print(f"error: {action}: done, but the audit log cannot be written: {error}", file=sys.stderr)


def current_user() -> str:
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"user:{os.getuid()}"  # a container's user may have no name
