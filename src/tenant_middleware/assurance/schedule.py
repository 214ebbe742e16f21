"""Audits on a schedule, inside the application: `with audit_every(tenancy, 3600):`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tenant_middleware.assurance.audit import AuditReport, audit
from tenant_middleware.errors import InvalidInput, TenancyError
from tenant_middleware.tenancy import Tenancy

_log = logging.getLogger(__name__)
Wait = Callable[[float], bool]


@contextmanager
def audit_every(
    tenancy: Tenancy,
    seconds: float,
    *,
    only: Sequence[str] = (),
    tier: str | None = None,
    dimension: int | None = None,
    on_report: Callable[[AuditReport], None] | None = None,
    wait: Wait | None = None,
) -> Iterator[None]:
    """Audit a Tenancy now and then every so many seconds, in a thread, until the `with` ends.

    Reports go to telemetry (`tenant.audit.leaks`, `tenant.audit.failed_controls`, `tenant.audit.time`) and to
    `on_report`; a leak or failed control is logged as critical, without content. `wait` stands in for the clock.
    """
    if seconds <= 0:
        raise InvalidInput(f"audit_every: expected more than 0 seconds, got {seconds}")
    stopped = threading.Event()
    pause = wait or stopped.wait

    def run() -> None:
        while not stopped.is_set():
            try:
                report = audit(tenancy, only=only, tier=tier, dimension=dimension)
            except TenancyError as error:
                _log.critical("the tenant audit could not run: %s", error)
            else:
                _tell(report)
                if on_report is not None:
                    on_report(report)
            if pause(seconds):
                return

    thread = threading.Thread(target=run, name="tenant-middleware-audit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _tell(report: AuditReport) -> None:
    for finding in (*report.leaks, *report.failed_controls):
        _log.critical("tenant audit: %s: %s", finding.probe, finding.outcome)
