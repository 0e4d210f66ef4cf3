"""Uploads and streams of events have limits; operations on models are waited for, up to a limit."""

import concurrent.futures
import contextlib
import io

import pytest

from jobs.database import Job
from service import errors
from service import training as module
from service.context import RequestContext
from service.settings import Settings
from service.training import EventStreams, Training
from tests.unit.jobs.place import QUOTA
from tests.waiting import until

ACME = RequestContext("key1", tenant="acme")


def test_streams_are_limited_of_a_tenant_and_in_all():
    streams = EventStreams(64)
    ends = [streams.add("a") for _ in range(8)]
    with pytest.raises(errors.Overloaded, match="at most 8 streams of a tenant"):
        streams.add("a")
    for _ in range(8):
        streams.add("b")
    with pytest.raises(errors.Overloaded, match="at most 16 streams of events"):
        streams.add("c")
    ends.pop()()
    streams.add("c")
    small = EventStreams(1)
    assert all(small.add("a") for _ in range(2))
    with pytest.raises(errors.Overloaded, match="at most 2 streams"):
        small.add("a")


def test_concurrent_streams_do_not_exceed_the_limit():
    streams, opened = EventStreams(400), []

    def add(_):
        with contextlib.suppress(errors.Overloaded):
            for _ in range(20):
                opened.append(streams.add("a"))

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        list(pool.map(add, range(10)))
    assert len(opened) == 50


@pytest.fixture
def training(tmp_path):
    opened = Training.open(Settings(training_dir=tmp_path))
    yield opened
    opened.store.close()


def add_text(training, name="a.txt"):
    return training.add_file("", name, io.BytesIO(b"text")).id


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x1b[2J.txt", "a\n.txt", "a\0", "\u202etxt.a", "a\u2028b"])
def test_a_file_name_has_no_controls_and_is_short(training, tmp_path, name):
    with pytest.raises(errors.InvalidRequest, match="the file name must"):
        add_text(training, name)
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize(
    "name", ["\u0645\u06cc\u200c\u062e.txt", "\u590f\u3000\u6f31", "a\xa0b", "\U0001f468\u200d\U0001f4bb"]
)
def test_a_file_name_may_have_joiners_and_spaces_of_any_width(training, name):
    """As in Persian, Japanese and French, and in emoji."""
    assert training.store.file("", add_text(training, name)).filename == name


def test_a_job_whose_file_has_just_been_deleted_is_refused(training):
    with pytest.raises(errors.NotFound, match="upload it again") as raised:
        training.create_job(Job(tenant="", model="characters", name="book", training_file="file-1"))
    assert raised.value.param == "training_file"


def outcome(training, error):
    """Ask for an operation, let a trainer end it with an error or none, and raise what the gateway makes of it."""
    operations = training.store.operations
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(training.operate, "route", "book", ACME, {"labels": {"stable": 2}})
        operation = until(lambda: operations.claim(60.0))
        operations.finish(operation, error)
        asked.result(20)
    return operation


def test_an_operation_is_waited_for(training):
    operation = outcome(training, None)
    assert (operation.actor, operation.tenant, operation.model) == ("key:key1", "acme", "book")
    assert operation.arguments == {"labels": {"stable": 2}}


@pytest.mark.parametrize(
    ("status", "error"), [(404, errors.ModelNotFound), (409, errors.Conflict), (500, errors.InternalError)]
)
def test_a_failed_operation_is_an_error_with_its_message(training, status, error):
    with pytest.raises(error, match="because"):
        outcome(training, {"status": status, "message": "because"})


def test_an_operation_without_a_trainer_is_withdrawn(training, monkeypatch):
    monkeypatch.setattr(module, "_OPERATION_S", 0.2)
    with pytest.raises(errors.TrainerUnavailable, match="nothing was changed"):
        training.operate("remove", "book", ACME, {})
    assert training.store.operations.claim(60.0) is None


def test_an_operation_that_takes_too_long_may_still_be_executed(training, monkeypatch):
    monkeypatch.setattr(module, "_OPERATION_S", 0.5)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(training.operate, "rollback", "book", ACME, {})
        until(lambda: training.store.operations.claim(60.0))
        with pytest.raises(errors.DeadlineExceeded):
            asked.result(20)


@pytest.mark.parametrize("tenant", ["acme", "other"])
def test_a_model_that_a_job_needs_is_not_removed_and_another_tenants_job_not_named(training, tenant):
    job = training.store.create(Job(tenant=tenant, model="book:1", name="new", training_file=add_text(training)), QUOTA)
    with pytest.raises(errors.Conflict, match="needs book, and has not ended; cancel it first") as raised:
        training.operate("remove", "book", ACME, {})
    assert (job.id in str(raised.value)) == (tenant == "acme")


def test_no_job_starts_from_a_model_that_is_being_removed(training, monkeypatch):
    monkeypatch.setattr(training.store.operations, "withdraw", lambda _: False)
    monkeypatch.setattr(module, "_OPERATION_S", 0.0)
    with pytest.raises(errors.DeadlineExceeded):
        training.operate("remove", "book", ACME, {})
    with pytest.raises(errors.Conflict, match="is being removed"):
        training.create_job(Job(tenant="acme", model="book:1", name="new", training_file=add_text(training)))


def test_a_tenant_has_a_limited_number_of_unfinished_operations(training, monkeypatch):
    monkeypatch.setattr(training.store.operations, "withdraw", lambda _: False)
    monkeypatch.setattr(module, "_OPERATION_S", 0.0)
    for _ in range(16):
        with pytest.raises(errors.DeadlineExceeded):
            training.operate("rollback", "book", ACME, {})
    with pytest.raises(errors.QuotaReached, match="at most 16"):
        training.operate("rollback", "book", ACME, {})


def test_published_versions_count_again_once_the_repository_is_available(tmp_path):
    """As after it was without its volume."""
    away, models_dir = tmp_path / "away", tmp_path / "models"
    (away / "book" / "1").mkdir(parents=True)
    (away / "models.config").touch()
    training = Training.open(Settings(training_dir=tmp_path, models_dir=models_dir, max_tenant_versions=1))

    def submit():
        job = Job(tenant="acme", model="characters", name="book", training_file=add_text(training))
        return training.create_job(job)

    submit()
    training.store.end(training.store.claim(60.0), "succeeded", "published book:1", version=1)
    training.store.request("acme", submit().id, "cancel")
    away.rename(models_dir)
    with pytest.raises(errors.QuotaReached, match="at most 1 published versions"):
        submit()
    training.store.close()
