"""Operations on the model repository are executed once each, whatever is killed, or reported as failed."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import select, update

from contract.models_config import read_labels, read_shares
from export.repository.models_config import add_to_models_config, read_entries
from jobs import executor
from jobs import operations as module
from jobs.database import Job, Operation, StoredFile
from jobs.executor import Executor
from jobs.operations import JobActive
from jobs.quotas import QuotaExceeded
from jobs.store import JobStore, ModelRemoved
from tests.databases import DATABASES, new_database
from tests.paths import ROOT
from tests.unit.export.repository.stored import store as publish
from tests.unit.jobs.place import QUOTA
from tests.waiting import until


class Place:
    """A repository with three versions of a model and another model, the jobs, and an executor."""

    def __init__(self, directory, url):
        self.directory, self.models = directory, directory / "models"
        for version in (1, 2, 3):
            publish(self.models, "book", version)
        publish(self.models, "secret-of-others", 1)
        self.url = url
        self.store = JobStore(self.url)
        self.operations = self.store.operations
        self.executor = Executor(self.operations, self.models, wait_s=0.0)

    def add(self, action, model="book", tenant="acme", published_by=(), **arguments):
        operation = Operation(tenant=tenant, actor="key:one", action=action, model=model, arguments=arguments)
        return self.operations.add(operation, published_by)

    def execute(self, action, model="book", **arguments):
        operation_id = self.add(action, model, **arguments)
        assert self.executor.execute_next()
        done = self.operations.get(operation_id)
        assert done.status == ("succeeded" if done.error is None else "failed")
        return done.error

    def execute_again(self, action, model="book"):
        """Execute an operation; lose its lease and execute it again, as if its executor had been killed at the end."""
        operation_id = self.add(action, model)
        finish, self.operations.finish = self.operations.finish, lambda *_, **__: None
        self.executor.execute_next()
        self.operations.finish = finish
        found = self.labels, self.versions
        self.set(lease_until=0.0)
        assert self.executor.execute_next()
        assert self.operations.get(operation_id).status == "succeeded"
        assert (self.labels, self.versions) == found

    def set(self, **fields):
        """Change fields of all operations in the database."""
        with self.store._engine.begin() as connection:
            connection.execute(update(Operation).values(**fields))

    def job(self, model="characters", name="other", tenant="acme"):
        if not self.store.file_ids():
            file = {"id": "file-1", "filename": "a.txt", "bytes": 1, "created_at": 0}
            self.store.add_file(StoredFile(tenant=tenant, **file), max_bytes=1)
        return self.store.create(Job(tenant=tenant, model=model, name=name, training_file="file-1"), QUOTA)

    @property
    def labels(self):
        return read_labels(self.models).get("book", {})

    @property
    def versions(self):
        return sorted(path.name for path in (self.models / "book").glob("[0-9]*"))

    @property
    def listed(self):
        return [entry.name for entry in read_entries(self.models)]


@pytest.fixture(params=DATABASES)
def place(request, tmp_path, monkeypatch):
    monkeypatch.setenv("SOSTENUTO_AUDIT_FILE", str(tmp_path / "audit.jsonl"))
    with new_database(request.param, tmp_path) as url:
        place = Place(tmp_path, url)
        yield place
        place.store.close()


def test_labels_and_shares_are_set_together_and_a_split_of_another_model_stays(place):
    (place.models / "routing.toml").write_text('[other]\nstable = 1\n["a.b"]\n"7" = 1\n')
    changes = {"labels": {"stable": 2, "canary": 3}, "shares": {"stable": 90, "canary": 10.5}}
    assert place.execute("route", **changes) is None
    assert place.labels == {**changes["labels"], "previous": 3}
    others = {"other": {"stable": 1}, "a.b": {"7": 1}}
    assert read_shares(place.models / "routing.toml") == {**others, "book": changes["shares"]}
    line = json.loads((place.directory / "audit.jsonl").read_text())
    operation = {"action": "route", "actor": "key:one", "tenant": "acme", "model": "book"}
    assert line.items() >= {**operation, **changes}.items()
    assert place.execute("route", labels={}, shares={}) is None
    line = json.loads((place.directory / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["shares"], "labels" in line) == ({}, False)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ({"labels": {"stable": 9}}, 404, "there is no model book, or it has no such version"),
        ({"labels": {}, "shares": {"canary": 1}}, 409, "names label canary, which book does not have"),
        ({"labels": {}, "shares": {"9": 1}}, 409, "names version 9, which book does not have"),
    ],
)
def test_what_does_not_exist_fails_and_changes_nothing(place, arguments, status, message):
    error = place.execute("route", **arguments)
    assert (error["status"], place.labels) == (status, {})
    assert message in error["message"]


def test_no_error_names_another_model(place):
    assert "secret" not in place.execute("remove", "gone")["message"]
    assert "secret" not in place.execute("rollback", "gone")["message"]
    (place.models / "models.config").write_text("damaged")
    error = place.execute("route", labels={"stable": 1})
    assert error == {"status": 500, "message": "the model repository cannot be changed; see the trainer's log"}


def test_a_rollback_that_is_executed_again_is_not_undone(place):
    place.execute("route", labels={"stable": 2})
    place.execute_again("rollback")
    assert place.labels == {"stable": 3, "previous": 2}


def test_a_rollback_needs_an_earlier_version(place):
    place.execute("remove", "book:1")
    place.execute("remove", "book:2")
    error = place.execute("rollback")
    assert error == {"status": 409, "message": "book has no stable version before 3: nothing to roll back to"}


def test_a_version_is_removed_at_once_also_if_it_is_executed_again(place):
    place.execute_again("remove", "book:1")
    assert (place.versions, place.listed) == (["2", "3"], ["book", "secret-of-others"])
    assert list((place.models / "book").glob(".removed*")) == []
    assert not place.executor.execute_next()
    assert place.execute("remove", "book:1")["status"] == 404


@pytest.mark.parametrize("target", ["stable", "canary", "1"])
def test_a_version_with_a_label_or_a_share_stays(place, target):
    shares = {"shares": {"stable": 1, "1": 1}} if target == "1" else {}
    place.execute("route", labels={} if target == "1" else {target: 1}, **shares)
    error = place.execute("remove", "book:1")
    assert error["status"] == 409
    assert place.versions == ["1", "2", "3"]


def test_a_model_is_unlisted_at_once_and_its_files_are_deleted_later(place):
    """Model servers poll the directory until they have read `models.config` again; labels and shares are gone, too."""
    place.execute("route", labels={"stable": 2}, shares={"stable": 1})
    place.executor._wait_s = 60.0
    assert place.execute("remove") is None
    assert (place.listed, place.labels) == (["secret-of-others"], {})
    assert read_shares(place.models / "routing.toml") == {}
    assert place.versions == ["1", "2", "3"]
    assert not place.executor.execute_next()
    place.set(due_at=0.0)
    assert place.executor.execute_next()
    assert place.versions == []


def test_a_version_that_is_published_after_the_removal_stays(place):
    place.execute("remove")
    publish(place.models, "book", 4)
    assert place.executor.execute_next()
    assert (place.versions, "book" in place.listed) == (["4"], True)


def test_an_audit_log_that_cannot_be_written_undoes_no_operation(place, monkeypatch, caplog):
    """A client that repeats a rollback returns to the first version, and one cannot repeat to delete a model."""
    place.execute("route", labels={"stable": 3})
    monkeypatch.setenv("SOSTENUTO_AUDIT_FILE", str(place.directory / "full" / "audit.jsonl"))
    assert place.execute("route", labels={"stable": 2}) is None
    assert place.execute("rollback") is None
    assert place.labels["stable"] == 3
    assert place.execute("remove") is None
    assert place.executor.execute_next()
    assert place.versions == []
    assert "done, but the audit log cannot be written: No such file or directory" in caplog.text


def test_a_base_of_an_unfinished_job_is_not_removed(place):
    base, output = place.job("book:2"), place.job(name="other", tenant="b")
    for model in ("book:2", "book"):
        with pytest.raises(JobActive) as raised:
            place.add("remove", model)
        assert (raised.value.job_id, raised.value.tenant) == (base.id, "acme")
    place.add("remove", "book:1")
    with pytest.raises(JobActive):
        place.add("remove", "other")
    place.add("remove", "other:1")
    with pytest.raises(JobActive):
        place.add("remove", "other:1", published_by=[output.id])
    place.add("remove", "boo_")  # no pattern


@pytest.mark.parametrize(
    ("removed", "fields"), [("book", {"model": "book:2"}), ("book:2", {"model": "book:2"}), ("n", {"name": "n"})]
)
def test_no_job_starts_from_a_model_that_is_being_removed(place, removed, fields):
    place.add("remove", removed)
    place.job(model="book:1" if removed == "book:2" else "characters")
    with pytest.raises(ModelRemoved):
        place.job(**fields)


def test_a_tenant_has_a_limited_number_of_operations(place):
    for _ in range(module.MAX_UNFINISHED):
        place.add("rollback")
    with pytest.raises(QuotaExceeded, match="at most 16 operations may be unfinished, got one more"):
        place.add("rollback")
    place.add("rollback", tenant="b")


def test_an_operation_that_was_withdrawn_or_is_late_is_not_executed(place):
    """Nobody waits for it any more; but files are deleted however late."""
    withdrawn, late, erase = place.add("remove"), place.add("remove"), place.add("erase", numbers=[1])
    assert place.operations.withdraw(withdrawn)
    place.set(due_at=time.time() - module.EXPIRED_S - 1)
    assert place.executor.execute_next()
    assert [place.operations.get(each).status for each in (withdrawn, late, erase)] == ["failed", "failed", "succeeded"]
    assert place.versions == ["2", "3"]
    assert not place.operations.withdraw(erase)


def test_each_operation_is_claimed_once(place):
    ids = {place.add("rollback") for _ in range(8)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        claimed = [found.id for found in pool.map(lambda _: place.operations.claim(60.0), range(24)) if found]
    assert sorted(claimed) == sorted(ids)


def test_finished_operations_are_forgotten(place):
    place.execute("rollback")
    unfinished = place.add("rollback")
    place.operations.forget(time.time() + 1)
    assert place.operations.get(unfinished).status == "queued"
    with place.store._engine.begin() as connection:
        assert len(list(connection.execute(select(Operation.id)))) == 1


@pytest.mark.parametrize("where", ["move_labels", "Removal.unlist", "Removal.rename", "delete_renamed"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_executor_that_is_killed_leaves_nothing_half_done(place, where, moment):
    model, action, arguments = ("book:1", "remove", {}) if "rename" in where else ("book", "remove", {})
    if where == "move_labels":
        action, arguments = "route", {"labels": {"stable": 1}, "shares": {"stable": 1}}
    operation_id = place.add(action, model, **arguments)
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    script = f"""
import os, signal
from pathlib import Path
from jobs import executor as e
from jobs.store import JobStore
step = e.{where}
def killed(*arguments):
    {f"{kill}" if moment == "before" else f"step(*arguments); {kill}"}
e.{where} = killed
x = e.Executor(JobStore({place.url!r}).operations, Path({str(place.models)!r}), wait_s=0.0)
while x.execute_next(): pass
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_entries(place.models)
    place.set(lease_until=0.0)
    while place.executor.execute_next():
        pass
    place.executor._delete_files()
    assert place.operations.get(operation_id).status == "succeeded"
    if action == "route":
        assert place.labels == {"stable": 1, "previous": 3}
    else:
        assert place.versions == ([] if model == "book" else ["2", "3"])
    assert list((place.models / "book").glob(".removed*")) == []


def test_removals_changes_and_publications_at_once_leave_a_consistent_repository(place):
    """Two executors and an exporter; whatever the order, labels and entries have versions, and nothing is left over."""
    second = Executor(place.operations, place.models, wait_s=0.0)
    ended, outcomes = threading.Event(), []

    def publish_versions():
        for version in range(4, 24):
            draft = publish(place.directory / "drafts", "book", version, listed=False)
            (place.models / "book").mkdir(exist_ok=True)
            draft.rename(place.models / "book" / str(version))
            add_to_models_config(place.models, "book")

    def execute(running):
        while running.execute_next() or not ended.is_set():
            time.sleep(0.001)

    def ask(number):
        kinds = [("remove", "book:{}"), ("remove", "book"), ("route", "book"), ("rollback", "book")]
        action, model = kinds[number % 4]
        arguments = {"labels": {"stable": number // 4 + 3}, "shares": {"stable": 1}} if action == "route" else {}
        operation_id = place.add(action, model.format(number // 4 + 1), tenant=str(number), **arguments)
        until(lambda: place.operations.get(operation_id).status in ("succeeded", "failed"))
        outcomes.append(place.operations.get(operation_id))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        executing = [pool.submit(execute, each) for each in (place.executor, second)]
        publishing = pool.submit(publish_versions)
        list(pool.map(ask, range(60)))
        publishing.result()
        ended.set()
        for each in executing:
            each.result()
    assert len(outcomes) == 60
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert not [error for error in errors if error["status"] not in (404, 409)], errors
    kept = {int(path.name) for path in (place.models / "book").glob("[0-9]*")}
    assert set(place.labels.values()) <= kept
    assert ("book" in place.listed) or not place.labels
    assert kept or "book" not in place.listed
    assert list(place.models.glob("*/.removed*")) == []
    read_shares(place.models / "routing.toml")


def test_the_thread_executes_and_survives_errors(place, monkeypatch):
    monkeypatch.setattr(executor, "_PAUSE_S", 0.01)
    claim, calls = place.operations.claim, []

    def failing(lease_s):
        calls.append(lease_s)
        if len(calls) == 1:
            raise OSError("the database is gone")
        return claim(lease_s)

    place.operations.claim = failing
    place.executor.start()
    operation_id = place.add("route", labels={"stable": 1})
    until(lambda: place.operations.get(operation_id).status == "succeeded")
    place.executor.stop()
    assert place.labels["stable"] == 1


def test_an_executor_runs_before_there_is_a_repository(tmp_path, caplog):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.sqlite")
    executor = Executor(store.operations, tmp_path / "models")
    executor.start()
    until(lambda: executor._forget_at)
    executor.stop()
    store.close()
    assert caplog.messages == []
