"""What happens while the shared store is down: refuse, or decide from an in-process share of what was last known.

Rows of calls that settle meanwhile go straight to the ledger, and the store is told when it is back. Nothing is
swallowed: a call that can be decided by neither is refused, a row that nobody takes stays with its caller.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from tenant_middleware.admission.store import Ask, Balance, Denied, Granted, Limits, Settlement
from tenant_middleware.backends.in_memory.admission import InMemoryAdmission
from tenant_middleware.clock import Clock
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.policy import WhenDown
from tenant_middleware.tenant import Tenant

_log = logging.getLogger(__name__)
CLOSED = WhenDown()
# Settlements that wait for the store; past it, a settle is refused and stays with its caller.
MAX_WAITING = 10_000
MAX_KNOWN = 10_000


class Outage:
    """The in-process stand-in for a shared store, and the memory of what it has to be told."""

    def __init__(
        self,
        clock: Clock,
        record: Callable[[LedgerRow], object] | None,
        when_down: Callable[[Tenant], WhenDown] | None,
        workers: int,
    ) -> None:
        self._clock = clock
        self._record = record
        self._when_down = when_down
        self._workers = workers
        self._share = InMemoryAdmission(clock)
        self._remainders: dict[str, int] = {}
        self._local: dict[tuple[str, str], Limits] = {}
        self._lock = threading.Lock()
        self.waiting: deque[Settlement] = deque()

    def know(self, tenant: Tenant, limits: Limits, answer: Granted | Denied) -> None:
        """Remember what is left of a budget, by the store's last answer."""
        if limits.budget_nano is None or isinstance(answer, Denied):
            return
        left = answer.left
        if len(self._remainders) >= MAX_KNOWN and tenant.id not in self._remainders:
            self._remainders.pop(next(iter(self._remainders)), None)
        self._remainders[tenant.id] = limits.budget_nano - left[3] - left[4] - left[5]

    def reserve(self, ask: Ask, error: StoreUnavailable) -> Granted | Denied:
        """Decide by the share, where the policy says so; else raise `error`."""
        limits = self._limits_of_share(ask.tenant, ask.limits, error)
        answer = self._share.reserve(ask._replace(limits=limits))
        if isinstance(answer, Granted):
            with self._lock:
                self._local[ask.tenant.id, ask.call_id] = limits
        return answer

    def extend(self, ask: Ask, error: StoreUnavailable) -> Granted | Denied:
        """Grow what the share granted. A reservation of the store is renewed on its return: money isn't touched."""
        limits = self._local.get((ask.tenant.id, ask.call_id))
        if limits is not None:
            return self._share.extend(ask._replace(limits=limits))
        if ask.max_output or ask.fixed_nano or ask.prompt_tokens:
            raise error
        nothing = (0.0, 0.0, 0, 0, 0, 0, 0.0)
        return Granted(0, 0, 0, self._clock.time() + ask.ttl, nothing)

    def _limits_of_share(self, tenant: Tenant, limits: Limits, error: StoreUnavailable) -> Limits:
        rule = CLOSED if self._when_down is None else self._when_down(tenant)
        limited = (limits.rpm, limits.tpm, limits.max_concurrency) != (None, None, None)
        if self._record is None or (limited and rule.limits == "closed"):
            raise error
        budget = None
        if limits.budget_nano is not None:
            left = self._remainders.get(tenant.id)
            if rule.budget == "closed" or left is None:
                raise error
            budget = max(left, 0) // self._workers
        return replace(
            limits,
            rpm=self._part(limits.rpm),
            tpm=self._part(limits.tpm),
            max_concurrency=self._part(limits.max_concurrency),
            budget_nano=budget,
        )

    def _part(self, limit: int | None) -> int | None:
        return None if limit is None else max(limit // self._workers, 1)

    def settle(self, settlement: Settlement, error: StoreUnavailable) -> bool:
        """Book the row at once and tell the store later; raises when the ledger takes no rows either."""
        row = settlement.row
        if len(self.waiting) >= MAX_WAITING or (row is not None and self._record is None):
            raise error
        if row is not None and self._record is not None:
            self._record(row)
        self.settled_locally(settlement)
        self.waiting.append(settlement)
        return True

    def settled_locally(self, settlement: Settlement) -> bool:
        """Settle the share's part of a call; False when the share never granted it."""
        if not self._local:
            return False
        with self._lock:
            limits = self._local.pop((settlement.tenant.id, settlement.call_id), None)
        if limits is None:
            return False
        return self._share.settle(settlement._replace(limits=limits, row=None))

    def release(self, tenant: Tenant, call_id: str, limits: Limits) -> bool:
        """Give back what the share granted, and tell the store later."""
        nothing = Settlement(tenant, call_id, limits, 0, 0, None)
        if len(self.waiting) < MAX_WAITING:
            self.waiting.append(nothing)
        else:
            _log.warning("a release was dropped while the store is down; its lease will expire and stay charged")
        return self.settled_locally(nothing)

    def balance(self, tenant: Tenant, limits: Limits, error: StoreUnavailable) -> Balance:
        """What is left of the share."""
        return self._share.balance(tenant, self._limits_of_share(tenant, limits, error))

    def over(self) -> None:
        """The store has been told everything: the next outage begins with a fresh share."""
        if not self._local:
            self._share = InMemoryAdmission(self._clock)
