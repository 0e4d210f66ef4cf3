"""The store of training jobs and of the records of uploaded files: every change is one transaction.

A job's status and who may change it:

    queued ── claim ──> running
    queued ── request("pause") ──> paused ── request("resume") ──> queued
    queued, paused ── request("cancel") ──> cancelled
    running ── end ──> succeeded, failed, cancelled, paused, queued

A trainer holds a lease of the job that it runs. `renew` returns a request to cancel or pause it, and the trainer
ends it so; a trainer that stops returns its job to the queue. If a trainer is killed, its lease ends and another one
claims the job, which stays `running`; whatever the first one still writes is refused, as its attempt is over.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import Select, and_, delete, func, insert, or_, select, tuple_
from sqlalchemy.orm import Session, aliased, sessionmaker

from jobs import database
from jobs.database import ACTIVE, Event, Job, JobAction, StoredFile, lock_held, lock_tenants, versions
from jobs.operations import JobActive, OperationStore, is_being_removed
from jobs.quotas import (
    DAY_S,
    IsKept,
    Quota,
    TrainingMinutes,
    max_minutes,
    require_files,
    require_jobs,
    training_minutes,
)

ENDED = ("succeeded", "failed", "cancelled")
# A job of an hour has a thousand. Beyond it the oldest are deleted.
MAX_JOB_EVENTS = 10_000
_Listed = TypeVar("_Listed", Job, StoredFile)


class JobStore:
    """Jobs, events and files; thread-safe. Tenants see their own alone."""

    def __init__(self, url: str) -> None:
        """Open or create the database; raise as `open_database`."""
        self._engine = database.open_database(url)
        self._begin = sessionmaker(self._engine, expire_on_commit=False).begin
        self.operations = OperationStore(self._begin)

    def close(self) -> None:
        self._engine.dispose()

    def add_file(self, file: StoredFile, max_bytes: int) -> None:
        """Record a file; raise QuotaExceeded if the tenant would have more than `max_bytes` or MAX_TENANT_FILES."""
        with self._begin() as session:
            lock_tenants(session)
            require_files(session, file.tenant, file.bytes, max_bytes)
            session.add(file)

    def file(self, tenant: str, file_id: str) -> StoredFile | None:
        with self._begin() as session:
            return session.scalar(select(StoredFile).where(StoredFile.id == file_id, StoredFile.tenant == tenant))

    def list_files(self, tenant: str, after: str | None, limit: int, *, newest_first: bool = True) -> list[StoredFile]:
        """Return a tenant's files after the one with an id; one more than `limit` if there are more."""
        return self._page(StoredFile, tenant, after, limit, newest_first=newest_first)

    def remove_file(self, tenant: str, file_id: str) -> bool:
        """Delete a file's record; False if there is none.

        Raises:
            JobActive: a job that has not ended needs it.
        """
        with self._begin() as session:
            query = select(StoredFile).where(StoredFile.id == file_id, StoredFile.tenant == tenant)
            file = session.scalar(query.with_for_update())
            if file is None:
                return False
            if (user := session.scalar(_active_users(file_id).limit(1))) is not None:
                raise JobActive(user, tenant)
            session.delete(file)
            return True

    def delete_files_before(self, created_at: float) -> list[StoredFile]:
        """Delete the records of older files of all tenants but those that an active job needs, and return them."""
        old = select(StoredFile).where(StoredFile.created_at < created_at, ~_active_users(StoredFile.id).exists())
        with self._begin() as session:
            files = list(session.scalars(old.with_for_update(skip_locked=True)))
            for file in files:
                session.delete(file)
            return files

    def file_ids(self) -> list[str]:
        with self._begin() as session:
            return list(session.scalars(select(StoredFile.id)))

    def create(self, job: Job, quota: Quota, is_kept: IsKept = lambda _name, _version: True) -> Job:
        """Queue a new job, and return it.

        Raises:
            FileDeleted: a file of the job has been deleted.
            QuotaExceeded: the tenant may not have one more job, or not of its `max_minutes`.
            ModelRemoved: the base, or the model to be published, is about to be removed.
        """
        with self._begin() as session:
            lock_tenants(session)
            for field in ("training_file", "validation_file"):
                file_id = getattr(job, field)
                # A lock that several jobs may hold; `remove_file` waits for it.
                if file_id is not None and session.get(StoredFile, file_id, with_for_update={"read": True}) is None:
                    raise FileDeleted(field)
            if is_being_removed(session, (job.model, job.name)):
                raise ModelRemoved
            require_jobs(session, job.tenant, max_minutes(job.settings), quota, is_kept)
            session.add(job)
            session.flush()
            _add_event(session, job.id, "the job is queued")
            return job

    def minutes(self, tenant: str) -> TrainingMinutes:
        with self._begin() as session:
            return training_minutes(session, tenant)

    def delete_jobs_before(self, finished_at: float) -> int:
        """Delete jobs that ended before a time, with their events; return how many."""
        with self._begin() as session:
            return _num_changed(session, delete(Job).where(Job.finished_at < finished_at))

    def job(self, tenant: str, job_id: str) -> Job | None:
        with self._begin() as session:
            return session.scalar(select(Job).where(Job.id == job_id, Job.tenant == tenant))

    def list_jobs(
        self, tenant: str, after: str | None, limit: int, metadata: Mapping[str, str] | None = None
    ) -> list[Job]:
        """Return a tenant's jobs after the one with an id, newest first; one more than `limit` if there are more.

        Only those whose metadata have the values of `metadata`. No key has a double quote or a backslash: versions of
        SQLite differ in what it means in a path.
        """
        same = [Job.job_metadata[key].as_string() == value for key, value in (metadata or {}).items()]
        return self._page(Job, tenant, after, limit, newest_first=True, conditions=same)

    def list_events(self, job_id: str, after: int, limit: int, *, newest_first: bool = False) -> list[Event]:
        """Return a job's events beyond a number, in order or newest first."""
        beyond = Event.number < after if newest_first else Event.number > after
        query = select(Event).where(Event.job == job_id, beyond).limit(limit)
        with self._begin() as session:
            return list(session.scalars(query.order_by(Event.number.desc() if newest_first else Event.number)))

    def last_epoch(self, job_id: str) -> int:
        """Return the number of the last epoch that a job has an event for; 0 if it has none."""
        with self._begin() as session:
            data = _last_event(session, job_id, _IS_BEST.is_not(None))
        return 0 if data is None else int(data["epoch"])

    def best_epoch(self, job_id: str) -> Mapping[str, Any] | None:
        """Return the metrics of the best epoch of a job; None before the first one."""
        with self._begin() as session:
            return _last_event(session, job_id, _IS_BEST)

    def not_active_among(self, job_ids: Iterable[str]) -> set[str]:
        """Return those ids whose jobs have ended, or do not exist."""
        with self._begin() as session:
            return set(job_ids) - set(session.scalars(select(Job.id).where(Job.status.in_(ACTIVE))))

    def request(self, tenant: str, job_id: str, action: JobAction | Literal["resume"]) -> Job | None:
        """Cancel, pause or resume a job; None if the tenant has no such job.

        One that runs stops once its trainer knows, and one that was paused is queued again.

        Raises:
            JobEnded: its status does not allow the action.
        """
        allowed = {"cancel": ACTIVE, "pause": ("queued", "running"), "resume": ("paused",)}[action]
        with self._begin() as session:
            job = session.get(Job, job_id, with_for_update=True)
            if job is None or job.tenant != tenant:
                return None
            if job.status not in allowed:
                raise JobEnded(job.status)
            if action == "resume":
                job.status, job.requested = "queued", None
                _add_event(session, job_id, "the job is queued again")
                _limit_events(session, job_id)
            elif job.status == "running":
                job.requested = "cancel" if job.requested == "cancel" else action
            elif action == "pause":
                job.status = "paused"
                _add_event(session, job_id, "the job is paused")
            else:
                _end(session, job, "cancelled", "the job was cancelled")
            return job

    def claim(self, lease_s: float) -> Job | None:
        """Lease the next job to the caller; None if there is none.

        That is one whose trainer has lost its lease; else the oldest of the tenant that has trained the least in the
        last day.
        """
        now = time.time()
        with self._begin() as session:
            job = _next_lost(session, now) or _next_queued(session, now)
            if job is None:
                return None
            is_new = job.status == "queued"
            _add_event(session, job.id, "training" if is_new else "training again: its trainer has ended")
            job.status, job.lease_until, job.attempt = "running", now + lease_s, job.attempt + 1
            job.started_at = job.started_at or now
            return job

    def renew(self, job: Job, lease_s: float, **progress: float | int | None) -> JobAction | Literal["lost"] | None:
        """Extend the lease of a job, and record progress; return what is requested of its trainer.

        `progress` has `estimated_finish`, `trained_tokens` and `trained_s`. "lost": another trainer has the job.
        """
        with self._begin() as session:
            if (held := lock_held(session, job)) is None:
                return "lost"
            held.lease_until = time.time() + lease_s
            for name, value in progress.items():
                setattr(held, name, value)
            return held.requested

    def add_events(self, job: Job, new: Sequence[tuple[str, Mapping[str, Any] | None]], level: str = "info") -> bool:
        """Append events to a job, each a message and the metrics, if it has any; False if the lease is lost.

        Beyond MAX_JOB_EVENTS the oldest are deleted, without those of the best and the last epoch.
        """
        with self._begin() as session:
            if lock_held(session, job) is None:
                return False
            for message, data in new:
                _add_event(session, job.id, message, data, level)
            _limit_events(session, job.id)
            return True

    def end(self, job: Job, status: str, message: str, **values: Any) -> bool:
        """End a lease: set the final status of a job, or `paused` or `queued`; False if the lease is lost.

        What was requested while the training stopped takes the place of `paused` and `queued`.
        """
        with self._begin() as session:
            if (held := lock_held(session, job)) is None:
                return False
            if held.requested == "cancel" and status in ("paused", "queued"):
                status, message = "cancelled", "the job was cancelled"
            elif held.requested == "pause" and status == "queued":
                status, message = "paused", "the job is paused"
            _end(session, held, status, message, **values)
            if "version" in values:
                published = {"tenant": job.tenant, "name": job.name, "version": values["version"]}
                session.execute(insert(versions).values(published))
            return True

    def _page(
        self,
        kind: type[_Listed],
        tenant: str,
        after: str | None,
        limit: int,
        *,
        newest_first: bool,
        conditions: Sequence[Any] = (),
    ) -> list[_Listed]:
        query, order = select(kind).where(kind.tenant == tenant, *conditions), tuple_(kind.created_at, kind.id)
        with self._begin() as session:
            if after is not None:
                last = session.scalar(select(kind).where(kind.id == after, kind.tenant == tenant))
                if last is None:
                    return []
                at = tuple_(last.created_at, last.id)
                query = query.where(order < at if newest_first else order > at)
            columns = kind.created_at, kind.id
            query = query.order_by(*((each.desc() for each in columns) if newest_first else columns)).limit(limit + 1)
            return list(session.scalars(query))


class FileDeleted(Exception):
    """A file that a job needs has been deleted; the message is the job's field."""


class ModelRemoved(Exception):
    """A model that a job needs is about to be removed."""


class JobEnded(Exception):
    """A job's status, which is the message, does not allow an action."""


# Of the metrics of an epoch; others have no such field.
_IS_BEST = Event.data["is_best"].as_boolean()


def _next_lost(session: Session, now: float) -> Job | None:
    query = select(Job).where(Job.status == "running", Job.lease_until < now).order_by(Job.created_at).limit(1)
    # PostgreSQL skips those that another trainer is claiming; SQLite's transactions exclude each other.
    return session.scalar(query.with_for_update(skip_locked=True))


def _next_queued(session: Session, now: float) -> Job | None:
    of_tenant = aliased(Job)
    recent = and_(of_tenant.tenant == Job.tenant, of_tenant.started_at > now - DAY_S)
    used = select(func.coalesce(func.sum(of_tenant.trained_s), 0.0)).where(recent).scalar_subquery()
    query = select(Job).where(Job.status == "queued").order_by(used, Job.created_at).limit(1)
    return session.scalar(query.with_for_update(of=Job, skip_locked=True))


def _num_changed(session: Session, statement: Any) -> int:
    result: Any = session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)


def _end(session: Session, job: Job, status: str, message: str, **values: Any) -> None:
    if status in ENDED:
        values["finished_at"] = time.time()
    values |= {"status": status, "requested": None, "lease_until": None, "estimated_finish": None}
    for name, value in values.items():
        setattr(job, name, value)
    _add_event(session, job.id, message, level="error" if status == "failed" else "info")


def _active_users(file_id: Any) -> Select[str]:
    """Return the query for active jobs that use a file; `file_id` is an id or a column."""
    uses = or_(Job.training_file == file_id, Job.validation_file == file_id)
    return select(Job.id).where(uses, Job.status.in_(ACTIVE))


def _last_event(session: Session, job_id: str, condition: Any) -> Mapping[str, Any] | None:
    query = select(Event.data).where(Event.job == job_id, condition).order_by(Event.number.desc()).limit(1)
    return session.scalar(query)


def _limit_events(session: Session, job_id: str) -> None:
    def last(condition: Any) -> Any:
        return select(func.max(Event.number)).where(Event.job == job_id, condition).scalar_subquery()

    number = session.scalar(select(func.max(Event.number)).where(Event.job == job_id)) or 0
    if number > MAX_JOB_EVENTS:
        old = and_(Event.job == job_id, Event.number <= number - MAX_JOB_EVENTS)
        needed = func.coalesce(last(_IS_BEST), 0), func.coalesce(last(_IS_BEST.is_not(None)), 0)
        _num_changed(session, delete(Event).where(old, Event.number.not_in(needed)))


def _add_event(
    session: Session, job_id: str, message: str, data: Mapping[str, Any] | None = None, level: str = "info"
) -> None:
    number = select(func.coalesce(func.max(Event.number), 0) + 1).where(Event.job == job_id).scalar_subquery()
    values = {"job": job_id, "number": number, "created_at": time.time(), "level": level, "message": message}
    values |= {"type": "message" if data is None else "metrics", "data": _without_nul(data)}
    session.execute(insert(Event).values(values))


def _without_nul(value: Any) -> Any:
    """Replace the character NUL in all texts, such as samples of a model: PostgreSQL has no text with it."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, Mapping):
        return {name: _without_nul(each) for name, each in value.items()}
    return [_without_nul(each) for each in value] if isinstance(value, list) else value
