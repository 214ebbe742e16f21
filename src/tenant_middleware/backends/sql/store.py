"""Connections to SQLite and Postgres through SQLAlchemy, transactions on them, and their failures in words of ours."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from tenant_middleware.errors import SettingsError, StoreUnavailable, missing_extra
from tenant_middleware.forks import heed_forks
from tenant_middleware.settings import in_memory_database

_LOCK = 7_304_126_011


def open_engine(url: str, timeout: float) -> sa.Engine:
    """The engine behind a URL; `timeout` bounds the wait for a connection and a lock, in seconds.

    Raises SettingsError for another database or no URL at all.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise SettingsError(
                f"backends.ledger: expected sqlite:/// or postgresql+psycopg://, got {parsed.get_backend_name()!r}"
            )
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite_engine(parsed, timeout, in_memory=in_memory_database(url))
        else:
            engine = sa.create_engine(
                parsed,
                pool_pre_ping=True,
                connect_args={"connect_timeout": max(1, round(timeout)), "options": f"-c lock_timeout={timeout:g}s"},
            )
    except (ArgumentError, NoSuchModuleError) as error:
        raise SettingsError("backends.ledger: not a SQLAlchemy URL, for example sqlite:///usage.db") from error
    except ModuleNotFoundError as error:
        raise missing_extra("postgres", "a ledger on Postgres") from error
    return engine


def _sqlite_engine(url: sa.URL, timeout: float, *, in_memory: bool) -> sa.Engine:
    arguments: dict[str, Any] = {"timeout": timeout, "check_same_thread": False}
    engine = (
        sa.create_engine(url, connect_args=arguments, poolclass=StaticPool)
        if in_memory
        else sa.create_engine(url, connect_args=arguments)
    )
    if not in_memory:
        event.listen(engine, "connect", _set_journal)
    return engine


def _set_journal(connection: Any, _record: object) -> None:
    # Readers and a writer don't block each other; FULL, because rows are deleted elsewhere once they are here.
    cursor = connection.cursor()
    _patiently(lambda: cursor.execute("PRAGMA journal_mode=WAL"))
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _patiently(statement: Callable[[], object]) -> None:
    """While another worker changes the journal of a new database, SQLite says `locked` without waiting its timeout."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            statement()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


_PATIENCE_S = 5.0
_CLEAR = (
    ("database is locked", "another process holds the lock on the ledger's database", 1.0),
    ("database or disk is full", "the disk of the ledger's database is full: free space or move it", None),
    (
        "malformed",
        "the ledger's database file is corrupted: restore a backup, or move it away to begin a new one",
        None,
    ),
    ("not a database", "the ledger's file is no SQLite database: restore a backup, or move it away", None),
    ("readonly database", "the ledger's database file is read-only", None),
    ("unable to open", "the ledger's database file can't be opened: check its folder and permissions", None),
    ("lock timeout", "another process holds a lock in the ledger's database", 1.0),
    ("password authentication failed", "the ledger's database knows no such user and password", None),
    ("connection refused", "nothing answers where backends.ledger points: check its address, and whether it runs", 1.0),
    ("resolve host", "the host in backends.ledger isn't known: check its address", 1.0),
)


def clear_error(error: SQLAlchemyError) -> StoreUnavailable:
    """Ours, in plain words: a driver's message may repeat parameters, which are a tenant's."""
    told = str(getattr(error, "orig", None) or "").lower()
    for mark, text, retry_after in _CLEAR:
        if mark in told:
            return StoreUnavailable(text, store="ledger", retry_after=retry_after)
    cause = type(getattr(error, "orig", None) or error).__name__
    return StoreUnavailable(f"the ledger's database failed ({cause})", store="ledger", retry_after=1.0)


def alone(connection: sa.Connection) -> None:
    """Hold a lock to the end of the transaction: only one worker makes or migrates tables."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    else:
        # The driver begins no transaction before DDL by itself.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def make_tables(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Make what is missing; several workers may open a new database at once."""
    with engine.connect() as connection:
        if set(tables.tables) <= set(sa.inspect(connection).get_table_names()):
            return
    with engine.begin() as connection:
        alone(connection)
        tables.create_all(connection)


@contextmanager
def clear_errors() -> Iterator[None]:
    """What the database raises leaves as ours."""
    try:
        yield
    except SQLAlchemyError as error:
        raise clear_error(error) from error


class SqlStore:
    """What every store behind a SQLAlchemy URL has: its engine, transactions, and an end.

    `prepare` makes the tables. A database that is locked, full, corrupted or gone raises StoreUnavailable; `timeout`
    bounds the wait in seconds.
    """

    def __init__(self, url: str, timeout: float, prepare: Callable[[sa.Engine], None]) -> None:
        self._engine = open_engine(url, timeout)
        # One connection serves every thread of an in-memory database: transactions must not interleave on it.
        self._in_turn = threading.Lock() if in_memory_database(url) else nullcontext()
        try:
            with clear_errors():
                prepare(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        heed_forks(self)

    def forked(self) -> None:
        """The sockets and files are the parent's; a database in memory was copied, and has no other connection."""
        if isinstance(self._in_turn, nullcontext):
            self._engine.dispose(close=False)
        else:
            self._in_turn = threading.Lock()

    def _insert_into(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An insert that can say what to do about a row that is there."""
        return postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with clear_errors(), self._in_turn, self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the connections; an in-memory database is gone then."""
        self._engine.dispose()
