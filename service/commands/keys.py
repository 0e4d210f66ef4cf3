"""`python -m service keys`: create, list and revoke API keys. `service.access.keys` knows the file."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service.access.keys import (
    ID_PATTERN,
    TENANT_PATTERN,
    Key,
    KeyFileError,
    KeyLimits,
    add_key,
    read_keys,
    revoke_keys,
)

SETTING = "SOSTENUTO_KEYS_FILE"
_UNITS = {"d": "days", "h": "hours"}


class _OutputError(Exception):
    """The output could not be written to standard output."""


def add_parser(commands: Any) -> None:
    """Add `keys` to the subcommands of a parser, as its `add_subparsers` returned them."""
    description = "create, list and revoke API keys"
    keys = commands.add_parser("keys", help=description, description=description)
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="create a key and print it: KEY=$(python -m service keys add --tenant NAME)")
    add.add_argument("--tenant", type=_tenant, required=True, metavar="NAME", help="tenant that the key belongs to")
    add.add_argument(
        "--expires",
        type=_expiry,
        metavar="WHEN",
        help="expiry: 30d, 12h, 2027-01-31 (00:00 UTC) or 2027-01-31T12:00:00Z (default: never)",
    )
    for name, field in KeyLimits.model_fields.items():
        option, description = "--" + name.replace("_", "-"), f"{field.description} (default: the server's limit)"
        add.add_argument(option, type=_count, metavar="N", help=description)
    revoke = actions.add_parser("revoke", help="revoke keys; takes effect within a second")
    revoke.add_argument("ids", nargs="+", type=_key_id, metavar="ID", help="id of a key, as `list` shows it")
    show = actions.add_parser("list", help="list all keys, without secrets")
    show.add_argument("--json", action="store_true", help="print JSON")
    for action in (add, revoke, show):
        action.add_argument("--file", type=Path, metavar="FILE", help=f"key file (default: {SETTING})")


def run(options: argparse.Namespace, keys_file: Path | None) -> int:
    """Run the command on the file of its options, or else of the setting.

    Returns 0; 1 if the file cannot be read or changed, or a key does not exist; 2 if no file is named.
    """
    path = options.file or keys_file
    if path is None:
        print(f"error: no key file: use --file FILE or set {SETTING}", file=sys.stderr)
        return 2
    try:
        if options.action == "add":
            _add(path, options)
        elif options.action == "revoke":
            revoke_keys(path, options.ids)
        else:
            _list(read_keys(path), as_json=options.json)
    except (KeyFileError, _OutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _add(path: Path, options: argparse.Namespace) -> None:
    limits = KeyLimits(**{name: getattr(options, name) for name in KeyLimits.model_fields})
    key, presented = add_key(path, options.tenant, options.expires, limits)
    try:
        _print(presented)
    except _OutputError as error:
        revoke_keys(path, [key.id])
        raise _OutputError(f"{error}; the key is revoked") from error
    expires = "never expires" if key.expires is None else f"expires {_format_time(key.expires)}"
    print(f"shown once; {path} stores only its hash: id {key.id}, tenant {key.tenant}, {expires}", file=sys.stderr)


def _list(keys: Sequence[Key], *, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        rows = [
            {**key.model_dump(mode="json", exclude={"sha256", "limits"}), "state": _state(key, now)}
            | {"limits": key.limits.model_dump()}
            for key in keys
        ]
        return _print(json.dumps(rows, indent=2))
    headings = ["id", "tenant", "created", "expires", "state", *KeyLimits.model_fields]
    return _print(_table([headings, *_rows(keys, now)]))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        raise _OutputError(f"standard output: {error.strerror}") from error


def _rows(keys: Sequence[Key], now: datetime) -> list[list[str]]:
    return [
        [key.id, key.tenant, _format_time(key.created), _format_time(key.expires), _state(key, now)]
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
        raise argparse.ArgumentTypeError(
            f"must be up to 64 letters, digits or . _ @ -, a letter or digit first, got {text!r}"
        )
    return text


def _count(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,14}", text):
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _key_id(text: str) -> str:
    if not re.fullmatch(ID_PATTERN, text):
        # Without the value, which may be a whole key.
        raise argparse.ArgumentTypeError("must be the 8 characters between the dashes of ost-<id>-<secret>")
    return text


def _expiry(text: str) -> datetime:
    now = datetime.now(UTC)
    try:
        expires = _parse_time(text, now)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"must be like 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z, got {text!r}"
        ) from None
    if expires <= now:
        raise argparse.ArgumentTypeError(f"must be in the future, got {_format_time(expires)}")
    return expires


def _parse_time(text: str, now: datetime) -> datetime:
    """Parse a time, rounded down to the second.

    Raises:
        ValueError: it is not a time, or has no time zone.
        OverflowError: it is out of range.
    """
    if duration := re.fullmatch("([0-9]+)([dh])", text):
        return (now + timedelta(**{_UNITS[duration[2]]: int(duration[1])})).replace(microsecond=0)
    if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment.astimezone(UTC).replace(microsecond=0)
