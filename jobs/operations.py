"""The store of operations on the model repository, with their requesters and outcomes.

Gateways add operations and wait; trainers, which have write access to the repository, claim and execute them. An
operation has a lease, as a job has: if its trainer is killed, another trainer executes it. Operations are idempotent.
"""

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Engine, and_, delete, func, insert, or_, select, update

from jobs.database import ACTIVE, jobs, lock_tenants, operations

Action = Literal["route", "rollback", "remove", "erase"]
UNFINISHED = ("queued", "running")
# Per tenant: each request that waits for an operation holds a thread of the gateway.
MAX_UNFINISHED = 16
# A queued operation that no trainer has started by then fails: the request for it has ended.
EXPIRED_S = 60.0


@dataclass(frozen=True)
class NewOperation:
    """An operation to be queued.

    Attributes:
        tenant: The requester's.
        actor: The requester, as named in the audit log.
        action: "route": move labels, and set the traffic split; "rollback"; "remove": the version or the whole model;
            "erase": the files of versions that model servers have unloaded.
        model: NAME, or for "remove" also NAME:VERSION.
        arguments: `labels` and `shares` of "route"; `numbers` of the versions of "erase".
    """

    tenant: str
    actor: str
    action: Action
    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """An operation; times are in seconds since the epoch. For the rest see `NewOperation`."""

    id: str
    tenant: str
    actor: str
    action: Action
    model: str
    arguments: Mapping[str, Any]
    created_at: float
    due_at: float
    status: Literal["queued", "running", "succeeded", "failed"]
    error: Mapping[str, Any] | None
    lease_until: float | None
    attempt: int


class TooManyOperations(Exception):
    """A tenant has as many unfinished operations as it may have; the message names the limit."""


class ModelInUse(Exception):
    """A job that has not ended needs a model or version; its id and tenant are attributes."""

    def __init__(self, job_id: str, tenant: str) -> None:
        super().__init__(job_id)
        self.job_id, self.tenant = job_id, tenant


class OperationStore:
    """The operations, in the database of the jobs; thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, new: NewOperation, published_by: Collection[str] = ()) -> str:
        """Queue an operation; return its id.

        `published_by` are the jobs that have published what is to be removed: one that was not yet known to have
        succeeded would publish it again.

        Raises:
            TooManyOperations: the tenant has MAX_UNFINISHED.
            ModelInUse: a job that has not ended continues from what is to be removed, or will publish it.
        """
        with self._engine.begin() as connection:
            lock_tenants(connection)
            of_tenant = and_(operations.c.tenant == new.tenant, operations.c.status.in_(UNFINISHED))
            waited_for = select(func.count()).select_from(operations).where(of_tenant, operations.c.action != "erase")
            count = connection.execute(waited_for).scalar_one()
            if count >= MAX_UNFINISHED:
                raise TooManyOperations(f"at most {MAX_UNFINISHED} operations may be unfinished, got one more")
            if new.action == "remove":
                _require_unused(connection, new.model, published_by)
            return _insert(connection, new, due_in_s=0.0)

    def get(self, operation_id: str) -> Operation:
        """Return an operation."""
        with self._engine.begin() as connection:
            row = connection.execute(select(operations).where(operations.c.id == operation_id)).one()
        return Operation(**row._mapping)

    def withdraw(self, operation_id: str) -> bool:
        """Mark an operation as failed, if no trainer has begun it; return whether that is so."""
        queued = and_(operations.c.id == operation_id, operations.c.status == "queued")
        with self._engine.begin() as connection:
            return connection.execute(update(operations).where(queued).values(status="failed")).rowcount > 0

    def claim(self, lease_s: float) -> Operation | None:
        """Lease the oldest operation that is due to the caller; None if there is none."""
        now = time.time()
        free = or_(operations.c.status == "queued", operations.c.lease_until < now)
        is_due = and_(operations.c.status.in_(UNFINISHED), operations.c.due_at <= now, free)
        late = and_(operations.c.status == "queued", operations.c.due_at < now - EXPIRED_S)
        with self._engine.begin() as connection:
            connection.execute(update(operations).where(late, operations.c.action != "erase").values(status="failed"))
            query = select(operations).where(is_due).order_by(operations.c.due_at).limit(1)
            # PostgreSQL skips those that another trainer is claiming; SQLite's transactions exclude each other.
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            values = {"status": "running", "lease_until": now + lease_s, "attempt": row.attempt + 1}
            connection.execute(update(operations).where(operations.c.id == row.id).values(values))
            return Operation(**{**row._mapping, **values})

    def plan(self, operation: Operation, arguments: Mapping[str, Any]) -> bool:
        """Set the arguments of an operation before it is executed; False if its lease is lost."""
        with self._engine.begin() as connection:
            return _change(connection, operation, arguments=arguments)

    def finish(
        self,
        operation: Operation,
        error: Mapping[str, Any] | None = None,
        follow_up: NewOperation | None = None,
        due_in_s: float = 0.0,
    ) -> bool:
        """Set the outcome of an operation, and queue another one after it; False if its lease is lost."""
        with self._engine.begin() as connection:
            if not _change(connection, operation, status="failed" if error else "succeeded", error=error):
                return False
            if follow_up is not None:
                _insert(connection, follow_up, due_in_s)
            return True

    def forget(self, before: float) -> None:
        """Delete the finished operations that were created before a time."""
        old = and_(operations.c.status.not_in(UNFINISHED), operations.c.created_at < before)
        with self._engine.begin() as connection:
            connection.execute(delete(operations).where(old))


def is_being_removed(connection: Connection, names: Collection[str]) -> bool:
    """Return whether one of some models, each NAME or NAME:VERSION, is about to be removed."""
    references = {*names, *(name.partition(":")[0] for name in names)}
    unfinished = and_(operations.c.action == "remove", operations.c.status.in_(UNFINISHED))
    query = select(operations.c.id).where(unfinished, operations.c.model.in_(references))
    return connection.execute(query).first() is not None


def _require_unused(connection: Connection, model: str, published_by: Collection[str]) -> None:
    needs = or_(jobs.c.model == model, jobs.c.id.in_(published_by))
    if ":" not in model:
        needs = or_(needs, jobs.c.model.startswith(f"{model}:", autoescape=True), jobs.c.name == model)
    row = connection.execute(select(jobs.c.id, jobs.c.tenant).where(jobs.c.status.in_(ACTIVE), needs)).first()
    if row is not None:
        raise ModelInUse(row.id, row.tenant)


def _insert(connection: Connection, new: NewOperation, due_in_s: float) -> str:
    operation_id, now = f"op-{secrets.token_hex(12)}", time.time()
    values = {**vars(new), "id": operation_id, "status": "queued", "created_at": now, "due_at": now + due_in_s}
    connection.execute(insert(operations).values(values))
    return operation_id


def _change(connection: Connection, operation: Operation, **values: Any) -> bool:
    held = and_(
        operations.c.id == operation.id, operations.c.attempt == operation.attempt, operations.c.status == "running"
    )
    return connection.execute(update(operations).where(held).values(values)).rowcount > 0
