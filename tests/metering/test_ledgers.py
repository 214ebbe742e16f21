"""The ledgers: the contract over all of them, migrations, and what a database that fails does to calls."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tenant_middleware.backends.in_memory.ledger import InMemoryLedger
from tenant_middleware.backends.sql import SqlLedger, schema
from tenant_middleware.backends.sql.observations import SqlObservations
from tenant_middleware.backends.sql.standing import SqlStandings
from tenant_middleware.errors import ConfigurationError, SettingsError, StoreUnavailable
from tenant_middleware.local import local_postgres
from tenant_middleware.metering.ledger import Ledger
from tenant_middleware.metering.outbox import WriteBehind
from tenant_middleware.testing.ledger import LedgerContract, entry
from tests.metering.faults import full

MIGRATIONS = Path(schema.__file__).parent / "migrations"


class TestInMemory(LedgerContract):
    @pytest.fixture
    def ledger(self) -> Ledger:
        return InMemoryLedger()


class TestSqliteInMemory(LedgerContract):
    @pytest.fixture
    def ledger(self) -> Iterator[Ledger]:
        books = SqlLedger("sqlite:///:memory:")
        yield books
        books.close()


class TestSqliteFile(LedgerContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        books = SqlLedger(f"sqlite:///{tmp_path}/usage.db")
        yield books
        books.close()


class TestWriteBehind(LedgerContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        books = WriteBehind(SqlLedger(f"sqlite:///{tmp_path}/usage.db"))
        yield books
        books.close()


@pytest.fixture(scope="module")
def postgres(missing_service: Callable[[str], NoReturn]) -> Iterator[str]:
    try:
        with local_postgres() as url:
            yield url
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))


@pytest.mark.services
class TestPostgres(LedgerContract):
    @pytest.fixture
    def ledger(self, postgres: str) -> Iterator[Ledger]:
        books = SqlLedger(postgres)
        yield books
        with books._engine.begin() as connection:
            connection.execute(sa.delete(schema.ROWS))
        books.close()


def _before_billing(url: str) -> None:
    """A database as revision 0001 made it, with one row."""
    from alembic import command

    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            sa.text(
                "INSERT INTO tenant_ledger (tenant_id, call_id, at, day, tier, model, kind, provider, prompt_tokens, "
                "cached_tokens, completion_tokens, reasoning_tokens, cost_nano, price_source, price_as_of, attempts, "
                "attempt_ids, latency, queue_wait, stream, status, source) VALUES ('acme', 'old', 1, '1970-01-01', "
                "'t', 'm', 'chat', '', 1, 0, 1, 0, 42, '', '', 1, '', 0, 0, false, 'ok', 'provider')"
            )
        )
    engine.dispose()


def _is_up_to_date(url: str) -> None:
    _before_billing(url)
    books = SqlLedger(url)
    assert books.totals().cost_nano == 42
    assert books.unbilled(limit=10) == []  # nobody is billed for what was there before
    books.write([entry()])
    assert [row.call_id for row in books.unbilled(limit=10)] == ["c"]
    with books._engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or name == "tenant_ledger"},
        )
        assert compare_metadata(context, schema.METADATA) == []
    books.close()


def test_an_older_database_is_migrated_to_what_the_code_describes(tmp_path: Path) -> None:
    _is_up_to_date(f"sqlite:///{tmp_path}/usage.db")


@pytest.mark.services
def test_an_older_postgres_is_migrated_to_what_the_code_describes(postgres: str) -> None:
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE older"))
    engine.dispose()
    _is_up_to_date(sa.make_url(postgres).set(database="older").render_as_string(hide_password=False))


def test_the_code_names_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/usage.db"
    SqlLedger(url).close()
    with sqlite3.connect(tmp_path / "usage.db") as file:
        file.execute("UPDATE tenant_ledger_version SET version_num = '9999'")
    file.close()
    with pytest.raises(ConfigurationError, match="newer version"):
        SqlLedger(url)


def test_a_locked_database_delays_and_loses_nothing(tmp_path: Path) -> None:
    books = WriteBehind(SqlLedger(f"sqlite:///{tmp_path}/usage.db", timeout=0.05), interval=0.01)
    lock = sqlite3.connect(tmp_path / "usage.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    for number in range(20):
        books.append(entry(call_id=str(number)))
    with pytest.raises(StoreUnavailable, match="lock"):
        books.flush()
    assert books.pending == 20 and books.failure is not None
    lock.execute("ROLLBACK")
    lock.close()
    books.flush()
    assert books.pending == 0 and books.failure is None
    assert books.totals().calls == 20
    books.close()


def test_a_full_database_refuses_new_calls_and_keeps_the_settled_ones(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/usage.db")
    books = WriteBehind(ledger, max_pending=200, interval=60)
    with full(ledger):
        with pytest.raises(StoreUnavailable, match="wait for the ledger"):
            for number in range(1_000):
                books.append(entry(call_id=str(number), attempt_ids="x" * 500))
        with pytest.raises(StoreUnavailable, match="full"):
            books.flush()
        assert books.pending == 200
    books.flush()
    assert books.totals().calls == 200
    books.close()


def test_a_corrupted_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match="no SQLite database: restore a backup"):
        SqlLedger(f"sqlite:///{tmp_path}/usage.db")


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"backends\.ledger"):
        SqlLedger(url)


def test_many_workers_open_a_new_database_at_once(tmp_path: Path) -> None:
    url, failed = f"sqlite:///{tmp_path}/usage.db", []

    def open_and_write(number: int) -> None:
        try:
            books = SqlLedger(url)
            books.write([entry(call_id=str(number))])
            books.close()
        except Exception as error:  # noqa: BLE001  any failure of a thread is a failure of the test
            failed.append(error)

    threads = [threading.Thread(target=open_and_write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    books = SqlLedger(url)
    assert books.totals().calls == 8
    books.close()


@pytest.mark.parametrize("make", [SqlLedger, SqlObservations, SqlStandings])
def test_workers_that_open_a_new_database_make_its_tables_once(tmp_path: Path, make: Callable[[str], Any]) -> None:
    """Between the look for a table and its making, another worker makes it: eight at a barrier, twenty times."""
    for turn in range(20):
        url, together = f"sqlite:///{tmp_path}/{turn}.db", threading.Barrier(8)

        def open_one(_: int, url: str = url, together: threading.Barrier = together) -> None:
            together.wait()
            make(url).close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(open_one, range(8)))
