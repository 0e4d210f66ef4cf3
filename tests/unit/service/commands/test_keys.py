"""`python -m service keys`: its output and exit codes, for a person and for a shell script."""

import errno
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.access.keys import KeyLimits, KeyRing, add_key, read_keys
from service.cli import main


@pytest.fixture
def path(tmp_path):
    """The path of the key file, as the setting has it; it does not exist yet."""
    return tmp_path / "keys.json"


@pytest.fixture(autouse=True)
def setting(path, monkeypatch):
    monkeypatch.setenv("SOSTENUTO_KEYS_FILE", str(path))


def call(*arguments):
    return main(["keys", *arguments])


def only_key(path):
    (key,) = read_keys(path)
    return key


def test_add_prints_only_the_key_to_stdout(path, capsys):
    """A shell script can capture it; the explanation goes to standard error, without the secret."""
    assert call("add", "--tenant", "acme") == 0
    out, err = capsys.readouterr()
    key = only_key(path)
    assert KeyRing(path).find(out.removesuffix("\n")) == key
    assert "shown once" in err
    assert key.id in err
    assert out.strip().rpartition("-")[2] not in err


def test_add_has_an_option_for_every_limit(path):
    """A limit that is not set stays None: the server's own applies."""
    for number, name in enumerate(KeyLimits.model_fields, 1):
        call("add", "--tenant", "acme", f"--{name.replace('_', '-')}", str(number))
        assert read_keys(path)[-1].limits == KeyLimits(**{name: number})


@pytest.mark.parametrize(("text", "hour"), [("", 0), ("T12:00:00Z", 12), ("T12:00:00+02:00", 10)])
def test_a_key_expires_at_a_date_or_time(path, text, hour):
    assert call("add", "--tenant", "acme", "--expires", f"2999-01-31{text}") == 0
    assert only_key(path).expires == datetime(2999, 1, 31, hour, tzinfo=UTC)


@pytest.mark.parametrize(("text", "span"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12))])
def test_a_key_expires_after_days_or_hours(path, text, span):
    before = datetime.now(UTC).replace(microsecond=0)
    assert call("add", "--tenant", "acme", "--expires", text) == 0
    assert before + span <= only_key(path).expires <= datetime.now(UTC) + span


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--expires", "2020-01-31"),
        ("--expires", "0h"),
        ("--expires", "tomorrow"),
        ("--expires", "2999-02-30"),
        ("--expires", "2999-01-31T12:00:00"),
        ("--expires", "99999999999999d"),
        ("--expires", "9999-12-31T23:59:59-23:00"),
        ("--max-sequences", "0"),
        ("--max-sequences", "many"),
        ("--tokens-per-minute", "-1"),
        ("--tenant", "a b"),
        ("--tenant", ""),
    ],
)
def test_an_invalid_option_is_named_and_adds_no_key(path, capsys, option, value):
    assert call("add", "--tenant", "acme", f"{option}={value}") == 2
    assert f"'{option}': " in capsys.readouterr().err
    assert not path.exists()


def test_list_is_a_table_without_secrets(path, capsys):
    first, _ = add_key(path, "acme", None, KeyLimits(max_sequences=8))
    second, _ = add_key(path, "a-longer-name", datetime(2020, 1, 31, tzinfo=UTC), KeyLimits())
    assert call("list") == 0
    out = capsys.readouterr().out
    headings, *rows = out.splitlines()
    names = ["id", "tenant", "created", "expires", "state", "roles", "models", *KeyLimits.model_fields]
    assert headings.split() == names
    created = f"{first.created:%Y-%m-%dT%H:%M:%SZ}"
    assert rows[0].split() == [first.id, "acme", created, "never", "active", "generate,read", "*", "8", "-", "-", "-"]
    assert rows[1].split()[3:5] == ["2020-01-31T00:00:00Z", "expired"]
    for heading in ("tenant", "created", "expires", "state"):
        start = headings.index(heading)
        assert all(row[start - 1] == " " != row[start] for row in rows)
    assert first.sha256 not in out
    assert second.sha256 not in out


def test_list_json_has_the_fields_of_the_table(path, capsys):
    key, _ = add_key(path, "acme", datetime(2999, 1, 31, tzinfo=UTC), KeyLimits(max_sequences=8))
    assert call("list", "--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown.pop("limits") == {**dict.fromkeys(KeyLimits.model_fields), "max_sequences": 8}
    times = {"created": f"{key.created:%Y-%m-%dT%H:%M:%SZ}", "expires": "2999-01-31T00:00:00Z"}
    others = {"roles": ["generate", "read"], "models": ["*"], "state": "active"}
    assert shown == {"id": key.id, "tenant": "acme", **times, **others}


def test_revoke_removes_only_the_named_keys(path):
    ids = [add_key(path, "acme", None, KeyLimits())[0].id for _ in range(3)]
    assert call("revoke", ids[0], ids[2]) == 0
    assert only_key(path).id == ids[1]


def test_revoking_an_unknown_id_is_a_one_line_error(path, capsys):
    key, _ = add_key(path, "acme", None, KeyLimits())
    assert call("revoke", key.id, "00000000") == 1
    assert capsys.readouterr().err == f"error: {path}: there is no key 00000000; nothing was revoked\n"
    assert only_key(path) == key


def test_revoking_by_the_whole_key_does_not_show_it(path, capsys):
    """A key given in place of its id must not end up in the log of the terminal."""
    _, presented = add_key(path, "acme", None, KeyLimits())
    assert call("revoke", presented) == 2
    out, err = capsys.readouterr()
    assert presented not in out + err
    assert "ID" in err


def test_the_file_option_overrides_the_setting(path, tmp_path):
    other = tmp_path / "other.json"
    assert call("add", "--tenant", "acme", "--file", str(other)) == 0
    assert (path.exists(), other.exists()) == (False, True)


def test_without_a_file_the_error_names_option_and_setting(capsys, monkeypatch):
    monkeypatch.delenv("SOSTENUTO_KEYS_FILE")
    assert call("add", "--tenant", "acme") == 2
    assert re.fullmatch(r"error: .*--file.*SOSTENUTO_KEYS_FILE\n", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "00000000"]])
def test_a_missing_file_is_a_one_line_error(path, capsys, arguments):
    assert call(*arguments) == 1
    assert capsys.readouterr().err == f"error: {path}: No such file or directory\n"
    assert not path.exists()


def test_a_permission_error_is_one_line(path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("service.access.keys.atomic_write", refuse)
    assert call("add", "--tenant", "acme") == 1
    assert capsys.readouterr() == ("", f"error: {path}: Permission denied\n")


@pytest.mark.parametrize(
    ("setting", "value"), [("AUDIT_FILE", "/nonexistent/audit.jsonl"), ("PORT", "none")], ids=["file", "settings"]
)
def test_an_audit_log_that_cannot_be_written_fails_no_command(path, capsys, monkeypatch, setting, value):
    """A user who repeated it would create another key."""
    monkeypatch.setenv(f"SOSTENUTO_{setting}", value)
    assert call("add", "--tenant", "acme", "--file", str(path)) == 0
    assert "error: add_key: done, but the audit log cannot be written: " in capsys.readouterr().err
    assert call("revoke", only_key(path).id, "--file", str(path)) == 0
    assert "error: revoke_key: done, but" in capsys.readouterr().err
    assert read_keys(path) == ()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(("arguments", "word"), [(["add", "--tenant", "acme"], "revoked"), (["list"], "No space")])
def test_a_full_stdout_is_a_one_line_error(path, arguments, word):
    """`add` then revokes its new key, which nobody has seen."""
    key, _ = add_key(path, "acme", None, KeyLimits())
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "service", "keys", *arguments, "--file", path]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=240)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
    assert only_key(path) == key
