"""The store of training jobs and of the records of uploaded files: every change is one transaction.

A job's status and who may change it:

    queued ── claim ──> running ── finish ──> succeeded, failed
      │ ^                 │  └── cancel or pause, as the trainer that runs it learns at its next `renew`
      │ └── resume ── paused
      └── cancel ──> cancelled

A trainer holds a lease of the job that it runs. If it is killed, the lease ends and another trainer claims the job;
whatever the first one still writes is refused, as its attempt is over.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update

from jobs import database
from jobs.database import ACTIVE, events, files, jobs, lock_tenants, versions
from jobs.operations import OperationStore, is_being_removed
from jobs.quotas import DAY_S, Quota, TrainingMinutes, max_minutes, require_files, require_jobs, training_minutes

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Action = Literal["cancel", "pause"]
ENDED = ("succeeded", "failed", "cancelled")
# A job of an hour has a thousand. Beyond it the oldest are deleted.
MAX_JOB_EVENTS = 10_000


@dataclass(frozen=True)
class StoredFile:
    """The record of an uploaded file."""

    id: str
    tenant: str
    filename: str
    bytes: int
    created_at: int


@dataclass(frozen=True)
class Job:
    """A training job; times are in seconds since the epoch."""

    id: str
    tenant: str
    created_at: float
    status: Status
    model: str
    name: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    settings: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    job_metadata: Mapping[str, str] | None
    started_at: float | None
    finished_at: float | None
    estimated_finish: float | None
    trained_tokens: int | None
    trained_s: float
    version: int | None
    error: Mapping[str, Any] | None
    requested: Action | None
    lease_until: float | None
    attempt: int


@dataclass(frozen=True)
class Event:
    """An event of a job; metrics are in `data`."""

    job: str
    number: int
    created_at: float
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: Mapping[str, Any] | None

    @property
    def id(self) -> str:
        """Its id in the API."""
        return f"ftevent-{self.job.removeprefix('ftjob-')}-{self.number}"


@dataclass(frozen=True)
class NewJob:
    """What a request for a job determines."""

    tenant: str
    model: str
    name: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    job_metadata: Mapping[str, str] | None = None


class JobStore:
    """Jobs, events and files; thread-safe. Tenants see their own alone."""

    def __init__(self, url: str) -> None:
        """Open or create the database; raise as `open_database`."""
        self._engine = database.open_database(url)
        self.operations = OperationStore(self._engine)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def add_file(self, file: StoredFile, max_bytes: int) -> None:
        """Record a file; raise QuotaExceeded if the tenant would have more than `max_bytes` or MAX_TENANT_FILES."""
        with self._engine.begin() as connection:
            lock_tenants(connection)
            require_files(connection, file.tenant, file.bytes, max_bytes)
            connection.execute(insert(files).values(vars(file)))

    def file(self, tenant: str, file_id: str) -> StoredFile | None:
        """Return a tenant's file."""
        with self._engine.begin() as connection:
            row = connection.execute(select(files).where(files.c.id == file_id, files.c.tenant == tenant)).one_or_none()
        return None if row is None else StoredFile(**row._mapping)

    def list_files(self, tenant: str, after: str | None, limit: int, *, newest_first: bool = True) -> list[StoredFile]:
        """Return a tenant's files after the one with an id; one more than `limit` if there are more."""
        order = files.c.created_at, files.c.id
        rows = self._page(tenant, files, order, after, limit, newest_first)
        return [StoredFile(**row._mapping) for row in rows]

    def remove_file(self, tenant: str, file_id: str) -> bool:
        """Delete a file's record; False if there is none.

        Raises:
            JobActive: a job that has not ended needs it.
        """
        with self._engine.begin() as connection:
            of_tenant = and_(files.c.id == file_id, files.c.tenant == tenant)
            users = or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id)
            user = connection.execute(select(jobs.c.id).where(users, jobs.c.status.in_(ACTIVE)).limit(1)).scalar()
            if user is not None and connection.execute(select(files.c.id).where(of_tenant)).scalar() is not None:
                raise JobActive(user)
            return connection.execute(delete(files).where(of_tenant)).rowcount > 0

    def files_before(self, created_at: float) -> list[StoredFile]:
        """Return the files of all tenants that are older, without those that an active job needs."""
        needed = select(jobs.c.training_file).where(jobs.c.status.in_(ACTIVE))
        needed_too = select(jobs.c.validation_file).where(
            jobs.c.status.in_(ACTIVE), jobs.c.validation_file.is_not(None)
        )
        query = select(files).where(
            files.c.created_at < created_at, files.c.id.not_in(needed), files.c.id.not_in(needed_too)
        )
        with self._engine.begin() as connection:
            return [StoredFile(**row._mapping) for row in connection.execute(query)]

    def file_ids(self) -> list[str]:
        """Return the ids of all files."""
        with self._engine.begin() as connection:
            return list(connection.execute(select(files.c.id)).scalars())

    def create(
        self, new: NewJob, quota: Quota, is_kept: Callable[[str, int], bool] = lambda _name, _version: True
    ) -> Job:
        """Queue a job.

        `is_kept` returns whether a version that a job published still exists.

        Raises:
            QuotaExceeded: the tenant may not have one more job, or not of its `max_minutes`.
            ModelRemoved: the base, or the model to be published, is about to be removed.
        """
        with self._engine.begin() as connection:
            lock_tenants(connection)
            if is_being_removed(connection, (new.model, new.name)):
                raise ModelRemoved
            require_jobs(connection, new.tenant, max_minutes(new.settings), quota, is_kept)
            job_id = f"ftjob-{secrets.token_hex(12)}"
            values = {**vars(new), "id": job_id, "status": "queued", "created_at": time.time()}
            connection.execute(insert(jobs).values(values))
            _add_event(connection, job_id, "the job is queued")
            return _job(connection, job_id)

    def minutes(self, tenant: str) -> TrainingMinutes:
        """Return the minutes that count towards a tenant's quota."""
        with self._engine.begin() as connection:
            return training_minutes(connection, tenant)

    def delete_jobs_before(self, finished_at: float) -> int:
        """Delete jobs that ended before a time, with their events; return how many."""
        with self._engine.begin() as connection:
            return connection.execute(delete(jobs).where(jobs.c.finished_at < finished_at)).rowcount

    def job(self, tenant: str, job_id: str) -> Job | None:
        """Return a tenant's job."""
        with self._engine.begin() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id, jobs.c.tenant == tenant)).one_or_none()
        return None if row is None else Job(**row._mapping)

    def list_jobs(
        self, tenant: str, after: str | None, limit: int, metadata: Mapping[str, str] | None = None
    ) -> list[Job]:
        """Return a tenant's jobs after the one with an id, newest first; one more than `limit` if there are more.

        Only those whose metadata have the values of `metadata`. No key has a double quote or a backslash: versions of
        SQLite differ in what it means in a path.
        """
        order = jobs.c.created_at, jobs.c.id
        same = [jobs.c.job_metadata[key].as_string() == value for key, value in (metadata or {}).items()]
        rows = self._page(tenant, jobs, order, after, limit, newest_first=True, conditions=same)
        return [Job(**row._mapping) for row in rows]

    def list_events(self, job_id: str, after: int, limit: int, *, newest_first: bool = False) -> list[Event]:
        """Return a job's events beyond a number, in order or newest first."""
        beyond = events.c.number < after if newest_first else events.c.number > after
        query = select(events).where(events.c.job == job_id, beyond).limit(limit)
        query = query.order_by(events.c.number.desc() if newest_first else events.c.number)
        with self._engine.begin() as connection:
            return [Event(**row._mapping) for row in connection.execute(query)]

    def last_epoch(self, job_id: str) -> int:
        """Return the number of the last epoch that a job has an event for; 0 if it has none."""
        with self._engine.begin() as connection:
            data = _last_event(connection, job_id, _IS_BEST.is_not(None))
        return 0 if data is None else int(data["epoch"])

    def best_epoch(self, job_id: str) -> Mapping[str, Any] | None:
        """Return the metrics of the best epoch of a job; None before the first one."""
        with self._engine.begin() as connection:
            return _last_event(connection, job_id, _IS_BEST)

    def not_active_among(self, job_ids: Iterable[str]) -> set[str]:
        """Return those ids whose jobs have ended, or do not exist."""
        with self._engine.begin() as connection:
            return set(job_ids) - set(connection.execute(select(jobs.c.id).where(jobs.c.status.in_(ACTIVE))).scalars())

    def request(self, tenant: str, job_id: str, action: Action) -> Job | None:
        """Cancel or pause a job: one that runs stops once its trainer knows; None if the tenant has no such job.

        Raises:
            JobEnded: it has ended, or is paused already.
        """
        with self._engine.begin() as connection:
            job = _locked_job(connection, job_id)
            if job is None or job.tenant != tenant:
                return None
            allowed = ("queued", "running") if action == "pause" else ACTIVE
            if job.status not in allowed:
                raise JobEnded(job)
            if job.status == "running":
                _update(connection, job_id, requested=action)
            elif action == "pause":
                _update(connection, job_id, status="paused")
                _add_event(connection, job_id, "the job is paused")
            else:
                _end(connection, job_id, "cancelled", "the job was cancelled")
            return _job(connection, job_id)

    def resume(self, tenant: str, job_id: str) -> Job | None:
        """Queue a paused job again; None if the tenant has no such job; raise JobEnded if it is not paused."""
        with self._engine.begin() as connection:
            job = _locked_job(connection, job_id)
            if job is None or job.tenant != tenant:
                return None
            if job.status != "paused":
                raise JobEnded(job)
            _update(connection, job_id, status="queued", requested=None)
            _add_event(connection, job_id, "the job is queued again")
            _limit_events(connection, job_id)
            return _job(connection, job_id)

    def claim(self, lease_s: float) -> Job | None:
        """Lease the next job to the caller; None if there is none.

        That is one whose trainer has lost its lease; else the oldest of the tenant that has trained the least in the
        last day.
        """
        now = time.time()
        with self._engine.begin() as connection:
            row = _next_lost(connection, now) or _next_queued(connection, now)
            if row is None:
                return None
            values = {"status": "running", "lease_until": now + lease_s, "attempt": row.attempt + 1}
            if row.started_at is None:
                values["started_at"] = now
            _update(connection, row.id, **values)
            _add_event(
                connection, row.id, "training" if row.status == "queued" else "training again: a trainer was lost"
            )
            return _job(connection, row.id)

    def renew(self, job: Job, lease_s: float, **progress: float | int | None) -> Action | Literal["lost"] | None:
        """Extend the lease of a job, and record progress; return what is requested of its trainer.

        `progress` has `estimated_finish`, `trained_tokens` and `trained_s`. "lost": another trainer has the job.
        """
        with self._engine.begin() as connection:
            values = {"lease_until": time.time() + lease_s, **progress}
            changed = connection.execute(update(jobs).where(_held(job)).values(values)).rowcount
            if not changed:
                return "lost"
            requested: Action | None = connection.execute(select(jobs.c.requested).where(jobs.c.id == job.id)).scalar()
            return requested

    def add_events(self, job: Job, new: Sequence[tuple[str, Mapping[str, Any] | None]], level: str = "info") -> bool:
        """Append events to a job, each a message and the metrics, if it has any; False if the lease is lost.

        Beyond MAX_JOB_EVENTS the oldest are deleted, without those of the best and the last epoch.
        """
        with self._engine.begin() as connection:
            if not _lock_held(connection, job):
                return False
            for message, data in new:
                _add_event(connection, job.id, message, data, level)
            _limit_events(connection, job.id)
            return True

    def end(self, job: Job, status: Status, message: str, **values: Any) -> bool:
        """Set the final status of a job, or `paused`; False if the lease is lost."""
        with self._engine.begin() as connection:
            if not _lock_held(connection, job):
                return False
            _end(connection, job.id, status, message, **values)
            if "version" in values:
                published = {"tenant": job.tenant, "name": job.name, "version": values["version"]}
                connection.execute(insert(versions).values(published))
            return True

    def _page(
        self,
        tenant: str,
        table: Any,
        order: Any,
        after: str | None,
        limit: int,
        newest_first: bool,
        conditions: Sequence[Any] = (),
    ) -> list[Row[Any]]:
        query = select(table).where(table.c.tenant == tenant, *conditions)
        with self._engine.begin() as connection:
            if after is not None:
                last = connection.execute(
                    select(*order).where(table.c.id == after, table.c.tenant == tenant)
                ).one_or_none()
                if last is None:
                    return []
                at, row_id = order
                first, second = (at < last[0], row_id < last[1]) if newest_first else (at > last[0], row_id > last[1])
                query = query.where(or_(first, and_(at == last[0], second)))
            query = query.order_by(*((each.desc() for each in order) if newest_first else order)).limit(limit + 1)
            return list(connection.execute(query))


class JobActive(Exception):
    """A job that has not ended needs a file; its id is the message."""


class ModelRemoved(Exception):
    """A model that a job needs is about to be removed."""


class JobEnded(Exception):
    """A job's status does not allow an action."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.status)
        self.job = job


_QUEUED = jobs.alias("queued")
# Of the metrics of an epoch; others have no such field.
_IS_BEST = events.c.data["is_best"].as_boolean()


def _next_lost(connection: Connection, now: float) -> Row[Any] | None:
    lost = and_(jobs.c.status == "running", jobs.c.lease_until < now)
    query = select(jobs).where(lost).order_by(jobs.c.created_at).limit(1)
    # PostgreSQL skips those that another trainer is claiming; SQLite's transactions exclude each other.
    return connection.execute(query.with_for_update(skip_locked=True)).first()


def _next_queued(connection: Connection, now: float) -> Row[Any] | None:
    recent = and_(jobs.c.tenant == _QUEUED.c.tenant, jobs.c.started_at > now - DAY_S)
    used = select(func.coalesce(func.sum(jobs.c.trained_s), 0.0)).where(recent).scalar_subquery()
    query = select(_QUEUED).where(_QUEUED.c.status == "queued").order_by(used, _QUEUED.c.created_at).limit(1)
    return connection.execute(query.with_for_update(of=_QUEUED, skip_locked=True)).first()


def _held(job: Job) -> Any:
    return and_(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.status == "running")


def _lock_held(connection: Connection, job: Job) -> bool:
    """Return whether the caller has the lease of a job, which nobody else then changes before the transaction ends."""
    return connection.execute(select(jobs.c.id).where(_held(job)).with_for_update()).scalar() is not None


def _job(connection: Connection, job_id: str) -> Job:
    return Job(**connection.execute(select(jobs).where(jobs.c.id == job_id)).one()._mapping)


def _locked_job(connection: Connection, job_id: str) -> Job | None:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one_or_none()
    return None if row is None else Job(**row._mapping)


def _update(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def _end(connection: Connection, job_id: str, status: Status, message: str, **values: Any) -> None:
    if status in ENDED:
        values["finished_at"] = time.time()
    _update(connection, job_id, status=status, requested=None, lease_until=None, estimated_finish=None, **values)
    _add_event(connection, job_id, message, level="error" if status == "failed" else "info")


def _last_event(connection: Connection, job_id: str, condition: Any) -> Mapping[str, Any] | None:
    """Return the metrics of the last event that meets a condition."""
    query = select(events.c.data).where(events.c.job == job_id, condition).order_by(events.c.number.desc()).limit(1)
    data: Mapping[str, Any] | None = connection.execute(query).scalar()
    return data


def _limit_events(connection: Connection, job_id: str) -> None:
    def last(condition: Any) -> Any:
        return select(func.max(events.c.number)).where(events.c.job == job_id, condition).scalar_subquery()

    number = connection.execute(select(func.max(events.c.number)).where(events.c.job == job_id)).scalar() or 0
    if number > MAX_JOB_EVENTS:
        old = and_(events.c.job == job_id, events.c.number <= number - MAX_JOB_EVENTS)
        needed = func.coalesce(last(_IS_BEST), 0), func.coalesce(last(_IS_BEST.is_not(None)), 0)
        connection.execute(delete(events).where(old, events.c.number.not_in(needed)))


def _add_event(
    connection: Connection, job_id: str, message: str, data: Mapping[str, Any] | None = None, level: str = "info"
) -> None:
    number = select(func.coalesce(func.max(events.c.number), 0) + 1).where(events.c.job == job_id).scalar_subquery()
    values = {"job": job_id, "number": number, "created_at": time.time(), "level": level, "message": message}
    values |= {"type": "message" if data is None else "metrics", "data": data}
    connection.execute(insert(events).values(values))
