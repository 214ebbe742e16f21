"""Conversations in this process: the reference for every other HistoryStore."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.isolation.history import (
    HistoryCount,
    HistoryLimits,
    Message,
    check_messages,
    check_session,
    check_window,
    from_json,
    surplus,
    to_json,
)
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.tenant import Tenant


@dataclass(slots=True)
class _Session:
    messages: list[Message] = field(default_factory=list)
    written: float = 0.0


class InMemoryHistory:
    """A HistoryStore for one process; each tenant's sessions are a dictionary of their own."""

    def __init__(self, *, limits: HistoryLimits | None = None, clock: Clock | None = None) -> None:
        self.limits = limits or HistoryLimits()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tenants: dict[str, dict[str, _Session]] = {}
        RESIDENTS.register(self)

    def append(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        added = [from_json(to_json(message)) for message in check_messages(messages)]  # later mutation stays outside
        with self._lock:
            return self._put(tenant, session, added)

    def read(self, tenant: Tenant, session: str, *, last: int | None = None) -> list[Message]:
        check_window(last, "last")
        with self._lock:
            entry = self._entry(tenant, session)
            found = entry.messages if entry else []
            return list(found if last is None else found[max(0, len(found) - last) :])

    def replace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        replacement = [from_json(to_json(message)) for message in check_messages(messages)]
        with self._lock:
            self._tenants.get(tenant.id, {}).pop(check_session(session), None)
            if not replacement:
                return 0
            kept = replacement[surplus(replacement, self.limits) :]
            self._tenants.setdefault(tenant.id, {})[session] = _Session(kept, self._clock.time())
            return len(kept)

    def drop_oldest(self, tenant: Tenant, session: str, count: int) -> list[Message]:
        with self._lock:
            return self._take(tenant, session, count)

    def move_oldest(self, tenant: Tenant, session: str, to: str, count: int) -> list[Message]:
        check_session(to)
        with self._lock:
            moved = self._take(tenant, session, count)
            if moved:
                self._put(tenant, to, moved)
            return moved

    def remove(self, tenant: Tenant, session: str, position: int) -> Message | None:
        check_window(position, "position")
        with self._lock:
            entry = self._entry(tenant, session)
            if entry is None or position >= len(entry.messages):
                return None
            removed = entry.messages.pop(position)
            if not entry.messages:
                del self._tenants[tenant.id][session]
            return removed

    def clear(self, tenant: Tenant, session: str) -> int:
        with self._lock:
            entry = self._entry(tenant, session)
            if entry is None:
                return 0
            del self._tenants[tenant.id][session]
            return len(entry.messages)

    def clear_tenant(self, tenant: Tenant) -> int:
        with self._lock:
            sessions = self._live(tenant)
            self._tenants.pop(tenant.id, None)
            return sum(len(entry.messages) for entry in sessions.values())

    def sessions(self, tenant: Tenant) -> list[str]:
        with self._lock:
            return sorted(self._live(tenant))

    def count(self, tenant: Tenant) -> HistoryCount:
        with self._lock:
            sessions = self._live(tenant)
            return HistoryCount(len(sessions), sum(len(entry.messages) for entry in sessions.values()))

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's conversations from this process."""
        return self.clear_tenant(tenant)

    async def aappend(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        return self.append(tenant, session, messages)

    async def aread(self, tenant: Tenant, session: str, *, last: int | None = None) -> list[Message]:
        return self.read(tenant, session, last=last)

    async def areplace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        return self.replace(tenant, session, messages)

    async def adrop_oldest(self, tenant: Tenant, session: str, count: int) -> list[Message]:
        return self.drop_oldest(tenant, session, count)

    async def amove_oldest(self, tenant: Tenant, session: str, to: str, count: int) -> list[Message]:
        return self.move_oldest(tenant, session, to, count)

    async def aremove(self, tenant: Tenant, session: str, position: int) -> Message | None:
        return self.remove(tenant, session, position)

    async def aclear(self, tenant: Tenant, session: str) -> int:
        return self.clear(tenant, session)

    async def aclear_tenant(self, tenant: Tenant) -> int:
        return self.clear_tenant(tenant)

    async def asessions(self, tenant: Tenant) -> list[str]:
        return self.sessions(tenant)

    async def acount(self, tenant: Tenant) -> HistoryCount:
        return self.count(tenant)

    def _put(self, tenant: Tenant, session: str, added: list[Message]) -> int:
        entry = self._entry(tenant, session)
        if entry is None:
            if not added:
                return 0
            entry = self._tenants.setdefault(tenant.id, {})[session] = _Session()
        entry.messages.extend(added)
        del entry.messages[: surplus(entry.messages, self.limits)]
        entry.written = self._clock.time()
        return len(entry.messages)

    def _take(self, tenant: Tenant, session: str, count: int) -> list[Message]:
        check_window(count, "count")
        entry = self._entry(tenant, session)
        if entry is None:
            return []
        taken = entry.messages[:count]
        del entry.messages[:count]
        if not entry.messages:
            del self._tenants[tenant.id][session]
        return taken

    def _entry(self, tenant: Tenant, session: str) -> _Session | None:
        """The session if its time is not over; the caller holds the lock."""
        sessions = self._tenants.get(tenant.id, {})
        entry = sessions.get(check_session(session))
        if entry is not None and self._over(entry):
            del sessions[session]
            return None
        return entry

    def _live(self, tenant: Tenant) -> dict[str, _Session]:
        sessions = self._tenants.get(tenant.id, {})
        for name in [name for name, entry in sessions.items() if self._over(entry)]:
            del sessions[name]
        return sessions

    def _over(self, entry: _Session) -> bool:
        ttl = self.limits.ttl
        return ttl is not None and self._clock.time() - entry.written >= ttl
