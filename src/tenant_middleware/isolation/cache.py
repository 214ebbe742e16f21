"""What a cached answer may be given to: the scope, the question, the rules, and the stores that keep to them.

A semantic key is the last user message alone. Everything else that shaped the answer (system prompt, history, retrieved
documents, tools, parameters) and what must match in the message itself (numbers, dates, names, negation) is one exact
keyed hash, the bucket; nearness counts only inside a bucket.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Any, Literal, Protocol

from tenant_middleware.errors import InvalidInput, IsolationBreach
from tenant_middleware.isolation.questions.matching import signature
from tenant_middleware.keys import fingerprint
from tenant_middleware.tenant import Tenant

Share = Literal["subject", "tenant"]
_MIN_SECRET = 16


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What the policy says about one tenant's caches; `secret` keys every hash and is shared by all workers."""

    secret: bytes = field(repr=False)
    distance_threshold: float = 0.10
    share: Share = "subject"
    ttl: float | None = 3600.0
    max_entries: int = 10_000
    enabled: bool = True

    def __post_init__(self) -> None:
        if len(self.secret) < _MIN_SECRET:
            raise InvalidInput(f"cache secret: expected at least {_MIN_SECRET} bytes, got {len(self.secret)}")
        if not 0 <= self.distance_threshold <= 2:
            raise InvalidInput(f"cache distance_threshold: expected 0 to 2 (cosine), got {self.distance_threshold}")
        if self.share not in ("subject", "tenant"):
            raise InvalidInput("cache share: expected 'subject' or 'tenant'")
        if self.ttl is not None and not self.ttl > 0:
            raise InvalidInput(f"cache ttl: expected more than 0 seconds or None, got {self.ttl}")
        if self.max_entries < 1:
            raise InvalidInput(f"cache max_entries: expected at least 1, got {self.max_entries}")


RulesFor = Callable[[Tenant], CacheRules]


def rules_for(rules: CacheRules | RulesFor) -> RulesFor:
    """One rule book for everybody, or one per tenant, as a function of the tenant."""
    if isinstance(rules, CacheRules):
        return lambda tenant: rules
    return rules


@dataclass(frozen=True, slots=True)
class CacheScope:
    """Who shares an answer: a keyed name of (whole tenant | this subject) and of the exact context it was given in."""

    name: str
    shared: bool


def scope_of(
    tenant: Tenant, rules: CacheRules, *, context: Mapping[str, Any] | None = None, personal: bool = False
) -> CacheScope:
    """The scope of a call: its subject's, or the tenant's if the policy shares and nothing personal shaped the answer.

    `personal` says that memory, tools or a subject-bound filter took part. Calls without a subject are a subject of
    their own.
    """
    shared = rules.share == "tenant" and not personal
    whose = ["tenant"] if shared else ["subject", tenant.subject]
    return CacheScope(fingerprint(rules.secret, tenant, canonical([whose, context or {}])), shared)


def canonical(value: object) -> str:
    """One spelling of a JSON value, for hashing; refuses what JSON can't carry and numbers that equal nothing."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"cache context: expected JSON values ({type(error).__name__})") from None


@dataclass(frozen=True, slots=True)
class Question:
    """The last user message, its embedding (computed once, used to look up and to store) and its bucket."""

    text: str
    embedding: tuple[float, ...]
    bucket: str


def question(
    tenant: Tenant,
    rules: CacheRules,
    text: str,
    embedding: Sequence[float],
    *,
    context: Mapping[str, Any] | None = None,
    personal: bool = False,
) -> Question:
    """A question ready to be looked up; refuses empty text and embeddings that have no direction."""
    if not text.strip():
        raise InvalidInput("cache question: expected a text that isn't empty")
    scope = scope_of(tenant, rules, context=context, personal=personal)
    exact = canonical([scope.name, list(signature(text).parts)])
    return Question(text, check_embedding(embedding), fingerprint(rules.secret, tenant, exact))


def check_embedding(embedding: Sequence[float]) -> tuple[float, ...]:
    """The embedding as plain floats, finite and not all zero."""
    numbers = tuple(map(float, embedding))
    norm = sum(map(mul, numbers, numbers))
    if not math.isfinite(norm) or norm == 0:
        raise InvalidInput("cache embedding: expected finite numbers that aren't all zero")
    return numbers


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the cache said: the answer or None, and the knowledge version to store a new answer under.

    The version is read before the answer is made, so that an answer from documents that change meanwhile is never kept.
    """

    answer: str | None
    version: int
    distance: float | None = None

    @property
    def hit(self) -> bool:
        """Whether there is an answer; hits cost nothing and are counted as hits."""
        return self.answer is not None


@dataclass(frozen=True, slots=True)
class CacheCount:
    """A tenant's entries in the store, and the hits and misses this process has seen."""

    entries: int
    hits: int = 0
    misses: int = 0


class KnowledgeVersions(Protocol):
    """A counter per tenant that every write to the tenant's documents moves on; answers from older ones miss."""

    def current(self, tenant: Tenant) -> int: ...
    def bump(self, tenant: Tenant) -> int: ...
    async def acurrent(self, tenant: Tenant) -> int: ...
    async def abump(self, tenant: Tenant) -> int: ...


class SemanticCache(Protocol):
    """Answers by nearness of the question, inside one bucket of one tenant.

    `invalidate` drops all answers of the tenant and says how many; a stored value with another tenant's stamp raises
    IsolationBreach.
    """

    @property
    def versions(self) -> KnowledgeVersions: ...
    def rules_for(self, tenant: Tenant) -> CacheRules: ...
    def lookup(self, tenant: Tenant, question: Question) -> Lookup: ...
    def store(self, tenant: Tenant, question: Question, answer: str, *, version: int) -> None: ...
    def invalidate(self, tenant: Tenant) -> int: ...
    def count(self, tenant: Tenant) -> CacheCount: ...
    async def alookup(self, tenant: Tenant, question: Question) -> Lookup: ...
    async def astore(self, tenant: Tenant, question: Question, answer: str, *, version: int) -> None: ...
    async def ainvalidate(self, tenant: Tenant) -> int: ...
    async def acount(self, tenant: Tenant) -> CacheCount: ...


class ExactCache(Protocol):
    """Values by a key that says everything; `clear` drops one tenant's and says how many."""

    def rules_for(self, tenant: Tenant) -> CacheRules: ...
    def lookup(self, tenant: Tenant, key: str) -> str | None: ...
    def store(self, tenant: Tenant, key: str, value: str) -> None: ...
    def clear(self, tenant: Tenant) -> int: ...
    def count(self, tenant: Tenant) -> CacheCount: ...
    async def alookup(self, tenant: Tenant, key: str) -> str | None: ...
    async def astore(self, tenant: Tenant, key: str, value: str) -> None: ...
    async def aclear(self, tenant: Tenant) -> int: ...
    async def acount(self, tenant: Tenant) -> CacheCount: ...


def exact_key(tenant: Tenant, rules: CacheRules, parts: Mapping[str, Any], *, personal: bool = False) -> str:
    """A key of everything in `parts`, for this tenant and scope alone."""
    return scope_of(tenant, rules, context={"exact": dict(parts)}, personal=personal).name


def stamped(tenant: Tenant, place: str, value: str) -> str:
    """A value with the tenant and the place (bucket or key) it belongs to written into it."""
    return json.dumps([tenant.id, place, value], separators=(",", ":"))


def unstamped(tenant: Tenant, place: str, raw: str | bytes) -> str:
    """The value of `stamped`; raises IsolationBreach when it belongs to somebody or somewhere else."""
    try:
        owner, where, value = json.loads(raw)
    except (TypeError, ValueError):
        owner, where, value = None, None, None
    check_stamp(tenant, place, owner, where)
    return str(value)


def check_stamp(tenant: Tenant, place: str, owner: object, where: object) -> None:
    """Raise IsolationBreach unless a stored value belongs to this tenant and this place."""
    if owner != tenant.id or where != place:
        raise IsolationBreach(
            "a cached value without this tenant's stamp was stopped on its way to the caller; clear this cache and "
            "look for a writer that bypasses tenant_middleware"
        )
