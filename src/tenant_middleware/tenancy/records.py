"""What a Tenancy writes down, opened from its settings: the ledger, bills, timings for reports, who is suspended."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tenant_middleware import telemetry
from tenant_middleware.clock import Clock
from tenant_middleware.isolation.standing import StandingStore, Watch
from tenant_middleware.metering.billing import Billing, BillingSink, CloudEventsSink, UnbilledRows
from tenant_middleware.metering.books import Books
from tenant_middleware.metering.observations import Observations
from tenant_middleware.metering.outbox import WriteBehind
from tenant_middleware.policy import Policy
from tenant_middleware.settings import Settings, in_memory_database

if TYPE_CHECKING:
    from tenant_middleware.backends.sql import SqlLedger


def open_ledger(settings: Settings, observations: Observations | None) -> tuple[SqlLedger, WriteBehind]:
    """The SQL ledger, and the queue of rows before it, whose thread writes the observations too."""
    from tenant_middleware.backends.sql import SqlLedger

    sql = SqlLedger(settings.backends.ledger)
    ledger = WriteBehind(sql, also=None if observations is None else observations.flush_if_due)
    telemetry.watch_rows(ledger)
    return sql, ledger


def open_standings(settings: Settings, policy: Policy) -> tuple[StandingStore, Watch]:
    """Who is suspended, kept beside the ledger, and what tells the policy of it."""
    from tenant_middleware.backends.sql.standing import SqlStandings

    url = settings.backends.ledger
    store = SqlStandings(url)
    return store, Watch(store, policy.bar, alone=in_memory_database(url))


def open_observations(settings: Settings, policy: Policy, clock: Clock) -> Observations | None:
    """The record of times and refusals that reports are made of; it listens from now on. None when it is turned off."""
    chosen = settings.telemetry
    telemetry.series.named(chosen.named_tenants)
    if not chosen.record:
        return None
    from tenant_middleware.backends.sql.observations import SqlObservations

    store = SqlObservations(settings.backends.ledger)
    seen = Observations(store, clock, knows=policy.admits, window=chosen.window, keep=chosen.keep)
    telemetry.subscribe(seen)
    return seen


def stop_observing(seen: Observations) -> None:
    """End what `open_observations` began."""
    telemetry.unsubscribe(seen)
    seen.close()


def open_books(
    settings: Settings, ledger: WriteBehind, unbilled: UnbilledRows, stores: Iterable[Any], sink: BillingSink | None
) -> Books:
    """What moves settled rows out of shared `stores` into the ledger, and what is `unbilled` on to billing."""
    told, secret = settings.billing, settings.secrets.billing_token
    if sink is None and told.url is not None:
        token = None if secret is None else secret.get_secret_value()
        sink = CloudEventsSink(told.url, token=token, type=told.type, source=told.source)
    since = None if told.since is None else dt.datetime.combine(told.since, dt.time(), dt.UTC).timestamp()
    billing = None if sink is None else Billing(unbilled, sink, since=since)
    streams = [store for store in stores if hasattr(store, "drain_in_turn")]
    return Books(ledger, streams, billing, every=settings.admission.drain_every)
