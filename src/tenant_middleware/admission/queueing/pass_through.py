"""The queue of an application that counts no slots: every call enters at once, and denied ones wait in line."""

from __future__ import annotations

from tenant_middleware.admission.queueing.in_process import InProcessQueue
from tenant_middleware.clock import Clock


class PassThrough(InProcessQueue):
    """A FairQueue with unlimited slots; a tenant's denied calls retry one at a time, first come, first served.

    While a tenant has calls in line, its later ones line up behind them. Nobody waits behind another tenant.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
