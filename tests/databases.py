"""Databases of training jobs: SQLite, and PostgreSQL where `TEST_POSTGRESQL_URL` names a server."""

import contextlib
import os
import secrets

import pytest
import sqlalchemy

# SQLAlchemy's URL of a database whose user may create others, `postgresql+psycopg://postgres@127.0.0.1/postgres`.
TEST_POSTGRESQL_URL = "TEST_POSTGRESQL_URL"

_NO_SERVER = f"{TEST_POSTGRESQL_URL} names no server: see CONTRIBUTING.md"
needs_postgresql = pytest.mark.skipif(TEST_POSTGRESQL_URL not in os.environ, reason=_NO_SERVER)
DATABASES = ("sqlite", pytest.param("postgresql", marks=needs_postgresql))


@contextlib.contextmanager
def new_database(kind, folder):
    """Yield the URL of a new, empty database, which is removed at the end."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/jobs.sqlite"
        return
    server = sqlalchemy.create_engine(os.environ[TEST_POSTGRESQL_URL], isolation_level="AUTOCOMMIT")
    name = f"test_{secrets.token_hex(8)}"
    try:
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield server.url.set(database=name).render_as_string(hide_password=False)
        with server.connect() as connection:
            # Processes that a test has killed may still be connected.
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        server.dispose()
