"""What a queue says when it can't hand out a slot in time."""

from __future__ import annotations

from tenant_middleware.admission.queue import Ticket
from tenant_middleware.errors import RateLimited

RULE = "queue"


def retry_in(waited: float, back_in: float = 0.0) -> float:
    """When its tenant is back, else about as long as it waited in vain: from one second to one minute."""
    return back_in if back_in > 0 else min(max(waited, 1.0), 60.0)


def too_late(ticket: Ticket, waited: float, retry_after: float) -> RateLimited:
    """No slot within the tier's queue_timeout."""
    return RateLimited(
        f"no slot within {ticket.timeout:g} s in the queue: retry in {retry_after:.3g} s",
        rule=RULE,
        tenant_id=ticket.tenant.id,
        model=ticket.model,
        limit=ticket.timeout,
        used=waited,
        retry_after=retry_after,
    )


def line_full(ticket: Ticket, length: int, most: int | None, retry_after: float) -> RateLimited:
    """The tenant has as many calls waiting as it may have."""
    return RateLimited(
        f"{length} calls of this tenant wait already, and it may have {most}: retry in {retry_after:.3g} s",
        rule=RULE,
        tenant_id=ticket.tenant.id,
        model=ticket.model,
        limit=most,
        used=length,
        retry_after=retry_after,
    )
