"""API keys: the key file, authentication, and reloading after a change of the file."""

import errno
import hashlib
import hmac
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service import reloading_file
from service.access import keys
from service.access.auth import Authenticator
from service.access.keys import KeyLimits, KeyRing, add_key, read_keys, revoke_keys
from service.access.ratelimits import RateLimiter
from service.errors import ConfigurationError, RateLimited, Unauthorized
from tests.waiting import until


@pytest.fixture
def path(tmp_path):
    """The path of the key file, which does not exist yet."""
    return tmp_path / "keys.json"


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    """Make key rings check their file at every call."""
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 0.0)


def add(path, tenant="acme", expires=None, **limits):
    return add_key(path, tenant, expires, KeyLimits(**limits))


def refusal(ring, presented):
    with pytest.raises(Unauthorized) as caught:
        ring.find(presented)
    return str(caught.value)


def test_a_request_has_the_limits_of_its_key_and_the_defaults_for_others(path):
    key, presented = add(path, max_sequences=3)
    defaults = KeyLimits(max_sequences=8, max_queued_tokens=9, requests_per_minute=1)
    authenticator = Authenticator(KeyRing(path), RateLimiter(), defaults)
    context = authenticator.authenticate(f"bearer  {presented} ")
    assert (context.key, context.max_sequences, context.max_queued_tokens, context.tenant) == (key.id, 3, 9, "acme")
    context.charge_request()
    with pytest.raises(RateLimited):
        context.charge_request()
    for header in (None, "", "Bearer ", presented, f"Basic {presented}", f"Bearer {presented} b"):
        with pytest.raises(Unauthorized):
            authenticator.authenticate(header)


def test_an_added_key_is_found_with_its_tenant_and_limits(path):
    expires = datetime(2999, 1, 31, tzinfo=UTC)
    key, presented = add(path, expires=expires, max_sequences=3)
    other, _ = add(path, "other")
    ring = KeyRing(path)
    assert ring.find(presented) == key
    assert (key.tenant, key.expires, key.limits) == ("acme", expires, KeyLimits(max_sequences=3))
    assert (other.expires, other.limits) == (None, KeyLimits())
    assert read_keys(path) == (key, other)


def test_the_key_file_stores_a_hash_and_no_secret(path):
    key, presented = add(path)
    assert re.fullmatch("ost-[a-z0-9]{8}-[0-9a-f]{64}", presented)
    assert presented.rpartition("-")[2] not in path.read_text()
    assert key.sha256 == hashlib.sha256(presented.encode()).hexdigest()


def test_the_refusal_of_a_key_does_not_say_which_part_of_it_is_wrong(path):
    """Malformed, unknown and wrong keys get one message; only who has the secret learns that a key has expired."""
    key, presented = add(path)
    old, expired = add(path, expires=datetime.now(UTC) - timedelta(seconds=1))
    ring = KeyRing(path)
    invalid = ["", presented + "0", presented.upper()]
    invalid += [f"ost-{key_id}-{'0' * 64}" for key_id in ("00000000", key.id, old.id)]
    assert {refusal(ring, each) for each in invalid} == {"the API key is invalid"}
    assert refusal(ring, expired) == "the API key has expired"
    # An empty list does not disable authentication.
    revoke_keys(path, [key.id, old.id])
    assert refusal(ring, presented) == refusal(KeyRing(path), presented) == "the API key is invalid"


@given(st.text() | st.from_regex(r"ost-[a-z0-9]{8}-[0-9a-f]{64}") | st.text(alphabet="ost-09af\n", max_size=90))
@example("ost-00000000-" + "0" * 64 + "\n")
@example("\ud800")
@example("ost-" + "\N{ARABIC-INDIC DIGIT ZERO}" * 8 + "-" + "0" * 64)
def test_an_arbitrary_string_is_only_unauthorized(tmp_path_factory, presented):
    path = tmp_path_factory.getbasetemp() / "strings.json"
    if not path.exists():
        add(path)
    assert refusal(KeyRing(path), presented) == "the API key is invalid"


def test_every_key_costs_one_constant_time_comparison(path, monkeypatch):
    """Timing does not reveal ids: a valid, a wrong and an unknown key are each one `compare_digest`."""
    key, presented = add(path)
    ring, compared = KeyRing(path), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or compare(*both))
    ring.find(presented)
    refusal(ring, f"ost-{key.id}-{'0' * 64}")
    refusal(ring, f"ost-00000000-{'0' * 64}")
    assert [[len(digest) for digest in both] for both in compared] == [[64, 64]] * 3


def test_a_revoked_key_ends_what_runs_with_it(path, monkeypatch):
    """Once, and nothing that has ended before or runs with another key; an edit of its limits is no revocation."""
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 0.01)
    (first, _), (second, _) = add(path), add(path)
    ring, ended = KeyRing(path), []
    with ring.watch(first, partial(ended.append, "before")):
        pass
    with ring.watch(first, partial(ended.append, "first")), ring.watch(second, partial(ended.append, "second")):
        path.write_text(path.read_text().replace('"max_sequences": null', '"max_sequences": 7'))
        until(lambda: ring._file.content()[first.id].limits.max_sequences == 7)
        assert ended == []
        revoke_keys(path, [first.id])
        until(lambda: ended)
        revoke_keys(path, [second.id])
        until(lambda: len(ended) > 1)
    assert ended == ["first", "second"]


def test_a_key_that_was_revoked_before_it_is_watched_ends_what_runs(path, monkeypatch):
    """The request may have waited after its authentication."""
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 0.01)
    key, _ = add(path)
    ring, ended = KeyRing(path), []
    revoke_keys(path, [key.id])
    with ring.watch(key, partial(ended.append, True)):
        until(lambda: ended)


def test_keys_are_watched_again_once_there_are_threads(path, monkeypatch):
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 0.01)
    key, _ = add(path)
    ring, ended = KeyRing(path), []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no thread")))
        with pytest.raises(RuntimeError, match="no thread"):
            ring.watch(key, partial(ended.append, True)).__enter__()
    revoke_keys(path, [key.id])
    with ring.watch(key, partial(ended.append, True)):
        until(lambda: ended)
    assert len(ended) == 1


def test_a_callback_that_fails_keeps_none_from_being_called(path, monkeypatch, caplog):
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 0.01)
    key, _ = add(path)
    ring, ended = KeyRing(path), []
    revoke_keys(path, [key.id])
    for _ in range(2):
        with ring.watch(key, Mock(side_effect=ValueError)), ring.watch(key, partial(ended.append, True)):
            until(lambda: ended)
        ended.clear()
    assert caplog.text.count(f"a callback of the revoked key {key.id} failed") == 2


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o644, 0o666], ids=oct)
def test_a_file_that_others_can_read_or_write_is_a_warning(path, mode, caplog):
    add(path)
    path.chmod(mode)
    keys.warn_if_exposed(path)
    assert (f"{path}: mode {mode:04o} lets others" in caplog.text) == (mode > 0o640)


def test_the_file_is_checked_once_per_interval_and_read_again_only_if_it_has_changed(path, monkeypatch):
    add(path)
    ring = KeyRing(path)
    _, presented = add(path)
    ring.find(presented)
    monkeypatch.setattr(keys, "read_keys", lambda path: pytest.fail("read"))
    ring.find(presented)
    monkeypatch.undo()
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 3600.0)
    ring = KeyRing(path)
    monkeypatch.setattr(reloading_file, "stamp", lambda path: pytest.fail("looked"))
    ring.find(presented)


def test_threads_find_their_key_while_the_file_changes(path):
    """A reload swaps all keys at once: no request sees a half-loaded key ring."""
    _, presented = add(path)
    ring, stop = KeyRing(path), threading.Event()

    def work():
        while not stop.is_set():
            ring.find(presented)

    with ThreadPoolExecutor(4) as pool:
        finding = [pool.submit(work) for _ in range(4)]
        for _ in range(10):
            add(path)
        stop.set()
    assert [each.exception() for each in finding] == [None] * 4


@pytest.mark.timeout(60)
@pytest.mark.parametrize("replace", [lambda path: path.write_text("{"), lambda _: None, Path.mkdir, os.mkfifo])
def test_an_invalid_file_leaves_the_last_valid_keys_in_force(path, replace, caplog):
    caplog.set_level(logging.INFO)
    key, presented = add(path)
    good = path.read_bytes()
    ring = KeyRing(path)
    path.unlink()
    replace(path)
    for _ in range(5):
        assert ring.find(presented) == key
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith(f"{path}: ")
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(good.replace(b"acme", b"other"))
    assert ring.find(presented).tenant == "other"
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_file_that_disappears_again_is_logged_again(path, tmp_path, caplog):
    _, presented = add(path)
    ring = KeyRing(path)
    for _ in range(2):
        path.rename(tmp_path / "elsewhere")
        ring.find(presented)
        (tmp_path / "elsewhere").rename(path)
        ring.find(presented)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_missing_or_invalid_file_is_an_error_at_startup(path):
    with pytest.raises(ConfigurationError, match=f"{path}: No such file"):
        KeyRing(path)
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=f"{path}: Invalid JSON"):
        KeyRing(path)


RECORD = {"id": "abcd1234", "sha256": "0" * 64, "tenant": "acme", "created": "2027-01-31T12:00:00+02:00"}
RECORD |= {"expires": None, "limits": {"max_sequences": 1}}


def test_a_handwritten_file_is_read(path):
    unlimited = {name: value for name, value in RECORD.items() if name != "limits"} | {"id": "unlimite"}
    path.write_text(json.dumps({"keys": [RECORD, unlimited]}))
    key, other = read_keys(path)
    assert other.limits == KeyLimits()
    assert key.created == datetime(2027, 1, 31, 10, tzinfo=UTC)
    assert key.created.tzinfo == UTC
    assert key.limits == KeyLimits(max_sequences=1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"limits": {"max_sequences": "1"}}, "limits.max_sequences"),
        ({"limits": {"max_sequences": 0}}, "limits.max_sequences"),
        ({"limits": {"max_text": 1}}, "limits.max_text"),
        ({"expires": "2027-01-31T12:00:00"}, "expires"),
        ({"expires": "0001-01-01T00:00:00+02:00"}, "expires"),
        ({"expires": 1800000000}, "expires"),
        ({"tenant": "a b"}, "tenant"),
        ({"sha256": "hunter2"}, "sha256"),
        ({"key": "hunter2"}, "key"),
        ({"key\n": "hunter2"}, r"key\n"),
    ],
)
def test_an_invalid_field_is_named_by_file_key_and_field(path, changes, field):
    """The value is not shown: it may be an API key, pasted into the wrong field."""
    path.write_text(json.dumps({"keys": [{**RECORD, "id": "first000"}, {**RECORD, **changes}]}))
    with pytest.raises(ConfigurationError) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"{path}: key 'abcd1234', field '{field}': ")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("record", [{**RECORD, "id": "ost-abcd1234-hunter2"}, {**RECORD, "id": 1}, 5])
def test_a_record_without_a_valid_id_is_named_by_its_number(path, record):
    """The invalid id is not shown: it may hold a secret."""
    path.write_text(json.dumps({"keys": [RECORD, record]}))
    with pytest.raises(ConfigurationError, match="key number 2, ") as caught:
        read_keys(path)
    assert "hunter2" not in str(caught.value)


def test_a_duplicate_id_is_an_error(path):
    """One of the two keys would never be found."""
    path.write_text(json.dumps({"keys": [RECORD, RECORD]}))
    with pytest.raises(ConfigurationError, match=f"{path}: field 'keys': 2 keys have the id 'abcd1234'"):
        read_keys(path)


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o640, 0o640), (0o666, 0o640), (0o400, 0o600)])
def test_a_file_is_readable_for_its_owner_and_if_it_was_for_its_group(path, before, after):
    """The gateway's group keeps its access; others lose theirs. The mode does not depend on the umask."""
    umask = os.umask(0)
    try:
        add(path)
        if before is not None:
            path.chmod(before)
            add(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == after
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_changed_file_keeps_its_owner(path):
    """Root can add a key, and the gateway's user can still read the file."""
    add(path)
    os.chown(path, 12345, 54321)
    add(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_file_whose_owner_cannot_be_preserved_is_not_changed(path, monkeypatch):
    """A user that may not `chown` the new file does not become its owner."""
    add(path)
    before = path.read_bytes()
    real = os.fstat

    def fstat(descriptor):
        status = list(real(descriptor))
        status[stat.ST_UID] += 1
        return os.stat_result(status)

    def fchown(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(os, "fchown", fchown)
    with pytest.raises(ConfigurationError, match=f"{path}: belongs to user"):
        add(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_change_through_a_symlink_replaces_its_target(path, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    path.symlink_to(home / "real.json")
    key, presented = add(path)
    assert path.is_symlink()
    assert read_keys(home / "real.json") == (key,)
    assert KeyRing(path).find(presented) == key


def test_an_invalid_file_is_not_overwritten(path):
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="Invalid JSON"):
        add(path)
    assert path.read_text() == "{"


def test_a_missing_directory_is_not_created(path):
    """A typo in a path must not create a second key file elsewhere."""
    with pytest.raises(ConfigurationError, match=f"directory {path} does not exist"):
        add(path / "below.json")
    assert not path.exists()


def test_concurrent_processes_lose_no_added_key(path):
    program = (
        "import sys, pathlib; from service.access.keys import KeyLimits, add_key\n"
        "for _ in range(10): add_key(pathlib.Path(sys.argv[1]), 'acme', None, KeyLimits())"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(4)]
    assert [process.wait(timeout=240) for process in processes] == [0] * 4
    assert len(read_keys(path)) == 40


def test_a_lock_that_is_never_released_is_an_error(path, monkeypatch):
    monkeypatch.setattr(keys, "_LOCK_TIMEOUT_S", 0.1)
    with keys._locked_for_writing(path), pytest.raises(ConfigurationError, match=f"{path}: another process"):
        add(path)
