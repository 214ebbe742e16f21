"""Caches in this process: the reference for every other ExactCache and SemanticCache."""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from operator import mul

from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.isolation.cache import (
    CacheCount,
    CacheRules,
    KnowledgeVersions,
    Lookup,
    Question,
    RulesFor,
    check_stamp,
    rules_for,
    stamped,
    unstamped,
)
from tenant_middleware.isolation.questions.matching import compatible
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.tenant import Tenant


class InMemoryVersions:
    """Knowledge versions of one process, from 0 upwards."""

    def __init__(self) -> None:
        self._versions: Counter[str] = Counter()
        self._lock = threading.Lock()

    def current(self, tenant: Tenant) -> int:
        return self._versions[tenant.id]

    def bump(self, tenant: Tenant) -> int:
        with self._lock:
            self._versions[tenant.id] += 1
            return self._versions[tenant.id]

    async def acurrent(self, tenant: Tenant) -> int:
        return self.current(tenant)

    async def abump(self, tenant: Tenant) -> int:
        return self.bump(tenant)


@dataclass(frozen=True, slots=True)
class _Value:
    raw: str
    stored: float


class InMemoryExactCache:
    """An ExactCache that keeps each tenant's most recently used entries, at most `max_entries` of them."""

    def __init__(self, *, rules: CacheRules | RulesFor, clock: Clock | None = None) -> None:
        self._rules = rules_for(rules)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tenants: dict[str, OrderedDict[str, _Value]] = {}
        self._seen: Counter[tuple[str, bool]] = Counter()
        RESIDENTS.register(self)

    def rules_for(self, tenant: Tenant) -> CacheRules:
        return self._rules(tenant)

    def lookup(self, tenant: Tenant, key: str) -> str | None:
        rules = self._rules(tenant)
        if not rules.enabled:
            return None
        with self._lock:
            found = self._fresh(tenant, key, rules)
            self._seen[tenant.id, found is not None] += 1
        return None if found is None else unstamped(tenant, key, found.raw)

    def store(self, tenant: Tenant, key: str, value: str) -> None:
        rules = self._rules(tenant)
        if not rules.enabled:
            return
        with self._lock:
            entries = self._tenants.setdefault(tenant.id, OrderedDict())
            entries[key] = _Value(stamped(tenant, key, value), self._clock.time())
            entries.move_to_end(key)
            while len(entries) > rules.max_entries:
                entries.popitem(last=False)

    def clear(self, tenant: Tenant) -> int:
        with self._lock:
            return len(self._tenants.pop(tenant.id, ()))

    def count(self, tenant: Tenant) -> CacheCount:
        rules = self._rules(tenant)
        with self._lock:
            keys = list(self._tenants.get(tenant.id, ()))
            live = sum(self._fresh(tenant, key, rules, touch=False) is not None for key in keys)
            return CacheCount(live, self._seen[tenant.id, True], self._seen[tenant.id, False])

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's entries from this process."""
        return self.clear(tenant)

    async def alookup(self, tenant: Tenant, key: str) -> str | None:
        return self.lookup(tenant, key)

    async def astore(self, tenant: Tenant, key: str, value: str) -> None:
        self.store(tenant, key, value)

    async def aclear(self, tenant: Tenant) -> int:
        return self.clear(tenant)

    async def acount(self, tenant: Tenant) -> CacheCount:
        return self.count(tenant)

    def _fresh(self, tenant: Tenant, key: str, rules: CacheRules, *, touch: bool = True) -> _Value | None:
        entries = self._tenants.get(tenant.id)
        found = entries.get(key) if entries else None
        if entries is None or found is None:
            return None
        if rules.ttl is not None and self._clock.time() - found.stored >= rules.ttl:
            del entries[key]
            return None
        if touch:
            entries.move_to_end(key)
        return found


@dataclass(frozen=True, slots=True)
class _Entry:
    owner: str
    bucket: str
    text: str
    direction: tuple[float, ...]
    answer: str
    version: int
    stored: float


class InMemorySemanticCache:
    """A SemanticCache that compares a question with every entry of its bucket; exact, and meant for small caches."""

    def __init__(
        self,
        *,
        rules: CacheRules | RulesFor,
        versions: KnowledgeVersions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._rules = rules_for(rules)
        self._versions = versions or InMemoryVersions()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tenants: dict[str, OrderedDict[tuple[str, str], _Entry]] = {}
        self._buckets: dict[tuple[str, str], dict[str, _Entry]] = {}
        self._seen: Counter[tuple[str, bool]] = Counter()
        RESIDENTS.register(self)

    @property
    def versions(self) -> KnowledgeVersions:
        return self._versions

    def rules_for(self, tenant: Tenant) -> CacheRules:
        return self._rules(tenant)

    def lookup(self, tenant: Tenant, question: Question) -> Lookup:
        return self._lookup(tenant, question, self._versions.current(tenant))

    def store(self, tenant: Tenant, question: Question, answer: str, *, version: int) -> None:
        rules = self._rules(tenant)
        if not rules.enabled:
            return
        entry = _Entry(
            tenant.id,
            question.bucket,
            question.text,
            _direction(question.embedding),
            answer,
            version,
            self._clock.time(),
        )
        with self._lock:
            entries = self._tenants.setdefault(tenant.id, OrderedDict())
            entries[question.bucket, question.text] = entry
            entries.move_to_end((question.bucket, question.text))
            self._buckets.setdefault((tenant.id, question.bucket), {})[question.text] = entry
            while len(entries) > rules.max_entries:
                self._drop(next(iter(entries.values())))

    def invalidate(self, tenant: Tenant) -> int:
        with self._lock:
            entries = list(self._tenants.get(tenant.id, {}).values())
            for entry in entries:
                self._drop(entry)
            return len(entries)

    def count(self, tenant: Tenant) -> CacheCount:
        with self._lock:
            self._forget_old(tenant, self._rules(tenant))
            entries = len(self._tenants.get(tenant.id, ()))
            return CacheCount(entries, self._seen[tenant.id, True], self._seen[tenant.id, False])

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's answers from this process."""
        return self.invalidate(tenant)

    async def alookup(self, tenant: Tenant, question: Question) -> Lookup:
        return self._lookup(tenant, question, await self._versions.acurrent(tenant))

    async def astore(self, tenant: Tenant, question: Question, answer: str, *, version: int) -> None:
        self.store(tenant, question, answer, version=version)

    async def ainvalidate(self, tenant: Tenant) -> int:
        return self.invalidate(tenant)

    async def acount(self, tenant: Tenant) -> CacheCount:
        return self.count(tenant)

    def _lookup(self, tenant: Tenant, question: Question, version: int) -> Lookup:
        rules = self._rules(tenant)
        if not rules.enabled:
            return Lookup(None, version)
        with self._lock:
            near = self._nearest(tenant, question, version, rules)
            if near is None:
                self._seen[tenant.id, False] += 1
                return Lookup(None, version)
            distance, entry = near
            check_stamp(tenant, question.bucket, entry.owner, entry.bucket)
            self._seen[tenant.id, True] += 1
            self._tenants[tenant.id].move_to_end((entry.bucket, entry.text))
            return Lookup(entry.answer, version, distance)

    def _nearest(
        self, tenant: Tenant, question: Question, version: int, rules: CacheRules
    ) -> tuple[float, _Entry] | None:
        now = self._clock.time()
        direction = _direction(question.embedding)
        best: tuple[float, _Entry] | None = None
        for entry in self._buckets.get((tenant.id, question.bucket), {}).values():
            stale = entry.version != version or (rules.ttl is not None and now - entry.stored >= rules.ttl)
            if stale or len(entry.direction) != len(direction):
                continue
            distance = max(0.0, 1.0 - sum(map(mul, direction, entry.direction)))
            closer = distance <= rules.distance_threshold and (best is None or distance < best[0])
            if closer and compatible(question.text, entry.text):
                best = (distance, entry)
        return best

    def _forget_old(self, tenant: Tenant, rules: CacheRules) -> None:
        if rules.ttl is None:
            return
        now = self._clock.time()
        for entry in [e for e in self._tenants.get(tenant.id, {}).values() if now - e.stored >= rules.ttl]:
            self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        del self._tenants[entry.owner][entry.bucket, entry.text]
        bucket = self._buckets[entry.owner, entry.bucket]
        del bucket[entry.text]
        if not bucket:
            del self._buckets[entry.owner, entry.bucket]


def _direction(embedding: tuple[float, ...]) -> tuple[float, ...]:
    norm = math.sqrt(math.fsum(x * x for x in embedding))
    return tuple(x / norm for x in embedding)
