"""The place before the limits where calls wait for a slot; who goes next is the queue's decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.admission.queueing.batch import PoolUse

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call that waits. `max_output` bounds its answer, `weight` is its tenant's share, `timeout` in seconds.

    `inside` is the slot of a call that waits for this one: in the same pool this one runs on it when no other is free,
    since a tenant whose calls wait for each other's slots would wait for ever.
    """

    tenant: Tenant
    call_id: str
    model: str
    prompt_tokens: int
    max_output: int
    weight: float
    timeout: float
    inside: Slot | None = None


class Slot(Protocol):
    """A place among the running calls; whoever holds it gives it back exactly once.

    `waited` is the time in the queue so far, in seconds. `probe` asks for one `progress(slot, 0)` as soon as the
    limits have admitted the call: its tenant was parked, and the rest of its calls wait for the outcome.
    """

    waited: float
    probe: bool


@dataclass(frozen=True, slots=True)
class LaneState:
    """One tenant in one pool: calls waiting and running, weighted tokens served, and waits in seconds."""

    tenant_id: str
    waiting: int
    running: int
    weight: float
    served_tokens: float
    served_calls: int
    mean_wait: float
    longest_wait: float
    parked_for: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolState:
    """One pool; `slots` is None when there is no end of them."""

    name: str
    slots: int | None
    running: int
    waiting: int
    lanes: tuple[LaneState, ...]


class FairQueue(Protocol):
    """Hands out slots. Raises RateLimited (rule "queue") when the ticket's timeout passes first.

    `leave` gives the slot back with what the call really used. `park` gives it back because a limit denied the call:
    the tenant stands aside for `seconds` and then waits again, without blocking others; returns a new slot.
    `progress` reports the output so far of a running call: it raises what the tenant is charged once the call outgrows
    its estimate. A second `leave` of one slot changes nothing. `forget` drops the figures and learnt means of a tenant
    that left, and says in how many pools there were any. `in_process` says that all but `enter` and `park` only
    compute, so that async code may call the sync methods too. `map` and `amap` come with `queueing.batch.Batches`.
    """

    in_process: bool

    def enter(self, ticket: Ticket) -> Slot: ...
    def park(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot: ...
    def progress(self, slot: Slot, completion_tokens: int) -> None: ...
    def leave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None: ...
    def state(self) -> tuple[PoolState, ...]: ...
    def map(
        self,
        tenant: Tenant,
        jobs: Iterable[Callable[[], R]],
        *,
        at_once: int = 16,
        pool: PoolUse | None = None,
        progress: bool = True,
    ) -> list[R]: ...
    def forget(self, tenant: Tenant) -> int: ...
    def close(self) -> None: ...

    async def aenter(self, ticket: Ticket) -> Slot: ...
    async def apark(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot: ...
    async def aprogress(self, slot: Slot, completion_tokens: int) -> None: ...
    async def aleave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None: ...
    async def astate(self) -> tuple[PoolState, ...]: ...
    async def amap(
        self,
        tenant: Tenant,
        jobs: Iterable[Callable[[], Awaitable[R]] | Awaitable[R]],
        *,
        at_once: int = 16,
        pool: PoolUse | None = None,
        progress: bool = True,
    ) -> list[R]: ...
    async def aclose(self) -> None: ...
