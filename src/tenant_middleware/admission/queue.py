"""The place before the limits where calls wait for a slot; who goes next is the queue's decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tenant_middleware.tenant import Tenant


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call that waits. `cost` is what it is expected to use, in weighted tokens; `timeout` in seconds."""

    tenant: Tenant
    call_id: str
    model: str
    prompt_tokens: int
    max_output: int
    weight: float
    timeout: float


class Slot(Protocol):
    """A place among the running calls; whoever holds it gives it back exactly once."""

    waited: float


class FairQueue(Protocol):
    """Hands out slots. Raises RateLimited (rule "queue") when the ticket's timeout passes first.

    `leave` gives the slot back with what the call really used. `park` gives it back because a limit denied the call:
    the tenant stands aside for `seconds` and then waits again, without blocking others; returns a new slot.
    """

    def enter(self, ticket: Ticket) -> Slot: ...
    def park(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot: ...
    def leave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None: ...

    async def aenter(self, ticket: Ticket) -> Slot: ...
    async def apark(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot: ...
    async def aleave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None: ...
