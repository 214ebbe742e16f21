"""The queue of an application that counts no slots: every call enters at once, and denied ones wait in line."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from tenant_middleware.admission.queue import Slot, Ticket
from tenant_middleware.admission.queueing.refusals import too_late
from tenant_middleware.clock import Clock

# A turn later than its predecessor's by nothing at all: give that one time to step out of the line.
_STEP = 0.001


@dataclass(slots=True)
class Place:
    """A slot that costs nothing, because there is no end of them."""

    waited: float = 0.0
    probe: bool = False


@dataclass(slots=True, eq=False)
class _Parked:
    since: float
    due: float


class PassThrough:
    """A FairQueue with unlimited slots; a tenant's denied calls retry first come, first served.

    While a tenant has calls in line, its later ones line up behind them. Nobody waits behind another tenant.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: dict[str, deque[_Parked]] = {}

    def enter(self, ticket: Ticket) -> Slot:
        if not self._must_line_up(ticket):
            return Place()
        return self.park(ticket, Place(), 0.0)

    async def aenter(self, ticket: Ticket) -> Slot:
        if not self._must_line_up(ticket):
            return Place()
        return await self.apark(ticket, Place(), 0.0)

    def park(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot:
        parked = self._join(ticket, slot, seconds)
        try:
            while (wait := self._wait(ticket, parked)) > 0:
                self._clock.sleep(wait)
        finally:
            self._forget(ticket, parked)
        return Place(slot.waited + self._since(parked))

    async def apark(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot:
        parked = self._join(ticket, slot, seconds)
        try:
            while (wait := self._wait(ticket, parked)) > 0:
                await self._clock.asleep(wait)
        finally:
            self._forget(ticket, parked)
        return Place(slot.waited + self._since(parked))

    def progress(self, slot: Slot, completion_tokens: int) -> None:
        """Nothing to renew or to charge."""

    def leave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to close."""

    async def aprogress(self, slot: Slot, completion_tokens: int) -> None:
        """Nothing to renew or to charge."""

    async def aleave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None:
        """Nothing to give back."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def waiting(self, tenant_id: str) -> int:
        """How many calls of a tenant are in line."""
        return len(self._lines.get(tenant_id, ()))

    def _must_line_up(self, ticket: Ticket) -> bool:
        return ticket.timeout > 0 and ticket.tenant.id in self._lines

    def _join(self, ticket: Ticket, slot: Slot, seconds: float) -> _Parked:
        now = self._clock.time()
        with self._lock:
            line = self._lines.get(ticket.tenant.id)
            due = max(now + seconds, line[-1].due if line else now)
            if due > now + ticket.timeout - slot.waited:
                raise too_late(ticket, slot.waited, due - now)
            parked = _Parked(now, due)
            if line is None:
                line = self._lines[ticket.tenant.id] = deque()
            line.append(parked)
            return parked

    def _wait(self, ticket: Ticket, parked: _Parked) -> float:
        wait = parked.due - self._clock.time()
        if wait > 0:
            return wait
        with self._lock:
            return 0.0 if self._lines[ticket.tenant.id][0] is parked else _STEP

    def _forget(self, ticket: Ticket, parked: _Parked) -> None:
        with self._lock:
            line = self._lines[ticket.tenant.id]
            line.remove(parked)
            if not line:
                del self._lines[ticket.tenant.id]

    def _since(self, parked: _Parked) -> float:
        return max(self._clock.time() - parked.since, 0.0)
