"""Keys, the file that holds them, and what happens when it changes."""

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
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.access import keys
from service.access.keys import KeyFileError, KeyLimits, KeyRefused, KeyRing, add_key, read_keys, revoke_keys
from service.process import reloading


@pytest.fixture
def path(tmp_path):
    """Where the file of keys will be."""
    return tmp_path / "keys.json"


@pytest.fixture
def always_look(monkeypatch):
    """Rings look at their file at every call."""
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 0.0)


def add(path, tenant="acme", expires=None, **limits):
    return add_key(path, tenant, expires, KeyLimits(**limits))


def refusal(ring, presented):
    with pytest.raises(KeyRefused) as caught:
        ring.find(presented)
    return caught.value.reason, caught.value.key_id


def test_a_key_that_was_added_is_found_with_its_tenant_and_limits(path):
    """What `add_key` returned opens the door, as the record that it returned."""
    expires = datetime(2999, 1, 31, tzinfo=UTC)
    key, presented = add(path, expires=expires, max_sequences=3)
    other, _ = add(path, "other")
    ring = KeyRing(path)
    assert ring.find(presented) == key
    assert (key.tenant, key.expires, key.limits) == ("acme", expires, KeyLimits(max_sequences=3))
    assert (other.expires, other.limits) == (None, KeyLimits())
    assert read_keys(path) == (key, other)


def test_the_file_holds_no_secret(path):
    """Of a key the file has the id and the SHA-256 of the whole."""
    key, presented = add(path)
    assert re.fullmatch("ost-[a-z0-9]{8}-[0-9a-f]{64}", presented)
    assert presented.rpartition("-")[2] not in path.read_text()
    assert key.sha256 == hashlib.sha256(presented.encode()).hexdigest()


def test_keys_are_refused_for_one_reason_each(path):
    """Nothing, nonsense, an unknown id, a wrong secret and a key past its time are told apart for the log."""
    key, presented = add(path)
    old, expired = add(path, expires=datetime.now(UTC) - timedelta(seconds=1))
    ring = KeyRing(path)
    assert refusal(ring, "") == ("missing", None)
    assert refusal(ring, presented + "0") == ("malformed", None)
    assert refusal(ring, presented.upper()) == ("malformed", None)
    assert refusal(ring, f"ost-00000000-{'0' * 64}") == ("unknown", "00000000")
    assert refusal(ring, f"ost-{key.id}-{'0' * 64}") == ("wrong", key.id)
    assert refusal(ring, expired) == ("expired", old.id)
    assert refusal(ring, f"ost-{old.id}-{'0' * 64}") == ("wrong", old.id)


@given(st.text() | st.from_regex(r"ost-[a-z0-9]{8}-[0-9a-f]{64}") | st.text(alphabet="ost-09af\n", max_size=90))
@example("ost-00000000-" + "0" * 64 + "\n")
@example("\ud800")
@example("ost-" + "\N{ARABIC-INDIC DIGIT ZERO}" * 8 + "-" + "0" * 64)
def test_any_string_that_is_no_key_is_refused_and_nothing_else_happens(tmp_path_factory, presented):
    """Whatever a client sends, `find` raises KeyRefused alone, and what it calls an id is safe to log."""
    path = tmp_path_factory.getbasetemp() / "strings.json"
    if not path.exists():
        add(path)
    _, key_id = refusal(KeyRing(path), presented)
    assert key_id is None or re.fullmatch("[a-z0-9]{8}", key_id)


def test_digests_are_compared_in_constant_time_also_for_an_unknown_id(path, monkeypatch):
    """Each of a good, a wrong and an unknown key is one `compare_digest` of two digests."""
    key, presented = add(path)
    ring, compared = KeyRing(path), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or compare(*both))
    ring.find(presented)
    refusal(ring, f"ost-{key.id}-{'0' * 64}")
    refusal(ring, f"ost-00000000-{'0' * 64}")
    assert [[len(digest) for digest in both] for both in compared] == [[64, 64]] * 3


@pytest.mark.usefixtures("always_look")
def test_keys_come_and_go_without_a_restart(path):
    """A ring finds what was added after it was made, and no longer what was revoked."""
    first, first_presented = add(path)
    ring = KeyRing(path)
    second, presented = add(path)
    assert ring.find(presented) == second
    revoke_keys(path, [first.id])
    assert refusal(ring, first_presented) == ("unknown", first.id)
    assert ring.find(presented) == second


def test_the_file_is_looked_at_once_in_a_while(path, monkeypatch):
    """Requests in between cost no look at the file."""
    monkeypatch.setattr(keys, "_CHECK_EVERY_S", 3600.0)
    _, presented = add(path)
    ring = KeyRing(path)
    monkeypatch.setattr(reloading, "_stamp", lambda path: pytest.fail("looked"))
    ring.find(presented)


@pytest.mark.usefixtures("always_look")
def test_a_file_that_did_not_change_is_not_read_again(path, monkeypatch):
    """A look that finds the file as it was is one `stat`, after the start and after a change."""
    add(path)
    ring = KeyRing(path)
    _, presented = add(path)
    ring.find(presented)
    monkeypatch.setattr(keys, "read_keys", lambda path: pytest.fail("read"))
    ring.find(presented)


@pytest.mark.usefixtures("always_look")
def test_threads_find_their_key_while_the_file_changes(path):
    """No request sees a ring between two files."""
    _, presented = add(path)
    ring, stop, problems = KeyRing(path), threading.Event(), []

    def work():
        while not stop.is_set():
            try:
                ring.find(presented)
            except Exception as problem:
                problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        add(path)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems


def damage(path):
    path.write_text("{")


def remove(path):
    path.unlink()


def make_unreadable(path):
    path.unlink()
    path.mkdir()


@pytest.mark.usefixtures("always_look")
@pytest.mark.parametrize("spoil", [damage, remove, make_unreadable])
def test_a_file_that_is_spoilt_leaves_the_last_good_keys_in_force(path, spoil, caplog):
    """The keys of before are still found, and one line in the log says what is wrong, until the file is good again."""
    caplog.set_level(logging.INFO)
    key, presented = add(path)
    good = path.read_bytes()
    ring = KeyRing(path)
    spoil(path)
    for _ in range(5):
        assert ring.find(presented) == key
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith(f"{path}: ")
    if path.is_dir():
        path.rmdir()
    path.write_bytes(good.replace(b"acme", b"other"))
    assert ring.find(presented).tenant == "other"
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.mark.usefixtures("always_look")
def test_each_new_damage_is_one_more_line(path, caplog):
    """The log tells every change of the file that could not be used, once."""
    _, presented = add(path)
    ring = KeyRing(path)
    for content in ("{", "[[]]", "{}"):
        path.write_text(content)
        for _ in range(3):
            ring.find(presented)
    assert len(caplog.records) == 3


@pytest.mark.usefixtures("always_look")
def test_a_file_that_is_gone_a_second_time_is_told_a_second_time(path, tmp_path, caplog):
    """That the same file came back in between is a change, too."""
    _, presented = add(path)
    ring = KeyRing(path)
    for _ in range(2):
        path.rename(tmp_path / "elsewhere")
        ring.find(presented)
        (tmp_path / "elsewhere").rename(path)
        ring.find(presented)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_ring_without_a_usable_file_is_not_made(path):
    """At the start a missing or damaged file is an error of one line that names it."""
    with pytest.raises(KeyFileError, match=f"{path}: No such file"):
        KeyRing(path)
    damage(path)
    with pytest.raises(KeyFileError, match=f"{path}: Invalid JSON"):
        KeyRing(path)


def test_a_file_without_keys_lets_nobody_in(path):
    """An empty list is a file like any other."""
    path.write_text('{"keys": []}')
    assert refusal(KeyRing(path), f"ost-00000000-{'0' * 64}") == ("unknown", "00000000")


RECORD = {
    "id": "abcd1234",
    "sha256": "0" * 64,
    "tenant": "acme",
    "created": "2027-01-31T12:00:00+02:00",
    "expires": None,
    "limits": {"max_sequences": 1},
}


def test_what_a_person_writes_is_read(path):
    """Limits may be left out, and a time in any zone is the same time in UTC."""
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
def test_what_is_wrong_is_named_by_file_key_and_field_without_its_value(path, changes, field):
    """One line leads to the place; a key that was pasted into the wrong one is not shown."""
    path.write_text(json.dumps({"keys": [{**RECORD, "id": "first000"}, {**RECORD, **changes}]}))
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"{path}: key 'abcd1234', field '{field}': ")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("record", [{**RECORD, "id": "ost-abcd1234-hunter2"}, {**RECORD, "id": 1}, 5])
def test_a_record_without_an_id_is_named_by_its_number(path, record):
    """What stands in the place of an id is not shown."""
    path.write_text(json.dumps({"keys": [RECORD, record]}))
    with pytest.raises(KeyFileError, match="key number 2, ") as caught:
        read_keys(path)
    assert "hunter2" not in str(caught.value)


def test_an_id_that_is_there_twice_is_an_error(path):
    """Two records of one id would be one key too few."""
    path.write_text(json.dumps({"keys": [RECORD, RECORD]}))
    with pytest.raises(KeyFileError, match=f"{path}: field 'keys': 2 keys have the id 'abcd1234'"):
        read_keys(path)


def test_a_new_file_is_the_owners_alone_and_no_other_file_is_left(path):
    """Mode 0600, whatever the umask; the temporary file is gone."""
    umask = os.umask(0)
    try:
        add(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("before", "after"), [(0o640, 0o640), (0o666, 0o640), (0o400, 0o600)])
def test_a_changed_file_stays_readable_for_its_group_and_for_nobody_else(path, before, after):
    """The gateway's group may go on reading; others may not."""
    add(path)
    path.chmod(before)
    add(path)
    assert stat.S_IMODE(path.stat().st_mode) == after


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_changed_file_keeps_its_owner(path):
    """Root may add a key without taking the file from the gateway's user."""
    add(path)
    os.chown(path, 12345, 54321)
    add(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_file_whose_owner_cannot_be_kept_is_not_changed(path, monkeypatch):
    """Who may not give the file back to its owner does not take it."""
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
    with pytest.raises(KeyFileError, match=f"{path}: belongs to user"):
        add(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_a_link(path, tmp_path):
    """The file that a link leads to is changed, not the link."""
    home = tmp_path / "home"
    home.mkdir()
    path.symlink_to(home / "real.json")
    key, presented = add(path)
    assert path.is_symlink()
    assert read_keys(home / "real.json") == (key,)
    assert KeyRing(path).find(presented) == key


def test_a_full_disk_leaves_the_file_as_it_was(path, monkeypatch):
    """What cannot be written whole is not written at all, and nothing is left behind."""
    add(path)
    before = path.read_bytes()

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyFileError, match=f"{path}: No space left on device"):
        add(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_who_reads_during_a_change_reads_the_old_file_whole(path):
    """A file takes the place of another; none is changed in its place."""
    add(path)
    before = path.read_text()
    with path.open() as old:
        add(path)
        assert old.read() == before


def test_a_damaged_file_is_not_written_over(path):
    """Adding to a file that cannot be read is an error, and it stays as it is."""
    damage(path)
    with pytest.raises(KeyFileError, match="Invalid JSON"):
        add(path)
    assert path.read_text() == "{"


def test_a_folder_that_is_not_there_is_not_made(path):
    """A slip in a path must not make a second file of keys somewhere else."""
    with pytest.raises(KeyFileError, match=f"there is no directory {path}"):
        add(path / "below.json")
    assert not path.exists()


def test_an_unknown_id_revokes_nothing(path):
    """Of several keys all are revoked or none."""
    key, _ = add(path)
    with pytest.raises(KeyFileError, match="there is no key 00000000"):
        revoke_keys(path, [key.id, "00000000"])
    assert read_keys(path) == (key,)
    revoke_keys(path, [key.id])
    assert read_keys(path) == ()


def test_processes_that_add_at_once_lose_no_key(path):
    """Four processes that add ten keys each make forty."""
    program = (
        "import sys, pathlib; from service.access.keys import KeyLimits, add_key\n"
        "for _ in range(10): add_key(pathlib.Path(sys.argv[1]), 'acme', None, KeyLimits())"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert len(read_keys(path)) == 40


def test_a_lock_that_is_never_free_is_an_error(path, monkeypatch):
    """Who waits for another process does not wait for ever."""
    monkeypatch.setattr(keys, "_LOCK_TIMEOUT_S", 0.1)
    with keys._locked_for_writing(path), pytest.raises(KeyFileError, match=f"{path}: another process"):
        add(path)
