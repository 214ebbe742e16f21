"""One seeded defect for each probe: what is broken, and how; the audit has to find it by that probe."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from tenant_middleware.assurance.probes import calls
from tenant_middleware.errors import AuthenticationError
from tenant_middleware.guardrails.canary import CanaryGuard
from tenant_middleware.identity.forgery import Forgery
from tenant_middleware.langchain.threads import Threads
from tenant_middleware.policy import Entitlement, Policy
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

ACME = Tenant("acme", "pro")
Broken = Callable[[pytest.MonkeyPatch, Tenancy], None]


class Leaky:
    """A backend that, in some of its methods, serves whoever asks as the tenant who used it first (the owner)."""

    def __init__(self, inner: Any, methods: tuple[str, ...], when: Callable[..., bool] = lambda *a, **k: True) -> None:
        self._inner, self._methods, self._when = inner, methods, when
        self._first: Tenant | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not callable(method):
            return method

        def call(tenant: Tenant, *args: Any, **kwargs: Any) -> Any:
            if self._first is None and not name.startswith(("rules", "erase")):
                self._first = tenant
            leaks = name in self._methods and self._when(tenant, *args, **kwargs)
            return method((self._first or tenant) if leaks else tenant, *args, **kwargs)

        return call

    @property
    def versions(self) -> Any:
        return self._inner.versions


def _swap(concern: str, *methods: str, when: Callable[..., bool] = lambda *a, **k: True) -> Broken:
    def broken(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
        tenancy.__dict__[concern] = Leaky(getattr(tenancy, concern), methods, when)

    return broken


def _turned(tenant: Tenant, vector: list[float], *args: Any, **kwargs: Any) -> bool:
    return vector[-1] != vector[0]


def _filtered(tenant: Tenant, vector: Any, k: int = 5, where: Any = None) -> bool:
    return isinstance(where, dict) and "$or" in where


class _StampIgnored(Leaky):
    """A filter on the stamp is obeyed instead of refused."""

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        if name != "query":
            return method

        def query(tenant: Tenant, vector: Any, k: int = 5, where: Any = None, **more: Any) -> Any:
            named = where is not None and any(key.startswith("_tm") or "tm" in key for key in where)
            asked = self._first if (named or more) and self._first is not None else tenant
            return self._inner.query(asked, vector, k, None if named else where)

        return query


def _stamp(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    tenancy.__dict__["vectors"] = _StampIgnored(tenancy.vectors, ())


class _Folded:
    """Ids are lower-cased on the way in, or cut where another id may end."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return lambda tenant, *a, **k: method(replace(tenant, id=tenant.id.lower()), *a, **k)


def _fold(concern: str) -> Broken:
    def broken(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
        patch.setattr(Policy, "for_tenant", lambda policy, tenant: policy.tiers["pro"])
        tenancy.__dict__[concern] = _Folded(getattr(tenancy, concern))

    return broken


def _smuggled(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    def names_another(tenant: Tenant, records: Any) -> bool:
        return any("tenant_id" in record.metadata for record in records)

    _swap("vectors", "upsert", when=names_another)(patch, tenancy)


def _collided(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    """Keys are joined with a separator."""

    class Joined(Leaky):
        def __getattr__(self, name: str) -> Any:
            method = super().__getattr__(name)
            if name != "read":
                return method

            def read(tenant: Tenant, session: str, **more: Any) -> Any:
                owner = self._first
                if owner is not None and session.startswith(f"{owner.id}:"):
                    return self._inner.read(owner, session.removeprefix(f"{owner.id}:"))
                return self._inner.read(tenant, session, **more)

            return read

    tenancy.__dict__["history"] = Joined(tenancy.history, ())


def _cancelled(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    """A reply stays behind on the connection when its reader goes."""

    class Shared(Leaky):
        replies: list[Any] = []

        async def aread(self, tenant: Tenant, session: str) -> Any:
            import asyncio

            self.replies.append(self._inner.read(tenant, session))
            await asyncio.sleep(0)
            return self.replies.pop(0)

    tenancy.__dict__["history"] = Shared(tenancy.history, ())


def _same_keys(concern: str) -> Broken:
    """The cache is keyed by what was asked alone, and one store serves all."""

    def broken(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
        def tenantless(secret: bytes, tenant: Tenant, text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        patch.setattr("tenant_middleware.isolation.cache.fingerprint", tenantless)
        _swap(concern, "lookup")(patch, tenancy)

    return broken


def _slow_hits(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    """A question that anybody asked before takes longer, though it isn't answered."""

    class Slow(Leaky):
        known: set[str] = set()

        def __getattr__(self, name: str) -> Any:
            method = super().__getattr__(name)
            if name not in ("lookup", "store"):
                return method

            def timed(tenant: Tenant, question: Any, *a: Any, **k: Any) -> Any:
                if name == "store":
                    self.known.add(question.text)
                elif question.text in self.known:
                    time.sleep(0.01)  # more than a busy machine adds
                return method(tenant, question, *a, **k)

            return timed

    tenancy.__dict__["cache"] = Slow(tenancy.cache, ())


def _unowned(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    patch.setattr(Policy, "_owner_of", lambda policy, model: None)


def _ungated(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    patch.setattr(tenancy.gate, "check_entitled", lambda call: Entitlement(True, "none"))


def _uncharged(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    patch.setattr("tenant_middleware.admission.entry.refuse_other", lambda tenant: None)


def _unscoped_release(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    store, owners = tenancy.gate.store_for(Tenant("acme", "pro")), dict[str, Tenant]()
    reserve, release = store.reserve, store.release

    def remember(ask: Any) -> Any:
        owners[ask.call_id] = ask.tenant
        return reserve(ask)

    patch.setattr(store, "reserve", remember)
    patch.setattr(store, "release", lambda tenant, call_id, limits: release(owners[call_id], call_id, limits))


def _unpinned(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    patch.setattr(calls, "pin", lambda stream: stream)


def _inherited(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    """Threads take their parent's tenant with them unasked."""

    class Inheriting(threading.Thread):
        def __init__(self, target: Any, args: Any) -> None:
            import contextvars

            context = contextvars.copy_context()
            super().__init__(target=lambda *a: context.run(target, *a), args=args)

    patch.setattr("tenant_middleware.assurance.probes.calls.threading.Thread", Inheriting)


def _blind(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    patch.setattr(CanaryGuard, "sightings", lambda guard, text, tenant=None: [])


@dataclass
class _Gullible:
    """An identity that overlooks one flaw."""

    kind: str
    real: Any

    def verify(self, token: str) -> Tenant:
        if token in _made[self.kind]:
            return Tenant("acme", "pro")
        raise AuthenticationError("refused")


_made: dict[str, set[str]] = {}


def _gullible(kind: str) -> Broken:
    def broken(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
        make = Forgery.make
        _made[kind] = set()

        def noted(forgery: Forgery, what: str, tenant: Tenant) -> str:
            token = make(forgery, what, tenant)
            if what == kind:
                _made[kind].add(token)
            return token

        patch.setattr(Forgery, "make", noted)
        tenancy.__dict__["identity"] = _Gullible(kind, None)

    return broken


def _one_thread(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    """A thread id names one thread, whoever uses it."""
    everybodys = Threads(ACME)
    patch.setattr(Threads, "of", staticmethod(lambda tenant: everybodys))


def _one_namespace(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    patch.setattr("tenant_middleware.langchain.store.tag", lambda tenant: "everybody")


def _trusting_tool(patch: pytest.MonkeyPatch, tenancy: Tenancy) -> None:
    def as_it_is(function: Callable[..., Any], owner: str) -> StructuredTool:
        return StructuredTool.from_function(function)

    patch.setattr("tenant_middleware.langchain.probes.tenant_tool", as_it_is)


ADAPTER_DEFECTS: dict[str, Broken] = {
    "langchain.thread": _one_thread,
    "langchain.store": _one_namespace,
    "langchain.session": _swap("history", "read"),
    "langchain.retriever": _swap("vectors", "query"),
    "langchain.tool": _trusting_tool,
    "llamaindex.query": _swap("vectors", "query"),
    "llamaindex.hop": _swap("vectors", "fetch"),
    "llamaindex.session": _swap("history", "read"),
}

DEFECTS: dict[str, Broken] = {
    "documents.search": _swap("vectors", "query"),
    "documents.paraphrase": _swap("vectors", "query", when=_turned),
    "documents.fetch": _swap("vectors", "fetch"),
    "documents.list": _swap("vectors", "list_ids"),
    "documents.filter": _swap("vectors", "query", when=_filtered),
    "documents.stamp": _stamp,
    "documents.namespace": _stamp,
    "documents.names": _fold("vectors"),
    "documents.delete": _swap("vectors", "delete"),
    "documents.delete_where": _swap("vectors", "delete", when=lambda *a, **k: "where" in k),
    "documents.overwrite": _swap("vectors", "upsert"),
    "documents.smuggle": _smuggled,
    "memory.session": _swap("history", "read"),
    "memory.list": _swap("history", "sessions"),
    "memory.move": _swap("history", "move_oldest"),
    "memory.clear": _swap("history", "clear"),
    "memory.collision": _collided,
    "memory.names": _fold("history"),
    "memory.cancelled": _cancelled,
    "cache.exact": _same_keys("exact_cache"),
    "cache.forged_key": _swap("exact_cache", "lookup"),
    "cache.clear": _swap("exact_cache", "clear"),
    "cache.semantic": _same_keys("cache"),
    "cache.paraphrase": _same_keys("cache"),
    "cache.forged_bucket": _swap("cache", "lookup"),
    "cache.invalidate": _swap("cache", "invalidate"),
    "cache.timing": _slow_hits,
    "models.adapter": _unowned,
    "models.listed": _ungated,
    "budget.charge": _uncharged,
    "budget.release": _unscoped_release,
    "context.stream": _unpinned,
    "context.thread": _inherited,
    "guard.canary": _blind,
    **{f"tokens.{kind}": _gullible(kind) for kind in ("none", "expired", "forged", "audience", "confused")},
}
