"""`python -m service keys`, as a person and a shell script see it."""

import argparse
import errno
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.access.keys import KeyLimits, KeyRing, add_key, read_keys
from service.commands import keys as keys_command

# What `service.__main__` does with the two functions, for tests that need a process.
PROGRAM = """
import argparse, sys
from service.commands.keys import add_parser, run
parser = argparse.ArgumentParser()
add_parser(parser.add_subparsers(dest="command"))
sys.exit(run(parser.parse_args(), None))
"""


@pytest.fixture
def path(tmp_path):
    """Where the file of keys will be; the setting names it."""
    return tmp_path / "keys.json"


def call(path, *arguments):
    """Run a command; an error of an option is exit code 2 as well."""
    parser = argparse.ArgumentParser("python -m service")
    keys_command.add_parser(parser.add_subparsers(dest="command"))
    try:
        return keys_command.run(parser.parse_args(["keys", *arguments]), path)
    except SystemExit as end:
        return end.code


def only_key(path):
    (key,) = read_keys(path)
    return key


def test_add_prints_the_key_alone(path, capsys):
    """What a shell takes from standard output is a key that is found; the words about it go elsewhere."""
    assert call(path, "add", "--tenant", "acme") == 0
    out, err = capsys.readouterr()
    key = only_key(path)
    assert KeyRing(path).find(out.removesuffix("\n")) == key
    assert "shown once" in err
    assert key.id in err
    assert out.strip().rpartition("-")[2] not in err


def test_add_takes_every_limit(path):
    """Each limit of a key is an option, and what is not given is the server's own."""
    for number, name in enumerate(KeyLimits.model_fields, 1):
        call(path, "add", "--tenant", "acme", f"--{name.replace('_', '-')}", str(number))
        assert read_keys(path)[-1].limits == KeyLimits(**{name: number})


@pytest.mark.parametrize(
    ("text", "expires"),
    [
        ("2999-01-31", datetime(2999, 1, 31, tzinfo=UTC)),
        ("2999-01-31T12:00:00Z", datetime(2999, 1, 31, 12, tzinfo=UTC)),
        ("2999-01-31T12:00:00+02:00", datetime(2999, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_key_expires_at_a_date_or_time(path, text, expires):
    """A date is its first moment in UTC; a time has a zone."""
    assert call(path, "add", "--tenant", "acme", "--expires", text) == 0
    assert only_key(path).expires == expires


@pytest.mark.parametrize(("text", "span"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12))])
def test_a_key_expires_after_days_or_hours(path, text, span):
    """The span begins now."""
    before = datetime.now(UTC).replace(microsecond=0)
    assert call(path, "add", "--tenant", "acme", "--expires", text) == 0
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
def test_a_wrong_option_is_named_and_makes_no_key(path, capsys, option, value):
    """Exit code 2, and the message has the option."""
    assert call(path, "add", "--tenant", "acme", f"{option}={value}") == 2
    assert f"argument {option}: " in capsys.readouterr().err
    assert not path.exists()


def test_list_is_a_table_without_secrets(path, capsys):
    """Each key is one line under aligned headings, in the order in which they were made; hashes are not shown."""
    first, _ = add_key(path, "acme", None, KeyLimits(max_sequences=8))
    second, _ = add_key(path, "a-longer-name", datetime(2020, 1, 31, tzinfo=UTC), KeyLimits())
    assert call(path, "list") == 0
    out = capsys.readouterr().out
    headings, *rows = out.splitlines()
    assert headings.split() == ["id", "tenant", "created", "expires", "state", *KeyLimits.model_fields]
    created = f"{first.created:%Y-%m-%dT%H:%M:%SZ}"
    assert rows[0].split() == [first.id, "acme", created, "never", "active", "8", "-", "-", "-"]
    assert rows[1].split()[3:5] == ["2020-01-31T00:00:00Z", "expired"]
    for heading in ("tenant", "created", "expires", "state"):
        start = headings.index(heading)
        assert all(row[start - 1] == " " != row[start] for row in rows)
    assert first.sha256 not in out
    assert second.sha256 not in out


def test_list_as_json_has_what_the_table_has(path, capsys):
    """Programs get times as ISO 8601, limits as numbers or null, and the state."""
    key, _ = add_key(path, "acme", datetime(2999, 1, 31, tzinfo=UTC), KeyLimits(max_sequences=8))
    assert call(path, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "id": key.id,
            "tenant": "acme",
            "created": f"{key.created:%Y-%m-%dT%H:%M:%SZ}",
            "expires": "2999-01-31T00:00:00Z",
            "state": "active",
            "limits": {
                "max_sequences": 8,
                "max_queued_tokens": None,
                "requests_per_minute": None,
                "tokens_per_minute": None,
            },
        }
    ]


def test_revoke_removes_the_keys_that_it_names(path):
    """The others stay."""
    ids = [add_key(path, "acme", None, KeyLimits())[0].id for _ in range(3)]
    assert call(path, "revoke", ids[0], ids[2]) == 0
    assert only_key(path).id == ids[1]


def test_revoke_of_an_unknown_id_is_an_error_of_one_line(path, capsys):
    """Exit code 1; the line names the id and nothing that is in the file."""
    key, _ = add_key(path, "acme", None, KeyLimits())
    assert call(path, "revoke", "00000000") == 1
    assert capsys.readouterr().err == f"error: {path}: there is no key 00000000; nothing was revoked\n"
    assert only_key(path) == key


def test_revoke_of_a_whole_key_does_not_show_it(path, capsys):
    """Who gives the key where its id was asked for finds no secret in the log of the terminal."""
    _, presented = add_key(path, "acme", None, KeyLimits())
    assert call(path, "revoke", presented) == 2
    out, err = capsys.readouterr()
    assert presented not in out + err
    assert "argument ID" in err


def test_the_option_goes_before_the_setting(path, tmp_path):
    """`--file` names the file, whatever the setting says."""
    other = tmp_path / "other.json"
    assert call(path, "add", "--tenant", "acme", "--file", str(other)) == 0
    assert (path.exists(), other.exists()) == (False, True)


def test_without_a_file_both_ways_to_name_one_are_told(capsys):
    """Exit code 2, and nothing is made anywhere."""
    assert call(None, "add", "--tenant", "acme") == 2
    assert re.fullmatch(r"error: .*--file.*OSTINATO_KEYS_FILE\n", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "00000000"]])
def test_a_file_that_is_not_there_is_an_error_of_one_line(path, capsys, arguments):
    """Only `add` makes the file."""
    assert call(path, *arguments) == 1
    assert capsys.readouterr().err == f"error: {path}: No such file or directory\n"
    assert not path.exists()


def test_no_permission_is_an_error_of_one_line(path, capsys, monkeypatch):
    """The system's own words, with the file's name."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("service.access.keys.atomic_write", refuse)
    assert call(path, "add", "--tenant", "acme") == 1
    assert capsys.readouterr() == ("", f"error: {path}: Permission denied\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(("arguments", "word"), [(["add", "--tenant", "acme"], "revoked"), (["list"], "No space")])
def test_a_standard_output_that_is_full_is_an_error_of_one_line(path, arguments, word):
    """A key that nobody has seen does not stay valid."""
    key, _ = add_key(path, "acme", None, KeyLimits())
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PROGRAM, "keys", *arguments, "--file", path]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
    assert only_key(path) == key
