"""The database of jobs and operations, in SQLite or PostgreSQL: its records, and the migration of an older schema."""

import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from contract.files import create_atomically, private_mode

# Of SQLite's lock, which another process's transaction holds for milliseconds.
_BUSY_TIMEOUT_S = 30
# A gateway fails at its start, with a message, before an orchestrator ends it.
_CONNECT_TIMEOUT_S = 5
# Numbers of PostgreSQL's advisory locks, arbitrary ones.
_MIGRATION_LOCK, _TENANTS_LOCK = 5_017_332_701, 5_017_332_702
# Status of jobs that have not ended.
ACTIVE = ("queued", "running", "paused")

JobAction = Literal["cancel", "pause"]
OperationAction = Literal["route", "rollback", "remove", "erase"]


class Record(MappedAsDataclass, DeclarativeBase):
    """A row of a table. Times are in seconds since the epoch."""

    # As in databases that older releases have made.
    type_annotation_map: ClassVar = {float: Float}


class CannotOpen(Exception):
    """The job database cannot be opened; the message is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the job database cannot be opened: {reason}")


def _new_id(kind: str) -> Callable[[], str]:
    return lambda: f"{kind}-{secrets.token_hex(12)}"


class StoredFile(Record, kw_only=True):
    """The record of an uploaded file."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    filename: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Job(Record, kw_only=True):
    """A training job."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True, default_factory=_new_id("ftjob"))
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[float] = mapped_column(default_factory=time.time)
    status: Mapped[Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]] = mapped_column(
        String(16), index=True, default="queued"
    )
    model: Mapped[str] = mapped_column(String(128))  # a recipe, or the base model
    name: Mapped[str] = mapped_column(String(64))  # of the model to be published
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64), default=None)
    suffix: Mapped[str | None] = mapped_column(String(64), default=None)
    # Those of the exporter that the request sets.
    settings: Mapped[Mapping[str, Any]] = mapped_column(JSON, default_factory=dict)
    # As they were requested.
    hyperparameters: Mapped[Mapping[str, Any]] = mapped_column(JSON, default_factory=dict)
    job_metadata: Mapped[Mapping[str, str] | None] = mapped_column(JSON, default=None)
    started_at: Mapped[float | None] = mapped_column(default=None)
    finished_at: Mapped[float | None] = mapped_column(default=None)
    estimated_finish: Mapped[float | None] = mapped_column(default=None)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger, default=None)
    trained_s: Mapped[float] = mapped_column(default=0.0)
    version: Mapped[int | None] = mapped_column(default=None)  # published
    error: Mapped[Mapping[str, Any] | None] = mapped_column(JSON, default=None)  # code, message and param
    # Of the trainer that runs it.
    requested: Mapped[JobAction | None] = mapped_column(String(16), default=None)
    lease_until: Mapped[float | None] = mapped_column(default=None)
    attempt: Mapped[int] = mapped_column(default=0)  # number of the lease


class Event(Record, kw_only=True):
    """An event of a job; metrics are in `data`."""

    __tablename__ = "events"

    job: Mapped[str] = mapped_column(String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    level: Mapped[Literal["info", "warn", "error"]] = mapped_column(String(8))
    type: Mapped[Literal["message", "metrics"]] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[Mapping[str, Any] | None] = mapped_column(JSON)

    @property
    def id(self) -> str:
        return f"ftevent-{self.job.removeprefix('ftjob-')}-{self.number}"


class Operation(Record, kw_only=True):
    """An operation on the model repository.

    Attributes:
        tenant: The requester's.
        actor: The requester, as named in the audit log.
        action: "route": move labels, and set the traffic split; "rollback"; "remove": the version or the whole model;
            "erase": the files of versions that model servers have unloaded.
        model: NAME, or for "remove" also NAME:VERSION.
        arguments: `labels` and `shares` of "route"; `numbers` of the versions of "erase".
        due_at: The earliest time of its execution.
        error: HTTP status and message.
        attempt: Number of the lease.
    """

    __tablename__ = "operations"

    id: Mapped[str] = mapped_column(String(64), primary_key=True, default_factory=_new_id("op"))
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[OperationAction] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(128))
    arguments: Mapped[Mapping[str, Any]] = mapped_column(JSON, default_factory=dict)
    created_at: Mapped[float] = mapped_column(default_factory=time.time)
    due_at: Mapped[float] = mapped_column(index=True, default_factory=time.time)
    status: Mapped[Literal["queued", "running", "succeeded", "failed"]] = mapped_column(
        String(16), index=True, default="queued"
    )
    error: Mapped[Mapping[str, Any] | None] = mapped_column(JSON, default=None)
    lease_until: Mapped[float | None] = mapped_column(default=None)
    attempt: Mapped[int] = mapped_column(default=0)


_Leased = TypeVar("_Leased", Job, Operation)
# Versions that jobs have published. They count toward a quota after their jobs are deleted, until they are removed.
versions = Table(
    "published_versions",
    Record.metadata,
    Column("tenant", String(64), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
)
_schema = Table("schema_version", Record.metadata, Column("version", Integer, nullable=False))


def _add_versions(connection: Connection) -> None:
    versions.create(connection)
    published = select(Job.tenant, Job.name, Job.version).where(Job.version.is_not(None))
    connection.execute(insert(versions).from_select(["tenant", "name", "version"], published))


# Each takes a database from one version of the schema, the first from 1, to the next. A new database has the last one.
_MIGRATIONS: tuple[Callable[[Connection], object], ...] = (Record.metadata.tables["operations"].create, _add_versions)
SCHEMA_VERSION = 1 + len(_MIGRATIONS)


def database_url(training_dir: Path) -> str:
    """Return the URL of the default database, a file in the training directory."""
    return f"sqlite:///{training_dir.resolve() / 'jobs.sqlite'}"


def open_database(url: str) -> Engine:
    """Open a database, and create or migrate its tables.

    `url` is SQLAlchemy's, `sqlite:///jobs.sqlite` or `postgresql+psycopg://…`.

    Raises:
        CannotOpen: the URL is invalid, the database cannot be opened, or a newer version of this program has migrated
            it.
    """
    try:
        return _open(url)
    except OSError as error:
        raise CannotOpen(f"{error.filename}: {error.strerror}") from error
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise CannotOpen(str(error).partition("\n")[0]) from error


def _open(url: str) -> Engine:
    # PostgreSQL closes connections when it restarts.
    location = make_url(url)
    if "@" in (location.host or ""):
        # The driver's error would quote the host, and with it a part of the password.
        raise ValueError("the password in its URL has an @, which must be written as %40")
    is_postgresql = location.get_backend_name() == "postgresql"
    engine = create_engine(
        location,
        pool_pre_ping=True,
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S} if is_postgresql else {},
    )
    if engine.dialect.name == "sqlite":
        if engine.url.database and engine.url.database != ":memory:":
            _create_sqlite(Path(engine.url.database))
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.begin() as connection:
            _migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def lock_tenants(session: Session) -> None:
    """Let no other transaction count toward a quota; SQLite's write transactions exclude each other anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_TENANTS_LOCK)))


def lock_held(session: Session, record: _Leased) -> _Leased | None:
    """Return a job or an operation of which the caller has the lease; None if the lease is lost.

    Nobody else changes it before the transaction ends.
    """
    kind = type(record)
    is_held = kind.id == record.id, kind.attempt == record.attempt, kind.status == "running"
    return session.scalar(select(kind).where(*is_held).with_for_update())


def _create_sqlite(path: Path) -> None:
    """Create an empty database, private to its owner or, in a directory that is shared with a group, to that group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite gives the files that it makes beside this one the same mode.
    create_atomically(path, b"", mode=private_mode(path.parent))


def _configure_sqlite(connection: Any, _record: object) -> None:
    # Transactions are begun below: the driver would begin them only before the first write.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_TIMEOUT_S}")
    _use_wal(connection)
    connection.execute("PRAGMA foreign_keys = ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, unless the database uses it already."""
    end = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # Of several connections that switch a new database at once, SQLite lets all but one fail without waiting.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes would fail if another wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Gateways and trainers may start at the same time.
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    if not inspect(connection).has_table(_schema.name):
        Record.metadata.create_all(connection)
        connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
        return
    version = connection.execute(select(_schema.c.version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise ValueError(f"it has schema version {version}, and this program knows {SCHEMA_VERSION}")
    for migrate in _MIGRATIONS[version - 1 :]:
        migrate(connection)
    connection.execute(update(_schema).values(version=SCHEMA_VERSION))
