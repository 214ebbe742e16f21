"""The tenants an audit makes up, let into one Tenancy for that time, and what killed runs of it left behind.

The name of a run stands in the store of marks before anything is planted and until everything is removed again. Where
that store is a database, the next run finds the names of those that never came to their end.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tenant_middleware.assurance.canaries import audit_tenants
from tenant_middleware.errors import StoreUnavailable, TenancyError
from tenant_middleware.isolation.standing import Standing
from tenant_middleware.lifecycle.stores import stores_of
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

ABANDONED = 600.0
"""Seconds without a sign of life after which a run counts as killed; a run gives one before each probe."""

_RUN = re.compile(r"tm-audit-[0-9a-f]{12}")
_log = logging.getLogger(__name__)


@contextmanager
def invited(tenancy: Tenancy, run: str, tier: str) -> Iterator[tuple[list[Tenant], Callable[[], None]]]:
    """The guests of a run, and what says that it still lives; what they left in any store goes with them."""
    guests, marks = audit_tenants(run, tier), tenancy.standings

    def alive() -> None:
        marks.put(run, Standing("guest", tenancy.clock.time(), detail=json.dumps({"tier": tier})))

    alive()
    try:
        for guest in guests:
            tenancy.policy.invite(guest)
        yield guests, alive
    finally:
        _remove(tenancy, guests)
        marks.remove(run)


def sweep(tenancy: Tenancy) -> tuple[str, ...]:
    """Remove what runs that were killed had planted, and return their names.

    Touches tenants of audits alone: the name has to be marked as a run's, look like one, and be silent for ABANDONED
    seconds.
    """
    now, swept = tenancy.clock.time(), list[str]()
    for run, standing in tenancy.standings.guests().items():
        if not _RUN.fullmatch(run) or now - standing.since < ABANDONED:
            continue
        tier = json.loads(standing.detail).get("tier")
        if tier not in tenancy.policy.tiers:
            _log.warning("the killed audit %s ran in a tier that the policy has no more: erase its tenants", run)
            continue
        guests = audit_tenants(run, tier)
        for guest in guests:
            tenancy.policy.invite(guest)
        _remove(tenancy, guests)
        tenancy.standings.remove(run)
        swept.append(run)
    return tuple(swept)


def _remove(tenancy: Tenancy, guests: Sequence[Tenant]) -> None:
    """Everything of the guests from every store; a store that fails keeps the others from nothing."""
    failures: list[Exception] = []
    for store in stores_of(tenancy).values():
        for guest in guests:
            try:
                store.erase(guest)
            except (TenancyError, OSError) as error:
                failures.append(error)
    for guest in guests:
        tenancy.policy.dismiss(guest)
    if failures:
        names = ", ".join(guest.id for guest in guests)
        raise StoreUnavailable(
            f"audit: what was planted for {names} could not be removed everywhere; a run {ABANDONED:.0f} seconds from "
            "now does it",
            store="audit",
        ) from failures[0]
