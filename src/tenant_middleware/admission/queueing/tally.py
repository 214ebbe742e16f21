"""What each tenant got from a pool so far: for the eyes of an operator."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_KEPT = 10_000


@dataclass(slots=True)
class Tally:
    """Weighted tokens served, calls started, and how long they had waited, in seconds."""

    tokens: float = 0.0
    calls: int = 0
    waited: float = 0.0
    longest: float = 0.0


class Tallies:
    """One Tally per tenant, of the 10,000 that were served last."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Tally] = OrderedDict()

    def of(self, tenant_id: str) -> Tally:
        return self._of.get(tenant_id) or Tally()

    def tenants(self) -> tuple[str, ...]:
        return tuple(self._of)

    def served(self, tenant_id: str, tokens: float) -> None:
        self._touch(tenant_id).tokens += tokens

    def started(self, tenant_id: str, waited: float) -> None:
        tally = self._touch(tenant_id)
        tally.calls += 1
        tally.waited += waited
        tally.longest = max(tally.longest, waited)

    def forget(self, tenant_id: str) -> bool:
        """Drop a tenant's; says whether there was one."""
        return self._of.pop(tenant_id, None) is not None

    def _touch(self, tenant_id: str) -> Tally:
        tally = self._of.pop(tenant_id, None) or Tally()
        self._of[tenant_id] = tally
        if len(self._of) > _KEPT:
            self._of.popitem(last=False)
        return tally
