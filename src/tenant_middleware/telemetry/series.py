"""Which tenants get a metric series of their own: a monitoring system pays for each, and tenants are many."""

from __future__ import annotations

from collections.abc import Iterator

OTHER = "other"
# How many sightings of unnamed tenants pass between two looks at whether one of them has grown.
_LOOK_EVERY = 1_000


class TopTenants:
    """The tenants with the most traffic by name, all others as `other`; safe to call from any thread.

    At most `named` tenants have a name at a time. A tenant that grows takes the place of the smallest one, until
    4 x `named` names were ever given: an exporter keeps every series it has seen. Counts of tenants without a name
    are approximate (Space-Saving: Metwally, Agrawal and El Abbadi, 2005); exact totals are in the ledger.
    """

    def __init__(self, named: int = 100) -> None:
        self._most = named
        self._names_left = 4 * named
        self._named: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._unseen = 0

    def named(self, most: int) -> None:
        """Change how many tenants may have a name; those that have one keep it."""
        self._names_left += 4 * (most - self._most)
        self._most = most

    def label(self, tenant_id: str) -> str:
        """The tenant's id, or `other`; counts the sighting."""
        seen = self._named.get(tenant_id)
        if seen is not None:
            self._named[tenant_id] = seen + 1
            return tenant_id
        if len(self._named) < self._most and self._names_left > 0:
            self._names_left -= 1
            self._named[tenant_id] = 1
            return tenant_id
        self._count_other(tenant_id)
        return OTHER

    def _count_other(self, tenant_id: str) -> None:
        others = self._others
        seen = others.get(tenant_id)
        if seen is None and len(others) >= 4 * self._most:
            smallest = min(list(others), key=lambda name: others.get(name, 0))
            seen = others.pop(smallest, 0)
        others[tenant_id] = (seen or 0) + 1
        self._unseen += 1
        if self._unseen >= _LOOK_EVERY:
            self._unseen = 0
            self._promote()

    def _promote(self) -> None:
        """Swap the largest tenant without a name for the smallest with one."""
        if self._names_left <= 0 or not self._others or not self._named:
            return
        largest = max(list(self._others), key=lambda name: self._others.get(name, 0))
        smallest = min(list(self._named), key=lambda name: self._named.get(name, 0))
        if self._others.get(largest, 0) <= self._named.get(smallest, 0):
            return
        self._names_left -= 1
        self._others[smallest] = self._named.pop(smallest, 0)
        self._named[largest] = self._others.pop(largest, 0)

    def __iter__(self) -> Iterator[str]:
        """The tenants that have a name now."""
        return iter(list(self._named))
