"""The database of jobs and operations, in SQLite or PostgreSQL: its tables, and the migration of an older schema."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)

from contract.files import create_atomically, is_shared

# Of SQLite's lock, which another process's transaction holds for milliseconds.
_BUSY_TIMEOUT_S = 30
# Numbers of PostgreSQL's advisory locks, arbitrary ones.
_MIGRATION_LOCK, _TENANTS_LOCK = 5_017_332_701, 5_017_332_702
# Status of jobs that have not ended.
ACTIVE = ("queued", "running", "paused")

_metadata = MetaData()

files = Table(
    "files",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
jobs = Table(
    "jobs",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("model", String(128), nullable=False),  # a recipe, or the base model
    Column("name", String(64), nullable=False),  # of the model to be published
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("suffix", String(64)),
    Column("settings", JSON, nullable=False),  # those of the exporter that the request sets
    Column("hyperparameters", JSON, nullable=False),  # as they were requested
    Column("job_metadata", JSON),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("estimated_finish", Float),
    Column("trained_tokens", BigInteger),
    Column("trained_s", Float, nullable=False, default=0.0),
    Column("version", Integer),  # published
    Column("error", JSON),  # code, message and param
    Column("requested", String(16)),  # of the trainer that runs it: cancel or pause
    Column("lease_until", Float),
    Column("attempt", Integer, nullable=False, default=0),  # number of the lease
)
events = Table(
    "events",
    _metadata,
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON),
    PrimaryKeyConstraint("job", "number"),
)
operations = Table(
    "operations",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("actor", String(128), nullable=False),  # as the audit log names it
    Column("action", String(16), nullable=False),
    Column("model", String(128), nullable=False),  # NAME, or NAME:VERSION
    Column("arguments", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("due_at", Float, nullable=False, index=True),
    Column("status", String(16), nullable=False, index=True),
    Column("error", JSON),  # HTTP status and message
    Column("lease_until", Float),
    Column("attempt", Integer, nullable=False, default=0),  # number of the lease
)
# Versions that jobs have published. They count towards a quota after their jobs are deleted, until they are removed.
versions = Table(
    "published_versions",
    _metadata,
    Column("tenant", String(64), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
)
_schema = Table("schema_version", _metadata, Column("version", Integer, nullable=False))


def _add_versions(connection: Connection) -> None:
    versions.create(connection)
    columns = jobs.c.tenant, jobs.c.name, jobs.c.version
    published = select(*columns).where(jobs.c.version.is_not(None))
    connection.execute(insert(versions).from_select([column.name for column in columns], published))


# Each takes a database from one version of the schema, the first from 1, to the next. A new database has the last one.
_MIGRATIONS: tuple[Callable[[Connection], object], ...] = (operations.create, _add_versions)
SCHEMA_VERSION = 1 + len(_MIGRATIONS)


def database_url(training_dir: Path) -> str:
    """Return the URL of the default database, a file in the training directory."""
    return f"sqlite:///{training_dir.resolve() / 'jobs.sqlite'}"


def open_database(url: str) -> Engine:
    """Open a database, and create or migrate its tables.

    `url` is SQLAlchemy's, `sqlite:///jobs.sqlite` or `postgresql+psycopg://…`.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be opened.
        ValueError: a newer version of this program has migrated it.
    """
    engine = create_engine(url)
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


def lock_tenants(connection: Connection) -> None:
    """Let no other transaction count towards a quota; SQLite's write transactions exclude each other anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_TENANTS_LOCK)))


def _create_sqlite(path: Path) -> None:
    """Create an empty database, private to its owner or, in a directory that is shared with a group, to that group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite gives the files that it makes beside this one the same mode.
    create_atomically(path, b"", mode=0o660 if is_shared(path.parent) else 0o600)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # Transactions are begun below: the driver would begin them only before the first write.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_TIMEOUT_S}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes would fail if another wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Gateways and trainers may start at the same time.
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    if not inspect(connection).has_table(_schema.name):
        _metadata.create_all(connection)
        connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
        return
    version = connection.execute(select(_schema.c.version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise ValueError(f"the job database has schema version {version}, and this program knows {SCHEMA_VERSION}")
    for migrate in _MIGRATIONS[version - 1 :]:
        migrate(connection)
    connection.execute(update(_schema).values(version=SCHEMA_VERSION))
