"""The stretch of time a report looks at, and the two things it reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.backends.sql.observations import SqlObservations
from tenant_middleware.cli.places import moment


def period(since: str) -> tuple[float, float]:
    """From a day, or so long ago, until now, in seconds since the epoch."""
    try:
        return moment(since), time.time()
    except typer.BadParameter as error:
        error.param_hint = "--since"
        raise


@contextmanager
def opened(url: str) -> Iterator[tuple[SqlLedger, SqlObservations]]:
    """The ledger and the observations beside it."""
    books = SqlLedger(url)
    try:
        observatory = SqlObservations(url)
        try:
            yield books, observatory
        finally:
            observatory.close()
    finally:
        books.close()
