"""Long-term memory: any LangGraph store, with the tenant as the first element of every namespace."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, cast

from tenant_middleware.context import current_tenant, scope
from tenant_middleware.errors import ConfigurationError, IsolationBreach, missing_extra
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.keys import tag
from tenant_middleware.langchain.pinned import called_now
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.telemetry import stage
from tenant_middleware.tenant import Tenant

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        Item,
        ListNamespacesOp,
        MatchCondition,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
    )
    from langgraph.store.memory import InMemoryStore
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

Namespace = tuple[str, ...]


class TenantStore(BaseStore):
    """Wraps a store so that `search(())` and `list_namespaces()` span one tenant, and no namespace reaches another's.

    Items come back under the namespaces that the caller knows. The tenant is read when a method is called.
    """

    __slots__ = ("inner", "supports_ttl", "ttl_config")

    def __init__(self, inner: BaseStore) -> None:
        if isinstance(inner, TenantStore):
            raise ConfigurationError("TenantStore: the inner store is wrapped already")
        self.inner = inner
        self.supports_ttl = inner.supports_ttl
        self.ttl_config = inner.ttl_config
        if isinstance(inner, InMemoryStore):
            RESIDENTS.register(self)

    @passing
    def batch(self, ops: Iterable[Op]) -> list[Result]:
        tenant, asked = current_tenant(), list(ops)
        mine = tag(tenant)
        with stage("memory", tenant):
            results = self.inner.batch([_inward(op, mine) for op in asked])
            return [_outward(op, result, mine) for op, result in zip(asked, results, strict=True)]

    @passing
    def abatch(self, ops: Iterable[Op]) -> Coroutine[Any, Any, list[Result]]:
        return called_now(self._abatch, current_tenant(), list(ops))

    async def _abatch(self, tenant: Tenant, asked: list[Op]) -> list[Result]:
        mine = tag(tenant)
        with stage("memory", tenant):
            results = await self.inner.abatch([_inward(op, mine) for op in asked])
            return [_outward(op, result, mine) for op, result in zip(asked, results, strict=True)]

    def clear_tenant(self) -> int:
        """Delete every item of the tenant in context; says how many there were."""
        count = 0
        while found := self.search((), limit=1000):
            self.batch([PutOp(item.namespace, item.key, None) for item in found])
            count += len(found)
        return count

    async def aclear_tenant(self) -> int:
        """The async twin of `clear_tenant`."""
        count = 0
        while found := await self.asearch((), limit=1000):
            await self.abatch([PutOp(item.namespace, item.key, None) for item in found])
            count += len(found)
        return count

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's items from this process; stores with a database aren't asked."""
        with scope(tenant):
            return self.clear_tenant()


def _inward(op: Op, mine: str) -> Op:
    if isinstance(op, GetOp | PutOp):
        return op._replace(namespace=(mine, *op.namespace))
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(mine, *op.namespace_prefix))
    return _listing(op, mine)


def _listing(op: ListNamespacesOp, mine: str) -> ListNamespacesOp:
    conditions = [
        MatchCondition("prefix", (mine, *condition.path)) if condition.match_type == "prefix" else condition
        for condition in op.match_conditions or ()
    ]
    if not any(condition.match_type == "prefix" for condition in conditions):
        conditions.append(MatchCondition("prefix", (mine,)))
    depth = None if op.max_depth is None else op.max_depth + 1
    return op._replace(match_conditions=tuple(conditions), max_depth=depth)


def _outward(op: Op, result: Result, mine: str) -> Result:
    if isinstance(op, GetOp):
        return _item(cast("Item | None", result), mine)
    if isinstance(op, SearchOp):
        return [_found(item, mine) for item in cast("list[SearchItem]", result)]
    if isinstance(op, ListNamespacesOp):
        longest = max((len(c.path) for c in op.match_conditions or () if c.match_type == "suffix"), default=0)
        names = [_strip(namespace, mine) for namespace in cast("list[Namespace]", result)]
        # A suffix that would need the tenant's own element to match is none of the caller's namespaces.
        return [name for name in names if len(name) >= longest]
    return result


def _item(item: Item | None, mine: str) -> Item | None:
    if item is None:
        return None
    return Item(
        value=item.value,
        key=item.key,
        namespace=_strip(item.namespace, mine),
        created_at=item.created_at,
        updated_at=item.updated_at,
    )


def _found(item: SearchItem, mine: str) -> SearchItem:
    return SearchItem(
        namespace=_strip(item.namespace, mine),
        key=item.key,
        value=item.value,
        created_at=item.created_at,
        updated_at=item.updated_at,
        score=item.score,
    )


def _strip(namespace: Namespace, mine: str) -> Namespace:
    if tuple(namespace[:1]) != (mine,):
        raise IsolationBreach("the store answered with an item of another tenant; nothing was returned")
    return tuple(namespace[1:])
