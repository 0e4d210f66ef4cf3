"""The job store: every status changes in one transaction, tenants see their own, and a lost lease is noticed."""

import concurrent.futures
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, update

from jobs import database, quotas
from jobs import store as module
from jobs.database import CannotOpen, Job, StoredFile
from jobs.operations import JobActive
from jobs.quotas import QuotaExceeded, TrainingMinutes
from jobs.store import FileDeleted, JobEnded, JobStore
from tests.databases import DATABASES, new_database
from tests.paths import ROOT
from tests.unit.jobs.place import QUOTA

LEASE_S = 60.0


@pytest.fixture(params=DATABASES)
def url(request, tmp_path):
    with new_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def store(url):
    made = JobStore(url)
    yield made
    made.close()


def new(tenant="acme", **fields):
    return Job(**{"tenant": tenant, "model": "characters", "name": "book", "training_file": "file-1", **fields})


def create(store, tenant="acme", quota=QUOTA, **fields):
    """Create a job; its training file, too, if there is none."""
    job = new(tenant, **fields)
    if job.training_file not in store.file_ids():
        add_file(store, job.training_file, tenant)
    return store.create(job, quota)


def add_file(store, file_id="file-1", tenant="acme", size=10, created_at=1000):
    store.add_file(
        StoredFile(id=file_id, tenant=tenant, filename="a.txt", bytes=size, created_at=created_at), max_bytes=100
    )


def expire_leases(store):
    with store._engine.begin() as connection:
        connection.execute(update(Job).values(lease_until=0.0))


def test_a_job_is_claimed_once(store):
    job_ids = {create(store).id for _ in range(5)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        claimed = [job.id for job in pool.map(lambda _: store.claim(LEASE_S), range(20)) if job]
    assert sorted(claimed) == sorted(job_ids)


def test_the_tenant_that_trained_least_is_next(store):
    """The oldest job of each; a tenant with many jobs does not keep out the others."""
    many = [create(store, "many") for _ in range(3)]
    few = create(store, "few")
    first = store.claim(LEASE_S)
    assert first.id == many[0].id
    store.renew(first, LEASE_S, trained_s=30.0)
    assert store.claim(LEASE_S).id == few.id
    assert store.claim(LEASE_S).id == many[1].id


def test_a_lost_trainer_is_replaced_and_its_writes_are_refused(store):
    create(store)
    lost = store.claim(LEASE_S)
    assert store.claim(LEASE_S) is None
    expire_leases(store)
    again = store.claim(LEASE_S)
    assert (again.id, again.attempt) == (lost.id, lost.attempt + 1)
    assert store.renew(lost, LEASE_S) == "lost"
    assert not store.add_events(lost, [("late", None)])
    assert not store.end(lost, "failed", "late")
    assert store.renew(again, LEASE_S) is None
    assert store.job("acme", again.id).status == "running"


def test_a_trainer_that_is_being_replaced_waits_and_is_refused(store):
    """The lease is checked after the transaction in which another trainer claims the job."""
    job = create(store)
    lost = store.claim(LEASE_S)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with store._engine.begin() as connection:
            connection.execute(update(Job).values(attempt=2))
            late = pool.submit(store.end, lost, "failed", "late"), pool.submit(store.add_events, lost, [("late", None)])
            time.sleep(0.3)
            assert not any(each.done() for each in late)
        assert [each.result(60) for each in late] == [False, False]
    assert store.job("acme", job.id).status == "running"


@pytest.mark.parametrize("url", DATABASES[1:], indirect=True)
def test_a_connection_that_the_server_has_closed_is_opened_again(store, url):
    """As after a restart: no request of a client fails for it."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql(others + "pg_backend_pid()")
    engine.dispose()
    assert store.file_ids() == []


@pytest.mark.parametrize(("action", "status"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_running_job_stops_when_its_trainer_knows(store, action, status):
    job = create(store)
    held = store.claim(LEASE_S)
    assert store.request("acme", job.id, action).status == "running"
    assert store.renew(held, LEASE_S) == action
    assert store.end(held, status, "stopped")
    stopped = store.job("acme", job.id)
    assert (stopped.status, stopped.requested, stopped.finished_at is None) == (status, None, action == "pause")


@pytest.mark.parametrize(
    ("requests", "status", "ended"),
    [
        (["cancel"], "queued", "cancelled"),
        (["pause"], "queued", "paused"),
        (["pause", "cancel"], "paused", "cancelled"),
        (["cancel", "pause"], "paused", "cancelled"),
        ([], "queued", "queued"),
    ],
)
def test_what_is_requested_while_a_training_stops_is_not_lost(store, requests, status, ended):
    """It stops for up to a minute: its trainer ends, or the job is paused."""
    job = create(store)
    held = store.claim(LEASE_S)
    for action in requests:
        store.request("acme", job.id, action)
    assert store.end(held, status, "stopped")
    stopped = store.job("acme", job.id)
    assert (stopped.status, stopped.requested, stopped.finished_at is None) == (ended, None, ended != "cancelled")


def test_a_paused_job_can_be_resumed_or_cancelled(store):
    job = create(store)
    assert store.request("acme", job.id, "pause").status == "paused"
    assert store.claim(LEASE_S) is None
    assert store.request("acme", job.id, "resume").status == "queued"
    assert store.request("acme", job.id, "pause").status == "paused"
    assert store.request("acme", job.id, "cancel").status == "cancelled"


def test_a_job_that_has_ended_stays_as_it_is(store):
    job = create(store)
    store.end(store.claim(LEASE_S), "succeeded", "published", version=3)
    for action in ("cancel", "pause", "resume"):
        with pytest.raises(JobEnded, match="succeeded"):
            store.request("acme", job.id, action)
    assert (store.job("acme", job.id).status, store.job("acme", job.id).version) == ("succeeded", 3)


def test_a_tenant_neither_sees_nor_changes_what_belongs_to_another(store):
    """Nor does a page of its own begin after that."""
    add_file(store, "file-3", "third", created_at=2000)
    create(store, "third", training_file="file-3")
    job = create(store)
    assert store.job("other", job.id) is None
    assert [store.request("other", job.id, action) for action in ("cancel", "pause", "resume")] == [None] * 3
    assert store.list_jobs("other", None, 10) == store.list_files("other", None, 10) == []
    assert store.list_jobs("third", job.id, 10) == store.list_files("third", "file-1", 10, newest_first=False) == []
    assert store.file("other", "file-1") is None
    assert not store.remove_file("other", "file-1")
    assert store.job("acme", job.id).status == "queued"


def test_pages_are_complete_and_in_order(store):
    made = [create(store).id for _ in range(5)][::-1]
    pages, after = [], None
    while page := store.list_jobs("acme", after, 2)[:2]:
        pages.append([job.id for job in page])
        after = page[-1].id
    assert pages == [made[:2], made[2:4], made[4:]]
    assert len(store.list_jobs("acme", None, 2)) == 3  # one more than the limit, as there are more


def test_jobs_are_found_by_their_metadata(store):
    pairs = {"a.b[0]$*?'%": "x'\"%_", "größe": ""}
    one, both, _ = create(store, job_metadata={"größe": ""}), create(store, job_metadata=pairs), create(store)
    found = [store.list_jobs("acme", None, 10, {key: pairs[key]}) for key in pairs]
    assert [[job.id for job in jobs] for jobs in found] == [[both.id], [both.id, one.id]]
    assert [job.id for job in store.list_jobs("acme", None, 10, pairs)] == [both.id]
    assert store.list_jobs("acme", None, 10, {"größe": "x"}) == store.list_jobs("acme", None, 10, {"none": ""}) == []
    assert store.list_jobs("other", None, 10, {"größe": ""}) == []


def test_files_are_listed_in_either_order(store):
    for number in range(4):
        add_file(store, f"file-{number}", created_at=number // 2)
    ids = [file.id for file in store.list_files("acme", None, 10)]
    assert ids == ["file-3", "file-2", "file-1", "file-0"]
    assert [file.id for file in store.list_files("acme", "file-1", 10, newest_first=False)] == ["file-2", "file-3"]


def test_events_are_numbered_in_order(store):
    job = create(store)
    held = store.claim(LEASE_S)
    store.add_events(held, [(f"event {number}", {"epoch": number}) for number in range(3)])
    found = store.list_events(job.id, 0, 100)
    assert [event.number for event in found] == list(range(1, 6))
    assert [event.type for event in found] == ["message", "message", "metrics", "metrics", "metrics"]
    assert store.list_events(job.id, 3, 1)[0].data == {"epoch": 1}
    assert [event.number for event in store.list_events(job.id, 4, 2, newest_first=True)] == [3, 2]


def test_events_of_several_writers_are_numbered(store):
    job = create(store)
    held = store.claim(LEASE_S)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: store.add_events(held, [(str(number), None)] * 3), range(20)))
    assert [event.number for event in store.list_events(job.id, 0, 100)] == list(range(1, 63))


def test_the_last_and_the_best_epoch_are_those_of_the_metrics(store):
    job = create(store)
    held = store.claim(LEASE_S)
    assert (store.last_epoch(job.id), store.best_epoch(job.id)) == (0, None)
    # No text of PostgreSQL can have a NUL.
    sample = {"samples": [{"text": "a\0b"}]}
    epochs = [
        {"epoch": number, "validation_loss": loss, "is_best": number < 3, **sample}
        for number, loss in enumerate([3, 2, 1, 4])
    ]
    store.add_events(held, [("", epoch) for epoch in epochs] + [("", {"epoch": 9, "train_loss": 1.0})])
    assert (store.last_epoch(job.id), store.best_epoch(job.id)["epoch"]) == (3, 2)
    assert store.best_epoch(job.id)["samples"] == [{"text": "a\ufffdb"}]


def test_quotas_count_what_is_active(store):
    add_file(store, "file-1", size=60)
    with pytest.raises(QuotaExceeded, match=r"all files together may have at most 100 bytes, got 60 \+ 60"):
        add_file(store, "file-2", size=60)
    add_file(store, "file-2", tenant="other", size=60)
    first = create(store, quota=replace(QUOTA, jobs=1))
    with pytest.raises(QuotaExceeded, match="at most 1 jobs"):
        create(store, quota=replace(QUOTA, jobs=1))
    store.request("acme", first.id, "cancel")
    create(store, quota=replace(QUOTA, jobs=1))


def test_the_versions_of_a_tenant_are_limited_until_they_are_removed(store):
    kept = {("book", 1)}
    create(store, "other")
    create(store)
    for _ in range(2):
        store.end(store.claim(LEASE_S), "succeeded", "published", version=1)

    def add():
        return store.create(new(), replace(QUOTA, versions=2), lambda *version: version in kept)

    add()
    with pytest.raises(QuotaExceeded, match="at most 2 published versions, got 1, 1 unfinished jobs and one more"):
        add()
    kept.clear()
    add()


def test_versions_of_deleted_jobs_count(store):
    job = create(store)
    store.end(store.claim(LEASE_S), "succeeded", "published", version=1)
    assert store.delete_jobs_before(time.time() + 1) == 1
    assert store.job("acme", job.id) is None
    with pytest.raises(QuotaExceeded, match="at most 1 published versions, got 1, 0 unfinished jobs and one more"):
        create(store, quota=replace(QUOTA, versions=1))


def test_minutes_are_limited_by_what_jobs_have_trained_and_may_train(store):
    """What they have trained counts for a day after their end."""
    limited = {"quota": replace(QUOTA, minutes=30), "settings": {"max_minutes": 10}}
    create(store, "other", settings={"max_minutes": 1000})
    store.request("other", store.list_jobs("other", None, 1)[0].id, "cancel")
    first = create(store, **limited)
    held = store.claim(LEASE_S)
    store.renew(held, LEASE_S, trained_s=60.0)
    assert store.minutes("acme") == TrainingMinutes(0, 10)
    store.renew(held, LEASE_S, trained_s=720.0)  # reading the text and publishing included
    assert store.minutes("acme") == TrainingMinutes(0, 12)
    create(store, **limited)
    message = r"at most 30 minutes in 24 hours, got 0.0 trained, 22.0 reserved for unfinished jobs and 10 requested"
    with pytest.raises(QuotaExceeded, match=message):
        create(store, **limited)
    store.end(held, "failed", "too long")
    assert store.minutes("acme") == TrainingMinutes(12, 10)
    with pytest.raises(QuotaExceeded, match=r"got 12.0 trained, 10.0 reserved"):
        create(store, **limited)
    with store._engine.begin() as connection:
        day_ago = time.time() - 86_400
        connection.execute(update(Job).where(Job.id == first.id).values(finished_at=day_ago))
    create(store, **limited)
    assert store.minutes("acme") == TrainingMinutes(0, 20)


def num_admitted(attempt, number):
    """Return how many of concurrent attempts a quota admits."""

    def is_admitted(index):
        try:
            attempt(index)
        except QuotaExceeded:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(is_admitted, range(number)))


def test_concurrent_requests_do_not_exceed_the_minutes(store):
    limited = {"quota": replace(QUOTA, minutes=50), "settings": {"max_minutes": 10}}
    add_file(store)
    assert num_admitted(lambda _: create(store, **limited), 20) == 5


def test_old_jobs_are_deleted_with_their_events(store):
    jobs = [create(store) for _ in range(4)]
    store.end(store.claim(LEASE_S), "failed", "too short")
    store.request("acme", jobs[1].id, "cancel")
    store.request("acme", jobs[2].id, "pause")
    store.claim(LEASE_S)
    before = time.time()
    late = create(store)
    store.request("acme", late.id, "cancel")
    assert store.delete_jobs_before(before) == 2
    assert {job.id for job in store.list_jobs("acme", None, 10)} == {jobs[2].id, jobs[3].id, late.id}
    assert [bool(store.list_events(job.id, 0, 10)) for job in jobs] == [False, False, True, True]


def test_events_of_a_job_are_limited(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_JOB_EVENTS", 10)
    job = create(store)
    held = store.claim(LEASE_S)
    epochs = [{"epoch": number, "validation_loss": 1.0, "is_best": number == 2} for number in range(1, 5)]
    store.add_events(held, [(str(epoch["epoch"]), epoch) for epoch in epochs])
    for number in range(30):
        store.add_events(held, [("", {"epoch": 5, "train_loss": number})])
    assert [event.number for event in store.list_events(job.id, 0, 100)] == [4, 6, *range(27, 37)]
    assert (store.best_epoch(job.id)["epoch"], store.last_epoch(job.id)) == (2, 4)
    for _ in range(10):
        store.request("acme", job.id, "pause")
        store.end(held, "paused", "paused")
        store.request("acme", job.id, "resume")
        held = store.claim(LEASE_S)
    assert len(store.list_events(job.id, 0, 100)) <= 14


def test_concurrent_uploads_do_not_exceed_a_quota(store, monkeypatch):
    assert num_admitted(lambda number: add_file(store, f"file-{number}", size=9), 30) == 11
    monkeypatch.setattr(quotas, "MAX_TENANT_FILES", 11)
    with pytest.raises(QuotaExceeded, match="at most 11 files"):
        add_file(store, "file-30", size=0)


def test_a_file_is_kept_until_its_jobs_have_ended(store):
    for number in range(3):
        add_file(store, f"file-{number}")
    job = create(store, validation_file="file-2")
    for needed in ("file-1", "file-2"):
        with pytest.raises(JobActive, match=job.id):
            store.remove_file("acme", needed)
    assert store.delete_files_before(1000) == []
    assert [file.id for file in store.delete_files_before(2000)] == ["file-0"]
    assert sorted(store.file_ids()) == ["file-1", "file-2"]
    store.request("acme", job.id, "cancel")
    assert store.remove_file("acme", "file-1")
    assert not store.remove_file("acme", "file-1")


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_no_job_is_queued_whose_file_has_been_deleted(store, field):
    """After the gateway has found it."""
    add_file(store)
    with pytest.raises(FileDeleted, match=field):
        store.create(new(**{field: "file-2"}), QUOTA)
    assert store.list_jobs("acme", None, 1) == []


def test_working_directories_of_jobs_that_ended_are_told_from_those_of_active_ones(store):
    active, ended = create(store), create(store)
    store.request("acme", ended.id, "cancel")
    assert store.not_active_among([active.id, ended.id, "ftjob-unknown"]) == {ended.id, "ftjob-unknown"}


def test_several_processes_create_the_tables_at_once(url):
    """Gateways and trainers may start together."""
    script = (
        "import sqlalchemy; from jobs.store import JobStore;"
        f"url = {url!r}; sqlalchemy.create_engine(url).connect().close();"  # imports the driver
        "print(flush=True); input(); JobStore(url).list_jobs('', None, 1)"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, **pipes) for _ in range(4)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], errors


def test_a_new_sqlite_database_that_others_open_at_once_is_awaited(tmp_path, monkeypatch):
    """SQLite itself does not wait where several connections switch to the write-ahead log."""
    busy = iter([sqlite3.SQLITE_BUSY] * 3)

    class Contended(sqlite3.Connection):
        def execute(self, statement, *args):
            if "journal_mode" in statement and (code := next(busy, None)):
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = code
                raise error
            return super().execute(statement, *args)

    monkeypatch.setattr(sqlite3.dbapi2, "connect", partial(sqlite3.connect, factory=Contended))
    JobStore(f"sqlite:///{tmp_path}/jobs.sqlite").close()
    assert next(busy, None) is None


def test_the_directory_of_a_database_is_created(tmp_path):
    JobStore(f"sqlite:///{tmp_path}/deep/er/jobs.sqlite").close()
    assert (tmp_path / "deep/er/jobs.sqlite").exists()


def test_an_older_database_is_migrated(url):
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in Path(__file__).with_name("schema_1.sql").read_text().split(";\n"):
            if statement:
                connection.exec_driver_sql(statement)
    engine.dispose()
    for _ in range(2):  # the second time there is nothing to migrate
        store = JobStore(url)
        assert [job.id for job in store.list_jobs("acme", None, 10)] == ["ftjob-2", "ftjob-1"]
        assert store.best_epoch("ftjob-1")["epoch"] == 1
        assert store.operations.claim(LEASE_S) is None
        with pytest.raises(QuotaExceeded, match="at most 2 published versions, got 1, 1 unfinished jobs and one more"):
            create(store, quota=replace(QUOTA, versions=2))
        store.close()


def test_the_database_of_a_newer_program_is_refused(url):
    engine = database.open_database(url)
    with engine.begin() as connection:
        connection.execute(update(database._schema).values(version=99))
    engine.dispose()
    with pytest.raises(CannotOpen, match="it has schema version 99, and this program knows 3"):
        JobStore(url)


def test_a_database_that_does_not_answer_fails_the_start(monkeypatch):
    """In seconds: an orchestrator ends a gateway that takes longer, and nobody reads why."""
    monkeypatch.setattr(database, "_CONNECT_TIMEOUT_S", 2)  # the least that libpq waits
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with pytest.raises(CannotOpen, match="timeout"):
            database.open_database(f"postgresql+psycopg://user:password@{host}:{port}/jobs")


def test_a_password_that_is_not_encoded_is_not_quoted():
    with pytest.raises(CannotOpen, match="the password in its URL has an @, which must be written as %40") as refusal:
        database.open_database("postgresql+psycopg://user:s3c@ret@127.0.0.1:1/jobs")
    assert "ret" not in str(refusal.value)
