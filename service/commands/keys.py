"""`sostenuto keys`: create, list and revoke API keys."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from contract.audit import current_user, record
from service.access.keys import (
    DEFAULT_ROLES,
    ID_PATTERN,
    TENANT_PATTERN,
    Key,
    KeyLimits,
    add_key,
    read_keys,
    revoke_keys,
)
from service.context import ROLES, Role
from service.settings import SettingsError, load_settings

SETTING = "SOSTENUTO_KEYS_FILE"
Command = TypeVar("Command", bound=Callable[..., Any])
_UNITS = {"d": "days", "h": "hours"}


def _key_file(path: Path | None) -> Path:
    path = path or load_settings().keys_file
    if path is None:
        raise SettingsError(f"no key file: use --file FILE or set {SETTING}")
    return path


def _record(action: str, **details: object) -> None:
    """Append what was done to the audit log; print an error if that cannot be written.

    After a failed command its user would repeat it, and create another key.
    """
    try:
        record(load_settings().audit_file, action, current_user(), **details)
    except (OSError, SettingsError) as error:
        print(f"error: {action}: done, but the audit log cannot be written: {error}", file=sys.stderr)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        raise click.ClickException(f"standard output: {error.strerror}") from error


def _rows(keys: Sequence[Key], now: datetime) -> list[list[str]]:
    return [
        [
            key.id,
            key.tenant,
            _format_time(key.created),
            _format_time(key.expires),
            _state(key, now),
            ",".join(key.roles),
            ",".join(key.models),
        ]
        + ["-" if limit is None else str(limit) for limit in key.limits.model_dump().values()]
        for key in keys
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align words left and numbers, the limits, right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    num_words = len(widths) - len(KeyLimits.model_fields)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if position < num_words else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _state(key: Key, now: datetime) -> str:
    return "expired" if key.expired(now) else "active"


def _format_time(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _tenant(text: str) -> str:
    if not re.fullmatch(TENANT_PATTERN, text):
        raise click.BadParameter(f"must be up to 64 letters, digits or . _ @ -, a letter or digit first, got {text!r}")
    return text


def _key_id(text: str) -> str:
    if not re.fullmatch(ID_PATTERN, text):
        # Without the value, which may be a whole key.
        raise click.BadParameter("must be the 8 characters between the dashes of ost-<id>-<secret>")
    return text


def _expiry(text: str) -> datetime:
    now = datetime.now(UTC)
    try:
        expires = _parse_time(text, now)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"must be like 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z, got {text!r}") from None
    if expires <= now:
        raise click.BadParameter(f"must be in the future, got {_format_time(expires)}")
    return expires


def _parse_time(text: str, now: datetime) -> datetime:
    """Parse a time, rounded down to the second; raise ValueError or OverflowError."""
    if duration := re.fullmatch("([0-9]+)([dh])", text):
        return (now + timedelta(**{_UNITS[duration[2]]: int(duration[1])})).replace(microsecond=0)
    if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment.astimezone(UTC).replace(microsecond=0)


_file_option = click.option(
    "--file", "path", type=click.Path(path_type=Path), metavar="FILE", help=f"Key file.  [default: {SETTING}]"
)


def _limit_options(command: Command) -> Command:
    for name, field in reversed(KeyLimits.model_fields.items()):
        help_text = f"Limit of {field.description}.  [default: the server's limit]"
        option = click.option("--" + name.replace("_", "-"), type=click.IntRange(1), metavar="N", help=help_text)
        command = option(command)
    return command


@click.command()
@click.option("--tenant", required=True, type=_tenant, metavar="NAME", help="Tenant that the key belongs to.")
@click.option(
    "--expires",
    type=_expiry,
    metavar="WHEN",
    help="Expiry: 30d, 12h, 2027-01-31 (00:00 UTC) or 2027-01-31T12:00:00Z.  [default: never]",
)
@click.option(
    "--role",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    default=DEFAULT_ROLES,
    show_default=True,
    help="What the key may do; repeat it for several.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("*",),
    show_default="every model",
    metavar="PATTERN",
    help="Name of a model that the key may use, or a pattern with wildcards; repeat it for several.",
)
@_limit_options
@_file_option
def add(
    path: Path | None,
    tenant: str,
    expires: datetime | None,
    roles: tuple[Role, ...],
    models: tuple[str, ...],
    **limits: int | None,
) -> None:
    """Create a key and print it; it is not shown again."""
    file = _key_file(path)
    key, presented = add_key(file, tenant, expires, KeyLimits(**limits), roles, models)
    try:
        _print(presented)
    except click.ClickException as error:
        revoke_keys(file, [key.id])
        raise click.ClickException(f"{error}; the key is revoked") from error
    _record("add_key", key=key.id, tenant=tenant, roles=roles, models=models)
    expiry = "never expires" if key.expires is None else f"expires {_format_time(key.expires)}"
    print(f"shown once; {file} stores only its hash: id {key.id}, tenant {key.tenant}, {expiry}", file=sys.stderr)


@click.command()
@click.argument("ids", nargs=-1, required=True, type=_key_id, metavar="ID...")
@_file_option
def revoke(path: Path | None, ids: tuple[str, ...]) -> None:
    """Revoke the keys with these ids, as `list` shows them; takes effect within a second."""
    revoke_keys(_key_file(path), ids)
    _record("revoke_key", keys=ids)


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_file_option
def show(path: Path | None, as_json: bool) -> None:
    """List all keys, without secrets."""
    keys, now = read_keys(_key_file(path)), datetime.now(UTC)
    if as_json:
        rows = [
            {**key.model_dump(mode="json", exclude={"sha256", "limits"}), "state": _state(key, now)}
            | {"limits": key.limits.model_dump()}
            for key in keys
        ]
        _print(json.dumps(rows, indent=2))
    else:
        headings = ["id", "tenant", "created", "expires", "state", "roles", "models", *KeyLimits.model_fields]
        _print(_table([headings, *_rows(keys, now)]))


COMMANDS = {command.name: command for command in (add, revoke, show) if command.name}
