"""The store of operations on the model repository, with their requesters and outcomes.

Gateways add operations and wait; trainers, which have write access to the repository, claim and execute them. An
operation has a lease, as a job has: if its trainer is killed, another trainer executes it. Operations are idempotent.
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from jobs.database import ACTIVE, Job, Operation, lock_held, lock_tenants
from jobs.quotas import QuotaExceeded

UNFINISHED = ("queued", "running")
# Per tenant: each request that waits for an operation holds a thread of the gateway.
MAX_UNFINISHED = 16
# A queued operation that no trainer has started by then fails: the request for it has ended.
EXPIRED_S = 60.0


class JobActive(Exception):
    """A job that has not ended needs a file, model or version; its id and tenant are attributes."""

    def __init__(self, job_id: str, tenant: str) -> None:
        super().__init__(job_id)
        self.job_id, self.tenant = job_id, tenant


class OperationStore:
    """The operations, in the database of the jobs; thread-safe."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Session]]) -> None:
        self._begin = begin

    def add(self, operation: Operation, published_by: Collection[str] = ()) -> str:
        """Queue a new operation; return its id.

        `published_by` are the jobs that have published what is to be removed: one that was not yet known to have
        succeeded would publish it again.

        Raises:
            QuotaExceeded: the tenant has MAX_UNFINISHED.
            JobActive: a job that has not ended continues from what is to be removed, or will publish it.
        """
        with self._begin() as session:
            lock_tenants(session)
            of_tenant = and_(Operation.tenant == operation.tenant, Operation.status.in_(UNFINISHED))
            waited_for = select(func.count()).select_from(Operation).where(of_tenant, Operation.action != "erase")
            if session.execute(waited_for).scalar_one() >= MAX_UNFINISHED:
                raise QuotaExceeded(f"at most {MAX_UNFINISHED} operations may be unfinished, got one more")
            if operation.action == "remove":
                _require_unused(session, operation.model, published_by)
            session.add(operation)
            return operation.id

    def get(self, operation_id: str) -> Operation:
        with self._begin() as session:
            return session.get_one(Operation, operation_id)

    def withdraw(self, operation_id: str) -> bool:
        """Mark an operation as failed, if no trainer has begun it; return whether that is so."""
        with self._begin() as session:
            operation = session.get_one(Operation, operation_id, with_for_update=True)
            is_queued = operation.status == "queued"
            if is_queued:
                operation.status = "failed"
            return is_queued

    def claim(self, lease_s: float) -> Operation | None:
        """Lease the oldest operation that is due to the caller; None if there is none."""
        now = time.time()
        free = or_(Operation.status == "queued", Operation.lease_until < now)
        is_due = and_(Operation.status.in_(UNFINISHED), Operation.due_at <= now, free)
        late = and_(Operation.status == "queued", Operation.due_at < now - EXPIRED_S)
        with self._begin() as session:
            session.execute(update(Operation).where(late, Operation.action != "erase").values(status="failed"))
            query = select(Operation).where(is_due).order_by(Operation.due_at).limit(1)
            # PostgreSQL skips those that another trainer is claiming; SQLite's transactions exclude each other.
            operation = session.scalar(query.with_for_update(skip_locked=True))
            if operation is not None:
                operation.status, operation.lease_until = "running", now + lease_s
                operation.attempt += 1
            return operation

    def plan(self, operation: Operation, arguments: Mapping[str, Any]) -> bool:
        """Set the arguments of an operation before it is executed; False if its lease is lost."""
        with self._begin() as session:
            if (held := lock_held(session, operation)) is None:
                return False
            held.arguments = arguments
            return True

    def finish(
        self, operation: Operation, error: Mapping[str, Any] | None = None, follow_up: Operation | None = None
    ) -> bool:
        """Set the outcome of an operation, and queue another one after it; False if its lease is lost."""
        with self._begin() as session:
            if (held := lock_held(session, operation)) is None:
                return False
            held.status, held.error = "failed" if error else "succeeded", error
            if follow_up is not None:
                session.add(follow_up)
            return True

    def forget(self, before: float) -> None:
        """Delete the finished operations that were created before a time."""
        old = and_(Operation.status.not_in(UNFINISHED), Operation.created_at < before)
        with self._begin() as session:
            session.execute(delete(Operation).where(old))


def is_being_removed(session: Session, names: Collection[str]) -> bool:
    """Return whether one of some models, each NAME or NAME:VERSION, is about to be removed."""
    references = {*names, *(name.partition(":")[0] for name in names)}
    unfinished = and_(Operation.action == "remove", Operation.status.in_(UNFINISHED))
    query = select(Operation.id).where(unfinished, Operation.model.in_(references)).limit(1)
    return session.scalar(query) is not None


def _require_unused(session: Session, model: str, published_by: Collection[str]) -> None:
    needs = or_(Job.model == model, Job.id.in_(published_by))
    if ":" not in model:
        needs = or_(needs, Job.model.startswith(f"{model}:", autoescape=True), Job.name == model)
    job = session.scalar(select(Job).where(Job.status.in_(ACTIVE), needs).limit(1))
    if job is not None:
        raise JobActive(job.id, job.tenant)
